//! How an attempt ends: with a result, or with a reason of a closed list and one sentence of advice.

use crate::{
    checkpoint::CheckpointMeta,
    decontamination::DecontaminateResult,
    evaluation::{EnsembleResult, EvaluateResult},
    ids::{CheckpointId, StorageKey},
    kind::JobKind,
    said,
    said::Said,
    scan::{DeduplicateResult, ScanResult},
    shard::ShardResult,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named after the variants of JobSpec")]
pub enum JobResult {
    Scan(ScanResult),
    Deduplicate(DeduplicateResult),
    Shard(ShardResult),
    Train(TrainResult),
    Evaluate(EvaluateResult),
    Merge(MergeResult),
    Ensemble(Box<EnsembleResult>),
    Decontaminate(DecontaminateResult),
}

impl JobResult {
    /// The kind of the job that it came of.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Scan(_) => JobKind::Scan,
            Self::Deduplicate(_) => JobKind::Deduplicate,
            Self::Shard(_) => JobKind::Shard,
            Self::Train(_) => JobKind::Train,
            Self::Evaluate(_) => JobKind::Evaluate,
            Self::Merge(_) => JobKind::Merge,
            Self::Ensemble(_) => JobKind::Ensemble,
            Self::Decontaminate(_) => JobKind::Decontaminate,
        }
    }
}

/// A finished branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrainResult {
    /// Steps of the branch.
    pub steps: u64,
    /// Tokens trained by the branch over its whole life.
    pub tokens: u64,
    /// Loss of the last reported point, nats per token.
    pub loss_last: Option<f64>,
}

/// A finished merge; its checkpoint was committed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MergeResult {
    /// Members averaged.
    pub members: u64,
}

/// Why an attempt ended without a result: a closed list, shown to people with [`TerminationReason::advice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TerminationReason {
    /// The lease ran out without a heartbeat.
    WorkerLost,
    /// The worker was told to give the job back (pause, drain) and did.
    Released,
    /// The job gave its slots to one of higher priority.
    Preempted,
    /// A person cancelled it.
    Cancelled,
    /// The settings cannot work (unknown tensor, tokens beyond the vocabulary, budget beyond the epochs, …).
    InvalidInput,
    /// A file of the store is missing, short or altered.
    CorruptData,
    /// The device or the machine has too little memory.
    OutOfMemory,
    /// The device failed: its context is lost, or it computed the same twice and differently.
    DeviceFault,
    /// The store or the disk refused to write.
    StorageFailure,
    /// The loss or a gradient was not finite for too many steps in a row.
    NonFiniteLoss,
    /// The loss jumped, and the experiment file says to pause there.
    LossSpike,
    /// The loss jumped: training went back to an earlier checkpoint and leaves the batch out.
    RolledBack,
    /// Nothing happened for far longer than what it did takes: no step, no piece of a file.
    Stalled,
    /// Anything else the worker's code reported.
    InternalError,
}

impl TerminationReason {
    /// Whether the experiment's own budget of restarts pays for it (otherwise the infrastructure's does).
    #[must_use]
    pub fn is_users_fault(self) -> bool {
        matches!(self, Self::InvalidInput | Self::OutOfMemory | Self::NonFiniteLoss)
    }

    /// Whether it was asked to end so, or ended so by plan: no budget pays for it.
    #[must_use]
    pub fn is_planned(self) -> bool {
        matches!(self, Self::Released | Self::Preempted | Self::Cancelled | Self::LossSpike | Self::RolledBack)
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        !matches!(self, Self::Cancelled | Self::InvalidInput)
    }

    /// One sentence of advice, in English.
    #[must_use]
    pub fn advice(self) -> String {
        advice(self).text()
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// With a result.
    Completed(CompletedOutcome),
    /// Without one.
    Ended(EndedOutcome),
}

/// An attempt with a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletedOutcome {
    /// The result.
    pub result: JobResult,
}

/// An attempt without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndedOutcome {
    /// Why.
    pub reason: TerminationReason,
    /// What exactly, in one or two sentences.
    pub message: String,
    /// The same as a kind and values, where it is not another program's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
}

impl EndedOutcome {
    /// An end in English words alone.
    #[must_use]
    pub fn new(reason: TerminationReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), said: None }
    }

    /// An end as a kind and values.
    #[must_use]
    pub fn said(reason: TerminationReason, said: Said) -> Self {
        Self { reason, message: said.text(), said: Some(said) }
    }
}

/// A checkpoint that a worker wrote and asks to commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WrittenCheckpoint {
    /// Chosen by the worker, so that a repeated request is the same request.
    pub id: CheckpointId,
    /// The folder; its manifest is complete.
    pub folder: StorageKey,
    /// SHA-256 of `manifest.json`.
    pub manifest_sha256: String,
    /// What the manifest says.
    pub meta: CheckpointMeta,
}

/// What to do about an attempt that ended so.
#[must_use]
pub fn advice(reason: TerminationReason) -> Said {
    match reason {
        TerminationReason::WorkerLost => said!("advice_worker_lost"),
        TerminationReason::Released => said!("advice_released"),
        TerminationReason::Preempted => said!("advice_preempted"),
        TerminationReason::Cancelled => said!("advice_cancelled"),
        TerminationReason::InvalidInput => said!("advice_invalid_input"),
        TerminationReason::CorruptData => said!("advice_corrupt_data"),
        TerminationReason::OutOfMemory => said!("advice_out_of_memory"),
        TerminationReason::DeviceFault => said!("advice_device_fault"),
        TerminationReason::StorageFailure => said!("advice_storage_failure"),
        TerminationReason::NonFiniteLoss => said!("advice_non_finite_loss"),
        TerminationReason::LossSpike => said!("advice_loss_spike"),
        TerminationReason::RolledBack => said!("advice_rolled_back"),
        TerminationReason::Stalled => said!("advice_stalled"),
        TerminationReason::InternalError => said!("advice_internal_error"),
    }
}
