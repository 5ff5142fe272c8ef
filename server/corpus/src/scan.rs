//! The first reading of a corpus: counts, hashes, which records to leave out, and whether it can be used at all.
//!
//! Each file is read once, its hash taken of the very bytes that were read. Of equal texts the first stays.

use crate::{
    duplicates::{Entry, Runs},
    read::{Documents, FileRead, Trouble, documents},
    roots::Roots,
};
use senmon_protocol::corpus::{
    BrokenRecord, DocumentCounts, DocumentFields, FileProblem, FileProblemKind, RegisterCorpus,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_128;

/// Broken records shown.
const BROKEN_SHOWN: usize = 20;
/// Files named in a refusal.
const FILES_NAMED: usize = 5;

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
    /// Why it was not read to its end.
    pub problem: Option<FileProblem>,
}

/// What the scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// The files, in the given order.
    pub files: Vec<ScannedFile>,
    /// The first broken records.
    pub broken_first: Vec<BrokenRecord>,
}

/// Reads every record of every file once. `work` is a folder for temporary files; `progress` is told the files done.
///
/// # Errors
/// When `work` cannot be written to. Broken records are counted, what is wrong with a file is noted with it.
pub fn scan(
    roots: &Roots,
    files: &[PathBuf],
    fields: &DocumentFields,
    work: &Path,
    mut progress: impl FnMut(u64),
) -> io::Result<ScanReport> {
    fs::create_dir_all(work)?;
    let mut runs = Runs::new(work);
    let mut report = ScanReport { files: Vec::new(), broken_first: Vec::new() };
    for (path, index) in files.iter().zip(0_u32..) {
        let mut file = ScannedFile {
            path: path.clone(),
            bytes: 0,
            sha256: String::new(),
            counts: DocumentCounts::default(),
            dropped: Vec::new(),
            problem: None,
        };
        let items = documents(roots, &file.path, fields);
        scan_file(&mut file, index, items, &mut runs, &mut report.broken_first)?;
        report.files.push(file);
        progress(u64::from(index) + 1);
    }
    runs.duplicates(|entry| {
        let file = &mut report.files[entry.file as usize];
        file.counts.duplicates += 1;
        file.counts.documents -= 1;
        file.counts.text_bytes -= u64::from(entry.bytes);
        file.dropped.push(entry.record);
    })?;
    for file in &mut report.files {
        file.dropped.sort_unstable();
    }
    Ok(report)
}

fn scan_file(
    file: &mut ScannedFile,
    index: u32,
    items: io::Result<Documents>,
    runs: &mut Runs,
    broken: &mut Vec<BrokenRecord>,
) -> io::Result<()> {
    let unreadable =
        |error: &io::Error| Some(FileProblem { kind: FileProblemKind::Unreadable, record: 1, why: error.to_string() });
    let mut items = match items {
        Ok(items) => items,
        Err(error) => {
            file.problem = unreadable(&error);
            return Ok(());
        }
    };
    let mut kept = DocumentCounts::default();
    for item in items.by_ref() {
        match item {
            Ok(document) if document.text.trim().is_empty() => {
                kept.empty += 1;
                file.dropped.push(document.record);
            }
            Ok(document) => {
                kept.documents += 1;
                kept.text_bytes += document.text.len() as u64;
                let bytes = u32::try_from(document.text.len()).unwrap_or(u32::MAX);
                let hash = xxh3_128(document.text.as_bytes());
                runs.push(Entry { hash, file: index, record: document.record, bytes })?;
            }
            Err(Trouble::Record(why)) if broken.len() < BROKEN_SHOWN => broken.push(why),
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
    // What the reader counted, and what became of it.
    file.counts.add(&kept);
    Ok(())
}

/// Why a corpus cannot be used, if it cannot. Says which files, which record, and which setting would allow it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a share")]
pub fn refusal(report: &ScanReport, request: &RegisterCorpus) -> Option<String> {
    let of_kind = |kind| {
        report
            .files
            .iter()
            .filter_map(move |file| Some((file, file.problem.as_ref()?)))
            .filter(move |(_, problem)| problem.kind == kind)
    };
    let named = |kind| {
        let (found, all) = (of_kind(kind), of_kind(kind).count());
        let lines = found.take(FILES_NAMED).map(|(file, problem)| {
            format!("{} from record {} on: {}", file.path.display(), problem.record, problem.why)
        });
        let lines = lines.collect::<Vec<_>>().join("; ");
        if all > FILES_NAMED { format!("{lines}; and {} more", all - FILES_NAMED) } else { lines }
    };
    let all = report.files.len();
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
    report.files.iter().for_each(|file| counts.add(&file.counts));
    let first = report.broken_first.first();
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

    fn scan_all(files: &[PathBuf], work: &Path) -> ScanReport {
        let report = scan(&Roots::whole_disk(), files, &DocumentFields::default(), &work.join("work"), |_| {}).unwrap();
        for file in &report.files {
            let counts = file.counts;
            assert_eq!(counts.records, counts.documents + counts.empty + counts.duplicates + counts.broken, "{file:?}");
            assert_eq!(decode_dropped(&encode_dropped(&file.dropped)).unwrap(), file.dropped);
        }
        report
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
        let report = scan_all(&files, folder.path());
        assert_eq!(report.files[0].dropped, [2, 3, 4]);
        assert_eq!(report.files[1].dropped, [1, 2, 3]);
        assert_eq!(report.broken_first.len(), 2);
        let text_bytes: Vec<u64> = report.files.iter().map(|file| file.counts.text_bytes).collect();
        assert_eq!(text_bytes, [3, 3], "the text of duplicates is not kept");
        assert_eq!(report.files[0].sha256, crate::sha256_file(&files[0]).unwrap());
        assert!(decode_dropped(&[1, 2, 3]).is_err());
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
            let found = refusal(&scan_all(&files, folder.path()), &serde_json::from_value(request).unwrap());
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
