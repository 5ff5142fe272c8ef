//! The server: the worker protocol's handlers and the loops, over the store. Placement is `domain::schedule::plan`,
//! patience `domain::lease`, retention `domain::retention`, waiting polls `app::Polls`: the production code.

use super::{
    network::{Ask, Failure, Reply, Request},
    plants,
    store::{at, attempt_id, job_id, row, worker_id},
    world::{Event, World},
};
use chrono::TimeDelta;
use senmon_protocol::{
    checkpoint::CheckpointKind,
    ids::{AttemptId, CheckpointId, ExperimentId, WorkerId},
    job::{EndedOutcome, JobKind, Outcome, TerminationReason},
    resources::{self, DeviceKind},
    storage::RetentionSpec,
    view::{BranchState, JobState, WorkerMode},
};
use senmon_server::{
    app::{Polls, WaitingPoll},
    domain::{
        lease::{Listening, may_declare_lost},
        retention::{CheckpointFacts, Needs, removable},
        schedule::{
            FleetSlot, FleetWorker, Placement, Release, RunningJob, SlotState, Snapshot, Standing, WaitingJob, plan,
        },
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
    listening: Listening,
    polls: Polls,
    held: Vec<Held>,
    number: u64,
    plans: bool,
}

/// A poll that waits.
struct Held {
    number: u64,
    request: Request,
    worker: WorkerId,
    _waiting: WaitingPoll,
}

impl Server {
    /// One that begins to listen.
    #[must_use]
    pub fn new(now_ms: i64) -> Self {
        let (polls, listening) = (Polls::default(), Listening::begun(at(now_ms)));
        Self { up: false, epoch: 0, listening, polls, held: Vec::new(), number: 0, plans: false }
    }
}

fn delta(ms: u64) -> TimeDelta {
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

    /// The scheduler looks soon.
    pub fn plan_soon(&mut self) {
        if !std::mem::replace(&mut self.server.plans, true) {
            let (ms, epoch) = (self.chance.between(1, 30), self.server.epoch);
            self.after(ms, Event::Plan { epoch });
        }
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
            Ask::Beat { session, attempts } => self.store.seen(id, session).map_err(|_| Failure::Session).map(|()| {
                let told =
                    attempts.iter().map(|(attempt, fence)| (*attempt, self.store.renew(id, *attempt, *fence, ttl)));
                Reply::Told(told.collect())
            }),
            Ask::Poll { session, slots_free, wait_ms } => match self.store.seen(id, session) {
                Err(_) => Err(Failure::Session),
                Ok(()) => return self.wait(request, id, &slots_free, wait_ms),
            },
            Ask::Write(record) => {
                let Some(attempt) = attempt_of(&request) else { return };
                self.write(attempt, &record).map(|()| Reply::Done)
            }
        };
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
                if self.storage.folders.get(&id).is_none_or(|folder| !folder.whole) {
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
        self.oracle.ended(found.job, outcome, next, &self.store);
        self.server.polls.freed(found.worker, &found.slots);
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

    /// As `tasks::schedule::run`, up to the plan.
    pub fn plan(&mut self) {
        self.server.plans = false;
        if !self.database_up {
            return;
        }
        let jobs = || self.store.jobs.iter().enumerate().filter_map(|(branch, job)| Some((branch, job.as_ref()?)));
        let experiment = ExperimentId(uuid::Uuid::nil());
        let ready = |job: &super::store::Job| {
            job.state == JobState::Queued && job.not_before_ms <= self.store.now_ms && !self.store.paused
        };
        let waiting = |(branch, job): (usize, &super::store::Job)| WaitingJob {
            id: job_id(branch),
            experiment,
            kind: JobKind::Train,
            priority: 50,
            slots: 1,
            needs: resources::Needs::default(),
            remaining: job.remaining,
            age: branch as u64,
            slack_s: None,
        };
        let queued: Vec<WaitingJob> = jobs().filter(|(_, job)| ready(job)).map(waiting).collect();
        if queued.is_empty() {
            return;
        }
        let running = |(branch, job): (usize, &super::store::Job)| {
            let attempt = &self.store.attempts[row(job.attempt?.0)];
            Some(RunningJob {
                id: job_id(branch),
                title: String::new(),
                experiment,
                kind: JobKind::Train,
                priority: 50,
                worker: job.worker?,
                slots: attempt.slots.clone(),
                ran_s: 0,
                release: Release::No,
            })
        };
        let workers: Vec<FleetWorker> =
            self.store.workers.iter().enumerate().filter_map(|(w, worker)| self.free(w, worker)).collect();
        // Of one priority nothing is preempted: without a free slot there is nothing to plan.
        if !workers.iter().flat_map(|worker| &worker.slots).any(|slot| slot.state == SlotState::Free) {
            return;
        }
        let placements = plan(&Snapshot {
            waiting: queued,
            running: jobs().filter_map(running).collect(),
            workers,
            preempt_after_s: i64::MAX,
        })
        .placements;
        if !placements.is_empty() {
            // One round at a time, as the loop of production.
            self.server.plans = true;
            let (ms, epoch) = (self.chance.between(0, 20), self.server.epoch);
            self.after(ms, Event::Grants { epoch, placements });
        }
    }

    /// A worker as the planner sees it, where it may be given work.
    fn free(&self, w: usize, worker: &super::store::Worker) -> Option<FleetWorker> {
        let ttl = i64::try_from(self.set.ttl_ms).unwrap_or(i64::MAX);
        if worker.lost || worker.mode != WorkerMode::Enabled || self.store.now_ms - worker.seen_ms > ttl {
            return None;
        }
        let id = worker_id(w);
        let of = |job: &&super::store::Job| job.worker == Some(id);
        let held = self.store.jobs.iter().flatten().filter(of).filter_map(|job| job.attempt);
        let taken: BTreeSet<u16> =
            held.flat_map(|attempt| self.store.attempts[row(attempt.0)].slots.iter().copied()).collect();
        let waits = self.server.polls.slots_free(id);
        let slot = |index| FleetSlot {
            index,
            device: DeviceKind::Cpu,
            memory_bytes: 0,
            state: if waits.contains(&index) && !taken.contains(&index) { SlotState::Free } else { SlotState::Taken },
        };
        Some(FleetWorker {
            id,
            name: format!("worker-{w}"),
            standing: Standing::Open,
            capabilities: vec![JobKind::Train],
            labels: BTreeMap::new(),
            slots: (0..worker.slots).map(slot).collect(),
        })
    }

    /// The rest of `tasks::schedule::run`: grants, and the polls that look again.
    pub fn carry_out(&mut self, placements: &[Placement]) {
        self.server.plans = false;
        if !self.database_up {
            return;
        }
        let ttl = i64::try_from(self.set.ttl_ms).unwrap_or(i64::MAX);
        for placement in placements {
            let branch = row(placement.job.0);
            let newest = self.storage.newest(branch);
            if self.store.grant(branch, placement.worker, &placement.slots, ttl, newest) {
                let attempt = attempt_id(self.store.attempts.len() - 1);
                self.oracle.granted(attempt, &self.store);
                self.ledger.enter(branch, "starting", self.now);
            }
        }
        for number in self.server.held.iter().map(|held| held.number).collect::<Vec<_>>() {
            let Some(at) = self.server.held.iter().position(|held| held.number == number) else { continue };
            let grants = self.store.fetch_grants(self.server.held[at].worker);
            if !grants.is_empty() {
                let held = self.server.held.swap_remove(at);
                self.reply(&held.request, Ok(Reply::Grants(grants)));
            }
        }
        self.plan_soon();
    }

    /// As `tasks::schedule::expire`.
    pub fn expire(&mut self) {
        let epoch = self.server.epoch;
        self.after(EXPIRE_MS, Event::Expire { epoch });
        if !self.database_up {
            return;
        }
        let (now, ttl, lost) = (at(self.store.now_ms), self.set.ttl_ms, self.set.lost_ms);
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
            let fence = senmon_protocol::ids::Fence(self.store.attempts[row(attempt.0)].fence);
            let outcome = super::worker::ended(TerminationReason::WorkerLost, "the lease ran out without a heartbeat.");
            let current = self.oracle.is_current(&self.store, attempt);
            let _ = self.complete(attempt, &outcome, fence, current);
        }
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
        for at in 0..self.store.checkpoints.len() {
            let found = &mut self.store.checkpoints[at];
            if !found.verified && !found.damaged {
                found.damaged = self.storage.load(found.id).is_none();
                found.verified = !found.damaged;
                self.oracle.scrubbed(found, &self.storage);
            }
        }
        if !self.has_free_slot() {
            self.oracle.slots_taken_at = self.now;
        }
        if self.chance.one_in(30) {
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
