//! What an attempt reports, on disk until the server has acknowledged it: one folder an attempt, one JSON line a
//! record, in order. Survives the server's absence and the worker's death.
//!
//! Never talks to the server (the courier does) and never changes a record once it is written.

use senmon_protocol::{
    ids::{AttemptId, Fence, JobId},
    worker::{AnnounceCheckpoint, AttemptStarted, CommitCheckpoint, CompleteAttempt, LogBatch, MetricBatch},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// One thing to deliver. Repeating it is harmless: the server answers the second time as the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// Where a training attempt starts.
    Started(AttemptStarted),
    /// Metric points.
    Metrics(MetricBatch),
    /// Log lines.
    Logs(LogBatch),
    /// A checkpoint whose bytes are about to be written.
    Announce(AnnounceCheckpoint),
    /// A checkpoint to commit.
    Checkpoint(CommitCheckpoint),
    /// The end.
    Complete(CompleteAttempt),
}

impl Record {
    /// Whether the record must be on the disk, not only in its cache, before the attempt goes on.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        matches!(self, Self::Checkpoint(_) | Self::Complete(_))
    }

    /// Name for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::Metrics(_) => "metrics",
            Self::Logs(_) => "logs",
            Self::Announce(_) => "announce",
            Self::Checkpoint(_) => "checkpoint",
            Self::Complete(_) => "complete",
        }
    }
}

/// Whose records a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The attempt.
    pub attempt_id: AttemptId,
    /// Its job.
    pub job_id: JobId,
    /// Its fence.
    pub fence: Fence,
}

const HEADER: &str = "attempt.json";
const RECORDS: &str = "records.jsonl";
const DELIVERED: &str = "delivered";
/// A few minutes of points and lines.
const PROBE_BYTES: usize = 1 << 20;

/// The folder of all spools of a worker, held by one process at a time.
#[derive(Debug, Clone)]
pub struct SpoolRoot {
    folder: PathBuf,
    _lock: std::sync::Arc<File>,
}

impl SpoolRoot {
    /// Opens the folder and locks it for this process.
    ///
    /// # Errors
    /// When it cannot be made or written, or another worker holds it.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("state_dir {}: {error}", state_dir.display()));
        fs::create_dir_all(state_dir.join("spool")).map_err(named)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(state_dir.join("worker.lock"))
            .map_err(named)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: state_dir.to_owned(), _lock: std::sync::Arc::new(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("state_dir {}: another worker uses it; give each worker its own", state_dir.display()),
            )),
            Err(fs::TryLockError::Error(error)) => Err(named(error)),
        }
    }

    /// Whether the disk takes anything at all: an attempt that cannot spool must not be begun.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.folder.join("probe");
        let written = fs::write(&path, [0; PROBE_BYTES]);
        let _ = fs::remove_file(&path);
        written.map_err(|error| io::Error::new(error.kind(), format!("state_dir {}: {error}", self.folder.display())))
    }

    /// Begins the spool of a new attempt.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(&self, header: &Header) -> io::Result<SpoolWriter> {
        let folder = self.folder.join("spool").join(header.attempt_id.to_string());
        let begin = || {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(HEADER), serde_json::to_vec(header)?)?;
            SpoolWriter::open(folder.clone())
        };
        begin().map_err(|error| {
            // Half a spool is none.
            let _ = fs::remove_dir_all(&folder);
            io::Error::new(error.kind(), format!("state_dir {}: {error}", self.folder.display()))
        })
    }

    /// The spools that an earlier process left, oldest attempt first. A folder without a readable header is set
    /// aside.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn left_behind(&self) -> io::Result<Vec<(Header, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.folder.join("spool"))? {
            let folder = entry?.path();
            let header = fs::read(folder.join(HEADER)).map(|bytes| serde_json::from_slice(&bytes));
            match header {
                Ok(Ok(header)) => found.push((header, folder)),
                _ => {
                    tracing::warn!(folder = %folder.display(), "the spool has no readable header and is set aside");
                    self.set_aside(&folder, "unreadable")?;
                }
            }
        }
        found.sort_by_key(|(header, _): &(Header, PathBuf)| header.attempt_id);
        Ok(found)
    }

    /// Moves a spool that will not be delivered to `<why>/` beside the spools.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn set_aside(&self, folder: &Path, why: &str) -> io::Result<()> {
        let aside = self.folder.join(why);
        fs::create_dir_all(&aside)?;
        let target = aside.join(folder.file_name().unwrap_or_default());
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::rename(folder, target)
    }
}

