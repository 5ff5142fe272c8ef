//! Exact duplicates by the hashes of their texts: within a file as it is read, over files from what was kept of each.
//! Sorted on disk, so memory is one run of entries, whatever the corpus.
//!
//! Never looks at a text again: two texts with one 128-bit hash are one.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Entries kept in memory before they are sorted and spilled, and looked at side by side over all files: 32 and 48 MiB.
/// A few in tests, which so go through several runs and ranges.
const RUN_ENTRIES: usize = if cfg!(test) { 8 } else { 1 << 20 };
/// Bytes of an entry in a file: hash, record, length.
pub(crate) const ENTRY_BYTES: usize = 28;

/// One text: its hash and its record. Sorted so that the first occurrence comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) hash: u128,
    pub(crate) record: u64,
    /// Length of the text; a record is never longer than 64 MiB.
    pub(crate) bytes: u32,
}

impl Entry {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.hash.to_le_bytes())?;
        out.write_all(&self.record.to_le_bytes())?;
        out.write_all(&self.bytes.to_le_bytes())
    }

    /// The next entry; None at the end.
    fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; ENTRY_BYTES];
        match input.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let (hash, rest) = bytes.split_at(16);
        let (record, bytes) = rest.split_at(8);
        let sized = "the slices have these sizes";
        Ok(Some(Self {
            hash: u128::from_le_bytes(hash.try_into().expect(sized)),
            record: u64::from_le_bytes(record.try_into().expect(sized)),
            bytes: u32::from_le_bytes(bytes.try_into().expect(sized)),
        }))
    }
}

/// The texts of one file: entries in memory, and runs of them on disk.
pub(crate) struct Texts {
    folder: PathBuf,
    entries: Vec<Entry>,
    runs: usize,
}

impl Texts {
    /// Texts whose runs go to `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), entries: Vec::new(), runs: 0 }
    }

    /// Adds a text.
    pub(crate) fn push(&mut self, entry: Entry) -> io::Result<()> {
        self.entries.push(entry);
        if self.entries.len() >= RUN_ENTRIES { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.entries.sort_unstable();
        let mut out = BufWriter::new(File::create(self.run(self.runs))?);
        self.entries.drain(..).try_for_each(|entry| entry.write(&mut out))?;
        self.runs += 1;
        out.flush()
    }

    fn run(&self, run: usize) -> PathBuf {
        self.folder.join(format!("run-{run}"))
    }

    /// Writes the first of equal texts to `out`, in the order of their hashes, and calls `found` for the others.
    pub(crate) fn finish(mut self, out: &Path, mut found: impl FnMut(Entry)) -> io::Result<()> {
        self.spill()?;
        let open = |run| File::open(self.run(run)).map(|file| BufReader::with_capacity(1 << 18, file));
        let mut inputs = (0..self.runs).map(open).collect::<io::Result<Vec<_>>>()?;
        let mut heap = BinaryHeap::new();
        for (run, input) in inputs.iter_mut().enumerate() {
            heap.extend(Entry::read(input)?.map(|entry| Reverse((entry, run))));
        }
        let mut out = BufWriter::new(File::create(out)?);
        let mut last = None;
        while let Some(Reverse((entry, run))) = heap.pop() {
            if last == Some(entry.hash) {
                found(entry)
            } else {
                entry.write(&mut out)?
            }
            last = Some(entry.hash);
            heap.extend(Entry::read(&mut inputs[run])?.map(|entry| Reverse((entry, run))));
        }
        out.flush()?;
        (0..self.runs).try_for_each(|run| fs::remove_file(self.run(run)))
    }
}

/// Calls `found` with the number of a file and its entry for every text that an earlier file has. `lists` are what
/// [`Texts::finish`] wrote, `texts` the entries in all of them. Hashes are spread evenly: they are looked at range by
/// range, each of about as many entries as fit a run, and no two files are open at once. `go_on` is asked for each file
/// of a range; false when it said no.
pub(crate) fn across(
    lists: &[PathBuf],
    texts: u64,
    go_on: &mut dyn FnMut() -> bool,
    found: &mut dyn FnMut(usize, Entry) -> io::Result<()>,
) -> io::Result<bool> {
    let ranges = texts.div_ceil(RUN_ENTRIES as u64).max(1);
    let width = u128::MAX / u128::from(ranges);
    let mut places = vec![0_u64; lists.len()];
    let mut entries: Vec<(usize, Entry)> = Vec::new();
    for range in 1..=ranges {
        let last = if range == ranges { u128::MAX } else { width * u128::from(range) };
        for (file, (path, place)) in lists.iter().zip(&mut places).enumerate() {
            if !go_on() {
                return Ok(false);
            }
            let mut list = File::open(path)?;
            list.seek(SeekFrom::Start(*place))?;
            let mut list = BufReader::new(list);
            while let Some(entry) = Entry::read(&mut list)?.filter(|entry| entry.hash <= last) {
                entries.push((file, entry));
                *place += ENTRY_BYTES as u64;
            }
        }
        entries.sort_unstable_by_key(|(file, entry)| (entry.hash, *file));
        let mut before = None;
        for (file, entry) in entries.drain(..) {
            if before == Some(entry.hash) {
                found(file, entry)?;
            }
            before = Some(entry.hash);
        }
    }
    Ok(true)
}
