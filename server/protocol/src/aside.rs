//! What the server's loops gave up for now: shown, and tried again when somebody asks.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a loop works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// An experiment that should get on.
    Experiment,
    /// A corpus to be scanned.
    Corpus,
    /// A clustering to be fitted.
    Clustering,
    /// A tokenizer to be trained.
    Tokenizer,
    /// A branch whose checkpoints are kept or removed.
    Branch,
    /// A checkpoint to be read again, or to be removed.
    Checkpoint,
}

/// A thing that a loop failed on again and again: the others go on, and it waits until somebody asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetAside {
    /// What it is.
    pub kind: TroubleKind,
    /// Which one.
    pub id: Uuid,
    /// Its name, for people.
    pub name: String,
    /// How often it failed in a row.
    pub tries: u32,
    /// How it failed last.
    pub problem: String,
    /// Since when it is set aside.
    pub since: DateTime<Utc>,
}