/// Appends records to one spool.
#[derive(Debug)]
pub struct SpoolWriter {
    folder: PathBuf,
    file: File,
    /// Bytes of whole records.
    bytes: u64,
    /// Whether something else may lie behind them.
    is_torn: bool,
}

impl SpoolWriter {
    /// Opens a spool to append; a record that was cut short by a crash is taken off.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let path = folder.join(RECORDS);
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        let bytes = whole_bytes(&mut file)?;
        file.set_len(bytes)?;
        file.seek(SeekFrom::Start(bytes))?;
        Ok(Self { folder, file, bytes, is_torn: false })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends one record and answers with the bytes of all. After an error the spool is as before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, record: &Record) -> io::Result<u64> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        // A disk that refused may have taken half a line, and may have refused to take it off again.
        if self.is_torn {
            self.take_off()?;
        }
        let written =
            self.file.write_all(&line).and_then(|()| if record.is_durable() { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            self.is_torn = true;
            let _ = self.take_off();
            return Err(error);
        }
        self.bytes += line.len() as u64;
        Ok(self.bytes)
    }

    fn take_off(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        self.is_torn = false;
        Ok(())
    }

    /// Bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Length of the file up to the end of its last whole line.
fn whole_bytes(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let (mut whole, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line)?;
        if n == 0 || line.last() != Some(&b'\n') {
            return Ok(whole);
        }
        whole += n as u64;
    }
}

/// Reads the records of one spool that are not yet delivered.
#[derive(Debug)]
pub struct SpoolReader {
    folder: PathBuf,
    file: BufReader<File>,
    /// Bytes delivered.
    delivered: u64,
}

impl SpoolReader {
    /// Opens a spool behind what was delivered before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let mut file = File::open(folder.join(RECORDS))?;
        // A mark that outlived its records (the machine lost its cache) means: deliver all of it again.
        let end = file.metadata().map_or(0, |meta| meta.len());
        let delivered = Some(delivered(&folder)).filter(|&at| at <= end).unwrap_or(0);
        file.seek(SeekFrom::Start(delivered))?;
        Ok(Self { folder, file: BufReader::new(file), delivered })
    }

    /// The next record and the position behind it; none where the last whole record was read.
    ///
    /// # Errors
    /// When the disk refuses, or a line is no record.
    pub fn record_next(&mut self) -> io::Result<Option<(Record, u64)>> {
        let mut line = Vec::new();
        let at = self.delivered;
        self.file.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            self.file.seek(SeekFrom::Start(at))?;
            return Ok(None);
        }
        let record = serde_json::from_slice(&line)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("record at byte {at}: {error}")))?;
        Ok(Some((record, at + line.len() as u64)))
    }

    /// Marks everything before `position` as delivered.
    ///
    /// # Errors
    /// When the disk refuses; the record is then delivered again after a restart, which is harmless.
    pub fn delivered(&mut self, position: u64) -> io::Result<()> {
        self.delivered = position;
        let new = self.folder.join("delivered.new");
        fs::write(&new, position.to_string())?;
        fs::rename(new, self.folder.join(DELIVERED))
    }

    /// Bytes delivered.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.delivered
    }
}

