//! The experiment file: what `senmon run FILE` submits. YAML for people, the same keys in JSON for scripts.

pub use crate::storage::RetentionSpec;
pub use crate::training::{
    OptimizerStart, Precision, ScheduleKind, SpikeAction, SpikeSpec, TrainingOverride, TrainingSpec,
};
use crate::{
    clustering::ClusteringSpec,
    model::ModelSpec,
    resources::{BudgetSpec, ResourcesSpec},
    tokens::Tokens,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentSpec {
    /// Name shown to people; need not be unique.
    pub name: String,
    /// Free words for people.
    #[serde(default)]
    pub description: String,
    /// Labels for filtering: words (`overnight`) or pairs (`team=speech`).
    #[serde(default)]
    pub labels: Vec<String>,
    /// 0 to 100, higher first.
    #[serde(default = "default_priority")]
    pub priority: u8,
    /// Name or id of a registered corpus.
    pub corpus: String,
    /// How the corpus is divided into domains.
    pub clustering: ClusteringSpec,
    /// The tokenizer.
    pub tokenizer: TokenizerSpec,
    /// Shape of the model; left out when the seed is a checkpoint, which brings its own.
    #[serde(default)]
    pub model: Option<ModelSpec>,
    /// How documents become windows.
    pub data: DataSpec,
    /// Training settings of every branch, unless a branch says otherwise.
    pub training: TrainingSpec,
    /// Where the branches start.
    pub seed: SeedSpec,
    /// Groups of branches. All start from the seed; groups run side by side.
    pub plan: Vec<BranchGroup>,
    /// Branches trained for comparison.
    #[serde(default)]
    pub controls: ControlsSpec,
    /// What is measured in the end.
    #[serde(default)]
    pub evaluation: EvaluationSpec,
    /// Whether the plain average of the experts' weights is built and measured.
    #[serde(default = "yes")]
    pub weight_average: bool,
    /// Which checkpoints of each branch stay.
    #[serde(default)]
    pub retention: RetentionSpec,
    /// How often a failing job of this experiment is tried again for the user's own faults.
    #[serde(default = "default_restarts")]
    pub max_restarts: u32,
    /// What each slot of its jobs must offer.
    #[serde(default)]
    pub resources: ResourcesSpec,
    /// When it should be done: once that is close, its jobs go before others of their priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
    /// What it may take in all.
    #[serde(default)]
    pub budget: BudgetSpec,
}

/// The priority of what says none.
pub const PRIORITY: u8 = 50;

fn default_priority() -> u8 {
    PRIORITY
}
fn yes() -> bool {
    true
}
fn default_restarts() -> u32 {
    2
}

/// The tokenizer of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TokenizerSpec {
    /// Byte-level BPE trained on a sample of the corpus.
    Train(TrainTokenizer),
    /// A Hugging Face `tokenizer.json` on the server's disk, inside its `corpus_roots`.
    File(TokenizerFile),
}

/// Settings of a trained tokenizer. Its one special token is `<|endoftext|>`, id 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainTokenizer {
    /// Entries, special token and 256 bytes included: 257 to 1,000,000.
    pub vocab_size: u32,
    /// Documents sampled for training.
    #[serde(default = "default_tokenizer_sample")]
    pub sample_documents: u32,
}

fn default_tokenizer_sample() -> u32 {
    20_000
}

/// A tokenizer on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerFile {
    /// Path of `tokenizer.json`, absolute or relative to one of the server's `corpus_roots`.
    pub path: String,
    /// Token put between documents: one of the tokenizer's special tokens.
    #[serde(default = "default_separator")]
    pub separator: String,
    /// Token put before each document, in training and in scoring. Default: what the tokenizer puts there by itself;
    /// `""` for none. A document without one is opened by the separator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<String>,
}

impl TokenizerSpec {
    /// What the file says of the token before each document.
    #[must_use]
    pub fn bos(&self) -> Option<&str> {
        match self {
            Self::Train(_) => None,
            Self::File(file) => file.bos.as_deref(),
        }
    }
}

fn default_separator() -> String {
    "<|endoftext|>".into()
}

/// How documents become windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Tokens of one window: 2 to the model's `max_position_embeddings`.
    pub sequence_length: u32,
    /// Share of documents kept out of training, chosen by a hash of the document's group: 0 to 0.5.
    #[serde(default = "default_held_out")]
    pub held_out_fraction: f64,
    /// How often a lineage may read one domain in all, from the seed's first token to a branch's last.
    #[serde(default = "default_epochs")]
    pub epochs_max: f64,
    /// Whether a token sees the documents before its own in a window.
    #[serde(default = "yes")]
    pub attend_across_documents: bool,
    /// Whether held-out documents that share most of their 13-grams with a training document are left out of the
    /// evaluation. It reads the corpus once more.
    #[serde(default = "yes")]
    pub decontaminate: bool,
}

fn default_held_out() -> f64 {
    0.05
}
fn default_epochs() -> f64 {
    4.0
}

/// Where the branches start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SeedSpec {
    /// A seed trained on the whole mixture.
    Train(TrainSeed),
    /// A Hugging Face folder on the server's disk, inside its `corpus_roots`.
    Checkpoint(SeedCheckpoint),
}

/// A seed trained here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSeed {
    /// Token budget.
    pub tokens: Tokens,
    /// Settings that differ from the experiment's.
    #[serde(default)]
    pub training: TrainingOverride,
}

/// A seed that exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SeedCheckpoint {
    /// Folder with `config.json` and `model.safetensors`, absolute or relative to one of the server's `corpus_roots`.
    /// Workers read it at the same path.
    pub path: String,
}

