//! A worker: its process, its heart, its polls, its attempts' threads. The leases are `senmon_worker::lease`, the
//! pauses `senmon_worker::client::Backoff`; the rest follows `agent`, `heartbeat`, `runner` and `train::session`.

mod thread;

use super::{
    chance::mix,
    network::{Answered, Ask, Call, Failure, Reply},
    plants,
    spool::{Desk, Spool},
    storage::Folder,
    store::{branch_id, row},
    world::{Event, World},
};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::{AttemptId, CheckpointId, ExperimentId, Fence, StorageKey, WorkerId},
    job::{CompletedOutcome, EndedOutcome, JobResult, Outcome, TerminationReason, TrainResult, WrittenCheckpoint},
    worker::{AttemptStarted, Command, CommitCheckpoint, CompleteAttempt},
};
use senmon_worker::{client::Backoff, lease::Lease, spool::Record};
use std::{collections::BTreeMap, time::Duration};

/// As in `agent` and `heartbeat`.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const POLL_IDLE_MS: u64 = 20_000;
const POLL_BUSY_MS: u64 = 5_000;
const REQUEST_MS_MAX: u64 = 30_000;

/// A worker and its disk.
pub struct Worker {
    /// Whether its process lives.
    pub up: bool,
    /// Whether it is stopped (SIGSTOP).
    pub stopped: bool,
    /// Number of its process.
    pub epoch: u32,
    /// Slots.
    pub slots: u16,
    /// Its session.
    pub session: Option<(WorkerId, i64)>,
    /// Attempts that run.
    pub seats: BTreeMap<AttemptId, Seat>,
    /// Its disk.
    pub spools: BTreeMap<AttemptId, Spool>,
    /// What it did not see while it was stopped.
    pub missed: Vec<Event>,
    /// The spool's disk refuses until then.
    pub disk_full_until: u64,
    /// The store refuses until then.
    pub store_full_until: u64,
    /// How wrong its wall clock is.
    pub wall_ms: i64,
    token: u64,
    beats: bool,
    beat_again: bool,
    heart_pause: Backoff,
    poll_pause: Backoff,
    polls: usize,
    newest: Option<(u64, Vec<u16>)>,
    number: u64,
}

/// One attempt that runs.
pub struct Seat {
    /// Its branch.
    pub branch: usize,
    /// Its fence.
    pub fence: Fence,
    /// Its slots.
    pub slots: Vec<u16>,
    /// Its lease.
    pub lease: Lease,
    /// The strongest command.
    pub command: Command,
    /// Its thread; None when it is over.
    pub thread: Option<Thread>,
    /// Its courier is done.
    pub courier_over: bool,
    /// When the last answered renewal was asked for: what the lease must know too.
    pub renewed_ms: u64,
    /// What is not in the spool yet.
    pub desk: Desk,
}

/// A training thread: its state is a hash chain, so that a resume is exact or found.
#[derive(Debug)]
pub struct Thread {
    loading: bool,
    /// Steps done.
    pub step: u64,
    state: u64,
    saving: Option<CheckpointId>,
    wants_save: bool,
    saved_step: Option<u64>,
    saved_at: u64,
    ending: Option<Option<Outcome>>,
    waits: bool,
    /// The next step fails so.
    pub poison: Option<TerminationReason>,
}

/// An end without a result.
#[must_use]
pub fn ended(reason: TerminationReason, message: &str) -> Outcome {
    Outcome::Ended(EndedOutcome::new(reason, message))
}

impl Worker {
    /// One that is not started.
    #[must_use]
    pub fn new(slots: u16) -> Self {
        Self {
            up: false,
            stopped: false,
            epoch: 0,
            slots,
            session: None,
            seats: BTreeMap::new(),
            spools: BTreeMap::new(),
            missed: Vec::new(),
            disk_full_until: 0,
            store_full_until: 0,
            wall_ms: 0,
            token: 0,
            beats: false,
            beat_again: false,
            heart_pause: Backoff::new(PAUSE_MAX, 0),
            poll_pause: Backoff::new(PAUSE_MAX, 0),
            polls: 0,
            newest: None,
            number: 0,
        }
    }

    /// Slots without an attempt.
    #[must_use]
    pub fn slots_free(&self) -> Vec<u16> {
        let takes = |seat: &&Seat| !(plants::SLOT_FREED_EARLY && seat.courier_over);
        let taken: Vec<u16> = self.seats.values().filter(takes).flat_map(|seat| seat.slots.iter().copied()).collect();
        (0..self.slots).filter(|slot| !taken.contains(slot)).collect()
    }
}

