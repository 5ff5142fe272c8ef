//! Discovery: how domains are found, and what is known of each.

use crate::{
    ids::{ClusteringId, CorpusId, StorageKey},
    said::Said,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a corpus is divided into domains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusteringSpec {
    /// Number of domains, k: 1 to 4096.
    pub domains: u32,
    /// Documents sampled to fit the centres (all, when the corpus has fewer).
    #[serde(default = "default_sample_documents")]
    pub sample_documents: u32,
    /// Seed of everything random in the fit.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How text becomes a vector.
    #[serde(default)]
    pub features: FeatureSpec,
    /// Passes of balanced k-means over the sample, at most.
    #[serde(default = "default_iterations")]
    pub iterations_max: u32,
}

fn default_sample_documents() -> u32 {
    50_000
}
fn default_seed() -> u64 {
    7
}
fn default_iterations() -> u32 {
    20
}

/// How text becomes a vector. The kind is data: a router artefact names the kind it was fitted with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FeatureSpec {
    /// tf-idf of words (character bigrams for scripts without spaces) → randomised SVD → unit norm.
    TfidfSvd(TfidfSvdSpec),
}

impl Default for FeatureSpec {
    fn default() -> Self {
        Self::TfidfSvd(TfidfSvdSpec::default())
    }
}

/// Settings of [`FeatureSpec::TfidfSvd`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TfidfSvdSpec {
    /// Dimensions kept by the SVD (fewer when the sample has lower rank). Default 100.
    pub dimensions: u32,
    /// Terms kept in the vocabulary, most frequent by documents first. Default 50,000.
    pub vocabulary_max: u32,
    /// A term must occur in at least this many documents of the sample. Default 2.
    pub min_documents: u32,
}

impl Default for TfidfSvdSpec {
    fn default() -> Self {
        Self { dimensions: 100, vocabulary_max: 50_000, min_documents: 2 }
    }
}

/// State of a clustering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusteringState {
    /// Waiting for the corpus, or being fitted.
    Fitting,
    /// Fitted; the router artefact is stored.
    Ready,
    /// Refused or failed; see `problem`.
    Failed,
}

/// Quality of a clustering on its sample. A figure that stands on nothing, or is not finite, is none and has its reason
/// in `absent`. All are of the documents of the sample that have a term, unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusteringQuality {
    /// Documents in the sample.
    pub sample_documents: u64,
    /// Documents among them without a term of the vocabulary: nothing is known of them, the fit leaves them out.
    #[serde(default)]
    pub documents_without_terms: u64,
    /// Documents that differ in their vectors, each counted once.
    #[serde(default)]
    pub documents_distinct: u64,
    /// Terms in the vocabulary.
    pub vocabulary: u64,
    /// Dimensions of the vectors.
    pub dimensions: u32,
    /// Balanced passes until the centres stood still.
    pub iterations: u32,
    /// Mean squared distance of a document from its centre (greedy assignment).
    pub inertia_mean: Option<f64>,
    /// The same of k-means without balance, where the fit started: the difference is what balance costs.
    #[serde(default)]
    pub inertia_mean_plain: Option<f64>,
    /// Largest domain over the mean, by greedy assignment of the whole sample.
    pub balance_max_over_mean: Option<f64>,
    /// How far the balanced assignment's total cost is from the least possible at most, as a part of it.
    #[serde(default)]
    pub balance_gap_max: Option<f64>,
    /// Mean silhouette on at most 2,000 documents, −1 to 1.
    pub silhouette: Option<f64>,
    /// Normalised mutual information, 0 to 1, with a second fit under another seed that saw the documents in another
    /// order (greedy assignments).
    pub stability_nmi: Option<f64>,
    /// Adjusted Rand index with the same second fit: 1 for equal domains, 0 for chance.
    #[serde(default)]
    pub stability_ari: Option<f64>,
    /// Documents with a source label: those that the next two figures are of.
    #[serde(default)]
    pub source_documents: u64,
    /// Normalised mutual information with the source labels.
    pub source_nmi: Option<f64>,
    /// The same of k-means without balance.
    #[serde(default)]
    pub source_nmi_plain: Option<f64>,
    /// Figures that are none, with the reason.
    #[serde(default)]
    pub absent: Vec<AbsentFigure>,
    /// What a person should know of this fit, in sentences.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// The same as kinds and values, for whoever words them in another language.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks_said: Vec<Said>,
}

/// A figure that is not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AbsentFigure {
    /// Its field.
    pub figure: String,
    /// Why.
    pub why: String,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_said: Option<Said>,
}

/// One document shown as an example of its domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleDocument {
    /// Id of the document in the corpus.
    pub id: String,
    /// Source label, where the corpus has them.
    pub source: Option<String>,
    /// Euclidean distance of its unit vector from the centre, 0 to 2.
    pub distance: f64,
    /// The text, cut at 4,000 characters.
    pub text: String,
}

/// One domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DomainView {
    /// Number of the domain in its clustering, from 0.
    pub index: u32,
    /// The first top terms, joined: what people call it until they name it.
    pub label: String,
    /// Terms that set it apart (class-based tf-idf), strongest first.
    pub top_terms: Vec<String>,
    /// Documents of the sample assigned greedily.
    pub sample_documents: u64,
    /// Share of the sample's documents by script: `ja`, `en` and `other`, summing to 1.
    pub languages: Vec<LanguageShare>,
    /// Source labels with their shares, largest first, at most 5.
    pub sources: Vec<SourceShare>,
    /// Nearest other domains by centre distance, nearest first, at most 3.
    pub nearest_domains: Vec<u32>,
    /// Documents nearest to the centre.
    pub nearest: Vec<SampleDocument>,
    /// Documents at the median distance.
    pub typical: Vec<SampleDocument>,
    /// Documents farthest from the centre.
    pub farthest: Vec<SampleDocument>,
    /// Training tokens, once the experiment asked about is sharded.
    pub tokens: Option<u64>,
    /// Documents in the shards (training and held-out), likewise.
    pub documents: Option<u64>,
    /// Held-out documents, likewise.
    pub documents_held_out: Option<u64>,
}

/// Share of one language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LanguageShare {
    /// `ja`, `en` or `other`.
    pub language: String,
    /// 0 to 1.
    pub share: f64,
}

/// Share of one source label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourceShare {
    /// The label.
    pub source: String,
    /// 0 to 1.
    pub share: f64,
}

/// A clustering as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusteringView {
    /// Id.
    pub id: ClusteringId,
    /// The corpus it divides.
    pub corpus_id: CorpusId,
    /// State.
    pub state: ClusteringState,
    /// Why it failed.
    pub problem: Option<String>,
    /// Its settings.
    pub spec: ClusteringSpec,
    /// Folder of the router artefact (`router.safetensors`, `router.json`).
    pub router: Option<StorageKey>,
    /// SHA-256 over the artefact, lower-case hex.
    pub router_sha256: Option<String>,
    /// Quality figures.
    pub quality: Option<ClusteringQuality>,
    /// The domains, by index.
    pub domains: Vec<DomainView>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}
