//! The report of an experiment: did the experts beat one dense model at the same cost?

use crate::{
    clustering::ClusteringQuality,
    evaluation::{DomainLoss, Interval, SurfacePoint},
    ids::{BranchId, CheckpointId, EvaluationId, ExperimentId},
    said::Said,
    view::BranchRole,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/v1/experiments/{id}/report`. Perplexities are per token, on the reported half of the held-out documents;
/// whatever was chosen was chosen on the other half.
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
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline_said: Option<Said>,
    /// One line a contestant: seed, dense, random-split ensemble, best single expert, weight average, the routed
    /// ensemble as it was chosen, and at each number of experts.
    pub contestants: Vec<Contestant>,
    /// What the figures stand on.
    #[serde(default)]
    #[schema(required = true)]
    pub basis: Basis,
    /// The domains.
    pub domains: Vec<ReportDomain>,
    /// Quality of the clustering.
    pub clustering: ClusteringQuality,
    /// Loss of every model on every domain.
    pub matrix: Vec<MatrixRow>,
    /// The routed ensemble at every number of experts and every temperature, on both halves; of the first repeat.
    #[serde(default)]
    #[schema(required = true)]
    pub surface: Vec<SurfaceRow>,
    /// What each branch cost.
    pub costs: Vec<BranchCost>,
    /// Where chains forgot.
    pub chains: Vec<ChainReport>,
    /// How it was measured, in sentences.
    pub method: Vec<String>,
    /// The same as kinds and values, for whoever words them in another language.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub method_said: Vec<Said>,
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

/// What the figures of a report stand on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Basis {
    /// Documents of the reported half.
    pub documents_reported: u64,
    /// Their tokens.
    pub tokens_reported: u64,
    /// Documents of the half that calibrates.
    pub documents_calibration: u64,
    /// Their tokens.
    pub tokens_calibration: u64,
    /// Trainings of each expert and control, with a seed each.
    pub repeats: u32,
    /// Resamples behind each interval; 0 where there is none.
    pub resamples: u32,
}

/// A line of the main table. A figure that stands on nothing or is not finite is absent; `absent` says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Contestant {
    /// Stable word: `seed`, `dense`, `random_ensemble`, `best_expert`, `average`, `ensemble` (the routed ensemble as it
    /// was chosen on the calibration half), `ensemble_top_1`, …, `ensemble_all`.
    pub key: String,
    /// Name for people.
    pub title: String,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title_said: Option<Said>,
    /// The repeat whose figures these are, from 0; the others are in `spread`.
    #[serde(default)]
    #[schema(required = true)]
    pub repeat: u32,
    /// Exponential of `loss`.
    pub perplexity: Option<f64>,
    /// Nats per token, each domain weighted by its share of the corpus's held-out tokens.
    pub loss: Option<f64>,
    /// Exponential of `loss_macro`.
    #[serde(default)]
    pub perplexity_macro: Option<f64>,
    /// Nats per token, every domain alike.
    #[serde(default)]
    pub loss_macro: Option<f64>,
    /// Perplexity over dense − 1, percent; negative is better.
    pub vs_dense_percent: Option<f64>,
    /// `loss` minus dense's, with its interval.
    #[serde(default)]
    pub vs_dense: Option<Difference>,
    /// `loss_macro` minus dense's, with its interval.
    #[serde(default)]
    pub vs_dense_macro: Option<Difference>,
    /// Calibrated temperature of a routed ensemble.
    pub temperature: Option<f64>,
    /// Experts that run for a token.
    pub top_k: Option<u32>,
    /// Loss per domain.
    pub domains: Vec<DomainLoss>,
    /// Documents behind the figures.
    #[serde(default)]
    #[schema(required = true)]
    pub documents: u64,
    /// Tokens behind them.
    #[serde(default)]
    #[schema(required = true)]
    pub tokens: u64,
    /// Mean and range over the repeats, where there is more than one.
    #[serde(default)]
    pub spread: Option<Spread>,
    /// What it costs.
    #[serde(default)]
    #[schema(required = true)]
    pub cost: ContestantCost,
    /// Why figures are absent, a sentence each.
    #[serde(default)]
    #[schema(required = true)]
    pub absent: Vec<String>,
    /// The same as kinds and values, for whoever words them in another language.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent_said: Vec<Said>,
    /// The evaluation behind the figures.
    pub evaluation_id: EvaluationId,
    /// The checkpoint behind the figures; for an ensemble, none (see its members in `matrix`).
    pub checkpoint_id: Option<CheckpointId>,
    /// The branch, where there is one.
    pub branch_id: Option<BranchId>,
}

/// A difference to dense and its 95 % interval, by a paired bootstrap over the reported documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Nats per token; negative is better.
    pub nats: f64,
    /// Lower end.
    pub nats_low: f64,
    /// Upper end.
    pub nats_high: f64,
    /// The same in perplexity, percent.
    pub percent: f64,
    /// Lower end.
    pub percent_low: f64,
    /// Upper end.
    pub percent_high: f64,
}

impl Difference {
    /// Whether the interval leaves zero out: these documents can show a difference.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.nats_low > 0.0 || self.nats_high < 0.0
    }
}

impl From<Interval> for Difference {
    fn from(found: Interval) -> Self {
        let percent = |nats: f64| nats.exp_m1() * 100.0;
        let Interval { nats, nats_low, nats_high } = found;
        let (percent_low, percent_high) = (percent(nats_low), percent(nats_high));
        Self { nats, nats_low, nats_high, percent: percent(nats), percent_low, percent_high }
    }
}

/// Mean and range over trainings with other seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Spread {
    /// Repeats that have the figure.
    pub repeats: u32,
    /// Mean of `loss`, nats per token.
    pub loss_mean: f64,
    /// Lowest.
    pub loss_min: f64,
    /// Highest.
    pub loss_max: f64,
    /// Mean of the differences to the dense model of the same repeat, percent of perplexity.
    pub vs_dense_percent_mean: Option<f64>,
    /// Lowest.
    pub vs_dense_percent_min: Option<f64>,
    /// Highest.
    pub vs_dense_percent_max: Option<f64>,
}

/// What a contestant costs: to use, and to train beyond the seed (for the seed itself, its own training).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ContestantCost {
    /// Parameters that work on a token.
    pub parameters_active: Option<u64>,
    /// Forward passes for a token.
    pub forward_passes: Option<u32>,
    /// Tokens trained.
    pub training_tokens: u64,
    /// Hours of accelerators.
    pub gpu_hours: f64,
    /// Hours of CPU slots.
    pub cpu_slot_hours: f64,
    /// Hours of both for each nat per token that its loss lies below the seed's.
    pub hours_per_nat: Option<f64>,
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
    /// Their tokens.
    #[serde(default)]
    #[schema(required = true)]
    pub tokens_held_out: u64,
    /// Share of all held-out tokens: the domain's weight in the headline.
    #[serde(default)]
    #[schema(required = true)]
    pub weight: f64,
    /// Share of all training tokens: the router's prior.
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
    /// Which training with another seed, from 0.
    #[serde(default)]
    #[schema(required = true)]
    pub repeat: u32,
    /// The checkpoint scored.
    pub checkpoint_id: CheckpointId,
    /// The evaluation.
    pub evaluation_id: EvaluationId,
    /// Loss on each domain.
    pub domains: Vec<DomainLoss>,
}

/// A point of the surface, and whether it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SurfaceRow {
    /// The losses.
    #[serde(flatten)]
    pub point: SurfacePoint,
    /// The best temperature for this number of experts, on the calibration half.
    pub best_of_top_k: bool,
    /// The best of all, on the calibration half: what the headline reports.
    pub chosen: bool,
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
    /// Share of its tokens that its lineage read for the first time, 0 to 1; None where it drew nothing.
    #[serde(default)]
    pub fresh_share: Option<f64>,
    /// Hours of accelerators: attempts times the slots that they held.
    #[serde(default)]
    #[schema(required = true)]
    pub gpu_hours: f64,
    /// Hours of CPU slots, likewise.
    #[serde(default)]
    #[schema(required = true)]
    pub cpu_slot_hours: f64,
    /// Tokens over seconds; absent where nothing was trained.
    pub tokens_per_second: Option<f64>,
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
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline_said: Option<Said>,
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
    /// Overall loss after it, domains by their share of the held-out tokens; absent where it is not finite.
    pub loss: Option<f64>,
    /// Loss on each domain after it.
    pub domains: Vec<DomainLoss>,
    /// For each domain learned before: loss now − loss after the link so far that the calibration half calls best.
    pub forgetting: Vec<Forgetting>,
}

/// What was forgotten of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Forgetting {
    /// The domain.
    pub domain: u32,
    /// Nats per token; below 0 where the reported half likes this link better than the calibration half's choice.
    pub loss_delta: f64,
}
