//! Where the folders of jobs come from and go to, as the engine sees it: it reads and writes folders of this machine, and
//! asks the depot for what is not among them, and to keep or send what is.
//!
//! Never knows a network: what is behind a depot is its owner's.

use anyhow::Result;
use senmon_protocol::{
    checkpoint::MANIFEST_FILE,
    ids::StorageKey,
    job::{CheckpointRef, EndedOutcome},
};
use std::{
    any::Any,
    fmt::Debug,
    time::{Duration, Instant},
};

/// First and longest pause between tries of the store.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a pause looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// What stays on this machine as long as this lives.
pub type Held = Box<dyn Any + Send>;

/// What is behind the folders that jobs read and write.
pub trait Depot: Debug + Send + Sync {
    /// Whether its folders are used in place: what a job reads was not compared with its hash on the way.
    fn is_in_place(&self) -> bool;
    /// How long what must be written is tried.
    fn patience(&self) -> Duration;
    /// Brings a checkpoint here, where it is not; it stays as long as what is given back lives.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`](senmon_protocol::job::TerminationReason::CorruptData) for what is lost or altered, by
    /// name; [`StorageFailure`](senmon_protocol::job::TerminationReason::StorageFailure) when it cannot be reached for too long;
    /// the listener may end it early.
    fn fetch_checkpoint(&self, from: &CheckpointRef, listener: &dyn Listener) -> Result<Vec<Held>, EndedOutcome>;
    /// Keeps what is here of a folder that is about to be written.
    #[must_use]
    fn hold(&self, folder: &StorageKey) -> Option<Held>;
    /// Sends what is left of a parcel, once.
    ///
    /// # Errors
    /// When it is refused, or is something else than its manifest says.
    fn send(&self, parcel: &mut Parcel, listener: &dyn Listener) -> Result<()>;
}

/// Folders of this machine, used in place: nothing is fetched and nothing sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct InPlace {
    /// How long what must be written is tried.
    pub patience: Duration,
}

impl Depot for InPlace {
    fn is_in_place(&self) -> bool {
        true
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn fetch_checkpoint(&self, _: &CheckpointRef, _: &dyn Listener) -> Result<Vec<Held>, EndedOutcome> {
        Ok(Vec::new())
    }

    fn hold(&self, _: &StorageKey) -> Option<Held> {
        None
    }

    fn send(&self, _: &mut Parcel, _: &dyn Listener) -> Result<()> {
        Ok(())
    }
}

/// Who waits for a transfer: hears how it goes, and can call a halt. Called often, from the thread that waits.
pub trait Listener: Sync {
    /// So many bytes more are to come.
    fn expect(&self, _bytes: u64) {}
    /// So many bytes more were fetched, read back or sent; 0 where it only waits its turn.
    fn passed(&self, _bytes: u64) {}
    /// Whether nobody wants it any more.
    fn stops(&self) -> bool {
        false
    }
}

/// Nobody in particular.
impl Listener for () {}

/// Files of a folder on their way to the store, and how many of them are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The folder.
    pub folder: StorageKey,
    /// Their names, the manifest last.
    pub files: Vec<String>,
    /// So many of them are there.
    pub sent: usize,
}

impl Parcel {
    /// These files of a folder, and no others that may lie there.
    #[must_use]
    pub fn new(folder: &StorageKey, files: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut files: Vec<String> = files.into_iter().map(Into::into).collect();
        files.sort_by_key(|name| name == MANIFEST_FILE);
        Self { folder: folder.clone(), files, sent: 0 }
    }
}

/// Repeats what failed with growing pauses, unless the failure is for good, until `patience` ends or the listener stops
/// it.
///
/// # Errors
/// The last failure.
pub fn persist<T>(
    patience: Duration,
    listener: &dyn Listener,
    for_good: &dyn Fn(&anyhow::Error) -> bool,
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
    loop {
        let error = match work() {
            Ok(done) => return Ok(done),
            Err(error) if for_good(&error) || start.elapsed() + pause > patience => return Err(error),
            Err(error) => error,
        };
        tracing::warn!(error = format!("{error:#}"), pause_ms = pause.as_millis(), "the store refuses; trying again");
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if listener.stops() {
                return Err(error);
            }
            listener.passed(0);
            std::thread::sleep(LOOK.min(pause));
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
