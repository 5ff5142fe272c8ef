//! What a job says while it runs, and the commands that it hears: the one way from the engine to the world around it.
//!
//! Never says where it goes: a daemon writes it into a spool, a test into a list.

use senmon_protocol::{
    ids::{CheckpointId, StorageKey},
    job::{EndedOutcome, TerminationReason, WrittenCheckpoint},
    said,
    said::Said,
    worker::Command,
};
use std::{collections::BTreeMap, time::Duration};

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
