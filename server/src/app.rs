//! What every request and every loop shares.

use crate::{
    config::Config,
    disk::Disk,
    domain::lease::{Listening, Patience},
    forecasts::Forecasts,
    heavy::Heavy,
    ingest::Ingest,
    keys::Keys,
    known::Known,
    limits::Limits,
    logins::Logins,
    mail::Mail,
    outgoing::Outgoing,
    paces::Paces,
    storage::Storage,
    tasks::supervise::Loops,
    usage::Counter,
};
use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use senmon_corpus::roots::Roots;
use senmon_protocol::{
    ids::{AttemptId, WorkerId},
    job::Grant,
    view::StreamMessage,
};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore, broadcast, watch};

/// The shared state. Every layer of every request has a clone: it is one pointer.
#[derive(Debug, Clone)]
pub struct App(Arc<Shared>);

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What requests and loops share.
#[derive(Debug)]
pub struct Shared {
    /// Postgres.
    pub db: PgPool,
    /// The object store.
    pub storage: Storage,
    /// How much it holds.
    pub usage: Counter,
    /// How full the disks are.
    pub disk: Disk,
    /// Settings.
    pub config: Arc<Config>,
    /// Where corpora, tokenizers and seeds may be read.
    pub roots: Roots,
    /// All names of those folders, for workers.
    pub root_names: Arc<[String]>,
    /// Signals to the loops and to waiting polls.
    pub wake: Wake,
    /// Workers that wait for work right now.
    pub polls: Polls,
    /// The way of metric batches and heartbeats into the database.
    pub ingest: Ingest,
    /// Workers that enrol at once: a fleet that arrives leaves the database's connections to those that work.
    pub enrolling: Semaphore,
    /// Who asked a moment ago.
    pub known: Known,
    /// Commands that wait for somebody's approval.
    pub logins: Logins,
    /// How much one token and one address may ask.
    pub limits: Limits,
    /// Keys of requests that may come twice.
    pub keys: Keys,
    /// Where work that costs is done.
    pub heavy: Heavy,
    /// The way out.
    pub outgoing: Outgoing,
    /// The way to the mail server, where there is one.
    pub mail: Option<Mail>,
    /// How the server's own loops fare.
    pub loops: Loops,
    /// How fast workers train beside each other.
    pub paces: Paces,
    /// When experiments end.
    pub forecasts: Forecasts,
    /// Hints to the dashboards.
    pub stream: broadcast::Sender<StreamMessage>,
    /// True when the server stops: what waits or streams ends at once.
    pub stopping: watch::Receiver<bool>,
    /// Since when this server hears its workers without a break.
    pub listening: Mutex<Listening>,
}

/// Workers that enrol at once; one takes a few milliseconds.
const ENROLLING_MAX: usize = 4;
/// Messages that a slow dashboard may lag behind.
const STREAM_MESSAGES: usize = 1024;

impl App {
    /// What requests and loops share over a database, from now on. Nothing runs yet but what ingests.
    ///
    /// # Errors
    /// When the store does not open, or the database does not answer.
    pub async fn open(config: Config, db: PgPool, disk: Disk, stopping: watch::Receiver<bool>) -> Result<Self> {
        let roots = Roots::new(&config.corpus_roots);
        Ok(Self(Arc::new(Shared {
            root_names: roots.names().into(),
            roots,
            limits: Limits::new(&config),
            heavy: Heavy::default(),
            outgoing: Outgoing::new(config.outgoing_private),
            mail: Mail::of(&config)?,
            loops: Loops::default(),
            storage: Storage::open(&config.store()?, &config.s3, config.data_dir.join("scratch")).await?,
            usage: Counter::default(),
            disk,
            listening: Mutex::new(Listening::begun(crate::db::workers::now(&db).await?)),
            wake: Wake::default(),
            polls: Polls::default(),
            enrolling: Semaphore::new(ENROLLING_MAX),
            ingest: Ingest::start(&db, config.lease_ttl_ms),
            known: Known::default(),
            logins: Logins::default(),
            keys: Keys::default(),
            paces: Paces::default(),
            forecasts: Forecasts::default(),
            db,
            stream: broadcast::channel(STREAM_MESSAGES).0,
            stopping,
            config: Arc::new(config),
        })))
    }
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
    /// A message waits to be sent.
    pub tell: Arc<Notify>,
}

/// Polls that wait right now, with the slots that each called free. Jobs go only where somebody waits for them: a
/// worker that stops, or whose old process still holds a slot, is given none.
#[derive(Debug, Clone, Default)]
pub struct Polls(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    seats: HashMap<WorkerId, Seat>,
    /// Grants whose poll hung up before it took them.
    missed: Vec<AttemptId>,
    /// When an attempt of a worker last ended.
    freed: HashMap<WorkerId, Instant>,
}

