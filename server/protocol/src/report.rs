//! The report of an experiment: did the experts beat one dense model at the same cost?

use crate::{
    clustering::ClusteringQuality,
    ids::{BranchId, CheckpointId, EvaluationId, ExperimentId},
    job::{DomainLoss, TemperaturePoint},
    view::BranchRole,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/v1/experiments/{id}/report`. All perplexities are per token, on the reported half of the held-out
/// documents; overall figures weigh every token the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Its name.
    pub name: String,
    /// When the report was made.
    pub created_at: DateTime<Utc>,
    /// The finding in one sentence.
    pub headline: String,
    /// One line a contestant: seed, dense, random-split ensemble, best single expert, weight average, ensembles.
    pub contestants: Vec<Contestant>,
    /// The domains.
    pub domains: Vec<ReportDomain>,
    /// Quality of the clustering.
    pub clustering: ClusteringQuality,
    /// Loss of every model on every domain.
    pub matrix: Vec<MatrixRow>,
    /// The temperature curves of the routed ensemble, one for each number of experts.
    pub routing: Vec<RoutingCurve>,
    /// What each branch cost.
    pub costs: Vec<BranchCost>,
    /// Where chains forgot.
    pub chains: Vec<ChainReport>,
    /// How it was measured, in sentences.
    pub method: Vec<String>,
    /// The held-out documents; None in reports of older versions.
    #[serde(default)]
    pub held_out: Option<HeldOutSummary>,
}

/// What became of the held-out documents that the evaluation asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldOutSummary {
    /// Documents scored, both halves, all domains.
    pub documents: u64,
    /// Training documents that they were compared with; None where the experiment asked for no comparison.
    pub compared: Option<u64>,
    /// Documents left out because most of their 13-grams stand in a training document.
    pub left_out: u64,
    /// The first of them, by domain.
    pub left_out_first: Vec<LeftOut>,
    /// Input files that could not be compared, and why.
    pub problems: Vec<String>,
}

/// A held-out document that is not scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// Its id.
    pub id: String,
    /// Its domain.
    pub domain: u32,
    /// Share of its 13-grams that stand in the training document.
    pub share: f64,
    /// Id of the training document.
    pub document: String,
}

/// A line of the main table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Contestant {
    /// Stable word: `seed`, `dense`, `random_ensemble`, `best_expert`, `average`, `ensemble_top_1`, …, `ensemble_all`.
    pub key: String,
    /// Name for people.
    pub title: String,
    /// Overall perplexity.
    pub perplexity: f64,
    /// Overall loss, nats per token.
    pub loss: f64,
    /// Perplexity over dense − 1, percent; negative is better.
    pub vs_dense_percent: Option<f64>,
    /// Calibrated temperature of a routed ensemble.
    pub temperature: Option<f64>,
    /// Experts that run for a token.
    pub top_k: Option<u32>,
    /// Loss per domain.
    pub domains: Vec<DomainLoss>,
    /// The evaluation behind the figures.
    pub evaluation_id: EvaluationId,
    /// The checkpoint behind the figures; for an ensemble, none (see its members in `matrix`).
    pub checkpoint_id: Option<CheckpointId>,
    /// The branch, where there is one.
    pub branch_id: Option<BranchId>,
}

/// A domain in the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReportDomain {
    /// Number.
    pub index: u32,
    /// Label.
    pub label: String,
    /// Top terms.
    pub top_terms: Vec<String>,
    /// Documents in the shards, both splits.
    pub documents: u64,
    /// Training tokens.
    pub tokens: u64,
    /// Held-out documents.
    pub documents_held_out: u64,
    /// Share of all training tokens.
    pub share: f64,
}

/// One model of the expert × domain matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MatrixRow {
    /// Name of the branch.
    pub branch: String,
    /// The branch.
    pub branch_id: BranchId,
    /// Role.
    pub role: BranchRole,
    /// Its own domain.
    pub domain: Option<u32>,
    /// The checkpoint scored.
    pub checkpoint_id: CheckpointId,
    /// The evaluation.
    pub evaluation_id: EvaluationId,
    /// Loss on each domain.
    pub domains: Vec<DomainLoss>,
}

/// Temperature curve at one number of experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutingCurve {
    /// Experts mixed.
    pub top_k: u32,
    /// The chosen temperature.
    pub temperature: f64,
    /// Loss over temperature on the calibration half.
    pub curve: Vec<TemperaturePoint>,
}

/// What a branch cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BranchCost {
    /// Name.
    pub branch: String,
    /// The branch.
    pub branch_id: BranchId,
    /// Role.
    pub role: BranchRole,
    /// Tokens trained.
    pub tokens: u64,
    /// Seconds in attempts.
    pub wall_seconds: f64,
    /// Tokens over seconds.
    pub tokens_per_second: f64,
    /// Bytes of its checkpoints.
    pub checkpoint_bytes: u64,
    /// Its last checkpoint.
    pub checkpoint_id: Option<CheckpointId>,
}

/// What a chain learned and forgot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChainReport {
    /// Name of the chain.
    pub name: String,
    /// Its links, in order.
    pub links: Vec<ChainLink>,
    /// One sentence.
    pub headline: String,
}

/// One link of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChainLink {
    /// Name of the branch.
    pub branch: String,
    /// The branch.
    pub branch_id: BranchId,
    /// Domain it learned.
    pub domain: u32,
    /// Overall loss after it.
    pub loss: f64,
    /// Loss on each domain after it.
    pub domains: Vec<DomainLoss>,
    /// For each domain learned before: loss now − lowest loss after any link so far.
    pub forgetting: Vec<Forgetting>,
}

/// What was forgotten of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Forgetting {
    /// The domain.
    pub domain: u32,
    /// Nats per token, 0 or more.
    pub loss_delta: f64,
}
