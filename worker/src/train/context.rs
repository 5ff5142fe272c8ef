//! What a job needs of the world around it.

use crate::{
    board::lock,
    cache::Held,
    store::{Listener, Parcel, Store},
};
use senmon_corpus::{
    roots::Roots,
    shard_set::ShardSet,
    wanted::{self, Wanted},
};
use senmon_protocol::{
    checkpoint::MANIFEST_FILE,
    ids::{CheckpointId, Fence, StorageKey},
    job::{CheckpointRef, EndedOutcome, ShardIndex, TerminationReason, WrittenCheckpoint},
    said,
    said::Said,
    storage::Bytes,
    worker::Command,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

/// The world as a job sees it. Called from the job's threads; none of it blocks for long.
pub trait JobContext: Sync {
    /// Training starts from this step; whether a resumed state is what its checkpoint recorded.
    fn started(&self, step_start: u64, resume_verified: Option<bool>);
    /// A point of the curves.
    fn metrics(&self, point: MetricPoint);
    /// A line of the log; `level` is `info`, `warn` or `error`.
    fn log(&self, level: &str, text: &str);
    /// A line of the log that is an event of the branch too, at a step; `kind` is a word for scripts.
    fn event(&self, kind: &str, step: u64, level: &str, said: Said);
    /// An event of a batch of the data order that the branch leaves out: a line of the skip ledger.
    fn leaves_out(&self, kind: &str, step: u64, batch: u64, said: Said) {
        let _ = batch;
        self.event(kind, step, "warn", said);
    }
    /// Units done and in all, and tokens per second (0 where it means nothing). A sign of life too.
    fn progress(&self, done: u64, total: u64, tokens_per_second: f64);
    /// What training spent so far: once when the first step begins, then after each.
    fn training_time(&self, _spent: TrainingTime) {}
    /// A sign of life, and what comes next: an attempt that is silent for too long hangs.
    fn pulse(&self, _next: Phase) {}
    /// A sign of life in the middle of something long, from any thread of the attempt. Between steps it says nothing: a
    /// thread that writes must not vouch for one that hangs.
    fn alive(&self) {}
    /// What the server wants now.
    fn command(&self) -> Command;
    /// The bytes of a checkpoint are about to be written to a folder.
    fn announce(&self, id: CheckpointId, folder: &StorageKey, step: u64);
    /// A checkpoint folder is complete: ask the server to commit it.
    fn commit(&self, checkpoint: WrittenCheckpoint);
}

/// What training spent since its first step began, in this attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrainingTime {
    /// All of it, to the end of the last step.
    pub training: Duration,
    /// Standing still for saves.
    pub stalled: Duration,
    /// Waiting for batches.
    pub waited: Duration,
    /// The last step that was finished.
    pub step_last: u64,
}

/// What an attempt does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// It fetches, loads or saves, or does things of very different length: each sign of life begins the wait anew.
    #[default]
    Long,
    /// It steps: something happens each time, and takes about as long.
    Step,
}

/// One point of the curves.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPoint {
    /// Optimiser steps done.
    pub step: u64,
    /// Tokens trained.
    pub tokens: u64,
    /// Values by metric name; None where not finite.
    pub values: BTreeMap<String, Option<f64>>,
}

/// Where a job runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Root of the object store, or of its copy on this machine.
    pub storage: PathBuf,
    /// The store behind it.
    pub store: Store,
    /// Where files outside the store may be read.
    pub roots: Roots,
    /// Fence of the attempt: part of the names of what it writes.
    pub fence: Fence,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// CPU threads.
    pub threads: u16,
}

impl Place {
    /// Path of a key.
    #[must_use]
    pub fn path(&self, key: &StorageKey) -> PathBuf {
        self.storage.join(key.as_str())
    }

    /// Brings a checkpoint here, where the store is elsewhere; it stays as long as what is given back lives.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] when it is gone.
    pub fn fetch_checkpoint(&self, from: &CheckpointRef, context: &dyn JobContext) -> Result<Vec<Held>, EndedOutcome> {
        let held = self.store.fetch_checkpoint(from, &Sending(context))?;
        let manifest = self.path(&from.folder).join(MANIFEST_FILE);
        let gone = || ended(TerminationReason::CorruptData, format!("{} is gone.", from.folder));
        if manifest.exists() { Ok(held) } else { Err(gone()) }
    }

    /// Sends these files of a folder that was written to the store, where the store is elsewhere. Its copy here must be
    /// held meanwhile ([`Store::hold`]).
    ///
    /// # Errors
    /// [`TerminationReason::StorageFailure`] after long trying.
    pub fn publish(&self, folder: &StorageKey, files: &[&str], context: &dyn JobContext) -> Result<(), EndedOutcome> {
        self.store.send_patiently(Parcel::new(folder, files.iter().copied()), &Sending(context))
    }

