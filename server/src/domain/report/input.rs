//! What a report is made of.

use chrono::{DateTime, Utc};
use senmon_protocol::{
    clustering::{ClusteringQuality, DomainView},
    ids::{EvaluationId, ExperimentId},
    job::{DomainLoss, EnsembleResult, ShardIndex},
    report::{BranchCost, HeldOutSummary, MatrixRow},
    said::{Said, SaidValue},
    spec::ExperimentSpec,
};

/// Everything that a report is made of.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Its file.
    pub spec: &'a ExperimentSpec,
    /// Now, by the database.
    pub now: DateTime<Utc>,
    /// Quality of the clustering.
    pub quality: ClusteringQuality,
    /// The domains.
    pub domains: &'a [DomainView],
    /// The shards.
    pub index: &'a ShardIndex,
    /// One row a scored branch, in the plan's order.
    pub matrix: Vec<Scored>,
    /// The comparisons, one a repeat.
    pub ensembles: Vec<Mixed>,
    /// Costs, in the plan's order.
    pub costs: Vec<BranchCost>,
    /// Branches that did not finish, with the reason.
    pub missing: Vec<(String, SaidValue)>,
    /// What became of the held-out documents.
    pub held_out: HeldOutSummary,
    /// Where the time went, in one sentence.
    pub goodput: Option<Said>,
}

/// A branch with its scores.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The row of the matrix, losses on the reported half.
    pub row: MatrixRow,
    /// Losses on the calibration half.
    pub calibration: Vec<DomainLoss>,
    /// Parameters of the model.
    pub parameters: Option<u64>,
}

/// The comparison of one repeat.
#[derive(Debug, Clone)]
pub struct Mixed {
    /// The repeat, from 0.
    pub repeat: u32,
    /// Its evaluation.
    pub evaluation_id: EvaluationId,
    /// What it found.
    pub result: EnsembleResult,
}

/// How domains are weighted, `[k]` each.
pub(super) struct Weights {
    /// By their share of the held-out tokens: the headline.
    pub by_share: Vec<f64>,
    /// All alike: the macro mean.
    pub alike: Vec<f64>,
}