impl World {
    /// Starts a worker's process: it delivers what the last one left, and enrols.
    pub fn start_worker(&mut self, w: usize) {
        let seed = self.chance.number();
        let worker = &mut self.workers[w];
        (worker.up, worker.stopped, worker.epoch) = (true, false, worker.epoch + 1);
        (worker.session, worker.newest, worker.polls) = (None, None, 0);
        (worker.beats, worker.beat_again) = (false, false);
        (worker.heart_pause, worker.poll_pause) = (Backoff::new(PAUSE_MAX, seed), Backoff::new(PAUSE_MAX, seed ^ 1));
        let left: Vec<AttemptId> = worker.spools.keys().copied().collect();
        for attempt in left {
            let Some(spool) = self.workers[w].spools.get_mut(&attempt) else { continue };
            spool.reopen(seed);
            if !spool.is_complete() {
                let outcome = ended(
                    TerminationReason::WorkerLost,
                    "the worker's process ended without notice and was started again",
                );
                spool.records.push(Record::Complete(CompleteAttempt { fence: spool.fence, outcome, time: None }));
            }
            self.wake_courier(w, attempt, 0);
        }
        self.beat_soon(w);
    }

    /// kill -9: what was not on the disk is gone.
    pub fn kill_worker(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        if !worker.up {
            return;
        }
        worker.up = false;
        worker.missed.clear();
        let seats = std::mem::take(&mut worker.seats);
        for (attempt, seat) in seats {
            if let Some(id) = seat.thread.as_ref().and_then(|thread| thread.saving) {
                // A torn save: files without a manifest.
                let (step, state) = seat.thread.as_ref().map_or((0, 0), |thread| (thread.step, thread.state));
                self.storage
                    .folders
                    .insert(id, Folder { branch: seat.branch, step, state, whole: false, flipped: false });
            }
            self.phase(seat.branch, attempt, "detecting");
        }
        let epoch = self.workers[w].epoch;
        self.hang_up(w, epoch);
    }

    fn beat_soon(&mut self, w: usize) {
        if self.workers[w].beats {
            self.workers[w].beat_again = true;
        } else {
            self.beat_after(w, 0);
        }
    }

    fn beat_after(&mut self, w: usize, ms: u64) {
        let worker = &mut self.workers[w];
        worker.token += 1;
        let (epoch, token) = (worker.epoch, worker.token);
        self.after(ms, Event::Heart { w, epoch, token });
    }

    /// The heart's time has come.
    pub fn heart(&mut self, w: usize, token: u64) {
        let (now, heartbeat_ms) = (self.now, self.set.ttl_ms / 3);
        let worker = &mut self.workers[w];
        if worker.token != token || worker.beats {
            return;
        }
        worker.beats = true;
        let Some((_, session)) = worker.session else { return self.send(w, Call::Enrol, Ask::Enrol, REQUEST_MS_MAX) };
        worker.seats.values_mut().for_each(|seat| seat.lease.asked(now));
        let attempts = worker.seats.iter().map(|(id, seat)| (*id, seat.fence)).collect();
        self.send(w, Call::Beat(now), Ask::Beat { session, attempts }, heartbeat_ms.max(1000));
    }

    /// A call is over.
    pub fn answered(&mut self, answered: Answered) {
        let Answered { w, call, result, .. } = answered;
        match call {
            Call::Write(attempt) => self.delivered(w, attempt, result),
            Call::Poll(number) => self.polled(w, number, result),
            Call::Enrol | Call::Beat(_) => self.beaten(w, call, result),
        }
    }

    fn beaten(&mut self, w: usize, call: Call, result: Result<Reply, Failure>) {
        let (now, pace) = (self.now, self.set.ttl_ms / 3);
        let worker = &mut self.workers[w];
        worker.beats = false;
        let again = std::mem::take(&mut worker.beat_again);
        match (call, result) {
            (_, Ok(Reply::Enrolled(id, session))) => {
                worker.heart_pause.reset();
                worker.session = Some((id, session));
                self.beat_after(w, 0);
                self.poll(w);
            }
            (Call::Beat(asked), Ok(Reply::Told(told))) => {
                worker.heart_pause.reset();
                let mut fenced = Vec::new();
                for (attempt, command) in told {
                    let Some(seat) = worker.seats.get_mut(&attempt) else { continue };
                    seat.command = senmon_worker::lease::stronger(seat.command, seat.lease.answered(asked, command));
                    if command == Command::Fenced {
                        fenced.push(attempt);
                    } else {
                        seat.renewed_ms = seat.renewed_ms.max(asked);
                    }
                }
                let due = worker.seats.values().map(|seat| seat.lease.renewal_due_ms().saturating_sub(now)).min();
                let wait = if again { 0 } else { due.map_or(pace, |due| due.min(pace)) };
                self.beat_after(w, wait);
                fenced.into_iter().for_each(|attempt| self.wake_courier(w, attempt, 0));
            }
            (_, Err(Failure::Session)) => {
                worker.session = None;
                self.beat_after(w, 0);
            }
            _ => {
                let pause = ms(worker.heart_pause.pause());
                self.beat_after(w, if again { 0 } else { pause });
            }
        }
    }

