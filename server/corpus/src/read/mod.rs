//! Documents out of files, one record at a time: memory does not grow with the file.
//!
//! In layers: `bytes` opens, hashes and unpacks; `encoding` knows what is no UTF-8; `json`, `text` and
//! `columns` cut records; `record` makes documents of them. A record that cannot be read is an item of its own and
//! reading goes on; a file that ends early or is damaged ends with an item that says so. Never a silent gap, never a
//! guess at what damage took away, never a second look at a damaged place.

mod bytes;
mod columns;
mod encoding;
mod item;
mod json;
mod place;
mod record;
mod records;
#[cfg(test)]
mod tests;
mod text;

use crate::{
    roots::Roots,
    snapshot::{Content, format_of, layers},
};
use bytes::{Hashed, unpack};
use item::unreadable;
pub use item::{Document, Item, Trouble};
use record::Maker;
use records::{Records, Refused};
use senmon_protocol::corpus::{DocumentCounts, DocumentFields, FileProblemKind};
use std::{
    io::{self, BufReader},
    path::Path,
};

/// Documents worked on side by side.
const BATCH_DOCUMENTS: usize = 256;
/// Text of a batch: documents as long as books would fill the memory.
const BATCH_BYTES: usize = 16 << 20;

/// What was read of a file, once its items have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead {
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Records, broken ones, missing ids and replaced surrogates; what became of the documents is the caller's to count.
    pub counts: DocumentCounts,
}

/// What is to be said of a file that is not the one that was registered, by their SHA-256.
#[must_use]
pub fn change(found: &str, registered: &str) -> Option<String> {
    (found != registered).then(|| {
        format!(
            "it changed after its registration (SHA-256 {found}, its snapshot {registered}): corpora are immutable, \
             register the new one under another name"
        )
    })
}

/// The items of one file.
pub struct Documents {
    records: Box<dyn Records>,
    hashed: Hashed,
    counts: DocumentCounts,
    ended: bool,
}

/// Opens a file below the roots and yields its records.
///
/// # Errors
/// When the file cannot be opened or has an unknown ending. What is wrong inside is an item.
pub fn documents(roots: &Roots, path: &Path, fields: &DocumentFields) -> io::Result<Documents> {
    let format = format_of(path).ok_or_else(|| io::Error::other(format!("{}: unknown ending", path.display())))?;
    let file = roots.open(path);
    let file = file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let hashed = Hashed::new(file);
    let maker = Maker::new(path, fields);
    let (content, compression) = layers(format);
    let records: Box<dyn Records> = match content {
        Content::Parquet => columns::open(hashed.file()?, maker),
        Content::Json | Content::Text => {
            let mut input = bytes::Input::new(unpack(hashed.clone(), compression, fields.zstd_window_bytes_max));
            match encoding::check(input.head()) {
                Err(why) => Box::new(Refused { maker, problem: Some(unreadable(0, why)) }),
                Ok(mark) => {
                    input.skip(mark);
                    let input = BufReader::with_capacity(1 << 18, input);
                    match content {
                        Content::Json => Box::new(json::Json::new(input, maker)),
                        _ => Box::new(text::Text::new(Box::new(input), fields.text_documents, maker)),
                    }
                }
            }
        }
    };
    Ok(Documents { records, hashed, counts: DocumentCounts::default(), ended: false })
}

impl Iterator for Documents {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.ended {
            return None;
        }
        let item = self.records.next();
        match &item {
            Some(Ok(_)) => self.counts.records += 1,
            Some(Err(Trouble::Record(_))) => {
                self.counts.records += 1;
                self.counts.broken += 1;
            }
            Some(Err(Trouble::File(_))) | None => self.ended = true,
        }
        item
    }
}

impl Documents {
    /// The next document of a file that was read before: what is broken or damaged was counted then, and is passed over.
    ///
    /// # Errors
    /// When the file cannot be read, which it could.
    pub fn next_document(&mut self) -> io::Result<Option<Document>> {
        loop {
            match self.next() {
                None => return Ok(None),
                Some(Ok(document)) => return Ok(Some(document)),
                Some(Err(Trouble::File(problem))) if problem.kind == FileProblemKind::Unreadable => {
                    return Err(io::Error::other(format!("from record {} on: {}", problem.record, problem.why)));
                }
                Some(Err(_)) => {}
            }
        }
    }

    /// The next documents to work on side by side, of those to keep; none at the end.
    ///
    /// # Errors
    /// As [`Self::next_document`].
    pub fn next_batch(&mut self, mut keep: impl FnMut(&Document) -> bool) -> io::Result<Vec<Document>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_DOCUMENTS
            && bytes < BATCH_BYTES
            && let Some(document) = self.next_document()?
        {
            if keep(&document) {
                bytes += document.text.len();
                batch.push(document);
            }
        }
        Ok(batch)
    }

    /// Reads what is left of the file, for its hash: of the very bytes that the documents came from.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn end(self) -> io::Result<FileRead> {
        let (bytes, sha256) = self.hashed.end()?;
        let notes = self.records.maker().notes;
        let counts = DocumentCounts {
            ids_missing: notes.ids_missing,
            surrogates_replaced: notes.surrogates_replaced,
            ..self.counts
        };
        Ok(FileRead { bytes, sha256, counts })
    }
}
