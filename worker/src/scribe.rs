//! Writes what an attempt reports into its spool, on a thread of its own: points and log lines gathered into
//! batches, everything in the order in which it was said. The training thread never waits for a disk.
//!
//! Never loses what it was given while the process lives: when the disk refuses, it keeps everything and tries again.

use crate::spool::{Record, SpoolWriter};
use senmon_protocol::{
    ids::Fence,
    job::Outcome,
    said, storable,
    worker::{CompleteAttempt, LINE_CHARS_MAX, LineEvent, LogBatch, LogLine, MetricBatch},
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Half a second: live curves feel live, and a fast loop makes two requests a second, not two hundred.
const BATCH_AGE_MAX: Duration = Duration::from_millis(500);
/// 64 points keep a batch near 4 KiB.
const BATCH_POINTS_MAX: usize = 64;
/// Pause after the disk refused.
const RETRY: Duration = Duration::from_secs(1);

/// Metrics of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Optimiser step.
    pub step: u64,
    /// Tokens of the branch.
    pub tokens: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Values by metric name; none where not finite.
    pub values: BTreeMap<String, Option<f64>>,
}

/// What the scribe is given.
#[derive(Debug)]
pub enum Item {
    /// A metric point.
    Point(Point),
    /// A log line.
    Line(LogLine),
    /// A record that is whole already.
    Record(Box<Record>),
}

/// The scribe of one attempt.
#[derive(Debug)]
pub struct Scribe {
    items: mpsc::Sender<Item>,
    written: watch::Receiver<u64>,
    thread: JoinHandle<()>,
}

impl Scribe {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(writer: SpoolWriter, fence: Fence, name: &str) -> io::Result<Self> {
        let (items, inbox) = mpsc::channel();
        let (bytes, written) = watch::channel(writer.bytes());
        let desk = Desk {
            writer,
            fence,
            bytes,
            ready: VecDeque::new(),
            points: vec![],
            lines: vec![],
            line_next: 0,
            opened: None,
            step: 0,
            refused: None,
        };
        let thread = std::thread::Builder::new().name(format!("spool {name}")).spawn(move || desk.run(&inbox))?;
        Ok(Self { items, written, thread })
    }

    /// Where to send what is to be written. The order of sending is the order of writing.
    #[must_use]
    pub fn items(&self) -> mpsc::Sender<Item> {
        self.items.clone()
    }

    /// Bytes in the spool, for the courier.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// Waits until everything sent so far lies in the spool. All other senders must be gone.
    pub fn finish(self) {
        drop(self.items);
        if self.thread.join().is_err() {
            tracing::error!("the spool's thread panicked");
        }
    }
}

struct Desk {
    writer: SpoolWriter,
    fence: Fence,
    bytes: watch::Sender<u64>,
    /// Whole records that are not yet on the disk.
    ready: VecDeque<Record>,
    points: Vec<Point>,
    lines: Vec<LogLine>,
    line_next: u64,
    /// When the oldest gathered point or line came.
    opened: Option<Instant>,
    /// Step of the last point.
    step: u64,
    /// When the disk refused last; none while it takes what it is given.
    refused: Option<Instant>,
}

