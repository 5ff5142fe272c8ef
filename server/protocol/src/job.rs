//! Jobs: units of work leased to a worker. A specification says everything the work needs, so that a worker
//! asks nobody and any worker does the same.

pub use crate::{comparison::*, outcome::*};
use crate::{
    corpus::{CorpusFile, DocumentCounts, DocumentFields},
    ids::{AttemptId, BranchId, CheckpointId, EvaluationId, ExperimentId, Fence, JobId, StorageKey},
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
    /// For the random-split control: only the windows of one part of a random partition.
    #[serde(default)]
    pub part: Option<MixturePart>,
}

/// One weight of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DomainWeight {
    /// Domain number.
    pub domain: u32,
    /// Share of windows, relative to the other weights.
    pub weight: f64,
}

/// Part `index` of a random partition of all windows into `of` parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MixturePart {
    /// 0 to `of` − 1.
    pub index: u32,
    /// Number of parts.
    pub of: u32,
    /// Seed of the partition, the same for all parts.
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
    /// How often one domain may be read.
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
    /// Number format.
    pub precision: crate::spec::Precision,
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
    /// Mean negative log-likelihood, nats per token. 0 when no token was scored.
    pub loss: f64,
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

/// Mixes the probabilities of several experts from their cached scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The evaluation's row.
    pub evaluation_id: EvaluationId,
    /// The members.
    pub members: Vec<EnsembleMember>,
    /// How members are weighted.
    pub routing: Routing,
    /// The shard index.
    pub shards: StorageKey,
    /// `tokenizer.json`: the router reads the text before each token.
    pub tokenizer: StorageKey,
    /// Folder of the router artefact.
    pub router: StorageKey,
    /// As in the members' evaluations.
    #[serde(default = "unlisted")]
    pub held_out: StorageKey,
    /// Tokens between two looks of the router.
    pub route_every_tokens: u32,
    /// Numbers of experts to measure.
    pub top_k: Vec<u32>,
    /// Temperatures to try.
    pub temperatures: Vec<f64>,
}

/// One member of an ensemble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleMember {
    /// Name of the branch.
    pub branch: String,
    /// Its domain, for routed mixing.
    pub domain: Option<u32>,
    /// Folder of its evaluation.
    pub scores: StorageKey,
    /// SHA-256 of `logprobs.safetensors` there.
    pub sha256: String,
}

/// How members are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// `exp(−d²/T)` over the nearest centres of the text so far; uniform before the first token.
    Router,
    /// The same weight for every member.
    Uniform,
}

/// What an ensemble reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleResult {
    /// One line for each number of experts.
    pub lines: Vec<EnsembleLine>,
}

/// The ensemble at one number of experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EnsembleLine {
    /// Experts mixed for each token.
    pub top_k: u32,
    /// Temperature with the lowest loss on the calibration half. None for uniform mixing.
    pub temperature: Option<f64>,
    /// Loss on the reported half at that temperature.
    pub domains: Vec<DomainLoss>,
    /// The whole temperature curve, calibration half.
    pub curve: Vec<TemperaturePoint>,
}

/// One point of a temperature curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TemperaturePoint {
    /// Temperature.
    pub temperature: f64,
    /// Mean negative log-likelihood, nats per token.
    pub loss: f64,
}

/// A finished merge; its checkpoint was committed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MergeResult {
    /// Members averaged.
    pub members: u64,
}