    /// Asks for work, where slots are free that no poll has named.
    pub fn poll(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        let Some((_, session)) = worker.session else { return };
        let free = worker.slots_free();
        let asked = worker.newest.as_ref().is_some_and(|(_, slots)| free.iter().all(|slot| slots.contains(slot)));
        if free.is_empty() || asked || worker.polls > usize::from(worker.slots) {
            return;
        }
        worker.number += 1;
        worker.polls += 1;
        let (number, idle) = (worker.number, free.len() == usize::from(worker.slots));
        worker.newest = Some((number, free.clone()));
        let wait_ms = if idle { POLL_IDLE_MS } else { POLL_BUSY_MS };
        self.send(w, Call::Poll(number), Ask::Poll { session, slots_free: free, wait_ms }, wait_ms + REQUEST_MS_MAX);
    }

    fn polled(&mut self, w: usize, number: u64, result: Result<Reply, Failure>) {
        let worker = &mut self.workers[w];
        worker.polls -= 1;
        worker.newest = worker.newest.take().filter(|(newest, _)| *newest != number);
        let epoch = worker.epoch;
        match result {
            Ok(Reply::Grants(grants)) => {
                worker.poll_pause.reset();
                grants.into_iter().for_each(|attempt| self.seat(w, attempt));
                self.after(0, Event::Poll { w, epoch });
            }
            failure => {
                let pause = ms(worker.poll_pause.pause());
                if failure.is_err_and(|failure| failure == Failure::Session) && worker.session.take().is_some() {
                    self.beat_soon(w);
                }
                self.after(pause, Event::Poll { w, epoch });
            }
        }
    }

    /// Starts an attempt.
    fn seat(&mut self, w: usize, attempt: AttemptId) {
        let granted = &self.store.attempts[row(attempt.0)];
        let (branch, fence, slots) = (granted.job, Fence(granted.fence), granted.slots.clone());
        if self.workers[w].seats.contains_key(&attempt) || self.workers[w].spools.contains_key(&attempt) {
            return;
        }
        let free = self.workers[w].slots_free();
        if !slots.iter().all(|slot| free.contains(slot)) {
            // As `Board::seat`: a grant on a slot that is taken runs out.
            self.phase(branch, attempt, "detecting");
            return;
        }
        if self.workers[w].disk_full_until > self.now {
            // No spool, no attempt: its lease runs out.
            self.phase(branch, attempt, "detecting");
            return;
        }
        let holds = |seat: &Seat| seat.thread.is_some() && seat.slots.iter().any(|slot| slots.contains(slot));
        let twice = self.workers[w].seats.values().any(holds);
        self.oracle.ensure(!twice, "no slot holds two attempts", || {
            format!("worker {w}, slots {slots:?}, attempt {}", row(attempt.0))
        });
        let thread = Thread {
            loading: true,
            step: 0,
            state: 0,
            saving: None,
            wants_save: false,
            saved_step: None,
            saved_at: self.now,
            ending: None,
            waits: false,
            poison: None,
        };
        let seat = Seat {
            branch,
            fence,
            slots,
            lease: Lease::granted(self.now, self.set.ttl_ms),
            command: Command::Continue,
            thread: Some(thread),
            courier_over: false,
            renewed_ms: self.now,
            desk: Desk::default(),
        };
        let seed = self.chance.number();
        let worker = &mut self.workers[w];
        worker.seats.insert(attempt, seat);
        worker.spools.insert(attempt, Spool::new(branch, fence, seed));
        let epoch = worker.epoch;
        self.beat_soon(w);
        self.after(self.set.load_ms, Event::Thread { w, epoch, attempt });
    }

    /// Frees the slots of an attempt whose thread and courier are over.
    pub fn unseat(&mut self, w: usize, attempt: AttemptId) {
        let worker = &mut self.workers[w];
        if worker.seats.get(&attempt).is_some_and(|seat| seat.thread.is_none() && seat.courier_over) {
            worker.seats.remove(&attempt);
        }
        self.poll(w);
    }
}

fn completed(steps: u64) -> Outcome {
    let result = JobResult::Train(TrainResult { steps, tokens: steps, loss_last: None });
    Outcome::Completed(CompletedOutcome { result })
}

/// A pause in milliseconds.
#[must_use]
pub fn ms(pause: Duration) -> u64 {
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

fn committed(id: CheckpointId, branch: usize, fence: Fence, step: u64) -> WrittenCheckpoint {
    let folder = StorageKey::new(format!("checkpoints/{}", row(id.0))).unwrap_or_else(|error| unreachable!("{error}"));
    let meta = CheckpointMeta {
        kind: CheckpointKind::Resumable,
        experiment_id: ExperimentId(uuid::Uuid::nil()),
        branch_id: branch_id(branch),
        fence,
        step,
        tokens: step,
        lineage: Default::default(),
        parent_id: None,
        bytes: 1,
        loss: None,
        config_sha256: String::new(),
        state_sha256: String::new(),
    };
    WrittenCheckpoint { id, folder, manifest_sha256: String::new(), meta }
}
