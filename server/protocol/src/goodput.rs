//! Where the time went: goodput (time whose work counts) and badput by cause, which add up to wall time.
//!
//! The terms are the field's: ML productivity goodput, with badput for start-up, data, checkpoints, wasted progress,
//! recovery.

use crate::{ids::Fence, said, said::Said};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where time can go: a closed list, shown to people with [`TimeCause::sentence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeCause {
    /// Optimiser steps that stay on the current lineage.
    Productive,
    /// Files of corpora that were read and compared.
    Scanning,
    /// Shards that were written.
    Sharding,
    /// Scores and mixtures that were computed.
    Evaluation,
    /// Weight averages that were written.
    Merging,
    /// Work that does not count: superseded, skipped, or of a job that had to be done again.
    Wasted,
    /// From the grant to the first step.
    Starting,
    /// Training stood still for a save.
    CheckpointStall,
    /// Training waited for a batch.
    DataWait,
    /// From the last sign of life to the end of a lost attempt.
    Detection,
    /// From the last thing counted to the acknowledged end of an attempt.
    Finishing,
    /// After a fault, until the next grant.
    Recovering,
    /// Waiting for a slot without a fault.
    Queued,
    /// After a preemption, until the next grant.
    Preempted,
    /// Held until a person lets it go on.
    Paused,
    /// Slots without a job.
    Idle,
}

impl TimeCause {
    /// All causes, goodput first.
    pub const ALL: [Self; 16] = [
        Self::Productive,
        Self::Scanning,
        Self::Sharding,
        Self::Evaluation,
        Self::Merging,
        Self::Wasted,
        Self::Starting,
        Self::CheckpointStall,
        Self::DataWait,
        Self::Detection,
        Self::Finishing,
        Self::Recovering,
        Self::Queued,
        Self::Preempted,
        Self::Paused,
        Self::Idle,
    ];

    /// Whether the time counts as goodput.
    #[must_use]
    pub fn is_goodput(self) -> bool {
        matches!(self, Self::Productive | Self::Scanning | Self::Sharding | Self::Evaluation | Self::Merging)
    }

    /// One sentence for people, in English.
    #[must_use]
    pub fn sentence(self) -> String {
        time(self).text()
    }
}

/// Time of one cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CauseTime {
    /// The cause.
    pub cause: TimeCause,
    /// Whether it is goodput.
    pub is_goodput: bool,
    /// Seconds; slot-seconds for experiments and the fleet.
    pub seconds: f64,
    /// Share of the whole, 0 to 1.
    pub share: f64,
    /// What it is, in one sentence.
    pub sentence: String,
}

/// `GET /api/v1/{branches,experiments}/{id}/goodput` and `/api/v1/goodput`: time by cause, goodput first.
///
/// A branch's time is wall time from its first grant to its end, or to now. An experiment's is the same of each of its
/// jobs times its slots; the wait for a first slot is apart. The fleet's is the slots of its workers times the hours
/// asked for. What a running attempt has not yet reported counts as if it goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GoodputView {
    /// Where the account begins; None while nothing was granted.
    pub from: Option<DateTime<Utc>>,
    /// Where it ends.
    pub until: DateTime<Utc>,
    /// The whole: the sum of all causes.
    pub seconds: f64,
    /// Its goodput.
    pub goodput_seconds: f64,
    /// The rest.
    pub badput_seconds: f64,
    /// Goodput over the whole, 0 to 1; None while the whole is 0.
    pub goodput_share: Option<f64>,
    /// Causes with any time, goodput first.
    pub causes: Vec<CauseTime>,
    /// Slot-seconds that jobs waited for their first slot; not part of the whole. 0 for branches and the fleet.
    pub first_wait_seconds: f64,
    /// Attempts in the account.
    pub attempts: u64,
    /// Attempts that a fault ended.
    pub faults: u64,
    /// Steps and tokens of the branches; None for the fleet.
    pub tokens: Option<TokenAccount>,
}

/// What became of the steps and tokens of a branch, or of all branches of an experiment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenAccount {
    /// Steps on the current lineage.
    pub steps: u64,
    /// Steps that were trained and then superseded.
    pub steps_superseded: u64,
    /// Steps on the current lineage that the optimiser never took.
    pub steps_skipped: u64,
    /// Tokens drawn from the data order: those of the current lineage and of the batches left out of it.
    pub drawn: u64,
    /// Of them, tokens that the skip ledger lists.
    pub skipped: u64,
    /// Tokens trained: drawn minus skipped.
    pub trained: u64,
    /// Tokens that were trained and then superseded.
    pub superseded: u64,
}

/// One line of the skip ledger: a batch of the data order that a branch did not train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SkipView {
    /// Fence of the attempt that left it out.
    pub fence: Fence,
    /// The optimiser step that was not taken, or the step that a rollback went back to.
    pub step: u64,
    /// Number of the batch in the data order.
    pub batch: u64,
    /// First window of the batch in the data order.
    pub window_first: u64,
    /// Windows left out.
    pub windows: u64,
    /// Why.
    pub reason: SkipReason,
    /// What exactly, in one sentence.
    pub text: String,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// Whether a later attempt took the place of that step; the line then counts no more.
    pub superseded: bool,
    /// When it was noted.
    pub at: DateTime<Utc>,
}

/// Why a batch was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The step was counted, but the optimiser did not take it.
    StepSkipped,
    /// Training went back, and another batch took the place of this one.
    RolledBack,
}

/// What takes time.
#[must_use]
pub fn time(cause: TimeCause) -> Said {
    match cause {
        TimeCause::Productive => said!("time_is_productive"),
        TimeCause::Scanning => said!("time_is_scanning"),
        TimeCause::Sharding => said!("time_is_sharding"),
        TimeCause::Evaluation => said!("time_is_evaluation"),
        TimeCause::Merging => said!("time_is_merging"),
        TimeCause::Wasted => said!("time_is_wasted"),
        TimeCause::Starting => said!("time_is_starting"),
        TimeCause::CheckpointStall => said!("time_is_checkpoint_stall"),
        TimeCause::DataWait => said!("time_is_data_wait"),
        TimeCause::Detection => said!("time_is_detection"),
        TimeCause::Finishing => said!("time_is_finishing"),
        TimeCause::Recovering => said!("time_is_recovering"),
        TimeCause::Queued => said!("time_is_queued"),
        TimeCause::Preempted => said!("time_is_preempted"),
        TimeCause::Paused => said!("time_is_paused"),
        TimeCause::Idle => said!("time_is_idle"),
    }
}

/// A cause of time that is no goodput, in a word or two.
#[must_use]
pub fn cause(cause: TimeCause) -> Option<Said> {
    Some(match cause {
        TimeCause::Wasted => said!("cause_wasted"),
        TimeCause::Starting => said!("cause_starting"),
        TimeCause::CheckpointStall => said!("cause_checkpoint_stall"),
        TimeCause::DataWait => said!("cause_data_wait"),
        TimeCause::Detection => said!("cause_detection"),
        TimeCause::Finishing => said!("cause_finishing"),
        TimeCause::Recovering => said!("cause_recovering"),
        TimeCause::Queued => said!("cause_queued"),
        TimeCause::Preempted => said!("cause_preempted"),
        TimeCause::Paused => said!("cause_paused"),
        TimeCause::Idle => said!("cause_idle"),
        TimeCause::Productive
        | TimeCause::Scanning
        | TimeCause::Sharding
        | TimeCause::Evaluation
        | TimeCause::Merging => return None,
    })
}
