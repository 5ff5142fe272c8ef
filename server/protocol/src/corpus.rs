//! Corpora: what is registered, how documents are read, what the scan found.

use crate::{
    ids::{CorpusId, StorageKey},
    said::Said,
};
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
    /// readable file below it; links to folders are not followed.
    pub paths: Vec<String>,
    /// How documents are read from files.
    #[serde(default)]
    pub fields: DocumentFields,
    /// Share of records (0 to 1) that may be broken before the corpus is refused.
    #[serde(default = "default_tolerated_broken_share")]
    pub tolerated_broken_share: f64,
    /// Whether a file that ends early or has a damaged part is taken up to its damage. Without it the corpus is
    /// refused and the files are named.
    #[serde(default)]
    pub tolerate_damaged_files: bool,
}

fn default_tolerated_broken_share() -> f64 {
    0.001
}

/// How documents are read from files: the fields of a record, and what a record is where the file does not say.
/// A name with dots (`meta.id`) reaches into nested records where no field has the whole name; plain text files have no
/// fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DocumentFields {
    /// Field with the text: text, a number, or a list of texts, which are joined by line ends. Default `text`.
    pub text: String,
    /// Field with a stable id: text or a number. Without it, and where a record has none, the id is
    /// `<file name>:<record number>`.
    pub id: Option<String>,
    /// Field with a group: records of one group are on one side of the split into training and held-out text. Without it
    /// the group is the id up to its first `#`, so that pieces of one page (`page#1`, `page#2`) stay together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Field with a source label (only reported and compared with the clustering, never trained on).
    pub source: Option<String>,
    /// What is one document in `.txt` files.
    pub text_documents: TextDocuments,
    /// Longest window that a zstd frame may ask for, in bytes: memory to read one file. 1 KiB to 2 GiB, default 2 GiB.
    pub zstd_window_bytes_max: u64,
}

impl Default for DocumentFields {
    fn default() -> Self {
        Self {
            text: "text".into(),
            id: None,
            group: None,
            source: None,
            text_documents: TextDocuments::default(),
            zstd_window_bytes_max: ZSTD_WINDOW_BYTES_MAX,
        }
    }
}

/// The longest zstd window that is allowed by default: what `zstd --long=31` makes, the longest there is.
pub const ZSTD_WINDOW_BYTES_MAX: u64 = 1 << 31;

/// What is one document in a text file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextDocuments {
    /// The file up to 1 MiB of text; blocks where it is longer.
    #[default]
    Auto,
    /// The file, whatever its length (up to 64 MiB).
    File,
    /// Each line that is not blank.
    Line,
    /// Paragraphs (ended by blank lines) gathered up to 8 KiB; a longer one is cut at line ends, then at spaces.
    Block,
}

/// File formats that are read, by the file's ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// `.jsonl`, `.ndjson`: an object a line, or one array of objects
    Jsonl,
    /// `.jsonl.gz`, `.ndjson.gz`
    JsonlGz,
    /// `.jsonl.zst`, `.ndjson.zst`
    JsonlZst,
    /// `.json`: an array of objects, an object a line, or objects one after the other
    Json,
    /// `.json.gz`
    JsonGz,
    /// `.json.zst`
    JsonZst,
    /// `.parquet`
    Parquet,
    /// `.txt`
    Text,
    /// `.txt.gz`
    TextGz,
    /// `.txt.zst`
    TextZst,
}

/// One file of a corpus' snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CorpusFile {
    /// Position in the corpus, from 0.
    pub index: u32,
    /// Absolute path: of the link, where it is one.
    pub path: String,
    /// Format, by the ending of the path.
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
    /// Why it could not be read to its end; what came before is counted. None for a whole file.
    #[serde(default)]
    pub problem: Option<FileProblem>,
}

/// Why a file cannot be read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileProblem {
    /// What kind of problem.
    pub kind: FileProblemKind,
    /// The record, from 1, from which on nothing was read.
    pub record: u64,
    /// What is wrong, in one sentence.
    pub why: String,
}

/// Kinds of problems of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileProblemKind {
    /// It ends early or has a damaged part; `tolerate_damaged_files` takes what comes before.
    Damaged,
    /// It cannot be read as it is: another encoding, a missing column, a disk error. Never tolerated.
    Unreadable,
}

/// Files that a registration met and did not take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// The first of them, at most 100.
    pub first: Vec<LeftOutFile>,
}

/// A file that a registration met and did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOutFile {
    /// Its path.
    pub path: String,
    /// Why.
    pub why: String,
}

/// Counts of records. Each record is in exactly one of `documents`, `empty`, `duplicates` and `broken`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentCounts {
    /// Records seen, whatever became of them.
    pub records: u64,
    /// Documents kept.
    pub documents: u64,
    /// Empty, white-space-only and null texts, dropped.
    pub empty: u64,
    /// Exact duplicates of an earlier document's text, dropped.
    pub duplicates: u64,
    /// Records that could not be read (broken JSON, missing field, invalid UTF-8).
    pub broken: u64,
    /// Bytes of UTF-8 text in the documents kept.
    pub text_bytes: u64,
    /// Of the records: those whose id field was missing, null or empty; file and record stand in for it.
    #[serde(default)]
    pub ids_missing: u64,
    /// Of the records: those with halves of characters (lone surrogates), each replaced by U+FFFD.
    #[serde(default)]
    pub surrogates_replaced: u64,
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
        self.ids_missing += other.ids_missing;
        self.surrogates_replaced += other.surrogates_replaced;
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

/// How far a scan is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanProgress {
    /// Files read.
    pub files_done: u64,
    /// Files in all.
    pub files: u64,
    /// What it waits for, in a sentence; None while a worker reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_said: Option<Said>,
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
    /// Why it was refused; while it is scanned, why that does not get on.
    pub problem: Option<String>,
    /// The latter as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_said: Option<Said>,
    /// How far the scan is; None when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanProgress>,
    /// Name of the token that registered it.
    #[serde(default)]
    pub owner: String,
    /// How documents are read from its files.
    pub fields: DocumentFields,
    /// The files of the snapshot.
    pub files: Vec<CorpusFile>,
    /// What its folders and globs held and was not taken.
    pub left_out: LeftOut,
    /// Sums over the files.
    pub counts: DocumentCounts,
    /// The first broken records, at most 20.
    pub broken_first: Vec<BrokenRecord>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}
