//! A sample of a corpus: the documents with the smallest hashes, bounded in number and in bytes.
//!
//! Goes by the texts alone, so neither the machine nor the order of documents and files changes it. Memory is the
//! sample, whatever the corpus.

use crate::read::{Document, Trouble, documents};
use anyhow::{Result, bail, ensure};
use senmon_protocol::corpus::{DocumentFields, FileProblemKind};
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Text of a whole sample. Fitting a clustering or a tokenizer takes some ten times this much memory.
pub const SAMPLE_BYTES_MAX: u64 = 256 << 20;
/// Text taken of one document: its domain and its words show by then, and a tokenizer's memory grows with the longest
/// text, by about 40 bytes for each of its bytes.
pub const SAMPLE_DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// A file to sample from, with the records to leave out.
#[derive(Debug, Clone)]
pub struct SampleFile {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 when it was registered; empty where nothing is known of it.
    pub sha256: String,
    /// Records to leave out, ascending.
    pub dropped: Vec<u64>,
}

/// How much to draw.
#[derive(Debug, Clone, Copy)]
pub struct SampleSize {
    /// Documents, at most.
    pub documents: usize,
    /// Bytes of text, at most.
    pub bytes: u64,
}

/// Draws the documents whose texts have the smallest hashes (with `seed`), in that order, as many as fit `size`. Of a
/// long document the beginning is taken.
///
/// # Errors
/// When a file cannot be read or is not what was registered; broken records were counted by the scan and are passed
/// over.
pub fn sample(files: &[SampleFile], fields: &DocumentFields, size: SampleSize, seed: u64) -> Result<Vec<Document>> {
    let mut kept = Kept { size, bytes: 0, documents: BTreeMap::new(), ceiling: None };
    for (index, file) in files.iter().enumerate() {
        let dropped: HashSet<u64> = file.dropped.iter().copied().collect();
        let mut items = documents(&file.path, fields)?;
        for item in items.by_ref() {
            match item {
                Ok(document) if dropped.contains(&document.record) => {}
                // Equal texts were dropped, but for two whose hashes are equal by chance.
                Ok(document) => {
                    kept.see((xxh3_64_with_seed(document.text.as_bytes(), seed), index, document.record), document);
                }
                Err(Trouble::File(problem)) if problem.kind == FileProblemKind::Unreadable => {
                    bail!("{} from record {} on: {}", file.path.display(), problem.record, problem.why);
                }
                Err(_) => {}
            }
        }
        let found = items.end()?.sha256;
        ensure!(
            file.sha256.is_empty() || found == file.sha256,
            "{} is not what was registered (SHA-256 {found}, its snapshot {}): corpora are immutable, register the new one under another name",
            file.path.display(),
            file.sha256
        );
    }
    Ok(kept.documents.into_values().collect())
}

type Key = (u64, usize, u64);

struct Kept {
    size: SampleSize,
    bytes: u64,
    documents: BTreeMap<Key, Document>,
    /// The smallest key that did not fit: nothing from it on is taken, else what fits would depend on the order.
    ceiling: Option<Key>,
}

impl Kept {
    fn see(&mut self, key: Key, mut document: Document) {
        if self.ceiling.is_some_and(|ceiling| key >= ceiling) {
            return;
        }
        if document.text.len() > SAMPLE_DOCUMENT_BYTES_MAX {
            document.text.truncate(document.text.floor_char_boundary(SAMPLE_DOCUMENT_BYTES_MAX));
            document.text.shrink_to_fit();
        }
        self.bytes += document.text.len() as u64;
        self.documents.insert(key, document);
        while self.documents.len() > self.size.documents || self.bytes > self.size.bytes {
            let Some((largest, document)) = self.documents.pop_last() else { return };
            self.bytes -= document.text.len() as u64;
            self.ceiling = Some(largest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    const SIZE: SampleSize = SampleSize { documents: 50, bytes: SAMPLE_BYTES_MAX };

    fn file(folder: &tempfile::TempDir, name: &str, texts: impl Iterator<Item = String>) -> SampleFile {
        let path = folder.path().join(name);
        let lines: String = texts.map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
        fs::write(&path, lines).unwrap();
        SampleFile { path, sha256: String::new(), dropped: Vec::new() }
    }

    #[test]
    fn a_sample_is_the_same_every_time_and_in_every_order() {
        let folder = tempfile::tempdir().unwrap();
        let text = |i: u32| format!("t{i}");
        let mut one = file(&folder, "a.jsonl", (0..200).map(text));
        one.dropped = vec![0, 5];
        let draw = |files: &[SampleFile], seed| {
            let drawn = sample(files, &DocumentFields::default(), SIZE, seed).unwrap();
            drawn.into_iter().map(|document| document.text).collect::<Vec<_>>()
        };
        let drawn = draw(std::slice::from_ref(&one), 1);
        assert_eq!(drawn.len(), 50);
        assert!(!drawn.contains(&text(0)) && !drawn.contains(&text(5)));
        assert_ne!(drawn, draw(std::slice::from_ref(&one), 2));
        let rest = |range: std::ops::Range<u32>| range.rev().filter(|i| ![0, 5].contains(i)).map(text);
        let two = [file(&folder, "b.jsonl", rest(90..200)), file(&folder, "c.jsonl", rest(0..90))];
        assert_eq!(drawn, draw(&two, 1));
    }

    #[test]
    fn a_long_document_gives_its_beginning_and_a_changed_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut long = file(&folder, "a.jsonl", std::iter::once("あ".repeat(100_000)));
        let draw = |file: &SampleFile| sample(std::slice::from_ref(file), &DocumentFields::default(), SIZE, 1);
        let drawn = draw(&long).unwrap();
        assert_eq!(drawn[0].text, "あ".repeat(SAMPLE_DOCUMENT_BYTES_MAX / 3));
        long.sha256 = crate::sha256_file(&long.path).unwrap();
        draw(&long).unwrap();
        let changed = fs::read_to_string(&long.path).unwrap().replacen('あ', "い", 1);
        fs::write(&long.path, changed).unwrap();
        let error = draw(&long).unwrap_err().to_string();
        assert!(error.contains("a.jsonl is not what was registered"), "{error}");
    }

    proptest! {
        #[test]
        fn what_fits_is_the_beginning_of_the_order_of_hashes(
            lengths in prop::collection::vec(1_usize..60, 1..40), order: u64, documents in 1_usize..30, bytes in 60_u64..600,
        ) {
            let size = SampleSize { documents, bytes };
            let all: Vec<(Key, Document)> = lengths.iter().enumerate().map(|(i, length)| {
                let text = "x".repeat(*length);
                let key = (xxh3_64_with_seed(&i.to_le_bytes(), 1), 0, i as u64);
                (key, Document { record: i as u64, id: i.to_string(), group: None, source: None, text })
            }).collect();
            let mut kept = Kept { size, bytes: 0, documents: BTreeMap::new(), ceiling: None };
            let mut shuffled = all.clone();
            shuffled.sort_by_key(|(key, _)| xxh3_64_with_seed(&key.2.to_le_bytes(), order));
            shuffled.into_iter().for_each(|(key, document)| kept.see(key, document));
            let mut sorted = all;
            sorted.sort_by_key(|(key, _)| *key);
            let mut sum = 0;
            let expect: Vec<Key> = sorted.iter().take(documents).take_while(|(_, document)| {
                sum += document.text.len() as u64;
                sum <= bytes
            }).map(|(key, _)| *key).collect();
            prop_assert_eq!(kept.documents.into_keys().collect::<Vec<_>>(), expect);
        }
    }
}
