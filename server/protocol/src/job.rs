//! Jobs: units of work leased to a worker. A specification says everything the work needs, so that a worker
//! asks nobody and any worker does the same.

pub use crate::outcome::*;
use crate::{
    corpus::{CorpusFile, DocumentCounts, DocumentFields},
    ids::{AttemptId, BranchId, CheckpointId, EvaluationId, ExperimentId, Fence, JobId, StorageKey},
    lineage::Lineage,
    model::ModelSpec,
    spec::TrainingSpec,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The right to run one job until the lease ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// This execution.
    pub attempt_id: AttemptId,
    /// The job.
    pub job_id: JobId,
    /// Goes with every write.
    pub fence: Fence,
    /// The lease ends this long after the grant unless a heartbeat renews it.
    pub lease_ttl_ms: u64,
    /// Slots of the worker that the job takes.
    pub slots: Vec<u16>,
    /// What to do.
    pub job: JobSpec,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobSpec {
    /// Tokenise one input file, grouped by domain.
    Shard(ShardJob),
    /// Train one branch.
    Train(Box<TrainJob>),
    /// Score one checkpoint on every domain's held-out documents.
    Evaluate(EvaluateJob),
    /// Average the weights of several checkpoints.
    Merge(MergeJob),
    /// Mix the cached scores of several evaluations: the routed ensemble.
    Ensemble(EnsembleJob),
    /// Find the held-out documents whose text stands in the training text of one input file.
    Decontaminate(DecontaminateJob),
}

/// Kind of a job, for queues and capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named after the variants of JobSpec")]
pub enum JobKind {
    Shard,
    Train,
    Evaluate,
    Merge,
    Ensemble,
    Decontaminate,
}

impl JobKind {
    /// The kind in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Shard => "shard",
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Merge => "merge",
            Self::Ensemble => "ensemble",
            Self::Decontaminate => "decontaminate",
        }
    }
}

impl JobSpec {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Shard(_) => JobKind::Shard,
            Self::Train(_) => JobKind::Train,
            Self::Evaluate(_) => JobKind::Evaluate,
            Self::Merge(_) => JobKind::Merge,
            Self::Ensemble(_) => JobKind::Ensemble,
            Self::Decontaminate(_) => JobKind::Decontaminate,
        }
    }
}

/// Reads one input file and writes one shard: documents assigned to domains, tokenised, split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShardJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The input.
    pub file: CorpusFile,
    /// Fields of its records.
    pub fields: DocumentFields,
    /// Folder of the router artefact.
    pub router: StorageKey,
    /// `tokenizer.json`.
    pub tokenizer: StorageKey,
    /// Token put after each document.
    pub separator: String,
    /// Token put before each document; None for what the tokenizer does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<String>,
    /// Share of documents held out, by a hash of the document's group.
    pub held_out_fraction: f64,
    /// Held-out documents of each domain that the evaluation may ask for.
    #[serde(default)]
    pub documents_per_domain: u32,
    /// Folder for `shard.bin`, `shard.idx`, `shard.json`; belongs to this job. The worker appends `/f<fence>`.
    pub output: StorageKey,
}

/// A written shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShardResult {
    /// Folder that was written.
    pub folder: StorageKey,
    /// SHA-256 of `shard.bin`.
    pub bin_sha256: String,
    /// SHA-256 of `shard.idx`.
    pub idx_sha256: String,
    /// SHA-256 of `held_out.json`; None in shards of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_sha256: Option<String>,
    /// What was read.
    pub counts: DocumentCounts,
    /// The domains' ranges, by (domain, split).
    pub ranges: Vec<ShardRange>,
    /// SHA-256 of each range's bytes in `shard.bin`, in the same order: a job that reads some of them fetches and checks
    /// no others. Empty where it was not kept.
    #[serde(default)]
    pub range_sha256: Vec<String>,
}

impl ShardResult {
    /// The ranges with their hashes; None where those were not kept.
    #[must_use]
    pub fn hashed_ranges(&self) -> Option<impl Iterator<Item = (&ShardRange, &String)>> {
        (self.range_sha256.len() == self.ranges.len()).then(|| self.ranges.iter().zip(&self.range_sha256))
    }
}

/// Which side of the split a document is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Trained on.
    Train,
    /// Never trained on.
    HeldOut,
}

/// A run of documents of one domain and split inside a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardRange {
    /// Domain number.
    pub domain: u32,
    /// Side of the split.
    pub split: Split,
    /// First document.
    pub document_first: u64,
    /// Documents.
    pub documents: u64,
    /// First token.
    pub token_first: u64,
    /// Tokens, separators included.
    pub tokens: u64,
}

/// `shards/<experiment>/index.json`: all shards of an experiment, written by the server when the last one is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShardIndex {
    /// Domains of the clustering.
    pub domains: u32,
    /// Entries of the tokenizer.
    pub vocab_size: u32,
    /// Id of the separator token.
    pub separator_id: u32,
    /// Id of the token before each document, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_id: Option<u32>,
    /// The shards, by input file.
    pub shards: Vec<ShardResult>,
}