    /// Opens what is wanted of the shards, compared with its hashes.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] when something of it is missing or damaged; the end that a command asks for.
    pub fn shards(
        &self,
        key: &StorageKey,
        wanted: &Wanted,
        context: &dyn JobContext,
    ) -> Result<ShardSet, EndedOutcome> {
        let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
        let index = self.shard_index(key)?;
        // What came out of a bucket was compared on its way.
        if self.store.is_folder() {
            let fetching = Fetching::new(context);
            let told = |bytes| {
                fetching.passed(bytes);
                !fetching.stops()
            };
            if !wanted::verify(&index, &self.storage, wanted, &told).map_err(corrupt)? {
                let asked = asked_to_end(context.command());
                return Err(
                    asked.unwrap_or_else(|| EndedOutcome::said(TerminationReason::Released, said!("ended_released")))
                );
            }
        }
        ShardSet::open_for(index, &self.storage, wanted).map_err(corrupt)
    }

    /// The folder of this attempt below a job's output.
    ///
    /// # Errors
    /// When the key is no key, which is a bug of the server.
    pub fn attempt_folder(&self, output: &StorageKey) -> Result<(StorageKey, PathBuf), EndedOutcome> {
        let key =
            output.join(format!("f{}", self.fence)).map_err(|error| ended(TerminationReason::InternalError, error))?;
        let path = self.path(&key);
        Ok((key, path))
    }

    /// Reads the index of all shards.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] when it is missing or damaged.
    pub fn shard_index(&self, key: &StorageKey) -> Result<ShardIndex, EndedOutcome> {
        let path = self.path(key);
        let bytes =
            std::fs::read(&path).map_err(|error| ended(TerminationReason::CorruptData, format!("{key}: {error}")))?;
        serde_json::from_slice(&bytes).map_err(|error| ended(TerminationReason::CorruptData, format!("{key}: {error}")))
    }
}

/// Listens to what is sent or fetched in the middle of a job: it is not given up on a mere request to end, because the
/// next attempt must find it.
#[derive(Clone, Copy)]
pub struct Sending<'a>(pub &'a dyn JobContext);

impl Listener for Sending<'_> {
    fn passed(&self, _: u64) {
        self.0.alive();
    }

    fn stops(&self) -> bool {
        is_to_stop(self.0)
    }
}

/// Listens to what is fetched and checked before a job begins: its log tells how far it is, and any request to end ends
/// it.
pub struct Fetching<'a> {
    context: &'a dyn JobContext,
    tally: Mutex<Tally>,
}

/// Bytes that passed and that are expected, and when they were last told of.
struct Tally {
    began: Instant,
    told: Instant,
    passed: u64,
    expected: u64,
}

/// Time between two lines of the log about a fetch; what is done sooner needs none.
const FETCH_TOLD_EVERY: Duration = Duration::from_secs(15);

impl<'a> Fetching<'a> {
    /// Begins now.
    #[must_use]
    pub fn new(context: &'a dyn JobContext) -> Self {
        let now = Instant::now();
        Self { context, tally: Mutex::new(Tally { began: now, told: now, passed: 0, expected: 0 }) }
    }
}

impl Listener for Fetching<'_> {
    fn expect(&self, bytes: u64) {
        lock(&self.tally).expected += bytes;
    }

    fn passed(&self, bytes: u64) {
        self.context.alive();
        let mut tally = lock(&self.tally);
        tally.passed += bytes;
        if tally.told.elapsed() < FETCH_TOLD_EVERY {
            return;
        }
        tally.told = Instant::now();
        let Tally { began, passed, expected, .. } = *tally;
        let of =
            if expected > 0 { format!(", {} of what is known to be missing", Bytes(expected)) } else { String::new() };
        let text = format!("fetch: {} fetched or checked in {} s{of}", Bytes(passed), began.elapsed().as_secs());
        self.context.log("info", &text);
    }

    fn stops(&self) -> bool {
        asked_to_end(self.context.command()).is_some()
    }
}

/// An end without a result.
pub fn ended(reason: TerminationReason, message: impl std::fmt::Display) -> EndedOutcome {
    EndedOutcome::new(reason, format!("{message:#}"))
}

/// The end that a command asks for, if it does.
#[must_use]
pub fn asked_to_end(command: Command) -> Option<EndedOutcome> {
    match command {
        Command::Continue => None,
        Command::Preempt => Some(EndedOutcome::said(TerminationReason::Preempted, said!("ended_preempted"))),
        Command::Release => Some(EndedOutcome::said(TerminationReason::Released, said!("ended_released"))),
        Command::Cancel => Some(EndedOutcome::said(TerminationReason::Cancelled, said!("ended_cancelled"))),
        Command::Fenced => Some(EndedOutcome::said(TerminationReason::WorkerLost, said!("ended_fenced"))),
    }
}

/// Whether nothing more should be written: the attempt was cancelled, or another one has its place.
#[must_use]
pub fn is_to_stop(context: &dyn JobContext) -> bool {
    matches!(context.command(), Command::Cancel | Command::Fenced)
}

/// Makes a folder and its parents.
///
/// # Errors
/// [`TerminationReason::StorageFailure`].
pub fn make_folder(path: &Path) -> Result<(), EndedOutcome> {
    std::fs::create_dir_all(path)
        .map_err(|error| ended(TerminationReason::StorageFailure, format!("{}: {error}", path.display())))
}
