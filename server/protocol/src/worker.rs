//! The protocol of a worker daemon: enrol, poll, heartbeat, and fenced writes.
//!
//! Every write carries the attempt's fence; an old one is answered 409 `stale_fence`, and the worker stops itself.
//! All of them may be repeated: the second answer equals the first.

pub use crate::resources::SlotInfo;
use crate::{
    goodput::SkipReason,
    ids::{AttemptId, CheckpointId, Fence, StorageKey, WorkerId},
    job::{Grant, JobKind, Outcome, WrittenCheckpoint},
    said::Said,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `POST /api/v1/workers`: a daemon says what it is. Asked with its credential, the same worker enrols again, which ends
/// the session before it. Asked with an enrolment token, the credential becomes that worker's own, and what it had before
/// is revoked; a name whose worker lives is refused (`name_taken`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolWorker {
    /// Unique name.
    pub name: String,
    /// [`crate::WORKER_PROTOCOL_VERSION`] of the worker.
    pub protocol_version: u32,
    /// Version of the program.
    pub version: String,
    /// The node's host name.
    pub host: String,
    /// Its slots.
    pub slots: Vec<SlotInfo>,
    /// Kinds of jobs it can run.
    pub capabilities: Vec<JobKind>,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// SHA-256, in lower-case hex, of the credential that this worker made for itself; the secret never leaves it except
    /// as its bearer token. Needed with an enrolment token.
    #[serde(default)]
    pub credential_sha256: Option<String>,
}

/// Answer to [`EnrolWorker`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    /// The worker.
    pub worker_id: WorkerId,
    /// Grows with each enrolment; goes with every poll and heartbeat.
    pub session: i64,
    /// Root of the object store as the server sees it: `file:///…` or `s3://…`.
    pub storage_url: String,
    /// Life of a lease.
    pub lease_ttl_ms: u64,
    /// Time between heartbeats: a third of the lease.
    pub heartbeat_ms: u64,
    /// Version of the server.
    pub server_version: String,
}

/// `POST /api/v1/workers/{id}/poll`: waits up to `wait_ms` for work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// Session of the enrolment.
    pub session: i64,
    /// Slots without a job.
    pub slots_free: Vec<u16>,
    /// Longest wait, at most 30,000.
    pub wait_ms: u64,
}

/// Answer to [`Poll`]; empty when the wait was over first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Polled {
    /// Jobs to start.
    pub grants: Vec<Grant>,
    /// The server's `corpus_roots`, by all names that it knows of them: what a job reads outside the store lies below
    /// them at the moment of reading.
    #[serde(default)]
    pub corpus_roots: Vec<String>,
}

/// `POST /api/v1/workers/{id}/heartbeat`: renews the leases of everything listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Session of the enrolment.
    pub session: i64,
    /// What runs.
    pub attempts: Vec<RunningAttempt>,
    /// Bytes of the machine's memory in use.
    #[serde(default)]
    pub memory_used_bytes: u64,
    /// Share of the machine's CPU in use, 0 to 1.
    #[serde(default)]
    pub cpu_share: f64,
}

/// One attempt that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunningAttempt {
    /// The attempt.
    pub attempt_id: AttemptId,
    /// Its fence.
    pub fence: Fence,
    /// Progress in units of the job (optimiser steps, documents).
    pub done: u64,
    /// Units in all; 0 when unknown.
    pub total: u64,
    /// Tokens per second over the last interval, for training and evaluation.
    pub tokens_per_second: f64,
    /// Where its time went so far.
    #[serde(default)]
    pub time: AttemptTime,
}

/// Where the time of an attempt went, by the worker's monotonic clock. Every figure only grows over an attempt's life,
/// so the largest one heard is the latest: a message that comes late or twice does no harm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AttemptTime {
    /// From the grant's arrival to the first step; until then, the time so far. All of it for jobs that do not train.
    pub starting_ms: u64,
    /// From the first step's begin to the end of the last one that was finished.
    pub training_ms: u64,
    /// Of it, time that training stood still for a save.
    pub checkpoint_stall_ms: u64,
    /// Of it, time that training waited for a batch.
    pub data_wait_ms: u64,
    /// The last optimiser step that was finished.
    pub step_last: u64,
}

