//! What a job needs of the world around it.

use crate::{cache::Held, store::Store};
use senmon_protocol::{
    checkpoint::MANIFEST_FILE,
    ids::{CheckpointId, Fence, StorageKey},
    job::{CheckpointRef, EndedOutcome, ShardIndex, TerminationReason, WrittenCheckpoint},
    worker::Command,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
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
    fn event(&self, kind: &str, step: u64, level: &str, text: &str);
    /// An event of a batch of the data order that the branch leaves out: a line of the skip ledger.
    fn leaves_out(&self, kind: &str, step: u64, batch: u64, text: &str) {
        let _ = batch;
        self.event(kind, step, "warn", text);
    }
    /// Units done and in all, and tokens per second (0 where it means nothing).
    fn progress(&self, done: u64, total: u64, tokens_per_second: f64);
    /// What training spent so far: once when the first step begins, then after each.
    fn training_time(&self, _spent: TrainingTime) {}
    /// A sign of life of a training, and what it does next: one that is silent for too long hangs.
    fn pulse(&self, _next: Phase) {}
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

/// What a training does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// It loads or saves.
    #[default]
    Long,
    /// It steps: something happens each time.
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
        let held = self.store.fetch_checkpoint(from, &|| is_to_stop(context))?;
        let manifest = self.path(&from.folder).join(MANIFEST_FILE);
        let gone = || ended(TerminationReason::CorruptData, format!("{} is gone.", from.folder));
        if manifest.exists() { Ok(held) } else { Err(gone()) }
    }

    /// Sends a folder that was written to the store, where the store is elsewhere. Its copy here must be held meanwhile
    /// ([`Store::hold`]).
    ///
    /// # Errors
    /// [`TerminationReason::StorageFailure`] after long trying.
    pub fn publish(&self, folder: &StorageKey, context: &dyn JobContext) -> Result<(), EndedOutcome> {
        self.store.publish_patiently(folder, &|| is_to_stop(context))
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

/// An end without a result.
pub fn ended(reason: TerminationReason, message: impl std::fmt::Display) -> EndedOutcome {
    EndedOutcome { reason, message: format!("{message:#}") }
}

/// The end that a command asks for, if it does.
#[must_use]
pub fn asked_to_end(command: Command) -> Option<EndedOutcome> {
    match command {
        Command::Continue => None,
        Command::Preempt => Some(ended(TerminationReason::Preempted, "gave its slots to a job of higher priority.")),
        Command::Release => Some(ended(TerminationReason::Released, "given back on request.")),
        Command::Cancel => Some(ended(TerminationReason::Cancelled, "cancelled.")),
        Command::Fenced => Some(ended(TerminationReason::WorkerLost, "the lease went to another attempt.")),
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
