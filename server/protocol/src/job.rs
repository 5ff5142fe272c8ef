//! Jobs: units of work leased to a worker. A specification says everything the work needs, so that a worker
//! asks nobody and any worker does the same.

pub use crate::{
    checkpoint::CheckpointRef, decontamination::*, evaluation::*, kind::JobKind, outcome::*, scan::*, shard::*,
};
use crate::{
    corpus::{CorpusFile, DocumentFields},
    ids::{AttemptId, BranchId, ExperimentId, Fence, JobId, StorageKey},
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
    /// Read one file of a corpus for the first time.
    Scan(ScanJob),
    /// Find the texts that several files of a corpus share.
    Deduplicate(DeduplicateJob),
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

impl JobSpec {
    /// The kind.
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
    /// Held-out loss beside training; None where none is asked for, or the list was not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutCurve>,
    /// Folder for checkpoints; the worker appends `/<step, 8 digits>-f<fence>`.
    pub output: StorageKey,
}

/// Held-out loss beside training, on the half of the documents that calibrates: what is reported in the end stays unseen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldOutCurve {
    /// The list of the held-out documents.
    pub list: StorageKey,
    /// Domains that are scored each by itself, as `held_out/domain/N`.
    pub domains: Vec<u32>,
    /// Tokens of each of them, at most.
    pub tokens_per_domain: u32,
    /// Tokens of all domains together, each alike, as `held_out/whole`; at most.
    pub tokens_whole: u32,
    /// Optimiser steps from one to the next; after the last step too.
    pub every_steps: u64,
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

/// A folder on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelFolder {
    /// Absolute path.
    pub path: String,
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