impl ShardIndex {
    /// The token from which a document's first one is predicted: its own opening token, or the separator before it.
    #[must_use]
    pub fn opener_id(&self) -> u32 {
        self.bos_id.unwrap_or(self.separator_id)
    }
}

/// Weights over domains from which a branch draws; versioned, never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Mixture {
    /// Version; part of the data order.
    pub version: u32,
    /// Domain numbers and weights (positive, need not sum to 1), by domain.
    pub weights: Vec<DomainWeight>,
    /// For the random-split control: one part of the draws, dealt out at random.
    #[serde(default)]
    pub part: Option<MixturePart>,
    /// For a repeat with another seed: the key by which the windows that the lineage has not drawn are shuffled anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reshuffle: Option<u64>,
}

/// One weight of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DomainWeight {
    /// Domain number.
    pub domain: u32,
    /// Share of windows, relative to the other weights.
    pub weight: f64,
}

/// One of `of` parts that share out the draws of the mixture: its order is cut into blocks of `block` draws, and of each
/// round of `of` blocks every part takes one, dealt out by a hash of seed and round. Parts that draw as much in all as a
/// branch without parts draw together exactly its windows, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MixturePart {
    /// 0 to `of` − 1.
    pub index: u32,
    /// Number of parts.
    pub of: u32,
    /// Draws dealt out together: the windows of one step.
    pub block: u32,
    /// Seed of the deal, the same for all parts.
    pub seed: u64,
}

/// Trains one branch from its parent to its last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrainJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The branch.
    pub branch_id: BranchId,
    /// Its name, for logs.
    pub branch: String,
    /// Weights at step 0.
    pub start: TrainStart,
    /// Last committed checkpoint of this branch, where an earlier attempt left one.
    pub resume: Option<CheckpointRef>,
    /// `tokenizer.json`, copied into each checkpoint.
    pub tokenizer: StorageKey,
    /// The shard index.
    pub shards: StorageKey,
    /// Tokens of one window.
    pub sequence_length: u32,
    /// What to draw from.
    pub mixture: Mixture,
    /// What the parent's lineage has drawn already; the branch goes on behind it.
    #[serde(default)]
    pub lineage: Lineage,
    /// How often a lineage may read one domain.
    pub epochs_max: f64,
    /// Whether a token sees the documents before its own in a window.
    #[serde(default = "yes")]
    pub attend_across_documents: bool,
    /// Optimiser steps from the parent to the end.
    pub steps: u64,
    /// Everything else.
    pub training: TrainingSpec,
    /// Folder for checkpoints; the worker appends `/<step, 8 digits>-f<fence>`.
    pub output: StorageKey,
}

fn yes() -> bool {
    true
}

/// Weights at step 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TrainStart {
    /// Random weights.
    Init(InitModel),
    /// A checkpoint of Senmon.
    Checkpoint(CheckpointRef),
    /// A Hugging Face folder outside the store (a seed that somebody else trained).
    Folder(ModelFolder),
}

/// Random weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InitModel {
    /// Shape, `vocab_size` filled in.
    pub model: ModelSpec,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointRef {
    /// The row.
    pub id: CheckpointId,
    /// The folder.
    pub folder: StorageKey,
    /// SHA-256 of its `manifest.json`.
    pub manifest_sha256: String,
    /// Step it was taken at.
    pub step: u64,
}

/// A folder on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelFolder {
    /// Absolute path.
    pub path: String,
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
    pub precision: crate::spec::Precision,
    /// Folder for `logprobs.safetensors`; the worker appends `/f<fence>`.
    pub output: StorageKey,
}

/// Jobs of older versions name no list; they can be read, and end where they look for it.
#[expect(clippy::expect_used, reason = "a constant")]
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

/// Averages weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MergeJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The branch that stands for the result.
    pub branch_id: BranchId,
    /// The members.
    pub members: Vec<MergeMember>,
    /// `tokenizer.json`, copied beside the weights.
    pub tokenizer: StorageKey,
    /// Folder for the checkpoint; the worker appends `/00000000-f<fence>`.
    pub output: StorageKey,
}

/// One member of a weight average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MergeMember {
    /// The checkpoint.
    pub checkpoint: CheckpointRef,
    /// Its weight, relative to the others'.
    pub weight: f64,
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

/// Compares the training documents of one input file with the held-out documents of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecontaminateJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The input.
    pub file: CorpusFile,
    /// Fields of its records.
    pub fields: DocumentFields,
    /// The held-out documents that the evaluation may score, with the hashes of their 13-grams.
    pub candidates: StorageKey,
    /// Share of documents held out, by a hash of the document's group.
    pub held_out_fraction: f64,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecontaminateResult {
    /// Training documents compared.
    pub documents: u64,
    /// Held-out documents that share most of their 13-grams with one of them.
    pub overlaps: Vec<Overlap>,
}

/// A held-out document and the training document that holds most of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Overlap {
    /// Place in the list of candidates.
    pub candidate: u32,
    /// Share of its 13-grams: more than a half.
    pub share: f64,
    /// Id of the training document.
    pub document: String,
}

/// A finished merge; its checkpoint was committed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MergeResult {
    /// Members averaged.
    pub members: u64,
}
