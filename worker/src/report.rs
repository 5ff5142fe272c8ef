//! What a job says while it runs, and how it hears commands: the attempt's side of the bridge.
//!
//! Never blocks the job: everything goes into a channel.

use crate::{
    board::{Progress, Seat},
    scribe::{Item, Point},
    spool::Record,
};
use senmon_engine::{JobContext, MetricPoint, Phase, TrainingTime};
use senmon_protocol::{
    event::is_known,
    ids::{CheckpointId, Fence, StorageKey},
    job::WrittenCheckpoint,
    said::Said,
    worker::{AnnounceCheckpoint, AttemptStarted, Command, CommitCheckpoint, LineEvent, LogLine},
};
use std::sync::{Arc, mpsc};
use tokio::sync::watch;

/// The bridge of one attempt.
#[derive(Debug, Clone)]
pub struct Report {
    seat: Arc<Seat>,
    fence: Fence,
    items: mpsc::Sender<Item>,
    commands: watch::Receiver<Command>,
}

impl Report {
    /// A bridge from the attempt on `seat` to its scribe.
    #[must_use]
    pub fn new(seat: Arc<Seat>, fence: Fence, items: mpsc::Sender<Item>) -> Self {
        let commands = seat.commands();
        Self { seat, fence, items, commands }
    }

    /// Any record.
    pub fn record(&self, record: Record) {
        self.send(Item::Record(Box::new(record)));
    }

    fn line(&self, level: &str, said: Said, event: LineEvent) {
        debug_assert!(is_known(&event.kind), "{} is not in the list of protocol::event", event.kind);
        let (level, text, event) = (level.to_owned(), said.text(), Some(event));
        self.send(Item::Line(LogLine { at_ms: now_ms(), level, text, said: Some(said), event }));
    }

    fn send(&self, item: Item) {
        // The scribe outlives every report of its attempt, unless it panicked; then the lease runs out.
        if self.items.send(item).is_err() {
            tracing::error!(attempt.id = %self.seat.attempt_id, "the attempt's spool is gone");
        }
    }
}

impl JobContext for Report {
    fn started(&self, step_start: u64, resume_verified: Option<bool>) {
        self.record(Record::Started(AttemptStarted { fence: self.fence, step_start, resume_verified }));
    }

    fn metrics(&self, point: MetricPoint) {
        let MetricPoint { step, tokens, values } = point;
        self.send(Item::Point(Point { step, tokens, at_ms: now_ms(), values }));
    }

    fn log(&self, level: &str, text: &str) {
        let (level, text) = (level.to_owned(), text.to_owned());
        self.send(Item::Line(LogLine { at_ms: now_ms(), level, text, said: None, event: None }));
    }

    fn event(&self, kind: &str, step: u64, level: &str, said: Said) {
        self.line(level, said, LineEvent { kind: kind.to_owned(), step, batch: None });
    }

    fn leaves_out(&self, kind: &str, step: u64, batch: u64, said: Said) {
        self.line("warn", said, LineEvent { kind: kind.to_owned(), step, batch: Some(batch) });
    }

    fn training_time(&self, spent: TrainingTime) {
        self.seat.set_training_time(spent);
    }

    fn progress(&self, done: u64, total: u64, tokens_per_second: f64) {
        self.seat.set_progress(Progress { done, total, tokens_per_second });
        self.seat.alive();
    }

    fn pulse(&self, next: Phase) {
        self.seat.pulse(next);
    }

    fn alive(&self) {
        self.seat.alive();
    }

    fn command(&self) -> Command {
        *self.commands.borrow()
    }

    fn announce(&self, id: CheckpointId, folder: &StorageKey, step: u64) {
        self.record(Record::Announce(AnnounceCheckpoint { fence: self.fence, id, folder: folder.clone(), step }));
    }

    fn commit(&self, checkpoint: WrittenCheckpoint) {
        self.record(Record::Checkpoint(CommitCheckpoint { fence: self.fence, checkpoint }));
    }
}

/// Milliseconds since the Unix epoch: shown to people, never decided upon.
pub(crate) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
