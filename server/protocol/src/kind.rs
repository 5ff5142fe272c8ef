//! Kinds of jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Kind of a job, for queues and capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named after the variants of JobSpec")]
pub enum JobKind {
    Scan,
    Deduplicate,
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
            Self::Scan => "scan",
            Self::Deduplicate => "deduplicate",
            Self::Shard => "shard",
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Merge => "merge",
            Self::Ensemble => "ensemble",
            Self::Decontaminate => "decontaminate",
        }
    }
}
