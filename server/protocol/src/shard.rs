//! Shards: tokenised documents of one input file, grouped by domain.

use crate::{corpus::DocumentCounts, ids::StorageKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
