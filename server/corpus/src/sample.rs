//! A sample of a corpus: the documents with the smallest hashes, bounded in number and in bytes.
//!
//! Goes by the texts alone, so neither the machine nor the order of documents and files changes it. Memory is the
//! sample, whatever the corpus.

use crate::{
    read::{Document, change, documents},
    roots::Roots,
};
use anyhow::{Context, Result, ensure};
use senmon_protocol::corpus::DocumentFields;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Text of a whole sample. Fitting a clustering or a tokenizer takes some ten times this much memory.
pub const SAMPLE_BYTES_MAX: u64 = 256 << 20;
/// Text taken of one document: its domain and its words show by then, and a tokenizer's memory grows with the longest
/// text, by about 40 bytes for each of its bytes.
pub const SAMPLE_DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// A file to sample from, with the records to leave out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SampleFile {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 when it was registered.
    pub sha256: String,
    /// Records to leave out, ascending.
    pub dropped: Vec<u64>,
}

/// How much to draw.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
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
pub fn sample(
    roots: &Roots,
    files: &[SampleFile],
    fields: &DocumentFields,
    size: SampleSize,
    seed: u64,
) -> Result<Vec<Document>> {
    let mut kept = Kept { size, bytes: 0, documents: BTreeMap::new(), ceiling: None };
    for file in files {
        let name = || file.path.display().to_string();
        let dropped: HashSet<u64> = file.dropped.iter().copied().collect();
        let mut items = documents(roots, &file.path, fields)?;
        while let Some(document) = items.next_document().with_context(name)? {
            if !dropped.contains(&document.record) {
                kept.see(xxh3_128_with_seed(document.text.as_bytes(), seed), document);
            }
        }
        let change = change(&items.end().with_context(name)?.sha256, &file.sha256);
        ensure!(change.is_none(), "{}: {}", name(), change.unwrap_or_default());
    }
    Ok(kept.documents.into_values().collect())
}

struct Kept {
    size: SampleSize,
    bytes: u64,
    documents: BTreeMap<u128, Document>,
    /// The smallest key that did not fit: nothing from it on is taken, else what fits would depend on the order.
    ceiling: Option<u128>,
}

impl Kept {
    fn see(&mut self, key: u128, mut document: Document) {
        if self.ceiling.is_some_and(|ceiling| key >= ceiling) || self.documents.contains_key(&key) {
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
        SampleFile { sha256: crate::sha256_file(&path).unwrap(), path, dropped: Vec::new() }
    }

    #[test]
    fn a_sample_is_the_same_every_time_and_in_every_order() {
        let folder = tempfile::tempdir().unwrap();
        let text = |i: u32| format!("t{i}");
        let mut one = file(&folder, "a.jsonl", (0..200).map(text));
        one.dropped = vec![0, 5];
        let draw = |files: &[SampleFile], seed| {
            let drawn = sample(&Roots::whole_disk(), files, &DocumentFields::default(), SIZE, seed).unwrap();
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
        let long = file(&folder, "a.jsonl", std::iter::once("あ".repeat(100_000)));
        let fields = DocumentFields::default();
        let draw = |file: &SampleFile| sample(&Roots::whole_disk(), std::slice::from_ref(file), &fields, SIZE, 1);
        let drawn = draw(&long).unwrap();
        assert_eq!(drawn[0].text, "あ".repeat(SAMPLE_DOCUMENT_BYTES_MAX / 3));
        let changed = fs::read_to_string(&long.path).unwrap().replacen('あ', "い", 1);
        fs::write(&long.path, changed).unwrap();
        let error = draw(&long).unwrap_err().to_string();
        assert!(error.contains("a.jsonl: it changed after its registration"), "{error}");
    }

    proptest! {
        #[test]
        fn what_fits_is_the_beginning_of_the_order_of_hashes(
            lengths in prop::collection::vec(1_usize..60, 1..40), order: u64, documents in 1_usize..30, bytes in 60_u64..600,
        ) {
            let size = SampleSize { documents, bytes };
            let all: Vec<(u128, Document)> = lengths.iter().enumerate().map(|(i, length)| {
                let text = "x".repeat(*length);
                (xxh3_128_with_seed(&i.to_le_bytes(), 1), Document { record: i as u64, id: i.to_string(), group: None, source: None, text })
            }).collect();
            let mut kept = Kept { size, bytes: 0, documents: BTreeMap::new(), ceiling: None };
            let mut shuffled = all.clone();
            shuffled.sort_by_key(|(key, _)| xxh3_128_with_seed(&key.to_le_bytes(), order));
            shuffled.into_iter().for_each(|(key, document)| kept.see(key, document));
            let mut sorted = all;
            sorted.sort_by_key(|(key, _)| *key);
            let mut sum = 0;
            let expect: Vec<u128> = sorted.iter().take(documents).take_while(|(_, document)| {
                sum += document.text.len() as u64;
                sum <= bytes
            }).map(|(key, _)| *key).collect();
            prop_assert_eq!(kept.documents.into_keys().collect::<Vec<_>>(), expect);
        }
    }
}
