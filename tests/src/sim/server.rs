//! The server: the worker protocol's handlers and the loops, over the store. Patience is `domain::lease`, retention
//! `domain::retention`, waiting polls `app::Polls`: the production code.

use super::{
    network::{Ask, Failure, Reply, Request},
    plants,
    store::{at, row, worker_id},
    world::{Event, World},
};
use chrono::TimeDelta;
use senmon_protocol::{
    checkpoint::CheckpointKind,
    ids::{AttemptId, CheckpointId, WorkerId},
    job::{EndedOutcome, Outcome, TerminationReason},
    storage::RetentionSpec,
    view::{BranchState, JobState},
};
use senmon_server::{
    app::{Polls, WaitingPoll},
    domain::{
        lease::{Listening, may_declare_lost},
        retention::{CheckpointFacts, Needs, removable},
    },
};
use senmon_worker::spool::Record;
use std::collections::{BTreeMap, BTreeSet};

/// Between two looks for leases that are over; production looks every half second.
const EXPIRE_MS: u64 = 1_500;
/// Between two rounds of the slow loops.
const LOOPS_MS: u64 = 10_000;

/// The server's process.
pub struct Server {
    /// Whether it lives.
    pub up: bool,
    /// Number of its process.
    pub epoch: u32,
    pub(super) listening: Listening,
    pub(super) polls: Polls,
    pub(super) held: Vec<Held>,
    pub(super) plans: bool,
    /// When an attempt of a worker last ended; `Polls` asks the machine for the time.
    pub(super) freed_at: BTreeMap<WorkerId, u64>,
    number: u64,
}

/// A poll that waits.
pub(super) struct Held {
    pub(super) number: u64,
    pub(super) request: Request,
    pub(super) worker: WorkerId,
    _waiting: WaitingPoll,
}

impl Server {
    /// One that begins to listen.
    #[must_use]
    pub fn new(now_ms: i64) -> Self {
        let (polls, listening) = (Polls::default(), Listening::begun(at(now_ms)));
        let freed_at = BTreeMap::new();
        Self { up: false, epoch: 0, listening, polls, held: Vec::new(), plans: false, freed_at, number: 0 }
    }
}

pub(super) fn delta(ms: u64) -> TimeDelta {
    TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX))
}

impl World {
    /// Starts the server.
    pub fn start_server(&mut self) {
        let epoch = self.server.epoch + 1;
        self.server = Server { up: true, epoch, ..Server::new(self.store.now_ms) };
        self.oracle.hears_since = self.now;
        if plants::FENCE_RESTARTS {
            self.store.forget_fences();
        }
        self.after(EXPIRE_MS, Event::Expire { epoch });
        self.after(100, Event::Loops { epoch });
        self.plan_soon();
    }

    /// kill -9 of the server: every connection breaks.
    pub fn kill_server(&mut self) {
        self.server.up = false;
        for held in std::mem::take(&mut self.server.held) {
            self.reply(&held.request, Err(Failure::Away));
        }
    }

    /// A worker's process is gone and its connections with it.
    pub fn hang_up(&mut self, w: usize, epoch: u32) {
        self.server.held.retain(|held| (held.request.w, held.request.epoch) != (w, epoch));
    }

    /// A request has arrived.
    pub fn arrive(&mut self, request: Request) {
        if !self.server.up || !self.database_up {
            return self.reply(&request, Err(Failure::Away));
        }
        let id = worker_id(request.w);
        let ttl = i64::try_from(self.set.ttl_ms).unwrap_or(i64::MAX);
        let result = match request.ask.clone() {
            Ask::Enrol => {
                let session = self.store.enrol(request.w, self.workers[request.w].slots);
                self.plan_soon();
                Ok(Reply::Enrolled(id, session))
            }
            Ask::Beat { session, attempts } => self.store.beat(id, session).map_err(|_| Failure::Session).map(|()| {
                let told =
                    attempts.iter().map(|(attempt, fence)| (*attempt, self.store.renew(id, *attempt, *fence, ttl)));
                Reply::Told(told.collect())
            }),
            Ask::Poll { session, slots_free, wait_ms } => match self.store.seen(id, session) {
                Err(_) => Err(Failure::Session),
                Ok(()) => {
                    self.oracle.hears(request.w, self.now);
                    return self.wait(request, id, &slots_free, wait_ms);
                }
            },
            Ask::Write(record) => {
                let Some(attempt) = attempt_of(&request) else { return };
                self.write(attempt, &record).map(|()| Reply::Done)
            }
        };
        if result.is_ok() && !matches!(request.ask, Ask::Write(_)) {
            self.oracle.hears(request.w, self.now);
        }
        self.reply(&request, result);
    }

