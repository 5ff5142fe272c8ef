//! The first reading of a corpus: each file alone (counts, hash, hashes of its texts), then all of them together (which
//! texts come again), and whether the corpus can be used at all.
//!
//! Each file is read once, its hash taken of the very bytes that were read. Of equal texts the first stays.

use crate::{
    duplicates::{ENTRY_BYTES, Entry, Texts, across},
    read::{FileRead, Trouble, documents},
    roots::Roots,
};
use senmon_protocol::{
    corpus::{BrokenRecord, CorpusFile, DocumentCounts, DocumentFields, FileProblem, FileProblemKind, RegisterCorpus},
    scan::{BROKEN_SHOWN, FileDropped, dropped_list},
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_128;

/// The different texts of a file, by their hashes: what [`scan_file`] writes.
pub const TEXTS_FILE: &str = "texts.bin";
/// The records that a file leaves out by itself: what [`scan_file`] writes.
pub const DROPPED_FILE: &str = "dropped.u64";
/// Files named in a refusal.
const FILES_NAMED: usize = 5;
/// Records between two questions whether to go on.
const ASK_EVERY: u64 = 256;
/// Records to leave out that are kept in memory before they go to their files: 64 MiB. A few in tests.
const PENDING_MAX: usize = if cfg!(test) { 4 } else { 1 << 22 };

/// What the scan found of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedFile {
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Counts; `duplicates` are those of this file.
    pub counts: DocumentCounts,
    /// Why it was not read to its end.
    pub problem: Option<FileProblem>,
    /// The first broken records.
    pub broken_first: Vec<BrokenRecord>,
}

/// Reads every record of a file once, and writes [`TEXTS_FILE`] and [`DROPPED_FILE`] into `folder`. `go_on` is told the
/// records read; None when it said no.
///
/// # Errors
/// When `folder` cannot be written to. Broken records are counted, what is wrong with the file is noted with it.
pub fn scan_file(
    roots: &Roots,
    path: &Path,
    fields: &DocumentFields,
    folder: &Path,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Option<ScannedFile>> {
    fs::create_dir_all(folder)?;
    let mut file = ScannedFile {
        bytes: 0,
        sha256: String::new(),
        counts: DocumentCounts::default(),
        problem: None,
        broken_first: Vec::new(),
    };
    let (mut texts, mut dropped, mut kept) = (Texts::new(folder), Vec::new(), DocumentCounts::default());
    let unreadable =
        |error: &io::Error| Some(FileProblem { kind: FileProblemKind::Unreadable, record: 1, why: error.to_string() });
    match documents(roots, path, fields) {
        Err(error) => file.problem = unreadable(&error),
        Ok(mut items) => {
            for (item, read) in items.by_ref().zip(0_u64..) {
                if read % ASK_EVERY == 0 && !go_on(read) {
                    return Ok(None);
                }
                match item {
                    Ok(document) if document.text.trim().is_empty() => {
                        kept.empty += 1;
                        dropped.push(document.record);
                    }
                    Ok(document) => {
                        kept.documents += 1;
                        kept.text_bytes += document.text.len() as u64;
                        let bytes = u32::try_from(document.text.len()).unwrap_or(u32::MAX);
                        texts.push(Entry {
                            hash: xxh3_128(document.text.as_bytes()),
                            record: document.record,
                            bytes,
                        })?;
                    }
                    Err(Trouble::Record(why)) if file.broken_first.len() < BROKEN_SHOWN => file.broken_first.push(why),
                    Err(Trouble::Record(_)) => {}
                    Err(Trouble::File(problem)) => file.problem = Some(problem),
                }
            }
            match items.end() {
                Ok(FileRead { bytes, sha256, counts }) => {
                    (file.bytes, file.sha256, file.counts) = (bytes, sha256, counts);
                }
                Err(error) => file.problem = unreadable(&error),
            }
        }
    }
    texts.finish(&folder.join(TEXTS_FILE), |entry| {
        kept.duplicates += 1;
        kept.documents -= 1;
        kept.text_bytes -= u64::from(entry.bytes);
        dropped.push(entry.record);
    })?;
    // What the reader counted, and what became of it.
    file.counts.add(&kept);
    dropped.sort_unstable();
    fs::write(folder.join(DROPPED_FILE), encode_dropped(&dropped))?;
    Ok(Some(file))
}

/// The texts of one file, for [`deduplicate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOfTexts {
    /// The folder that [`scan_file`] wrote.
    pub folder: PathBuf,
    /// Documents that it found there.
    pub texts: u64,
}

