//! Identifiers: one type per noun, so that a branch is never mistaken for a checkpoint.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh, time-ordered id (UUID version 7).
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default id would be a surprise")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )+};
}

ids! {
    /// A registered, immutable set of documents.
    CorpusId,
    /// One fitted partition of a corpus into domains.
    ClusteringId,
    /// One submission.
    ExperimentId,
    /// One training lineage of an experiment.
    BranchId,
    /// Whose work a job is: an experiment's or a corpus's id.
    OwnerId,
    /// A unit of work leased to a worker.
    JobId,
    /// One execution of a job by one worker.
    AttemptId,
    /// An immutable folder of weights with a manifest.
    CheckpointId,
    /// One evaluation of one checkpoint, or of a set of them used together.
    EvaluationId,
    /// A daemon on a node.
    WorkerId,
    /// Who is told of what.
    AlertId,
    /// An API token (the row, not the secret).
    TokenId,
}

impl From<ExperimentId> for OwnerId {
    fn from(id: ExperimentId) -> Self {
        Self(id.0)
    }
}

impl From<CorpusId> for OwnerId {
    fn from(id: CorpusId) -> Self {
        Self(id.0)
    }
}

/// Fencing token of a job: grows by one with every grant, for ever, and goes with every write of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Fence(pub i64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Place of bytes in the object store, relative to its root: `shards/…/shard.bin`. Never absolute, no `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct StorageKey(String);

/// Why a text is no [`StorageKey`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("storage key {found:?}: expected a relative path of names without `..`, `\\` or empty parts")]
pub struct BadStorageKey {
    /// The refused text.
    pub found: String,
}

impl StorageKey {
    /// Checks that the text is a relative path that stays inside the store.
    ///
    /// # Errors
    /// [`BadStorageKey`] for absolute paths, `.` and `..` parts, backslashes, NUL and empty parts.
    pub fn new(text: impl Into<String>) -> Result<Self, BadStorageKey> {
        let text = text.into();
        let good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0', ':']);
        if text.split('/').all(good) { Ok(Self(text)) } else { Err(BadStorageKey { found: text }) }
    }

    /// The key one level below: `key/name`.
    ///
    /// # Errors
    /// [`BadStorageKey`] as for [`StorageKey::new`].
    pub fn join(&self, name: impl AsRef<str>) -> Result<Self, BadStorageKey> {
        Self::new(format!("{}/{}", self.0, name.as_ref()))
    }

    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StorageKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_key_never_leaves_the_store() {
        for bad in ["", "/etc/passwd", "a/../b", "..", "a//b", "a\\..\\b", "c:/x", "a/./b", "a/\0"] {
            assert!(StorageKey::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(StorageKey::new("a/b").unwrap().join("c.bin").unwrap().as_str(), "a/b/c.bin");
        assert!(serde_json::from_str::<StorageKey>("\"../x\"").is_err());
    }
}
