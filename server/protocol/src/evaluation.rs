//! The jobs that measure: scores of one checkpoint, and the comparison of several from their cached scores.

use crate::{
    checkpoint::CheckpointRef,
    ids::{EvaluationId, ExperimentId, StorageKey},
    said::Said,
    training::Precision,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Scores one checkpoint on every domain's held-out documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluateJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The evaluation's row.
    pub evaluation_id: EvaluationId,
    /// The checkpoint.
    pub checkpoint: CheckpointRef,
    /// The shard index.
    pub shards: StorageKey,
    /// The list of the held-out documents to score.
    #[serde(default = "unlisted")]
    pub held_out: StorageKey,
    /// Tokens of one window.
    pub sequence_length: u32,
    /// Tokens of each document that are scored, at most.
    #[serde(default = "tokens_per_document_max")]
    pub tokens_per_document_max: u32,
    /// Number format.
    pub precision: Precision,
    /// Folder for `logprobs.safetensors`; the worker appends `/f<fence>`.
    pub output: StorageKey,
}

/// Jobs of older versions name no list; they can be read, and end where they look for it.
fn unlisted() -> StorageKey {
    StorageKey::new("unlisted").expect("a key")
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluateResult {
    /// Folder with the cached log-probabilities of every scored token.
    pub folder: StorageKey,
    /// SHA-256 of `logprobs.safetensors`.
    pub sha256: String,
    /// Loss on the reported half of each domain's held-out documents.
    pub domains: Vec<DomainLoss>,
    /// The same on the half that calibrates: whatever is chosen is chosen here.
    #[serde(default)]
    pub calibration: Vec<DomainLoss>,
    /// Parameters of the model.
    #[serde(default)]
    pub parameters: Option<u64>,
}

impl EvaluateResult {
    /// Tokens that were scored, both halves.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.domains.iter().chain(&self.calibration).map(|domain| domain.tokens).fold(0, u64::saturating_add)
    }
}

/// Tokens of a held-out document that are scored, where a job says nothing.
fn tokens_per_document_max() -> u32 {
    8192
}

/// Held-out loss on one domain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DomainLoss {
    /// Domain number.
    pub domain: u32,
    /// Documents scored.
    pub documents: u64,
    /// Tokens scored.
    pub tokens: u64,
    /// Mean negative log-likelihood, nats per token. Absent where no token was scored, or where it is not finite.
    pub loss: Option<f64>,
}

/// Mixes and compares models from their cached scores: the experts by the router, the random-split experts alike, and
/// every contestant with dense, document by document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The evaluation's row.
    pub evaluation_id: EvaluationId,
    /// The models.
    pub members: Vec<EnsembleMember>,
    /// The shard index: the documents, the domains' weights and the router's prior.
    pub shards: StorageKey,
    /// `tokenizer.json`: the router reads the text before each token.
    pub tokenizer: StorageKey,
    /// Folder of the router artefact.
    pub router: StorageKey,
    /// As in the members' evaluations.
    #[serde(default = "unlisted")]
    pub held_out: StorageKey,
    /// As in the members' evaluations.
    #[serde(default = "tokens_per_document_max")]
    pub tokens_per_document_max: u32,
    /// Tokens between two looks of the router.
    pub route_every_tokens: u32,
    /// Numbers of experts to measure.
    pub top_k: Vec<u32>,
    /// Temperatures to try.
    pub temperatures: Vec<f64>,
    /// Resamples of the bootstrap.
    #[serde(default)]
    pub resamples: u32,
    /// Seed of the bootstrap.
    #[serde(default)]
    pub random_seed: u64,
}

/// One model of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleMember {
    /// Name of the branch.
    pub branch: String,
    /// What it is in the comparison.
    #[serde(default)]
    pub part: MemberPart,
    /// Its domain, for routed mixing.
    pub domain: Option<u32>,
    /// Folder of its evaluation.
    pub scores: StorageKey,
    /// SHA-256 of `logprobs.safetensors` there.
    pub sha256: String,
}

/// What a model is in a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberPart {
    /// One of the routed ensemble: `exp(−d²/T)` over the nearest centres of the text so far.
    #[default]
    Expert,
    /// One of the random-split ensemble: the same weight for every member.
    Random,
    /// What every contestant is compared with.
    Dense,
    /// A contestant by itself.
    Alone,
}

/// What a comparison found. Whatever is chosen here is chosen on the calibration half.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleResult {
    /// The routed ensemble: one line for each number of experts, at the temperature that is best for it.
    #[serde(default)]
    pub lines: Vec<EnsembleLine>,
    /// Every number of experts at every temperature.
    #[serde(default)]
    pub surface: Vec<SurfacePoint>,
    /// The point of the surface with the lowest loss.
    #[serde(default)]
    pub chosen: Option<Choice>,
    /// The random-split experts, mixed alike.
    #[serde(default)]
    pub random: Option<EnsembleLine>,
    /// The models that stand alone, except dense.
    #[serde(default)]
    pub alone: Vec<AloneResult>,
    /// The expert with the lowest loss.
    #[serde(default)]
    pub best_expert: Option<AloneResult>,
    /// Resamples behind each interval.
    #[serde(default)]
    pub resamples: u32,
}

/// A number of experts and a temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// Experts mixed.
    pub top_k: u32,
    /// Temperature.
    pub temperature: f64,
}

/// The ensemble at one number of experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleLine {
    /// Experts mixed for each token.
    pub top_k: u32,
    /// Temperature with the lowest loss on the calibration half. None for uniform mixing, and where no loss is finite.
    pub temperature: Option<f64>,
    /// Loss on the reported half at that temperature.
    pub domains: Vec<DomainLoss>,
    /// Against dense, on the reported half.
    #[serde(default)]
    pub vs_dense: Compared,
}

/// A model by itself in a comparison; its losses are those of its evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AloneResult {
    /// Name of the branch.
    pub branch: String,
    /// Against dense, on the reported half.
    pub vs_dense: Compared,
}

/// A contestant's loss minus dense's, nats per token, over the reported documents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Compared {
    /// Each domain weighted by its share of the corpus's held-out tokens.
    pub by_share: Option<Interval>,
    /// Every domain alike.
    pub alike: Option<Interval>,
    /// Why one of them is absent.
    pub absent: Option<String>,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_said: Option<Said>,
}

/// A difference and its 95 % interval (paired bootstrap over documents).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    /// The difference, nats per token; negative is better.
    pub nats: f64,
    /// Lower end.
    pub nats_low: f64,
    /// Upper end.
    pub nats_high: f64,
}

/// The routed ensemble at one number of experts and one temperature, on both halves. Nats per token; absent where
/// nothing was scored or the loss is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SurfacePoint {
    /// Experts mixed.
    pub top_k: u32,
    /// Temperature.
    pub temperature: f64,
    /// Calibration half, domains by their share of the held-out tokens: what the choice is made by.
    pub calibration: Option<f64>,
    /// Calibration half, every domain alike.
    pub calibration_macro: Option<f64>,
    /// Reported half, domains by their share.
    pub reported: Option<f64>,
    /// Reported half, every domain alike.
    pub reported_macro: Option<f64>,
}
