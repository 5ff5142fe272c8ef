//! What the server knows when an experiment's file arrives.

use crate::domain::schedule::FleetWorker;
use chrono::{DateTime, Utc};
use senmon_protocol::{model::ModelSpec, problem::Fault, said::Said, storage::Bytes};

/// What the server knows when a file arrives.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The corpus that the file names, if there is one.
    pub corpus: Option<KnownCorpus>,
    /// Names of all corpora, for the message.
    pub corpora: Vec<String>,
    /// For a seed that exists: its shape, or why it cannot be used.
    pub seed: Option<Result<ModelSpec, Said>>,
    /// For a tokenizer that exists: its entries, or why it cannot be used.
    pub tokenizer: Option<Result<u32, Fault>>,
    /// Why the seed's folder and the tokenizer do not belong together.
    pub mismatch: Option<Said>,
    /// What the store may still take, where it has a budget.
    pub room: Option<Room>,
    /// The time; a deadline lies after it.
    pub now: Option<DateTime<Utc>>,
    /// Every worker that ever enrolled, as it is now.
    pub fleet: Vec<FleetWorker>,
}

/// A registered corpus.
#[derive(Debug, Clone, Copy)]
pub struct KnownCorpus {
    /// Whether its snapshot is taken.
    pub ready: bool,
    /// Documents.
    pub documents: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Files that hold it.
    pub files: u32,
}

impl KnownCorpus {
    /// Bytes of text of each file, as if they were equal.
    #[must_use]
    pub fn text_of_files(self) -> Vec<u64> {
        vec![self.text_bytes / u64::from(self.files.max(1)); self.files as usize]
    }
}

/// A store with a budget.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes that it may hold.
    pub budget: Bytes,
    /// Bytes that it holds.
    pub used: Bytes,
    /// Bytes that the experiments under way may still add.
    pub growth: Bytes,
}
