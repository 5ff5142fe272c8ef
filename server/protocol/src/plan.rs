//! `senmon plan FILE`: what an experiment would do, before anything runs.

use crate::{
    problem::Fault,
    said::Said,
    spec::ExperimentSpec,
    view::{BranchRole, Stage},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api/v1/plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The experiment file.
    pub experiment: ExperimentSpec,
    /// Accelerators (or CPU slots) that work side by side; those of the fleet when absent.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Peak of one of them in FLOP/s (989e12 for an H100 in bf16, dense). Needed where nothing was measured yet.
    #[serde(default)]
    pub peak_flops: Option<f64>,
    /// Share of that peak that training reaches: 0.4 is usual.
    #[serde(default)]
    pub utilisation: Option<f64>,
    /// Tokens per second of one slot, instead of the two above.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
    /// Days at hand: the answer then says whether the plan fits, and what would.
    #[serde(default)]
    pub days: Option<f64>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// The branches, parents before children.
    pub branches: Vec<PlannedBranch>,
    /// Tokens of all branches.
    pub tokens: u64,
    /// Parameters of the model.
    pub parameters: u64,
    /// FLOPs per trained token.
    pub flops_per_token: f64,
    /// Tokens per second of one slot.
    pub tokens_per_second: Option<f64>,
    /// Where that figure comes from, in words.
    pub throughput_source: String,
    /// The same as a kind and values.
    #[serde(default)]
    pub throughput_source_said: Option<Said>,
    /// Slots assumed.
    pub slots: u32,
    /// Wall time in seconds with those slots, parents before children; stages that were never measured are left out.
    pub seconds: Option<f64>,
    /// How long each stage takes. Evaluation goes on beside training: what is told is what it takes beyond that.
    #[serde(default)]
    pub stages: Vec<PlannedStage>,
    /// Bytes of the checkpoints that stay.
    pub checkpoint_bytes: u64,
    /// Bytes of one resumable checkpoint.
    pub checkpoint_bytes_each: u64,
    /// Tokens that the slots could train in the days at hand if all of them trained all the time: no plan trains more.
    pub tokens_in_days: Option<u64>,
    /// Whether this plan fits in the days at hand, and what would.
    #[serde(default)]
    pub fit: Option<PlanFit>,
    /// Tokens of the corpus: counted where it is sharded, else estimated from its bytes.
    pub corpus_tokens: Option<u64>,
    /// What would be refused.
    pub refused: Vec<Fault>,
    /// What is allowed but worth a look.
    pub warnings: Vec<Fault>,
}

/// One stage of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStage {
    /// The stage.
    pub stage: Stage,
    /// Seconds from the end of the stages before it to its own; None where nothing of its kind was measured yet.
    pub seconds: Option<f64>,
}

/// A plan against the days at hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanFit {
    /// Days at hand.
    pub days: f64,
    /// Days that the plan takes.
    pub days_needed: f64,
    /// The branch that takes longest.
    pub longest: String,
    /// Days that it takes.
    pub longest_days: f64,
    /// What all budgets may be multiplied with so that the plan just fits: below 1 where it does not.
    pub budgets_times: Option<f64>,
    /// Tokens of all branches then.
    pub tokens: Option<u64>,
    /// The fewest slots with which the plan fits as it is; None where no number does, because one branch comes after
    /// the other.
    pub slots: Option<u32>,
}

impl PlanFit {
    /// Whether it fits.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.days_needed <= self.days
    }
}

/// One branch of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedBranch {
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: BranchRole,
    /// Name of its parent.
    pub parent: Option<String>,
    /// Its domain.
    pub domain: Option<u32>,
    /// Which training with another seed it belongs to, from 0 (`evaluation.repeats`).
    #[serde(default)]
    pub repeat: u32,
    /// Tokens.
    pub tokens: u64,
    /// Steps.
    pub steps: u64,
    /// Share of its tokens that its lineage reads for the first time, 0 to 1; equal domains are assumed before they are
    /// known. None where it draws nothing.
    pub fresh_share: Option<f64>,
    /// Seconds on its slots.
    pub seconds: Option<f64>,
    /// Bytes of its checkpoints.
    pub checkpoint_bytes: u64,
}
