//! The first reading of a corpus: counts, hashes, and which records to leave out.
//!
//! Exact duplicates are found across all files by a 128-bit hash of the text and an external sort: memory is one run
//! of hashes, whatever the corpus. The first occurrence stays.

use crate::{hex, read::documents};
use senmon_protocol::corpus::{BrokenRecord, DocumentCounts, DocumentFields};
use sha2::{Digest, Sha256};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_128;

/// Hashes kept in memory before they are sorted and spilled: 32 MiB.
const RUN_ENTRIES: usize = 1 << 20;
/// Broken records shown.
const BROKEN_SHOWN: usize = 20;
const ENTRY_BYTES: usize = 28;

/// What the scan found of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedFile {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Counts.
    pub counts: DocumentCounts,
    /// Records to leave out, ascending: empty texts and duplicates.
    pub dropped: Vec<u64>,
}

/// What the scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// The files, in the given order.
    pub files: Vec<ScannedFile>,
    /// The first broken records.
    pub broken_first: Vec<BrokenRecord>,
}

/// One text: its hash and its place. Sorted by hash, then place, so the first occurrence comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: u128,
    file: u32,
    record: u64,
}

/// Reads every record of every file once. `work` is a folder for temporary files; `progress` is told the files done.
///
/// # Errors
/// When a file cannot be opened or `work` not written to; broken records are counted, not errors.
pub fn scan(
    files: &[PathBuf],
    fields: &DocumentFields,
    work: &Path,
    mut progress: impl FnMut(u64),
) -> io::Result<ScanReport> {
    fs::create_dir_all(work)?;
    let mut runs = Runs { folder: work.to_owned(), entries: Vec::new(), count: 0 };
    let mut report = ScanReport { files: Vec::new(), broken_first: Vec::new() };
    for (path, index) in files.iter().zip(0_u32..) {
        let scanned = scan_file(path, index, fields, &mut runs, &mut report.broken_first)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        report.files.push(scanned);
        progress(u64::from(index) + 1);
    }
    runs.duplicates(|entry| {
        let file = &mut report.files[entry.file as usize];
        file.counts.duplicates += 1;
        file.counts.documents -= 1;
        file.dropped.push(entry.record);
    })?;
    for file in &mut report.files {
        file.dropped.sort_unstable();
    }
    Ok(report)
}

fn scan_file(
    path: &Path,
    index: u32,
    fields: &DocumentFields,
    runs: &mut Runs,
    broken: &mut Vec<BrokenRecord>,
) -> io::Result<ScannedFile> {
    let mut counts = DocumentCounts::default();
    let mut dropped = Vec::new();
    for item in documents(path, fields)? {
        counts.records += 1;
        match item {
            Ok(document) if document.text.trim().is_empty() => {
                counts.empty += 1;
                dropped.push(document.record);
            }
            Ok(document) => {
                counts.documents += 1;
                counts.text_bytes += document.text.len() as u64;
                runs.push(Entry { hash: xxh3_128(document.text.as_bytes()), file: index, record: document.record })?;
            }
            Err(why) => {
                counts.broken += 1;
                if broken.len() < BROKEN_SHOWN {
                    broken.push(why);
                }
            }
        }
    }
    let (bytes, sha256) = size_and_hash(path)?;
    Ok(ScannedFile { path: path.to_owned(), bytes, sha256, counts, dropped })
}

fn size_and_hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut file, &mut hash)?;
    Ok((bytes, hex(&hash.finalize())))
}

/// Writes the records to leave out as little-endian u64.
///
/// # Errors
/// When the file cannot be written.
pub fn encode_dropped(records: &[u64]) -> Vec<u8> {
    records.iter().flat_map(|record| record.to_le_bytes()).collect()
}

/// Reads what [`encode_dropped`] made.
///
/// # Errors
/// When the length is no multiple of 8.
pub fn decode_dropped(bytes: &[u8]) -> io::Result<Vec<u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(io::Error::other(format!(
            "list of dropped records: {} bytes, expected a multiple of 8",
            bytes.len()
        )));
    }
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

struct Runs {
    folder: PathBuf,
    entries: Vec<Entry>,
    count: usize,
}

impl Runs {
    fn push(&mut self, entry: Entry) -> io::Result<()> {
        self.entries.push(entry);
        if self.entries.len() >= RUN_ENTRIES { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.entries.sort_unstable();
        let mut out = BufWriter::new(File::create(self.path(self.count))?);
        for entry in self.entries.drain(..) {
            out.write_all(&entry.hash.to_le_bytes())?;
            out.write_all(&entry.file.to_le_bytes())?;
            out.write_all(&entry.record.to_le_bytes())?;
        }
        self.count += 1;
        out.flush()
    }

    fn path(&self, run: usize) -> PathBuf {
        self.folder.join(format!("hashes-{run}"))
    }

    /// Merges the runs and calls `found` for every entry whose hash came before.
    fn duplicates(mut self, mut found: impl FnMut(Entry)) -> io::Result<()> {
        self.spill()?;
        let open = |run| File::open(self.path(run)).map(|file| BufReader::with_capacity(1 << 18, file));
        let mut inputs = (0..self.count).map(open).collect::<io::Result<Vec<_>>>()?;
        let mut heap = BinaryHeap::new();
        for (run, input) in inputs.iter_mut().enumerate() {
            heap.extend(read_entry(input)?.map(|entry| Reverse((entry, run))));
        }
        let mut last = None;
        while let Some(Reverse((entry, run))) = heap.pop() {
            if last == Some(entry.hash) {
                found(entry);
            }
            last = Some(entry.hash);
            heap.extend(read_entry(&mut inputs[run])?.map(|entry| Reverse((entry, run))));
        }
        (0..self.count).try_for_each(|run| fs::remove_file(self.path(run)))
    }
}

fn read_entry(input: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut bytes = [0; ENTRY_BYTES];
    match input.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (hash, rest) = bytes.split_at(16);
    let (file, record) = rest.split_at(4);
    let sized = "the slices have these sizes";
    Ok(Some(Entry {
        hash: u128::from_le_bytes(hash.try_into().expect(sized)),
        file: u32::from_le_bytes(file.try_into().expect(sized)),
        record: u64::from_le_bytes(record.try_into().expect(sized)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_counted_once_and_the_first_of_equals_stays() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, texts: &[&str]| {
            let lines: String =
                texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
            let path = folder.path().join(name);
            fs::write(&path, lines + "{broken\n").unwrap();
            path
        };
        let files = [write("a.jsonl", &["x", "y", " ", "x"]), write("b.jsonl", &["z", "y", "x"])];
        let report = scan(&files, &DocumentFields::default(), &folder.path().join("work"), |_| {}).unwrap();
        assert_eq!(report.files[0].dropped, [2, 3]);
        assert_eq!(report.files[1].dropped, [1, 2]);
        assert_eq!(report.broken_first.len(), 2);
        for file in &report.files {
            let counts = file.counts;
            assert_eq!(counts.records, counts.documents + counts.empty + counts.duplicates + counts.broken);
            assert_eq!(decode_dropped(&encode_dropped(&file.dropped)).unwrap(), file.dropped);
        }
        assert!(decode_dropped(&[1, 2, 3]).is_err());
    }
}
