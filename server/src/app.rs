//! What every request and every loop shares.

use crate::{config::Config, storage::Storage, tasks::pace::Paces};
use chrono::{DateTime, Utc};
use senmon_protocol::{ids::WorkerId, view::StreamMessage};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, broadcast, watch};

/// Shared state; cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// Postgres.
    pub db: PgPool,
    /// The object store.
    pub storage: Storage,
    /// Settings.
    pub config: Arc<Config>,
    /// Signals to the loops and to waiting polls.
    pub wake: Wake,
    /// Workers that wait for work right now.
    pub polls: Polls,
    /// How fast workers train beside each other.
    pub paces: Paces,
    /// Hints to the dashboards.
    pub stream: broadcast::Sender<StreamMessage>,
    /// True when the server stops: what waits or streams ends at once.
    pub stopping: watch::Receiver<bool>,
    /// When this server began to listen, by the database.
    pub since: DateTime<Utc>,
}

/// Signals: each wakes a loop before its period is over.
#[derive(Debug, Clone, Default)]
pub struct Wake {
    /// Corpora wait for their scan.
    pub scan: Arc<Notify>,
    /// Fits wait.
    pub discover: Arc<Notify>,
    /// An experiment may go on.
    pub advance: Arc<Notify>,
    /// Jobs or slots are free.
    pub schedule: Arc<Notify>,
    /// A checkpoint is in doubt.
    pub scrub: Arc<Notify>,
    /// Jobs were granted: polls look again.
    pub granted: Arc<Notify>,
}

/// Polls that wait right now, with the slots that each called free. Jobs go only where somebody waits for them: a
/// worker that stops, or whose old process still holds a slot, is given none.
#[derive(Debug, Clone, Default)]
pub struct Polls(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// By worker: number of its poll, and the slots that are free.
    polls: HashMap<WorkerId, (u64, Vec<u16>)>,
    /// When an attempt of it last ended.
    freed: HashMap<WorkerId, Instant>,
}

/// A worker asks for work within so long after an attempt ended, or its slot is not free after all.
const ASKS_WITHIN: Duration = Duration::from_secs(10);

/// One poll that waits; over when dropped, also when the worker hangs up.
#[derive(Debug)]
pub struct WaitingPoll {
    polls: Polls,
    worker: WorkerId,
    ticket: u64,
}

impl Polls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker begins to wait; a poll of the same worker before it no longer counts.
    #[must_use]
    pub fn wait(&self, worker: WorkerId, slots_free: &[u16]) -> WaitingPoll {
        let mut waiting = self.lock();
        let ticket = waiting.polls.get(&worker).map_or(0, |(ticket, _)| ticket + 1);
        waiting.polls.insert(worker, (ticket, slots_free.to_vec()));
        WaitingPoll { polls: self.clone(), worker, ticket }
    }

    /// A worker said that an attempt of its is over: its slots are free, although the poll that waits began before.
    pub fn freed(&self, worker: WorkerId, slots: &[u16]) {
        let mut waiting = self.lock();
        waiting.freed.insert(worker, Instant::now());
        if let Some((_, free)) = waiting.polls.get_mut(&worker) {
            free.extend(slots);
        }
    }

    /// Whether an attempt of the worker ended just now: it is about to ask for another.
    #[must_use]
    pub fn freed_lately(&self, worker: WorkerId) -> bool {
        self.lock().freed.get(&worker).is_some_and(|at| at.elapsed() < ASKS_WITHIN)
    }

    /// Slots that a waiting worker called free; none of a worker that does not wait.
    #[must_use]
    pub fn slots_free(&self, worker: WorkerId) -> Vec<u16> {
        self.lock().polls.get(&worker).map(|(_, slots)| slots.clone()).unwrap_or_default()
    }
}

impl Drop for WaitingPoll {
    fn drop(&mut self) {
        let mut waiting = self.polls.lock();
        if waiting.polls.get(&self.worker).is_some_and(|(ticket, _)| *ticket == self.ticket) {
            waiting.polls.remove(&self.worker);
        }
    }
}

impl App {
    /// Sends a hint to the dashboards; nobody may be listening.
    pub fn hint(&self, message: StreamMessage) {
        let _ = self.stream.send(message);
    }

    /// Writes an event down and shows it.
    pub async fn event(&self, event: crate::db::events::NewEvent) {
        match crate::db::events::insert(&self.db, &event).await {
            Ok(view) => self.hint(StreamMessage::Event(view)),
            Err(error) => tracing::error!(event.kind, %error, "could not write an event down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_worker_that_waits_has_free_slots() {
        let (polls, worker) = (Polls::default(), WorkerId::new());
        let first = polls.wait(worker, &[0, 1]);
        let second = polls.wait(worker, &[1]);
        drop(first);
        polls.freed(WorkerId::new(), &[7]);
        assert_eq!(polls.slots_free(worker), [1], "the older poll's end changed the newer one");
        polls.freed(worker, &[0]);
        assert_eq!(polls.slots_free(worker), [1, 0]);
        drop(second);
        assert_eq!(polls.slots_free(worker), [0; 0]);
    }
}