/// Bytes of a spool that are marked as delivered; 0 where the mark cannot be read.
#[must_use]
pub fn delivered(folder: &Path) -> u64 {
    fs::read_to_string(folder.join(DELIVERED)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether the last whole record of a spool is its end.
///
/// # Errors
/// When the spool cannot be read.
pub fn is_complete(folder: &Path) -> io::Result<bool> {
    let mut last = None;
    for line in BufReader::new(File::open(folder.join(RECORDS))?).split(b'\n') {
        let line = line?;
        if !line.is_empty() {
            last = Some(line);
        }
    }
    let record = last.and_then(|line| serde_json::from_slice::<Record>(&line).ok());
    Ok(matches!(record, Some(Record::Complete(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::{
        job::{EndedOutcome, Outcome, TerminationReason},
        worker::LogLine,
    };

    fn header() -> Header {
        Header { attempt_id: AttemptId::new(), job_id: JobId::new(), fence: Fence(3) }
    }

    fn log(line_first: u64) -> Record {
        let line =
            LogLine { at_ms: 1, level: "info".into(), text: "改行\nと \"引用\"".into(), said: None, event: None };
        Record::Logs(LogBatch { fence: Fence(3), line_first, lines: vec![line] })
    }

    fn complete() -> Record {
        let outcome = Outcome::Ended(EndedOutcome::new(TerminationReason::Released, "stop"));
        Record::Complete(CompleteAttempt { fence: Fence(3), outcome, time: None })
    }

    fn read_all(folder: &Path) -> Vec<Record> {
        let mut reader = SpoolReader::open(folder.to_owned()).unwrap();
        let mut records = Vec::new();
        while let Some((record, position)) = reader.record_next().unwrap() {
            reader.delivered(position).unwrap();
            records.push(record);
        }
        records
    }

    #[test]
    fn records_come_back_in_order_and_once() {
        let home = tempfile::tempdir().unwrap();
        let mut writer = SpoolRoot::open(home.path()).unwrap().begin(&header()).unwrap();
        for n in 0..5 {
            writer.append(&log(n)).unwrap();
        }
        assert_eq!(read_all(writer.folder()), (0..5).map(log).collect::<Vec<_>>());
        assert_eq!(read_all(writer.folder()), []);
        writer.append(&complete()).unwrap();
        assert_eq!(read_all(writer.folder()), [complete()]);
        assert!(is_complete(writer.folder()).unwrap());
    }

    #[test]
    fn a_record_cut_short_by_a_crash_is_taken_off() {
        let home = tempfile::tempdir().unwrap();
        let mut writer = SpoolRoot::open(home.path()).unwrap().begin(&header()).unwrap();
        writer.append(&log(0)).unwrap();
        let folder = writer.folder().to_owned();
        drop(writer);
        let mut file = OpenOptions::new().append(true).open(folder.join(RECORDS)).unwrap();
        file.write_all(b"{\"record\":\"lo").unwrap();
        assert_eq!(read_all(&folder), [log(0)], "half a record is not read");
        SpoolWriter::open(folder.clone()).unwrap().append(&log(1)).unwrap();
        assert_eq!(read_all(&folder), [log(1)]);
    }

    #[test]
    fn a_restart_finds_the_spools_left_behind_oldest_first() {
        let home = tempfile::tempdir().unwrap();
        let headers = [header(), header()];
        {
            let root = SpoolRoot::open(home.path()).unwrap();
            for header in headers.iter().rev() {
                root.begin(header).unwrap().append(&log(0)).unwrap();
            }
        }
        fs::create_dir(home.path().join("spool/garbage")).unwrap();
        let root = SpoolRoot::open(home.path()).unwrap();
        let found: Vec<_> = root.left_behind().unwrap().into_iter().map(|(header, _)| header).collect();
        assert_eq!(found, headers);
        assert!(home.path().join("unreadable/garbage").exists());
    }

    #[test]
    fn two_workers_cannot_share_a_state_folder() {
        let home = tempfile::tempdir().unwrap();
        let _first = SpoolRoot::open(home.path()).unwrap();
        let error = SpoolRoot::open(home.path()).expect_err("the second worker was let in");
        assert!(error.to_string().contains("another worker"), "{error}");
    }

    #[test]
    fn a_fenced_spool_is_set_aside_whole() {
        let home = tempfile::tempdir().unwrap();
        let root = SpoolRoot::open(home.path()).unwrap();
        let header = header();
        let mut writer = root.begin(&header).unwrap();
        writer.append(&log(0)).unwrap();
        root.set_aside(writer.folder(), "fenced").unwrap();
        assert!(root.left_behind().unwrap().is_empty());
        assert!(home.path().join("fenced").join(header.attempt_id.to_string()).join(RECORDS).exists());
    }
}
