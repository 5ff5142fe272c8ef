//! Corpora: what is registered, how documents are read, what the scan found.

use crate::ids::{CorpusId, StorageKey};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api/v1/corpora`: registers files as an immutable corpus and scans them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterCorpus {
    /// Unique name, 1 to 100 characters of letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Files, folders and globs on the server's disk, inside its `corpus_roots`. A folder stands for every
    /// readable file below it.
    pub paths: Vec<String>,
    /// How a document is read from a record.
    #[serde(default)]
    pub fields: DocumentFields,
    /// Share of records (0 to 1) that may be broken before the corpus is refused.
    #[serde(default = "default_tolerated_broken_share")]
    pub tolerated_broken_share: f64,
}

fn default_tolerated_broken_share() -> f64 {
    0.001
}

/// Names of the fields of a record. Plain text files are one document each and have no fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DocumentFields {
    /// Field with the text. Default `text`.
    pub text: String,
    /// Field with a stable id; without it the id is `<file name>:<record number>`.
    pub id: Option<String>,
    /// Field with a group: records of one group are on one side of the split into training and held-out text. Without it
    /// the group is the id up to its first `#`, so that pieces of one page (`page#1`, `page#2`) stay together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Field with a source label (only reported and compared with the clustering, never trained on).
    pub source: Option<String>,
}

impl Default for DocumentFields {
    fn default() -> Self {
        Self { text: "text".into(), id: None, group: None, source: None }
    }
}

/// File formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// `.jsonl`
    Jsonl,
    /// `.jsonl.gz`
    JsonlGz,
    /// `.jsonl.zst`
    JsonlZst,
    /// `.parquet`
    Parquet,
    /// `.txt`: one document
    Text,
}

/// One file of a corpus' snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CorpusFile {
    /// Position in the corpus, from 0.
    pub index: u32,
    /// Absolute path.
    pub path: String,
    /// Format, by the file's ending.
    pub format: FileFormat,
    /// Size in bytes when registered.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// What the scan counted.
    pub counts: DocumentCounts,
    /// Records to leave out (empty or exact duplicates of an earlier document): a file of little-endian `u64`
    /// record numbers, ascending. None when there are none.
    pub dropped: Option<StorageKey>,
}

/// Counts of records, each record in exactly one of the last four.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentCounts {
    /// Records seen, whatever became of them.
    pub records: u64,
    /// Documents kept.
    pub documents: u64,
    /// Empty or white-space-only texts, dropped.
    pub empty: u64,
    /// Exact duplicates of an earlier document's text, dropped.
    pub duplicates: u64,
    /// Records that could not be read (broken JSON, missing field, invalid UTF-8, truncated file).
    pub broken: u64,
    /// Bytes of UTF-8 text in the documents kept.
    pub text_bytes: u64,
}

impl DocumentCounts {
    /// Adds another file's counts.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.documents += other.documents;
        self.empty += other.empty;
        self.duplicates += other.duplicates;
        self.broken += other.broken;
        self.text_bytes += other.text_bytes;
    }
}

/// A record that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BrokenRecord {
    /// The file.
    pub path: String,
    /// Record (line) number, from 1.
    pub record: u64,
    /// What is wrong with it, in one sentence.
    pub why: String,
}

/// State of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CorpusState {
    /// Being read for the first time.
    Scanning,
    /// Snapshot taken; may be used.
    Ready,
    /// Refused; see `problem`.
    Failed,
}

/// A corpus as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CorpusView {
    /// Id.
    pub id: CorpusId,
    /// Name.
    pub name: String,
    /// State.
    pub state: CorpusState,
    /// Why it was refused.
    pub problem: Option<String>,
    /// Fields of a record.
    pub fields: DocumentFields,
    /// The files of the snapshot.
    pub files: Vec<CorpusFile>,
    /// Sums over the files.
    pub counts: DocumentCounts,
    /// The first broken records, at most 20.
    pub broken_first: Vec<BrokenRecord>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}