    fn wait(&mut self, request: Request, worker: WorkerId, slots_free: &[u16], wait_ms: u64) {
        let waiting = self.server.polls.wait(worker, slots_free);
        self.plan_soon();
        let grants = self.store.fetch_grants(worker);
        if !grants.is_empty() {
            return self.reply(&request, Ok(Reply::Grants(grants)));
        }
        self.server.number += 1;
        let (number, epoch) = (self.server.number, self.server.epoch);
        self.server.held.push(Held { number, request, worker, _waiting: waiting });
        self.after(wait_ms, Event::PollOver { epoch, number });
    }

    /// A poll has waited long enough.
    pub fn poll_over(&mut self, number: u64) {
        if let Some(at) = self.server.held.iter().position(|held| held.number == number) {
            let held = self.server.held.swap_remove(at);
            self.reply(&held.request, Ok(Reply::Grants(Vec::new())));
        }
    }

    fn write(&mut self, attempt: AttemptId, record: &Record) -> Result<(), Failure> {
        let current = self.oracle.is_current(&self.store, attempt);
        let branch = self.store.attempts.get(row(attempt.0)).map_or(0, |a| a.job);
        match record {
            Record::Started(body) => {
                let is_new = self.store.started(attempt, body)?;
                self.oracle.accepted(current, "started", attempt);
                if is_new {
                    self.oracle.started(branch, body.step_start, self.now);
                }
            }
            Record::Metrics(batch) => {
                let (branch, is_new) = self.store.metrics(attempt, batch)?;
                self.oracle.accepted(current, "metrics", attempt);
                if is_new {
                    self.oracle.points(branch, batch, self.now);
                }
            }
            Record::Checkpoint(body) => {
                let id = body.checkpoint.id;
                if !self.storage.is_seen() {
                    return Err(Failure::Away);
                }
                if self.storage.unmounted || self.storage.folders.get(&id).is_none_or(|folder| !folder.whole) {
                    return Err(Failure::Refused);
                }
                let is_new = self.store.checkpoint(attempt, body.fence, &body.checkpoint)?;
                self.oracle.accepted(current, "checkpoint", attempt);
                if is_new {
                    self.oracle.committed(id, &self.storage, self.now);
                }
            }
            Record::Complete(body) => self.complete(attempt, &body.outcome, body.fence, current)?,
            Record::Logs(_) | Record::Announce(_) => {}
        }
        Ok(())
    }

    fn complete(
        &mut self,
        attempt: AttemptId,
        outcome: &Outcome,
        fence: senmon_protocol::ids::Fence,
        current: bool,
    ) -> Result<(), Failure> {
        let Some(next) = self.store.complete(attempt, fence, outcome)? else { return Ok(()) };
        let found = self.store.attempts[row(attempt.0)].clone();
        self.oracle.accepted(current, "complete", attempt);
        self.oracle.ended(found.job, outcome, next, &self.store, self.now);
        self.server.polls.freed(found.worker, &found.slots);
        self.server.freed_at.insert(found.worker, self.now);
        self.plan_soon();
        let state = self.store.branches[found.job].state;
        let cause = match state {
            BranchState::Completed => "done",
            BranchState::Queued => "queued",
            _ => "held",
        };
        self.ledger.enter(found.job, cause, self.now);
        if let Outcome::Ended(EndedOutcome { reason: TerminationReason::CorruptData, .. }) = outcome {
            let (ms, epoch) = (self.chance.between(1, 30), self.server.epoch);
            self.after(ms, Event::Doubt { epoch, branch: found.job });
        }
        Ok(())
    }