#[derive(Debug)]
struct Seat {
    /// Number of the worker's poll.
    ticket: u64,
    /// Slots that are free.
    slots: Vec<u16>,
    /// Grants that the poll has not taken yet.
    grants: Vec<Grant>,
    /// Rings when there are some.
    bell: Arc<Notify>,
}

/// A worker asks for work within so long after an attempt ended, or its slot is not free after all.
pub const ASKS_WITHIN: Duration = Duration::from_secs(10);

/// One poll that waits; over when dropped, also when the worker hangs up.
#[derive(Debug)]
pub struct WaitingPoll {
    polls: Polls,
    worker: WorkerId,
    ticket: u64,
    bell: Arc<Notify>,
}

impl Polls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker begins to wait; a poll of the same worker before it no longer counts, and leaves it what it was handed.
    #[must_use]
    pub fn wait(&self, worker: WorkerId, slots_free: &[u16]) -> WaitingPoll {
        let mut polls = self.lock();
        let before = polls.seats.remove(&worker);
        let (ticket, grants) = before.map_or((0, Vec::new()), |seat| (seat.ticket + 1, seat.grants));
        let bell = Arc::new(Notify::new());
        bell.notify_one();
        polls.seats.insert(worker, Seat { ticket, slots: slots_free.to_vec(), grants, bell: bell.clone() });
        WaitingPoll { polls: self.clone(), worker, ticket, bell }
    }

    /// A worker said that an attempt of its is over: its slots are free, although the poll that waits began before.
    pub fn freed(&self, worker: WorkerId, slots: &[u16]) {
        let mut polls = self.lock();
        polls.freed.insert(worker, Instant::now());
        if let Some(seat) = polls.seats.get_mut(&worker) {
            seat.slots.extend(slots);
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
        self.lock().seats.get(&worker).map(|seat| seat.slots.clone()).unwrap_or_default()
    }

    /// Workers that wait and called a slot free.
    #[must_use]
    pub fn workers_free(&self) -> Vec<WorkerId> {
        self.lock().seats.iter().filter(|(_, seat)| !seat.slots.is_empty()).map(|(worker, _)| *worker).collect()
    }

    /// Hands grants to the polls that wait for them; their slots are not free any more.
    pub fn hand(&self, grants: Vec<(WorkerId, Grant)>) {
        let mut polls = self.lock();
        for (worker, grant) in grants {
            let Some(seat) = polls.seats.get_mut(&worker) else {
                polls.missed.push(grant.attempt_id);
                continue;
            };
            seat.slots.retain(|slot| !grant.slots.contains(slot));
            seat.grants.push(grant);
            seat.bell.notify_one();
        }
    }

    /// Takes the grants that no poll took.
    #[must_use]
    pub fn missed(&self) -> Vec<AttemptId> {
        std::mem::take(&mut self.lock().missed)
    }
}

impl WaitingPoll {
    /// Waits until there may be grants.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Ends the wait: the grants that were handed over until now. None comes later.
    #[must_use]
    pub fn finish(self) -> Vec<Grant> {
        let mut polls = self.polls.lock();
        match polls.seats.get(&self.worker) {
            Some(seat) if seat.ticket == self.ticket => polls.seats.remove(&self.worker).map(|seat| seat.grants),
            _ => None,
        }
        .unwrap_or_default()
    }

    /// Whether grants were handed over.
    #[must_use]
    pub fn has_grants(&self) -> bool {
        self.polls
            .lock()
            .seats
            .get(&self.worker)
            .is_some_and(|seat| seat.ticket == self.ticket && !seat.grants.is_empty())
    }
}

impl Drop for WaitingPoll {
    fn drop(&mut self) {
        let mut polls = self.polls.lock();
        if polls.seats.get(&self.worker).is_some_and(|seat| seat.ticket == self.ticket)
            && let Some(seat) = polls.seats.remove(&self.worker)
        {
            polls.missed.extend(seat.grants.iter().map(|grant| grant.attempt_id));
        }
    }
}

/// Longest wait for the database to write an event down.
const EVENT_MAX: Duration = Duration::from_secs(10);

impl App {
    /// Since when this server hears its workers, by its last look at the database's clock.
    #[must_use]
    pub fn since(&self) -> DateTime<Utc> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).since()
    }

    /// When it gives a worker up.
    #[must_use]
    pub fn patience(&self) -> Patience {
        let ms = |value: u64| TimeDelta::milliseconds(i64::try_from(value).unwrap_or(i64::MAX));
        let (ttl, lost_after) = (ms(self.config.lease_ttl_ms), ms(self.config.worker_lost_ms));
        Patience { since: self.since(), ttl, lost_after }
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
        match crate::db::in_time(EVENT_MAX, crate::db::events::insert(&self.db, &event)).await {
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
