//! A worker's spool and its courier: records in order, each delivered until it is acknowledged. Follows
//! `senmon_worker::{scribe, spool, courier}`, whose records these are.

use super::{
    network::{Ask, Call, Failure, Reply},
    world::{Event, World},
};
use senmon_protocol::{
    ids::{AttemptId, Fence},
    job::{EndedOutcome, Outcome, TerminationReason},
    worker::{CompleteAttempt, MetricBatch},
};
use senmon_worker::{client::Backoff, lease::Standing, spool::Record};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

const PAUSE_MAX: Duration = Duration::from_secs(15);
const QUIET_LOOK_MS: u64 = 250;
const REQUEST_MS_MAX: u64 = 30_000;
const BATCH_POINTS_MAX: usize = 64;
const SCRIBE_RETRY_MS: u64 = 1_000;

/// What an attempt said and the disk has not.
#[derive(Debug, Default)]
pub struct Desk {
    points: Vec<(u64, u64, i64)>,
    opened: Option<u64>,
    ready: VecDeque<Record>,
}

impl Desk {
    /// A point of the curve: the loss is the state.
    pub fn point(&mut self, step: u64, state: u64, now: u64, wall_ms: i64) {
        self.opened.get_or_insert(now);
        self.points.push((step, state, i64::try_from(now).unwrap_or(0) + wall_ms));
    }

    fn close(&mut self, fence: Fence) {
        self.opened = None;
        if self.points.is_empty() {
            return;
        }
        let points = std::mem::take(&mut self.points);
        let loss = points.iter().map(|(_, state, _)| Some(loss(*state))).collect();
        self.ready.push_back(Record::Metrics(MetricBatch {
            fence,
            steps: points.iter().map(|point| point.0).collect(),
            tokens: points.iter().map(|point| point.0).collect(),
            at_ms: points.iter().map(|point| point.2).collect(),
            series: BTreeMap::from([("train/loss".to_owned(), loss)]),
        }));
    }
}

/// The loss that a state shows.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "53 bits of a hash")]
pub fn loss(state: u64) -> f64 {
    (state >> 11) as f64 / (1_u64 << 53) as f64
}

/// The spool of one attempt, on the disk, and its courier.
#[derive(Debug)]
pub struct Spool {
    /// The branch.
    pub branch: usize,
    /// The fence.
    pub fence: Fence,
    /// Whole records.
    pub records: Vec<Record>,
    /// How many are delivered.
    pub delivered: usize,
    flying: bool,
    refused: bool,
    pause: Backoff,
}

impl Spool {
    /// An empty one.
    #[must_use]
    pub fn new(branch: usize, fence: Fence, seed: u64) -> Self {
        let pause = Backoff::new(PAUSE_MAX, seed);
        Self { branch, fence, records: Vec::new(), delivered: 0, flying: false, refused: false, pause }
    }

    /// Another process opens it.
    pub fn reopen(&mut self, seed: u64) {
        (self.flying, self.refused, self.pause) = (false, false, Backoff::new(PAUSE_MAX, seed));
    }

    /// Whether its last record is the end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.records.last(), Some(Record::Complete(_)))
    }

    /// The machine lost its cache: what was not synced may be gone, from the end backwards, and so may the mark.
    pub fn lose_cache(&mut self, keep_more: usize, keeps_mark: bool) {
        let synced = self.records.iter().rposition(Record::is_durable).map_or(0, |last| last + 1);
        self.records.truncate(synced + keep_more);
        if !keeps_mark || self.delivered > self.records.len() {
            self.delivered = 0;
        }
    }
}

impl World {
    /// An attempt says something: in the order in which it was said.
    pub fn report(&mut self, w: usize, attempt: AttemptId, record: Record) {
        if let Some(seat) = self.workers[w].seats.get_mut(&attempt) {
            seat.desk.close(seat.fence);
            seat.desk.ready.push_back(record);
        }
        self.scribe(w, attempt);
    }

    /// Closes a batch that is old or full.
    pub fn age_batches(&mut self, w: usize, attempt: AttemptId, age_ms: u64) {
        let Some(seat) = self.workers[w].seats.get_mut(&attempt) else { return };
        let old = seat.desk.opened.is_some_and(|at| self.now - at >= age_ms);
        if old || seat.desk.points.len() >= BATCH_POINTS_MAX {
            seat.desk.close(seat.fence);
            self.scribe(w, attempt);
        }
    }

