//! What people and scripts read and ask for: experiments, branches, jobs, checkpoints, evaluations.

pub use crate::{access::*, aside::*, attempt::*, edit::*, fleet::*, stream::*};
use crate::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::{BranchId, CheckpointId, ClusteringId, CorpusId, EvaluationId, ExperimentId, JobId, OwnerId, StorageKey},
    job::{CheckpointRef, JobKind, Mixture},
    said::Said,
    spec::{ExperimentSpec, TrainingSpec},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Give this as `cursor` to get the next page; absent on the last one.
    pub next_cursor: Option<String>,
    /// What belongs to this list and cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenRow>,
}

/// A row of the database that this program cannot read: it hides itself, and spoils no list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BrokenRow {
    /// Id of what cannot be read.
    pub id: String,
    /// What it is, and why it cannot be read.
    pub problem: String,
}

/// State of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExperimentState {
    /// Going on, or waiting for workers.
    Running,
    /// Paused by a person; branches are released at their next step.
    Paused,
    /// Report written.
    Completed,
    /// Stopped by a failure; see `problem`.
    Failed,
    /// Stopped by a person.
    Cancelled,
}

/// A stage of an experiment's life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Clustering and tokenizer.
    Discover,
    /// Input files to shards.
    Shard,
    /// The seed.
    Seed,
    /// Experts, controls, chains, trees.
    Branches,
    /// Weight average.
    Merge,
    /// Scores of every expert and control on every domain, then the ensembles.
    Evaluate,
    /// The report.
    Report,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 7] =
        [Self::Discover, Self::Shard, Self::Seed, Self::Branches, Self::Merge, Self::Evaluate, Self::Report];
}

/// Progress of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageProgress {
    /// The stage.
    pub stage: Stage,
    /// Where it stands.
    pub state: StageState,
    /// Units done: files, tokens, evaluations, …
    pub done: u64,
    /// Units in all; 0 while unknown.
    pub total: u64,
    /// The unit, for people: `files`, `tokens`, `evaluations`, `documents`.
    pub unit: String,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Seconds left, from the rate so far.
    pub seconds_left: Option<f64>,
}

/// Where a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// Not begun.
    Waiting,
    /// Going on.
    Running,
    /// Done.
    Done,
    /// Nothing to do in this experiment.
    Skipped,
    /// Ended by a failure.
    Failed,
}

/// An experiment in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentSummary {
    /// Id.
    pub id: ExperimentId,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Vec<String>,
    /// State.
    pub state: ExperimentState,
    /// Why it failed, or why the server paused it, in sentences.
    pub problem: Option<String>,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_said: Option<Said>,
    /// 0 to 100.
    pub priority: u8,
    /// The stages.
    pub stages: Vec<StageProgress>,
    /// Tokens trained by all branches.
    pub tokens_done: u64,
    /// Token budget of all branches (an estimate until the shards are known).
    pub tokens_total: u64,
    /// Ensemble perplexity over dense perplexity − 1, in percent (negative is better), once known.
    pub ensemble_vs_dense_percent: Option<f64>,
    /// Seconds left, once the rate is known.
    pub seconds_left: Option<f64>,
    /// Name of the token that submitted it.
    pub owner: String,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// One experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentView {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: ExperimentSummary,
    /// Note of people, in Markdown; empty where there is none.
    #[serde(default)]
    pub note: String,
    /// The submission.
    pub spec: ExperimentSpec,
    /// The corpus.
    pub corpus_id: CorpusId,
    /// The clustering, once asked for.
    pub clustering_id: Option<ClusteringId>,
    /// What it waits for, in a sentence; or why it is set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_said: Option<Said>,
    /// The branches, parents before children.
    pub branches: Vec<BranchView>,
    /// Branches that cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenRow>,
}

/// What a branch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BranchRole {
    /// Where the others start.
    Seed,
    /// An expert of the fan-out.
    Expert,
    /// Control: one model on the whole mixture.
    Dense,
    /// Control: an expert of a random part.
    Random,
    /// A link of a chain.
    Chain,
    /// A branch of a tree.
    Tree,
    /// The average of the experts' weights.
    Average,
}

/// State of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BranchState {
    /// Waits for its parent or an earlier stage.
    Waiting,
    /// Ready, waits for slots.
    Queued,
    /// Trains.
    Running,
    /// Paused by a person.
    Paused,
    /// Reached its last step.
    Completed,
    /// Ended by a failure.
    Failed,
    /// Ended by a person.
    Cancelled,
}