/// Answer to [`Heartbeat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Heartbeaten {
    /// One command for each attempt listed.
    pub attempts: Vec<AttemptCommand>,
}

/// What an attempt shall do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptCommand {
    /// The attempt.
    pub attempt_id: AttemptId,
    /// The command.
    pub command: Command,
}

/// A command to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Go on; the lease is renewed.
    Continue,
    /// Write a checkpoint, then end with `released`.
    Release,
    /// Write a checkpoint, then end with `preempted`: a job of higher priority gets the slots.
    Preempt,
    /// Stop without a checkpoint, end with `cancelled`.
    Cancel,
    /// The fence is old: stop at once, write nothing more.
    Fenced,
}

/// `POST /api/v1/attempts/{id}/metrics`: a run of points, columns by metric name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricBatch {
    /// Fence of the attempt.
    pub fence: Fence,
    /// Optimiser steps, ascending, at least one.
    pub steps: Vec<u64>,
    /// Tokens of the branch at each step.
    pub tokens: Vec<u64>,
    /// Milliseconds since the Unix epoch at each step, by the worker's clock.
    pub at_ms: Vec<i64>,
    /// Values by metric name (`train/loss`, `train/grad_norm`, `train/learning_rate`,
    /// `throughput/tokens_per_second`, `throughput/mfu`, `time/data_wait_share`, `memory/bytes`), each as long as `steps`;
    /// null where a value is not finite.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// Most lines of a [`LogBatch`].
pub const LINES_MAX: usize = 10_000;
/// Most characters of a line; a worker cuts what is longer.
pub const LINE_CHARS_MAX: usize = 65_536;

/// `POST /api/v1/attempts/{id}/logs`: lines of the attempt's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogBatch {
    /// Fence of the attempt.
    pub fence: Fence,
    /// Number of the first line, from 0, so that a repeated batch is the same batch.
    pub line_first: u64,
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Milliseconds since the Unix epoch, by the worker's clock.
    pub at_ms: i64,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub text: String,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// Where the line is an event of the branch too: shown on its curve's axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<LineEvent>,
}

/// What makes a line an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LineEvent {
    /// Word for scripts: `loss_spike`, `step_skipped`, `rolled_back`, ...
    pub kind: String,
    /// The optimiser step concerned.
    pub step: u64,
    /// Number in the data order of the batch that the branch leaves out, where it does: a line of the skip ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
}

impl LineEvent {
    /// The line of the skip ledger that it is: step, batch and why; None where no batch is left out.
    #[must_use]
    pub fn skip(&self) -> Option<(u64, u64, SkipReason)> {
        let reason = if self.kind == "rolled_back" { SkipReason::RolledBack } else { SkipReason::StepSkipped };
        self.batch.map(|batch| (self.step, batch, reason))
    }
}

/// `POST /api/v1/attempts/{id}/announce`: the bytes of a checkpoint are on their way. Until it is committed, nothing
/// resumes from it; when the attempt ends first, its folder is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnounceCheckpoint {
    /// Fence of the attempt.
    pub fence: Fence,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The folder that it is written to.
    pub folder: StorageKey,
    /// Steps of the branch.
    pub step: u64,
}

/// `POST /api/v1/attempts/{id}/checkpoints`: commits a written checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitCheckpoint {
    /// Fence of the attempt.
    pub fence: Fence,
    /// The checkpoint.
    pub checkpoint: WrittenCheckpoint,
}

/// `POST /api/v1/attempts/{id}/complete`: ends the attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteAttempt {
    /// Fence of the attempt.
    pub fence: Fence,
    /// How it ended.
    pub outcome: Outcome,
    /// Where its time went; None where nobody is left to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<AttemptTime>,
}

/// `POST /api/v1/attempts/{id}/resumed`: a training attempt says where it starts. Points beyond that step are
/// superseded from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttemptStarted {
    /// Fence of the attempt.
    pub fence: Fence,
    /// Step it starts from: 0, or the step of the checkpoint it resumed.
    pub step_start: u64,
    /// Whether the resumed state's digest and next batch equal what the checkpoint recorded. None at step 0.
    pub resume_verified: Option<bool>,
}