/// A group of branches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BranchGroup {
    /// c-BTM: one branch per domain, each from the seed.
    FanOut(FanOut),
    /// Curriculum: one model from domain to domain, a checkpoint at each.
    Chain(Chain),
    /// Branches listed one by one.
    Tree(Tree),
}

/// One branch per domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FanOut {
    /// Token budget of all branches together.
    pub tokens: Tokens,
    /// How the budget is shared out.
    #[serde(default)]
    pub share: BudgetShare,
    /// Settings that differ from the experiment's.
    #[serde(default)]
    pub training: TrainingOverride,
}

/// How a group's budget is shared out over domains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetShare {
    /// The same for every domain (c-BTM).
    #[default]
    Equal,
    /// In proportion to the domain's tokens.
    Proportional,
}

/// One model from domain to domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Name of the chain; its branches are `<name>-0`, `<name>-1`, …
    #[serde(default = "default_chain_name")]
    pub name: String,
    /// The domains, in order.
    pub order: ChainOrder,
    /// Token budget of each link.
    pub tokens_per_domain: Tokens,
    /// Share of each link's tokens drawn from the domains before it (0 to 0.9); the first link has none.
    #[serde(default)]
    pub replay: f64,
    /// Settings that differ from the experiment's.
    #[serde(default)]
    pub training: TrainingOverride,
}

fn default_chain_name() -> String {
    "chain".into()
}

/// Order of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ChainOrder {
    /// As listed.
    Given(GivenOrder),
    /// From the largest domain, always on to the nearest one not yet visited.
    Similarity(SimilarityOrder),
}

/// A listed order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenOrder {
    /// Domain numbers.
    pub domains: Vec<u32>,
}

/// A computed order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimilarityOrder {
    /// Links of the chain; all domains when absent.
    #[serde(default)]
    pub length: Option<u32>,
}

/// Branches listed one by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// The branches; a parent stands before its children or is `seed`.
    pub branches: Vec<TreeBranch>,
}

/// One branch of a tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TreeBranch {
    /// Unique name.
    pub name: String,
    /// Name of the parent branch, or `seed`.
    pub parent: String,
    /// Weights over domain numbers; need not sum to 1.
    #[serde(deserialize_with = "domain_weights")]
    pub mixture: BTreeMap<u32, f64>,
    /// Token budget.
    pub tokens: Tokens,
    /// Settings that differ from the experiment's.
    #[serde(default)]
    pub training: TrainingOverride,
}

/// Reads weights by domain number. JSON writes the numbers as text, and inside an enum with a tag serde does not turn
/// them back by itself.
fn domain_weights<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u32, f64>, D::Error> {
    #[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
    #[serde(untagged)]
    enum Domain {
        Number(u32),
        Text(String),
    }
    let weights = BTreeMap::<Domain, f64>::deserialize(deserializer)?;
    let number = |domain| match domain {
        Domain::Number(number) => Ok(number),
        Domain::Text(text) => text
            .parse()
            .map_err(|_| serde::de::Error::custom(format!("found domain {text:?}, expected a number from 0"))),
    };
    weights.into_iter().map(|(domain, weight)| Ok((number(domain)?, weight))).collect()
}

/// Branches trained for comparison, each at the fan-out's total token budget. The untouched seed is always one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ControlsSpec {
    /// One model continued on the whole mixture.
    pub dense: bool,
    /// As many experts as domains, each on a random part of the windows (a partition, fixed by the seed).
    pub random_split: bool,
}

impl Default for ControlsSpec {
    fn default() -> Self {
        Self { dense: true, random_split: true }
    }
}

/// What is measured in the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// Held-out documents of each domain that are scored: those with the smallest hashes of their ids (all, when there
    /// are fewer). One half is reported; on the other everything is chosen that is chosen: temperature, number of
    /// experts, the best single expert.
    pub documents_per_domain: u32,
    /// Tokens of each held-out document that are scored, from its beginning: 1 to 1,048,576.
    pub tokens_per_document_max: u32,
    /// How often experts and controls are trained, each time with another seed: 1 to 16. With more than one the
    /// report gives mean and range.
    pub repeats: u32,
    /// Tokens between two looks of the router at the text so far.
    pub route_every_tokens: u32,
    /// Numbers of experts that the ensemble is measured with; `k` and larger mean all.
    pub top_k: Vec<u32>,
    /// Temperatures tried in the calibration.
    pub temperatures: Vec<f64>,
    /// Held-out loss while branches train.
    pub during_training: DuringTraining,
}

/// Held-out loss while a branch trains: the first documents of each domain's calibrating half are scored beside
/// training, the same for every branch, so that their curves compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DuringTraining {
    /// How often a branch is scored, evenly spread, its last step among them; fewer where that would be more than a
    /// twentieth of its arithmetic. 0 is never.
    pub times: u32,
    /// Tokens of each domain that are scored, at most: 1 to 1,048,576.
    pub tokens_per_domain: u32,
}

impl Default for DuringTraining {
    fn default() -> Self {
        Self { times: 10, tokens_per_domain: 2048 }
    }
}

impl Default for EvaluationSpec {
    fn default() -> Self {
        Self {
            documents_per_domain: 100,
            tokens_per_document_max: 8192,
            repeats: 1,
            route_every_tokens: 32,
            top_k: vec![1, 2, 4, 4096],
            temperatures: vec![0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0],
            during_training: DuringTraining::default(),
        }
    }
}
