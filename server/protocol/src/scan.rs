//! The jobs of a corpus: each of its files is read once, then the texts that several files share are found.

use crate::{
    corpus::{BrokenRecord, DocumentCounts, DocumentFields, FileProblem},
    ids::{CorpusId, StorageKey},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Broken records of one file that are shown.
pub const BROKEN_SHOWN: usize = 20;

/// Reads one file of a corpus for the first time: counts, hash, and the hashes of its texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanJob {
    /// The corpus.
    pub corpus_id: CorpusId,
    /// The file: absolute, below the roots.
    pub path: String,
    /// How its documents are read.
    pub fields: DocumentFields,
    /// Folder for `texts.bin` and `dropped.u64`; belongs to this job. The worker appends `/f<fence>`.
    pub output: StorageKey,
}

/// What one file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanResult {
    /// Folder that was written.
    pub folder: StorageKey,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hex; empty where it could not be read to its end.
    pub sha256: String,
    /// What was counted; of equal texts in this file the first is a document.
    pub counts: DocumentCounts,
    /// Why it was not read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<FileProblem>,
    /// The first broken records.
    pub broken_first: Vec<BrokenRecord>,
}

/// Finds the texts that several files share: of equal ones the first stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeduplicateJob {
    /// The corpus.
    pub corpus_id: CorpusId,
    /// What was written of its files, in their order.
    pub files: Vec<FileTexts>,
    /// Folder for the lists of records to leave out; belongs to this job. The worker appends `/f<fence>`.
    pub output: StorageKey,
}

/// The texts of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileTexts {
    /// Folder that its scan wrote.
    pub folder: StorageKey,
    /// Different texts in it.
    pub texts: u64,
}

/// What is left out of a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeduplicateResult {
    /// Folder that was written: `<number of the file, 5 digits>.u64` of each file that leaves a record out.
    pub folder: StorageKey,
    /// The files, in the order of the job.
    pub files: Vec<FileDropped>,
}

/// What is left out of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDropped {
    /// Documents whose text an earlier file has.
    pub duplicates: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Records to leave out in all: empty ones, and duplicates of this file and of earlier ones.
    pub records: u64,
}

/// The list of records to leave out of a file, in the folder of a [`DeduplicateResult`].
#[must_use]
pub fn dropped_list(index: usize) -> String {
    format!("{index:05}.u64")
}