/// One branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BranchView {
    /// Id.
    pub id: BranchId,
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Name, unique in the experiment: `seed`, `expert-3`, `dense`, `random-0`, `chain-2`, `average`.
    pub name: String,
    /// What it is for.
    pub role: BranchRole,
    /// Its domain, for experts and links of a chain.
    pub domain: Option<u32>,
    /// Which training with another seed it belongs to, from 0; `expert-3~2` is repeat 1 of `expert-3`.
    #[serde(default)]
    pub repeat: u32,
    /// The branch it starts from.
    pub parent_id: Option<BranchId>,
    /// State.
    pub state: BranchState,
    /// Why it waits or failed, in one sentence.
    pub why: Option<String>,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_said: Option<Said>,
    /// What it draws from.
    pub mixture: Option<Mixture>,
    /// Its settings.
    pub training: Option<TrainingSpec>,
    /// Steps so far, on the current lineage.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Tokens so far.
    pub tokens: u64,
    /// Token budget.
    pub tokens_total: u64,
    /// Last reported loss.
    pub loss: Option<f64>,
    /// At most 32 smoothed losses over the branch so far, for a sparkline.
    pub sparkline: Vec<f64>,
    /// Tokens per second of the last interval, while it runs.
    pub tokens_per_second: Option<f64>,
    /// Seconds spent in attempts.
    pub wall_seconds: f64,
    /// Seconds left, while it runs.
    pub seconds_left: Option<f64>,
    /// The worker that has it.
    pub worker: Option<String>,
    /// Attempts so far.
    pub attempts: u32,
    /// The last committed checkpoint.
    pub checkpoint_id: Option<CheckpointId>,
    /// The checkpoint that a fork starts from; other branches start from their parent's last.
    #[serde(default)]
    pub start_checkpoint_id: Option<CheckpointId>,
}

impl BranchView {
    /// Says why it waits.
    pub fn explain(&mut self, why: Said) {
        self.why = Some(why.text());
        self.why_said = Some(why);
    }
}

/// Whose work a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobOwner {
    /// An experiment's.
    Experiment {
        /// The experiment.
        id: ExperimentId,
        /// Its name.
        name: String,
    },
    /// A corpus's.
    Corpus {
        /// The corpus.
        id: CorpusId,
        /// Its name.
        name: String,
    },
}

impl JobOwner {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> OwnerId {
        match self {
            Self::Experiment { id, .. } => (*id).into(),
            Self::Corpus { id, .. } => (*id).into(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Experiment { name, .. } | Self::Corpus { name, .. } => name,
        }
    }

    /// The experiment, if it is one.
    #[must_use]
    pub fn experiment(&self) -> Option<ExperimentId> {
        match self {
            Self::Experiment { id, .. } => Some(*id),
            Self::Corpus { .. } => None,
        }
    }
}

/// A job in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Id.
    pub id: JobId,
    /// Whose work it is.
    pub owner: JobOwner,
    /// The branch, for training and merging.
    pub branch_id: Option<BranchId>,
    /// What it does, for people: `train expert-3`, `shard perl-en.jsonl`.
    pub title: String,
    /// Kind.
    pub kind: JobKind,
    /// State.
    pub state: JobState,
    /// Why it waits, in one sentence.
    pub why: Option<String>,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_said: Option<Said>,
    /// Priority.
    pub priority: u8,
    /// Slots it needs.
    pub slots: u16,
    /// Attempts so far.
    pub attempts: u32,
    /// Name of the worker that has it.
    pub worker: Option<String>,
    /// Progress, 0 to 1, while it runs.
    pub progress: Option<f64>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for slots.
    Queued,
    /// Leased to a worker.
    Running,
    /// Held by a person.
    Paused,
    /// Done.
    Completed,
    /// Given up.
    Failed,
    /// Stopped by a person.
    Cancelled,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointView {
    /// Id.
    pub id: CheckpointId,
    /// Name of the branch.
    pub branch: String,
    /// Name of the experiment.
    pub experiment: String,
    /// What the manifest says.
    pub meta: CheckpointMeta,
    /// The same as `meta.kind`, for filters.
    pub kind: CheckpointKind,
    /// The folder in the store.
    pub folder: StorageKey,
    /// SHA-256 of the manifest.
    pub manifest_sha256: String,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// When its files were last read and compared with the manifest; None where they are to be read next.
    pub verified_at: Option<DateTime<Utc>>,
    /// What is missing or altered; no branch resumes from such a checkpoint.
    pub problem: Option<String>,
}

impl CheckpointView {
    /// What a job is told of it.
    #[must_use]
    pub fn reference(self) -> CheckpointRef {
        CheckpointRef { id: self.id, folder: self.folder, manifest_sha256: self.manifest_sha256, step: self.meta.step }
    }
}

/// Answer to `POST /checkpoints/{id}/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointVerdict {
    /// The checkpoint.
    pub id: CheckpointId,
    /// The first file that is missing, short or altered, with what was found; None where all is as committed.
    pub problem: Option<String>,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// An evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationView {
    /// Id.
    pub id: EvaluationId,
    /// The branch scored; absent for ensembles.
    pub branch_id: Option<BranchId>,
    /// The checkpoint scored; absent for ensembles.
    pub checkpoint_id: Option<CheckpointId>,
    /// `seed`, `expert-3`, `ensemble`, `random ensemble`, …
    pub title: String,
    /// Whether it is done.
    pub done: bool,
    /// Loss on each domain, once done.
    pub domains: Vec<crate::job::DomainLoss>,
}
