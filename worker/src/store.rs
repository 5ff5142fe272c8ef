//! The object store as this machine sees it. A folder is used in place. Of a bucket there is a copy below the state
//! folder, laid out in the same way: what a job reads is fetched into it before the job starts, what it writes is
//! written there and sent file by file. The engine sees paths and nothing else.
//!
//! Never decides what is kept in the store, and never calls a checkpoint committed.

mod inputs;
mod remote;

use crate::{
    cache::{Cache, Full, Held},
    train::ended,
};
use anyhow::Result;
use inputs::{Input, inputs};
use remote::Remote;
use senmon_protocol::{
    checkpoint::MANIFEST_FILE,
    ensemble::Ensemble,
    ids::StorageKey,
    job::{CheckpointRef, EndedOutcome, JobSpec, TerminationReason},
};
use senmon_store::{Bucket, is_missing};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

/// First and longest pause between tries of the store.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a pause looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// Name of the cached scores inside an evaluation's folder.
const SCORES_FILE: &str = "logprobs.safetensors";

/// A store; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Store {
    bucket: Option<Arc<Remote>>,
    /// How long what must be written is tried.
    pub patience: Duration,
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
    folder: StorageKey,
    /// Their names, the manifest last.
    files: Vec<String>,
    sent: usize,
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

impl Store {
    /// A folder, used in place.
    #[must_use]
    pub fn folder(patience: Duration) -> Self {
        Self { bucket: None, patience }
    }

    /// A bucket with its copy below `root`. `runtime` carries the requests: callers are the attempts' own threads.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn bucket(bucket: Bucket, root: &Path, bytes_max: u64, runtime: Handle, patience: Duration) -> Result<Self> {
        let cache = Cache::open(root, bytes_max)?;
        Ok(Self { bucket: Some(Arc::new(Remote { bucket, runtime, cache, fetching: Mutex::default() })), patience })
    }

    /// Whether the store is a folder, used in place: what a job reads was not compared with its hash on the way.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.bucket.is_none()
    }

    /// Brings everything here that a job reads, and nothing else; it stays as long as what is given back lives.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] for what the store has lost or altered, by name;
    /// [`TerminationReason::StorageFailure`] when it cannot be reached for too long, or there is no room for it here;
    /// the listener may end it early.
    pub fn fetch(&self, job: &JobSpec, listener: &dyn Listener) -> Result<Vec<Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        for input in inputs(job) {
            self.obtain(remote, &input, listener, &mut held)?;
        }
        Ok(held)
    }

    /// Brings everything here that an ensemble needs to score new text.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_ensemble(&self, ensemble: &Ensemble) -> Result<Vec<Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        let experts = ensemble.experts.iter().map(|expert| Input::Checkpoint(expert.checkpoint.clone()));
        for input in experts.chain([Input::Folder(ensemble.router.clone())]) {
            self.obtain(remote, &input, &(), &mut held)?;
        }
        Ok(held)
    }

    /// Brings a checkpoint here.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_checkpoint(&self, from: &CheckpointRef, listener: &dyn Listener) -> Result<Vec<Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        self.obtain(remote, &Input::Checkpoint(from.clone()), listener, &mut held)?;
        Ok(held)
    }

    fn obtain(
        &self,
        remote: &Remote,
        input: &Input,
        listener: &dyn Listener,
        held: &mut Vec<Held>,
    ) -> Result<(), EndedOutcome> {
        let lost = |error: &anyhow::Error| is_missing(error) || error.is::<Differs>();
        let for_good = |error: &anyhow::Error| lost(error) || error.is::<Halted>() || error.is::<Full>();
        persist(self.patience, listener, &for_good, || remote.fetch(input, held, listener)).map_err(|error| {
            let reason = if lost(&error) { TerminationReason::CorruptData } else { TerminationReason::StorageFailure };
            ended(reason, format!("{error:#}"))
        })
    }

    /// Keeps the copy of a folder that is about to be written.
    #[must_use]
    pub fn hold(&self, folder: &StorageKey) -> Option<Held> {
        self.bucket.as_ref().map(|remote| remote.cache.hold(folder))
    }

    /// Sends what is left of a parcel, once. On a folder nothing is to be done.
    ///
    /// # Errors
    /// When the store refuses, or was sent something else than the manifest says.
    pub fn send(&self, parcel: &mut Parcel, listener: &dyn Listener) -> Result<()> {
        let Some(remote) = &self.bucket else { return Ok(()) };
        remote.send(parcel, listener)
    }

    /// The same, tried again until it is done, the listener stops it, or patience ends.
    ///
    /// # Errors
    /// [`TerminationReason::StorageFailure`].
    pub fn send_patiently(&self, mut parcel: Parcel, listener: &dyn Listener) -> Result<(), EndedOutcome> {
        persist(self.patience, listener, &|_| false, || self.send(&mut parcel, listener))
            .map_err(|error| ended(TerminationReason::StorageFailure, format!("{error:#}")))
    }

    /// Drops what was read for a job that found it damaged: the next attempt fetches it again.
    pub fn forget(&self, job: &JobSpec) {
        let Some(remote) = &self.bucket else { return };
        for input in inputs(job) {
            match input {
                Input::File(key)
                | Input::Folder(key)
                | Input::Checkpoint(CheckpointRef { folder: key, .. })
                | Input::Scores(key, _) => remote.cache.forget(&key),
                Input::Shards(key, _) => {
                    let index = remote.index(&key).ok();
                    let folders = index.iter().flat_map(|index| &index.shards).map(|shard| &shard.folder);
                    folders.for_each(|folder| remote.cache.forget(folder));
                    remote.cache.forget(&key);
                }
            }
        }
    }
}

/// What came is not what was announced: no retry mends it.
#[derive(Debug)]
struct Differs(String);

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Differs {}

/// Nobody wants it any more.
#[derive(Debug)]
struct Halted;

impl std::fmt::Display for Halted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is not wanted any more")
    }
}

impl std::error::Error for Halted {}

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
