//! The scheduler's round over the store: placement and preemption are `domain::schedule::plan`, the production code.

use super::{
    network::Reply,
    store::{Job, Worker, attempt_id, job_id, row, worker_id},
    world::{Event, World},
};
use senmon_protocol::{
    ids::{ExperimentId, WorkerId},
    job::JobKind,
    resources::DeviceKind,
    view::WorkerMode,
    worker::Command,
};
use senmon_server::{
    app::ASKS_WITHIN,
    domain::schedule::{
        FleetSlot, FleetWorker, Plan, Release, RunningJob, SlotState, Snapshot, Standing, WaitingJob, plan,
    },
};
use std::collections::BTreeSet;

const EXPERIMENT: ExperimentId = ExperimentId(uuid::Uuid::nil());

impl World {
    /// The scheduler looks soon.
    pub fn plan_soon(&mut self) {
        if !std::mem::replace(&mut self.server.plans, true) {
            let (ms, epoch) = (self.chance.between(1, 30), self.server.epoch);
            self.after(ms, Event::Plan { epoch });
        }
    }

    /// As `tasks::schedule::run`, up to the plan.
    pub fn plan(&mut self) {
        self.server.plans = false;
        if !self.database_up {
            return;
        }
        let Some(snapshot) = self.look() else { return };
        let found = plan(&snapshot);
        self.oracle.planned(&found, &self.store, &self.set);
        if found != Plan::default() {
            // One round at a time, as the loop of production.
            self.server.plans = true;
            let (ms, epoch) = (self.chance.between(0, 20), self.server.epoch);
            self.after(ms, Event::CarryOut { epoch, plan: found });
        }
    }

    /// The rest of `tasks::schedule::run`: grants, the polls that look again, and who shall give its slots up.
    pub fn carry_out(&mut self, plan: &Plan) {
        self.server.plans = false;
        if !self.database_up {
            return;
        }
        let ttl = i64::try_from(self.set.ttl_ms).unwrap_or(i64::MAX);
        for placement in &plan.placements {
            let branch = row(placement.job.0);
            let newest = self.storage.newest(branch);
            if self.store.grant(branch, placement.worker, &placement.slots, ttl, newest) {
                let attempt = attempt_id(self.store.attempts.len() - 1);
                self.oracle.granted(attempt, &self.store, &self.set, self.now);
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
        for preemption in &plan.preemptions {
            self.preemptions += u64::from(self.store.preempt(row(preemption.victim.0), row(preemption.job.0)));
        }
        self.plan_soon();
    }

    /// As `tasks::schedule::look`: what a plan depends on. None where nothing can be granted.
    fn look(&self) -> Option<Snapshot> {
        let jobs = || self.store.jobs.iter().enumerate().filter_map(|(branch, job)| Some((branch, job.as_ref()?)));
        let waiting: Vec<WaitingJob> =
            jobs().filter(|(_, job)| self.store.is_ready(job)).map(|(branch, job)| self.waiting(branch, job)).collect();
        let priority = waiting.iter().map(|job| job.priority).max()?;
        let running: Vec<RunningJob> = jobs().filter_map(|(branch, job)| self.running(branch, job)).collect();
        let gives_way = |job: &&RunningJob| job.priority < priority || job.release != Release::No;
        let mut some: BTreeSet<WorkerId> = self.server.polls.workers_free().into_iter().collect();
        some.extend(running.iter().filter(gives_way).map(|job| job.worker));
        if some.is_empty() {
            return None;
        }
        let workers = self.store.workers.iter().enumerate().filter(|(w, _)| some.contains(&worker_id(*w)));
        let workers = workers.map(|(w, worker)| self.fleet_worker(w, worker)).collect();
        let preempt_after_s = self.set.preempt_after_s;
        Some(Snapshot { waiting, running, workers, preempt_after_s, ..Snapshot::default() })
    }

    fn waiting(&self, branch: usize, job: &Job) -> WaitingJob {
        let want = &self.store.branches[branch].want;
        WaitingJob {
            id: job_id(branch),
            owner: EXPERIMENT.into(),
            kind: JobKind::Train,
            priority: want.priority,
            slots: want.slots,
            needs: want.needs.clone(),
            remaining: job.remaining,
            age: branch as u64,
            slack_s: None,
            failed_on: None,
        }
    }

    fn running(&self, branch: usize, job: &Job) -> Option<RunningJob> {
        let attempt = &self.store.attempts[row(job.attempt?.0)];
        let release = match job.preempted_for {
            _ if job.command != Command::Continue || self.store.paused => Release::Asked,
            Some(other) => Release::For(job_id(other)),
            None => Release::No,
        };
        Some(RunningJob {
            id: job_id(branch),
            title: String::new(),
            owner: EXPERIMENT.into(),
            kind: JobKind::Train,
            priority: self.store.branches[branch].want.priority,
            worker: job.worker?,
            slots: attempt.slots.clone(),
            ran_s: self.store.ran_s(attempt),
            release,
        })
    }

    /// A worker as the planner sees it.
    fn fleet_worker(&self, w: usize, worker: &Worker) -> FleetWorker {
        let (id, machine) = (worker_id(w), &self.set.machines[w]);
        let ttl = i64::try_from(self.set.ttl_ms).unwrap_or(i64::MAX);
        let standing = match worker.mode {
            _ if worker.lost => Standing::Lost,
            _ if self.store.now_ms - worker.seen_ms > ttl => Standing::Silent,
            WorkerMode::Draining => Standing::Draining,
            WorkerMode::Disabled => Standing::Disabled,
            WorkerMode::Enabled => Standing::Open,
        };
        let held = self.store.jobs.iter().flatten().filter(|job| job.worker == Some(id)).filter_map(|job| job.attempt);
        let taken: BTreeSet<u16> =
            held.flat_map(|attempt| self.store.attempts[row(attempt.0)].slots.iter().copied()).collect();
        let asks = self.server.polls.slots_free(id);
        let freed = self.server.freed_at.get(&id).is_some_and(|at| self.now - at < super::worker::ms(ASKS_WITHIN));
        let state = |index| match (asks.contains(&index), freed) {
            _ if taken.contains(&index) => SlotState::Taken,
            (true, _) => SlotState::Free,
            (false, true) => SlotState::Coming,
            (false, false) => SlotState::Taken,
        };
        let slot = |index| FleetSlot {
            index,
            device: DeviceKind::Cpu,
            memory_bytes: machine.memory_bytes,
            state: state(index),
        };
        FleetWorker {
            id,
            name: format!("worker-{w}"),
            standing,
            capabilities: vec![JobKind::Train],
            labels: machine.labels.clone(),
            slots: (0..worker.slots).map(slot).collect(),
        }
    }
}