impl Desk {
    fn run(mut self, inbox: &mpsc::Receiver<Item>) {
        loop {
            let wait = if self.ready.is_empty() {
                self.opened.map_or(Duration::from_secs(3600), |at| BATCH_AGE_MAX.saturating_sub(at.elapsed()))
            } else {
                RETRY
            };
            match inbox.recv_timeout(wait) {
                Ok(item) => self.take(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.opened.is_some_and(|at| at.elapsed() >= BATCH_AGE_MAX) {
                self.close_batches();
            }
            self.write();
        }
        self.close_batches();
        while !self.write() {
            std::thread::sleep(RETRY);
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Point(point) => {
                // Steps ascend within a batch; a step that goes back opens a new one.
                if self.points.last().is_some_and(|last| last.step >= point.step) {
                    self.close_batches();
                }
                self.step = point.step;
                self.points.push(point);
            }
            Item::Line(line) => {
                let text: String = line.text.chars().take(LINE_CHARS_MAX).collect();
                self.lines.push(LogLine { text: storable(&text), ..line });
            }
            Item::Record(mut record) => {
                if let Record::Complete(CompleteAttempt { outcome: Outcome::Ended(ended), .. }) = &mut *record {
                    ended.message = storable(&ended.message);
                }
                self.close_batches();
                self.ready.push_back(*record);
                return;
            }
        }
        self.opened.get_or_insert_with(Instant::now);
        if self.points.len() >= BATCH_POINTS_MAX || self.lines.len() >= BATCH_POINTS_MAX {
            self.close_batches();
        }
    }

    fn close_batches(&mut self) {
        self.opened = None;
        if !self.points.is_empty() {
            self.ready.push_back(Record::Metrics(batch(self.fence, &std::mem::take(&mut self.points))));
        }
        if !self.lines.is_empty() {
            let lines = std::mem::take(&mut self.lines);
            let line_first = self.line_next;
            self.line_next += lines.len() as u64;
            self.ready.push_back(Record::Logs(LogBatch { fence: self.fence, line_first, lines }));
        }
    }

    /// Writes what is ready; whether all of it lies in the spool now.
    fn write(&mut self) -> bool {
        if self.refused.is_some_and(|at| at.elapsed() < RETRY) {
            return self.ready.is_empty();
        }
        while let Some(record) = self.ready.front() {
            match self.writer.append(record) {
                Ok(bytes) => {
                    self.ready.pop_front();
                    self.bytes.send_replace(bytes);
                }
                Err(error) => {
                    self.refused(&error);
                    return false;
                }
            }
        }
        self.refused = None;
        true
    }

    /// Says once an outage of the disk what goes on, also to the people who will read the branch's log.
    fn refused(&mut self, error: &io::Error) {
        let (folder, kept) = (self.writer.folder().display(), self.ready.len());
        if self.refused.replace(Instant::now()).is_some() {
            tracing::debug!(%error, %folder, kept, "the spool's disk still refuses");
            return;
        }
        tracing::error!(%error, %folder, kept, "the spool's disk refuses; training goes on and its reports are kept in memory");
        let said = said!("spool_refused", error = error.to_string());
        let event = Some(LineEvent { kind: "spool_refused".into(), step: self.step, batch: None });
        let (at_ms, text) = (chrono::Utc::now().timestamp_millis(), said.text());
        self.lines.push(LogLine { at_ms, level: "warn".into(), text, said: Some(said), event });
        self.opened.get_or_insert_with(Instant::now);
    }
}

/// Points as columns; a metric that a point lacks, or that is not finite, is null there.
fn batch(fence: Fence, points: &[Point]) -> MetricBatch {
    let mut series: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    for (row, point) in points.iter().enumerate() {
        for (name, value) in &point.values {
            let column = series.entry(name.clone()).or_insert_with(|| vec![None; points.len()]);
            column[row] = value.filter(|value| value.is_finite());
        }
    }
    MetricBatch {
        fence,
        steps: points.iter().map(|point| point.step).collect(),
        tokens: points.iter().map(|point| point.tokens).collect(),
        at_ms: points.iter().map(|point| point.at_ms).collect(),
        series,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Header, SpoolReader, SpoolRoot};
    use senmon_protocol::{
        ids::{AttemptId, JobId},
        job::{EndedOutcome, TerminationReason},
    };

    fn point(step: u64, loss: f64) -> Item {
        Item::Point(Point {
            step,
            tokens: step * 10,
            at_ms: 0,
            values: BTreeMap::from([("train/loss".into(), Some(loss))]),
        })
    }

    fn write(items: Vec<Item>) -> Vec<Record> {
        let home = tempfile::tempdir().unwrap();
        let header = Header { attempt_id: AttemptId::new(), job_id: JobId::new(), fence: Fence(1) };
        let writer = SpoolRoot::open(home.path()).unwrap().begin(&header).unwrap();
        let folder = writer.folder().to_owned();
        let scribe = Scribe::start(writer, Fence(1), "test").unwrap();
        let sender = scribe.items();
        for item in items {
            sender.send(item).unwrap();
        }
        drop(sender);
        scribe.finish();
        let mut reader = SpoolReader::open(folder).unwrap();
        let mut records = vec![];
        while let Some((record, position)) = reader.record_next().unwrap() {
            reader.delivered(position).unwrap();
            records.push(record);
        }
        records
    }

    fn steps(records: &[Record]) -> Vec<Vec<u64>> {
        records
            .iter()
            .filter_map(|record| if let Record::Metrics(batch) = record { Some(batch.steps.clone()) } else { None })
            .collect()
    }

    #[test]
    fn points_are_gathered_into_batches_of_64() {
        let records = write((0..100).map(|step| point(step, 1.0)).collect());
        assert_eq!(steps(&records), [(0..64).collect::<Vec<_>>(), (64..100).collect()]);
    }

    #[test]
    fn a_record_comes_after_every_point_said_before_it() {
        let started = senmon_protocol::worker::AttemptStarted { fence: Fence(1), step_start: 0, resume_verified: None };
        let records = write(vec![point(1, 1.0), Item::Record(Box::new(Record::Started(started))), point(2, 1.0)]);
        let names: Vec<_> = records.iter().map(Record::name).collect();
        assert_eq!(names, ["metrics", "started", "metrics"]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_null() {
        let records = write(vec![point(1, f64::NAN), point(2, 2.0)]);
        let Record::Metrics(batch) = &records[0] else { panic!("{records:?}") };
        assert_eq!(batch.series["train/loss"], [None, Some(2.0)]);
    }

    #[test]
    fn steps_ascend_within_a_batch() {
        assert_eq!(steps(&write(vec![point(5, 1.0), point(6, 1.0), point(6, 1.0)])), [vec![5, 6], vec![6]]);
    }

    #[test]
    fn what_no_database_can_store_is_replaced() {
        let ended = EndedOutcome::new(TerminationReason::CorruptData, "found \0PK");
        let complete = CompleteAttempt { fence: Fence(1), outcome: Outcome::Ended(ended), time: None };
        let line = LogLine { at_ms: 0, level: "info".into(), text: "\0 read".into(), said: None, event: None };
        let records = write(vec![Item::Line(line), Item::Record(Box::new(Record::Complete(complete)))]);
        let written = serde_json::to_string(&records).unwrap();
        assert!(!written.contains("\\u0000") && written.contains("\u{fffd}PK"), "{written}");
    }

    #[test]
    fn log_lines_are_numbered_through() {
        let line = |text: &str| {
            Item::Line(LogLine { at_ms: 0, level: "info".into(), text: text.into(), said: None, event: None })
        };
        let records = write((0..70).map(|n| line(&n.to_string())).collect());
        let firsts: Vec<_> = records
            .iter()
            .filter_map(|record| if let Record::Logs(batch) = record { Some(batch.line_first) } else { None })
            .collect();
        assert_eq!(firsts, [0, 64]);
    }
}