/// Finds the texts that an earlier file has, and writes into `out` the list of the records to leave out of each file that
/// leaves any out ([`dropped_list`]). `go_on` is asked again and again; None when it said no.
///
/// # Errors
/// When a list of texts is missing or has another length than its scan said; when `out` cannot be written to.
pub fn deduplicate(
    files: &[FileOfTexts],
    out: &Path,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<Option<Vec<FileDropped>>> {
    fs::create_dir_all(out)?;
    let lists: Vec<PathBuf> = files.iter().map(|file| file.folder.join(TEXTS_FILE)).collect();
    for (list, file) in lists.iter().zip(files) {
        let (found, expected) = (fs::metadata(list)?.len(), file.texts.saturating_mul(ENTRY_BYTES as u64));
        if found != expected {
            let message = format!("{}: found {found} bytes, expected {expected}", list.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    }
    let mut dropped = vec![FileDropped { duplicates: 0, text_bytes: 0, records: 0 }; files.len()];
    let mut pending = Pending { out, records: Vec::new() };
    let texts = files.iter().map(|file| file.texts).sum();
    let whole = across(&lists, texts, go_on, &mut |file, entry| {
        dropped[file].duplicates += 1;
        dropped[file].text_bytes += u64::from(entry.bytes);
        pending.push(file, entry.record)
    })?;
    pending.flush()?;
    for ((index, file), dropped) in files.iter().enumerate().zip(&mut dropped) {
        if !whole || !go_on() {
            return Ok(None);
        }
        let list = out.join(dropped_list(index));
        let mut records = decode_dropped(&fs::read(file.folder.join(DROPPED_FILE))?)?;
        if dropped.duplicates > 0 {
            records.extend(decode_dropped(&fs::read(&list)?)?);
        }
        dropped.records = records.len() as u64;
        if !records.is_empty() {
            records.sort_unstable();
            fs::write(&list, encode_dropped(&records))?;
        }
    }
    Ok(Some(dropped))
}

/// Records to leave out on their way to the lists of their files.
struct Pending<'a> {
    out: &'a Path,
    records: Vec<(usize, u64)>,
}

impl Pending<'_> {
    fn push(&mut self, file: usize, record: u64) -> io::Result<()> {
        self.records.push((file, record));
        if self.records.len() >= PENDING_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.records.sort_unstable();
        for of_file in self.records.chunk_by(|a, b| a.0 == b.0) {
            let list = self.out.join(dropped_list(of_file[0].0));
            let records: Vec<u64> = of_file.iter().map(|(_, record)| *record).collect();
            OpenOptions::new().create(true).append(true).open(list)?.write_all(&encode_dropped(&records))?;
        }
        self.records.clear();
        Ok(())
    }
}

/// Why a corpus cannot be used, if it cannot. Says which files, which record, and which setting would allow it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a share")]
pub fn refusal(files: &[CorpusFile], broken_first: &[BrokenRecord], request: &RegisterCorpus) -> Option<String> {
    let of_kind = |kind| {
        files
            .iter()
            .filter_map(move |file| Some((file, file.problem.as_ref()?)))
            .filter(move |(_, problem)| problem.kind == kind)
    };
    let named = |kind| {
        let (found, all) = (of_kind(kind), of_kind(kind).count());
        let lines = found
            .take(FILES_NAMED)
            .map(|(file, problem)| format!("{} from record {} on: {}", file.path, problem.record, problem.why));
        let lines = lines.collect::<Vec<_>>().join("; ");
        if all > FILES_NAMED { format!("{lines}; and {} more", all - FILES_NAMED) } else { lines }
    };
    let all = files.len();
    let unreadable = of_kind(FileProblemKind::Unreadable).count();
    if unreadable > 0 {
        return Some(format!("{unreadable} of {all} files cannot be read: {}", named(FileProblemKind::Unreadable)));
    }
    let damaged = of_kind(FileProblemKind::Damaged).count();
    if damaged > 0 && !request.tolerate_damaged_files {
        return Some(format!(
            "{damaged} of {all} files are damaged (tolerate_damaged_files takes what comes before the damage): {}",
            named(FileProblemKind::Damaged)
        ));
    }
    let mut counts = DocumentCounts::default();
    files.iter().for_each(|file| counts.add(&file.counts));
    let first = broken_first.first();
    let first = first.map(|b| format!("; the first is {} record {}: {}", b.path, b.record, b.why)).unwrap_or_default();
    let share = counts.broken as f64 / counts.records.max(1) as f64;
    if share > request.tolerated_broken_share {
        return Some(format!(
            "{} of {} records are broken, tolerated_broken_share allows {}{first}",
            counts.broken, counts.records, request.tolerated_broken_share
        ));
    }
    (counts.documents == 0).then(|| {
        format!(
            "no document is left: {} records, {} empty, {} broken{first}",
            counts.records, counts.empty, counts.broken
        )
    })
}

/// Writes the records to leave out as little-endian u64.
#[must_use]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::format_of;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// What the server and its workers do with a corpus, in one place: files, and the first broken records.
    fn scan_all(files: &[PathBuf], work: &Path) -> (Vec<CorpusFile>, Vec<Vec<u64>>, Vec<BrokenRecord>) {
        let out = work.join("dropped");
        let _ = fs::remove_dir_all(&out);
        let read = |(path, index): (&PathBuf, u32)| {
            let folder = work.join(format!("scan-{index}"));
            let found = scan_file(&Roots::whole_disk(), path, &DocumentFields::default(), &folder, &mut |_| true);
            let found = found.unwrap().unwrap();
            (FileOfTexts { folder, texts: found.counts.documents }, found)
        };
        let scanned: Vec<_> = files.iter().zip(0..).map(read).collect();
        let texts: Vec<_> = scanned.iter().map(|(texts, _)| texts.clone()).collect();
        let dropped = deduplicate(&texts, &out, &mut || true).unwrap().unwrap();
        let mut lists = Vec::new();
        let mut found = Vec::new();
        for ((path, index), ((_, file), dropped)) in files.iter().zip(0_u32..).zip(scanned.iter().zip(dropped)) {
            let mut counts = file.counts;
            counts.duplicates += dropped.duplicates;
            counts.documents -= dropped.duplicates;
            counts.text_bytes -= dropped.text_bytes;
            assert_eq!(counts.records, counts.documents + counts.empty + counts.duplicates + counts.broken);
            let list = fs::read(out.join(dropped_list(index as usize))).unwrap_or_default();
            lists.push(decode_dropped(&list).unwrap());
            assert_eq!(lists.last().unwrap().len() as u64, dropped.records);
            assert_eq!(dropped.records, counts.empty + counts.duplicates);
            let (bytes, sha256, problem) = (file.bytes, file.sha256.clone(), file.problem.clone());
            let (path, format) = (path.display().to_string(), format_of(path).unwrap());
            found.push(CorpusFile { index, path, format, bytes, sha256, counts, dropped: None, problem });
        }
        let broken = scanned.into_iter().flat_map(|(_, file)| file.broken_first).take(BROKEN_SHOWN).collect();
        (found, lists, broken)
    }

    #[test]
    fn every_record_is_counted_once_and_the_first_of_equals_stays() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, texts: &[&str]| {
            let lines: String =
                texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
            let path = folder.path().join(name);
            fs::write(&path, lines + "{\"text\": null}\n{broken\n").unwrap();
            path
        };
        let files = [write("a.jsonl", &["x", "yy", " ", "x"]), write("b.jsonl", &["zzz", "yy", "x"])];
        let (found, dropped, broken) = scan_all(&files, folder.path());
        assert_eq!(dropped, [vec![2, 3, 4], vec![1, 2, 3]]);
        assert_eq!(broken.len(), 2);
        let text_bytes: Vec<u64> = found.iter().map(|file| file.counts.text_bytes).collect();
        assert_eq!(text_bytes, [3, 3], "the text of duplicates is not kept");
        assert_eq!(found[0].sha256, crate::sha256_file(&files[0]).unwrap());
        assert!(decode_dropped(&[1, 2, 3]).is_err());
    }

    #[test]
    fn it_stops_when_it_is_told_and_refuses_a_list_of_another_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, b"{\"text\": \"a\"}\n".repeat(1000)).unwrap();
        let work = folder.path().join("work");
        let fields = DocumentFields::default();
        let mut told = Vec::new();
        let stopped = scan_file(&Roots::whole_disk(), &path, &fields, &work, &mut |read| {
            told.push(read);
            read < 512
        });
        assert_eq!((stopped.unwrap(), told.as_slice()), (None, &[0, 256, 512][..]));
        scan_file(&Roots::whole_disk(), &path, &fields, &work, &mut |_| true).unwrap();
        let texts = |texts| [FileOfTexts { folder: work.clone(), texts }];
        assert_eq!(deduplicate(&texts(1), &folder.path().join("out"), &mut || false).unwrap(), None);
        let error = deduplicate(&texts(2), &folder.path().join("out"), &mut || true).unwrap_err().to_string();
        assert!(error.contains("found 28 bytes, expected 56"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_left_out_is_what_a_set_in_memory_says(files in prop::collection::vec(prop::collection::vec(0_u8..6, 0..12), 1..6)) {
            let folder = tempfile::tempdir().unwrap();
            let write = |(texts, index): (&Vec<u8>, u32)| {
                let path = folder.path().join(format!("{index}.jsonl"));
                let line = |text: &u8| serde_json::json!({ "text": "t".repeat((*text).into()) }).to_string() + "\n";
                fs::write(&path, texts.iter().map(line).collect::<String>()).unwrap();
                path
            };
            let paths: Vec<PathBuf> = files.iter().zip(0..).map(write).collect();
            let mut seen = HashSet::new();
            let expected: Vec<Vec<u64>> = files
                .iter()
                .map(|texts| texts.iter().zip(0..).filter(|(text, _)| **text == 0 || !seen.insert(**text)).map(|(_, n)| n).collect())
                .collect();
            prop_assert_eq!(scan_all(&paths, folder.path()).1, expected);
        }
    }

    #[test]
    fn a_corpus_is_refused_with_the_file_the_record_and_the_setting() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let good = write("good.jsonl", &b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n".repeat(400));
        let cut = write("cut.jsonl", b"{\"text\": \"c\"}\n{\"te");
        let wide = write("wide.txt", b"\xff\xfea\0");
        let bad = write("bad.jsonl", b"{\"text\": \"d\"}\nbad\n");
        let blank = write("blank.txt", b" ");
        let gone = folder.path().join("gone.txt");
        let check = |files: &[&PathBuf], settings: serde_json::Value, expect: &[&str]| {
            let files: Vec<PathBuf> = files.iter().map(|path| (*path).clone()).collect();
            let mut request = serde_json::json!({ "name": "c", "paths": [] });
            request.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
            let (found, _, broken) = scan_all(&files, folder.path());
            let found = refusal(&found, &broken, &serde_json::from_value(request).unwrap());
            match &found {
                None => assert!(expect.is_empty(), "{files:?} were taken, expected {expect:?}"),
                Some(why) => {
                    assert!(!expect.is_empty(), "{why}");
                    expect.iter().for_each(|part| assert!(why.contains(part), "{why}, expected {part}"));
                }
            }
        };
        let tolerant = || serde_json::json!({ "tolerate_damaged_files": true });
        let none = || serde_json::json!({});
        check(&[&good], none(), &[]);
        check(
            &[&good, &cut],
            none(),
            &["1 of 2 files are damaged", "tolerate_damaged_files", "cut.jsonl from record 2"],
        );
        check(&[&good, &cut], tolerant(), &[]);
        check(&[&good, &wide, &gone], tolerant(), &["2 of 3 files cannot be read", "wide.txt", "UTF-16", "gone.txt"]);
        check(
            &[&good, &bad],
            none(),
            &["1 of 802 records are broken", "tolerated_broken_share allows 0.001", "bad.jsonl record 2"],
        );
        check(&[&good, &bad], serde_json::json!({ "tolerated_broken_share": 0.01 }), &[]);
        check(&[&blank], none(), &["no document is left: 1 records, 1 empty"]);
    }
}
