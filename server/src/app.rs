//! What every request and every loop shares.

use crate::{config::Config, domain::lease::Listening, storage::Storage, usage::Counter};
use chrono::{DateTime, TimeDelta, Utc};
use senmon_protocol::{ids::WorkerId, view::StreamMessage};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, broadcast, watch};

/// Shared state; cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// Postgres.
    pub db: PgPool,
    /// The object store.
    pub storage: Storage,
    /// How much it holds.
    pub usage: Counter,
    /// Settings.
    pub config: Arc<Config>,
    /// Signals to the loops and to waiting polls.
    pub wake: Wake,
    /// Workers that wait for work right now.
    pub polls: Polls,
    /// Hints to the dashboards.
    pub stream: broadcast::Sender<StreamMessage>,
    /// True when the server stops: what waits or streams ends at once.
    pub stopping: watch::Receiver<bool>,
    /// Since when this server hears its workers without a break.
    pub listening: Arc<Mutex<Listening>>,
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

/// By worker: number of its poll, and the slots that are free.
type Waiting = HashMap<WorkerId, (u64, Vec<u16>)>;

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
        let mut polls = self.lock();
        let ticket = polls.get(&worker).map_or(0, |(ticket, _)| ticket + 1);
        polls.insert(worker, (ticket, slots_free.to_vec()));
        WaitingPoll { polls: self.clone(), worker, ticket }
    }

    /// A worker said that an attempt of its is over: its slots are free, although the poll that waits began before.
    pub fn freed(&self, worker: WorkerId, slots: &[u16]) {
        if let Some((_, free)) = self.lock().get_mut(&worker) {
            free.extend(slots);
        }
    }

    /// Slots that a waiting worker called free; none of a worker that does not wait.
    #[must_use]
    pub fn slots_free(&self, worker: WorkerId) -> Vec<u16> {
        self.lock().get(&worker).map(|(_, slots)| slots.clone()).unwrap_or_default()
    }
}

impl Drop for WaitingPoll {
    fn drop(&mut self) {
        let mut polls = self.polls.lock();
        if polls.get(&self.worker).is_some_and(|(ticket, _)| *ticket == self.ticket) {
            polls.remove(&self.worker);
        }
    }
}

impl App {
    /// Since when this server hears its workers, by its last look at the database's clock.
    #[must_use]
    pub fn since(&self) -> DateTime<Utc> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).since()
    }

    /// Notes that the database answered just now; since when this server hears its workers. A heartbeat that could not
    /// be heard is missed after a third of a lease; two seconds, because the loops have a pause of their own.
    pub fn listened(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let third = TimeDelta::milliseconds(i64::try_from(self.config.lease_ttl_ms / 3).unwrap_or(i64::MAX));
        let pause_max = third.max(TimeDelta::seconds(2));
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).look(now, pause_max)
    }

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