    /// As `tasks::schedule::expire`.
    pub fn expire(&mut self) {
        let epoch = self.server.epoch;
        self.after(EXPIRE_MS, Event::Expire { epoch });
        if !self.database_up {
            return;
        }
        let (now, ttl, lost) = (at(self.store.now_ms), self.set.ttl_ms, self.set.lost_ms);
        let ttl_ms = i64::try_from(ttl).unwrap_or(i64::MAX);
        for attempt in self.store.unreported(ttl_ms, ttl_ms * 2 / 3) {
            self.give_up_on(attempt, "its worker goes on without it.");
        }
        let since = self.server.listening.look(now, delta((ttl / 3).max(2_000)));
        if !may_declare_lost(since, now, delta(ttl), delta(lost)) {
            return;
        }
        let grace = i64::try_from(lost).unwrap_or(i64::MAX);
        let over = self.store.expired(grace);
        let lost_workers = self.store.mark_lost(i64::try_from(ttl + lost).unwrap_or(i64::MAX));
        if !over.is_empty() || !lost_workers.is_empty() {
            self.oracle.declared_lost(self.now, ttl + lost);
        }
        for attempt in over {
            self.give_up_on(attempt, "the lease ran out without a heartbeat.");
        }
    }

    /// Ends an attempt that nobody runs any more.
    fn give_up_on(&mut self, attempt: AttemptId, why: &str) {
        let fence = senmon_protocol::ids::Fence(self.store.attempts[row(attempt.0)].fence);
        let outcome = super::worker::ended(TerminationReason::WorkerLost, why);
        let current = self.oracle.is_current(&self.store, attempt);
        let _ = self.complete(attempt, &outcome, fence, current);
    }

    /// The slow loops: jobs of branches whose parent is done, scrub, retention, and a plan for what waited.
    pub fn loops(&mut self) {
        let epoch = self.server.epoch;
        self.after(LOOPS_MS, Event::Loops { epoch });
        if !self.database_up {
            return;
        }
        for branch in 0..self.store.branches.len() {
            let parent = self.store.branches[branch].parent;
            let ready = parent.is_none_or(|parent| self.store.branches[parent].state == BranchState::Completed);
            if self.store.branches[branch].state == BranchState::Waiting && ready {
                self.store.ensure_job(branch);
                self.oracle.queued(branch, self.now);
                self.ledger.enter(branch, "queued", self.now);
            }
        }
        // Nothing is condemned and nothing removed before the right store is there.
        let seen = self.storage.is_seen();
        for at in 0..if seen { self.store.checkpoints.len() } else { 0 } {
            let found = &mut self.store.checkpoints[at];
            if !found.verified && !found.damaged {
                found.damaged = self.storage.load_by_server(found.id).is_none();
                found.verified = !found.damaged;
                self.oracle.scrubbed(found, &self.storage);
            }
        }
        self.look_at_queue();
        if self.chance.one_in(30) && seen {
            self.retain();
        }
        self.plan_soon();
    }

    /// Removes what no rule keeps.
    fn retain(&mut self) {
        let referenced = self.references();
        for branch in 0..self.store.branches.len() {
            let facts = |(order, c): (u64, &super::store::Checkpoint)| CheckpointFacts {
                id: c.id,
                step: c.step,
                tokens: c.step,
                order,
                kind: CheckpointKind::Resumable,
                verified: c.verified,
                damaged: c.damaged,
                loss: None,
            };
            let all: Vec<CheckpointFacts> =
                (0_u64..).zip(&self.store.checkpoints).filter(|(_, c)| c.branch == branch).map(facts).collect();
            let unfinished = self.store.branches[branch].state != BranchState::Completed;
            let needs = Needs { unfinished, roll_back_steps: None };
            for id in removable(&all, &RetentionSpec::default(), needs, &referenced) {
                self.oracle.removed(id, branch, &self.store, &referenced);
                self.store.checkpoints.retain(|c| c.id != id);
                self.storage.folders.remove(&id);
            }
        }
    }

    /// Checkpoints that something refers to: evaluations, running attempts, starts of branches.
    #[must_use]
    pub fn references(&self) -> BTreeSet<CheckpointId> {
        let running =
            self.store.jobs.iter().flatten().filter(|job| job.state == JobState::Running).filter_map(|job| job.resume);
        let starts = self.store.branches.iter().filter_map(|branch| {
            let parent = branch.parent?;
            self.store.checkpoints.iter().rev().find(|c| c.branch == parent).map(|c| c.id)
        });
        self.oracle.evaluated.iter().copied().chain(running).chain(starts).collect()
    }
}

fn attempt_of(request: &Request) -> Option<AttemptId> {
    match request.call {
        super::network::Call::Write(attempt) => Some(attempt),
        _ => None,
    }
}
