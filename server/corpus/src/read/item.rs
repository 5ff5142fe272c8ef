//! What a file yields: documents, and what is to be said of what could not be read.

use senmon_protocol::{
    corpus::{BrokenRecord, FileProblem, FileProblemKind},
    storable,
};
use std::fmt;

/// A longer record is a broken one: nobody's document, and a way to fill the memory.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 20;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Number of the record in its file, from 0.
    pub record: u64,
    /// Its id: the id field, or `<file name>:<record number from 1>`.
    pub id: String,
    /// The group whose records are on one side of the split; None for a document on its own.
    pub group: Option<String>,
    /// Source label, where there is one.
    pub source: Option<String>,
    /// The text.
    pub text: String,
}

impl Document {
    /// What decides the side of the split.
    #[must_use]
    pub fn split_key(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.id)
    }
}

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// One record; reading goes on behind it.
    Record(BrokenRecord),
    /// The rest of the file: the last item.
    File(FileProblem),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(broken) => write!(f, "record {}: {}", broken.record, broken.why),
            Self::File(problem) => write!(f, "record {}: {}", problem.record, problem.why),
        }
    }
}

/// What a file yields.
pub type Item = Result<Document, Trouble>;

/// The file cannot be read from this record on.
pub(super) fn unreadable(record: u64, why: impl Into<String>) -> Trouble {
    trouble(FileProblemKind::Unreadable, record, &why.into())
}

/// The file is damaged from this record on.
pub(super) fn damaged(record: u64, why: impl Into<String>) -> Trouble {
    trouble(FileProblemKind::Damaged, record, &why.into())
}

fn trouble(kind: FileProblemKind, record: u64, why: &str) -> Trouble {
    Trouble::File(FileProblem { kind, record: record + 1, why: storable(why) })
}
