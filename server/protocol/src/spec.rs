//! The experiment file: what `senmon run FILE` submits. YAML for people, the same keys in JSON for scripts.

use crate::{clustering::ClusteringSpec, model::ModelSpec, tokens::Tokens};
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
    /// Labels for filtering.
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
    /// How often a failing job of this experiment is tried again for the user's own faults.
    #[serde(default = "default_restarts")]
    pub max_restarts: u32,
}

fn default_priority() -> u8 {
    50
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
    /// Path of `tokenizer.json`.
    pub path: String,
    /// Token put between documents.
    #[serde(default = "default_separator")]
    pub separator: String,
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
    /// Share of documents kept out of training, chosen by a hash of the document id: 0 to 0.5.
    #[serde(default = "default_held_out")]
    pub held_out_fraction: f64,
    /// How often a branch may read one domain in all.
    #[serde(default = "default_epochs")]
    pub epochs_max: f64,
}

fn default_held_out() -> f64 {
    0.05
}
fn default_epochs() -> f64 {
    4.0
}

/// Number format of the forward and backward pass. Master weights and moments are always fp32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    Fp32,
    /// bfloat16 weights and activations, fp32 reductions and loss.
    Bf16,
}

/// Shape of the learning rate over the steps of one branch, after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Straight line from the peak to `final_fraction` of it.
    Linear,
    /// Half a cosine from the peak to `final_fraction` of it.
    #[default]
    Cosine,
    /// The peak, then a straight line over the last fifth (warmup-stable-decay).
    WarmupStableDecay,
    /// The peak.
    Constant,
}

/// Training settings. Every branch takes the experiment's, with its group's `training` laid over them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
    /// Windows per optimiser step.
    pub batch_windows: u32,
    /// Windows per forward and backward pass; the whole batch when absent. Must divide `batch_windows`.
    #[serde(default)]
    pub micro_batch_windows: Option<u32>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate.
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// Share of the steps over which the rate rises linearly from 0.
    #[serde(default = "default_warmup")]
    pub warmup_fraction: f64,
    /// The rate at the last step over the peak.
    #[serde(default)]
    pub final_fraction: f64,
    /// `AdamW` β1.
    #[serde(default = "default_beta1")]
    pub beta1: f64,
    /// `AdamW` β2.
    #[serde(default = "default_beta2")]
    pub beta2: f64,
    /// `AdamW` ε.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Decoupled weight decay of matrices (norms and embeddings excluded from it are none).
    #[serde(default = "default_decay")]
    pub weight_decay: f64,
    /// Largest global gradient norm.
    #[serde(default = "default_clip")]
    pub clip_norm: f64,
    /// Number format.
    #[serde(default)]
    pub precision: Precision,
    /// Same bits on every run (single-threaded reductions where that is what it takes).
    #[serde(default)]
    pub deterministic: bool,
    /// Steps between resumable checkpoints; only the last step when absent.
    #[serde(default)]
    pub checkpoint_every_steps: Option<u64>,
    /// Steps between reported metric points.
    #[serde(default = "default_log_every")]
    pub log_every_steps: u64,
    /// Whether a branch starts with its parent's optimiser moments or fresh ones.
    #[serde(default)]
    pub optimizer: OptimizerStart,
    /// Slots of one worker that a training job takes (a CPU slot brings its threads).
    #[serde(default = "one")]
    pub slots: u16,
    /// Seed of the data order and of initial weights.
    #[serde(default = "default_seed")]
    pub random_seed: u64,
}

fn default_warmup() -> f64 {
    0.02
}
fn default_beta1() -> f64 {
    0.9
}
fn default_beta2() -> f64 {
    0.95
}
fn default_epsilon() -> f64 {
    1e-8
}
fn default_decay() -> f64 {
    0.1
}
fn default_clip() -> f64 {
    1.0
}
fn default_log_every() -> u64 {
    10
}
fn default_seed() -> u64 {
    7
}
fn one() -> u16 {
    1
}

/// Optimiser state at the start of a branch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerStart {
    /// Fresh moments.
    #[default]
    Reset,
    /// The parent's moments, where its checkpoint is resumable.
    Carry,
}

/// Settings of a group that differ from the experiment's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingOverride {
    /// See [`TrainingSpec::learning_rate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// See [`TrainingSpec::schedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleKind>,
    /// See [`TrainingSpec::warmup_fraction`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_fraction: Option<f64>,
    /// See [`TrainingSpec::final_fraction`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_fraction: Option<f64>,
    /// See [`TrainingSpec::optimizer`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerStart>,
    /// See [`TrainingSpec::slots`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u16>,
    /// See [`TrainingSpec::checkpoint_every_steps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_steps: Option<u64>,
}

impl TrainingSpec {
    /// The settings with a group's differences laid over them.
    #[must_use]
    pub fn with(&self, over: &TrainingOverride) -> Self {
        Self {
            learning_rate: over.learning_rate.unwrap_or(self.learning_rate),
            schedule: over.schedule.unwrap_or(self.schedule),
            warmup_fraction: over.warmup_fraction.unwrap_or(self.warmup_fraction),
            final_fraction: over.final_fraction.unwrap_or(self.final_fraction),
            optimizer: over.optimizer.unwrap_or(self.optimizer),
            slots: over.slots.unwrap_or(self.slots),
            checkpoint_every_steps: over.checkpoint_every_steps.or(self.checkpoint_every_steps),
            ..self.clone()
        }
    }
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
    /// Folder with `config.json` and `model.safetensors`.
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
    /// Held-out documents of each domain that are scored (all, when there are fewer). Every second one
    /// calibrates the router's temperature, the others are reported.
    pub documents_per_domain: u32,
    /// Tokens between two looks of the router at the text so far.
    pub route_every_tokens: u32,
    /// Numbers of experts that the ensemble is measured with; `k` and larger mean all.
    pub top_k: Vec<u32>,
    /// Temperatures tried in the calibration.
    pub temperatures: Vec<f64>,
}

impl Default for EvaluationSpec {
    fn default() -> Self {
        Self {
            documents_per_domain: 100,
            route_every_tokens: 32,
            top_k: vec![1, 2, 4, 4096],
            temperatures: vec![0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0],
        }
    }
}
