//! Exact duplicates across all files: an external sort of hashes, so memory is one run of them, whatever the corpus.
//!
//! Never looks at a text again: two texts with one 128-bit hash are one.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Entries kept in memory before they are sorted and spilled: 32 MiB and a half.
const RUN_ENTRIES: usize = 1 << 20;
const ENTRY_BYTES: usize = 32;

/// One text: its hash and its place. Sorted by hash, then place, so the first occurrence comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) hash: u128,
    pub(crate) file: u32,
    pub(crate) record: u64,
    /// Length of the text; a record is never longer than 64 MiB.
    pub(crate) bytes: u32,
}

/// Entries in memory, and runs of them on disk.
pub(crate) struct Runs {
    folder: PathBuf,
    entries: Vec<Entry>,
    count: usize,
}

impl Runs {
    /// Runs that go to `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), entries: Vec::new(), count: 0 }
    }

    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: Entry) -> io::Result<()> {
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
            out.write_all(&entry.bytes.to_le_bytes())?;
        }
        self.count += 1;
        out.flush()
    }

    fn path(&self, run: usize) -> PathBuf {
        self.folder.join(format!("hashes-{run}"))
    }

    /// Merges the runs and calls `found` for every entry whose hash came before.
    pub(crate) fn duplicates(mut self, mut found: impl FnMut(Entry)) -> io::Result<()> {
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
    let (file, rest) = rest.split_at(4);
    let (record, bytes) = rest.split_at(8);
    let sized = "the slices have these sizes";
    Ok(Some(Entry {
        hash: u128::from_le_bytes(hash.try_into().expect(sized)),
        file: u32::from_le_bytes(file.try_into().expect(sized)),
        record: u64::from_le_bytes(record.try_into().expect(sized)),
        bytes: u32::from_le_bytes(bytes.try_into().expect(sized)),
    }))
}