    /// Writes what is ready to the disk; what it refuses stays in memory.
    pub fn scribe(&mut self, w: usize, attempt: AttemptId) {
        let worker = &mut self.workers[w];
        let Some(seat) = worker.seats.get_mut(&attempt).filter(|seat| !seat.desk.ready.is_empty()) else { return };
        if worker.disk_full_until > self.now {
            let epoch = worker.epoch;
            return self.after(SCRIBE_RETRY_MS, Event::Scribe { w, epoch, attempt });
        }
        let ready = std::mem::take(&mut seat.desk.ready);
        if let Some(spool) = worker.spools.get_mut(&attempt) {
            spool.records.extend(ready);
            self.wake_courier(w, attempt, 0);
        }
    }

    /// A courier looks at its spool soon.
    pub fn wake_courier(&mut self, w: usize, attempt: AttemptId, ms: u64) {
        let epoch = self.workers[w].epoch;
        if self.workers[w].spools.get(&attempt).is_some_and(|spool| !spool.flying) {
            self.after(ms, Event::Courier { w, epoch, attempt });
        }
    }

    /// A courier looks at its spool.
    pub fn courier(&mut self, w: usize, attempt: AttemptId) {
        let (now, ttl_ms) = (self.now, self.set.ttl_ms);
        let worker = &mut self.workers[w];
        let seat = worker.seats.get(&attempt);
        let standing = seat.map_or(Standing::Held, |seat| seat.lease.standing(now));
        let renewed_ms = seat.map(|seat| seat.renewed_ms);
        let Some(spool) = worker.spools.get_mut(&attempt).filter(|spool| !spool.flying) else { return };
        match standing {
            Standing::Fenced => return self.put_aside(w, attempt),
            Standing::Quiet => return self.wake_courier(w, attempt, QUIET_LOOK_MS),
            Standing::Held => {}
        }
        let Some(record) = spool.records.get(spool.delivered).cloned() else { return };
        spool.flying = true;
        let record = if spool.refused { honest_end(record) } else { record };
        if let Some(renewed_ms) = renewed_ms {
            self.oracle.ensure(
                now - renewed_ms < ttl_ms * 2 / 3,
                "a holder without an answer stops writing at two thirds of its lease",
                || format!("worker {w} writes {} ms after its last renewal of {ttl_ms} ms", now - renewed_ms),
            );
        }
        self.send(w, Call::Write(attempt), Ask::Write(Box::new(record)), REQUEST_MS_MAX);
    }

    /// A delivery is over.
    pub fn delivered(&mut self, w: usize, attempt: AttemptId, result: Result<Reply, Failure>) {
        let worker = &mut self.workers[w];
        let Some(spool) = worker.spools.get_mut(&attempt) else { return };
        spool.flying = false;
        match result {
            Ok(_) => spool.pause.reset(),
            Err(Failure::Away | Failure::Session) => {
                let pause = super::worker::ms(spool.pause.pause());
                return self.wake_courier(w, attempt, pause);
            }
            Err(Failure::StaleFence) => return self.put_aside(w, attempt),
            Err(Failure::Refused) => match spool.records.get(spool.delivered) {
                Some(Record::Complete(_)) => return self.put_aside(w, attempt),
                Some(Record::Checkpoint(_)) => spool.refused = true,
                _ => {}
            },
        }
        let done = matches!(spool.records.get(spool.delivered), Some(Record::Complete(_)));
        spool.delivered += 1;
        if !done {
            return self.wake_courier(w, attempt, 0);
        }
        worker.spools.remove(&attempt);
        if let Some(seat) = worker.seats.get_mut(&attempt) {
            seat.courier_over = true;
        }
        self.unseat(w, attempt);
    }

    /// The spool will not be delivered; the attempt ends at its next step.
    fn put_aside(&mut self, w: usize, attempt: AttemptId) {
        let worker = &mut self.workers[w];
        worker.spools.remove(&attempt);
        if let Some(seat) = worker.seats.get_mut(&attempt) {
            seat.lease.fenced();
            seat.command = senmon_protocol::worker::Command::Fenced;
            seat.courier_over = true;
        }
        self.unseat(w, attempt);
    }
}

/// The end of an attempt whose checkpoint was refused is no completion.
fn honest_end(record: Record) -> Record {
    match record {
        Record::Complete(CompleteAttempt { fence, outcome: Outcome::Completed(_), time }) => {
            let ended = EndedOutcome::new(TerminationReason::InternalError, "a checkpoint was refused");
            Record::Complete(CompleteAttempt { fence, outcome: Outcome::Ended(ended), time })
        }
        record => record,
    }
}
