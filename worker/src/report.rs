//! What a job says while it runs, and how it hears commands: the attempt's side of the bridge.
//!
//! Never blocks the job: everything goes into a channel.

use crate::{
    board::{Progress, Seat},
    scribe::{Item, Point},
    spool::Record,
};
use senmon_protocol::{
    ids::Fence,
    job::WrittenCheckpoint,
    worker::{AttemptStarted, Command, CommitCheckpoint, LogLine},
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

    /// What the attempt shall do now.
    #[must_use]
    pub fn command(&self) -> Command {
        *self.commands.borrow()
    }

    /// How far it is.
    pub fn progress(&self, progress: Progress) {
        self.seat.set_progress(progress);
    }

    /// Where training starts.
    pub fn started(&self, step_start: u64, resume_verified: Option<bool>) {
        self.record(Record::Started(AttemptStarted { fence: self.fence, step_start, resume_verified }));
    }

    /// Metrics of one step.
    pub fn point(&self, point: Point) {
        self.send(Item::Point(point));
    }

    /// A line for people: `info`, `warn` or `error`.
    pub fn log(&self, level: &str, text: &str) {
        let at_ms = chrono::Utc::now().timestamp_millis();
        self.send(Item::Line(LogLine { at_ms, level: level.to_owned(), text: text.to_owned() }));
    }

    /// A checkpoint whose folder is complete.
    pub fn checkpoint(&self, checkpoint: WrittenCheckpoint) {
        self.record(Record::Checkpoint(CommitCheckpoint { fence: self.fence, checkpoint }));
    }

    /// Any record.
    pub fn record(&self, record: Record) {
        self.send(Item::Record(Box::new(record)));
    }

    fn send(&self, item: Item) {
        // The scribe outlives every report of its attempt, unless it panicked; then the lease runs out.
        if self.items.send(item).is_err() {
            tracing::error!(attempt.id = %self.seat.attempt_id, "the attempt's spool is gone");
        }
    }
}
