//! What must hold, judged by its own books and not by the code under test.

use super::{
    chance::mix,
    settings::Settings,
    spool::loss,
    storage::Storage,
    store::{Checkpoint, Store, row},
    world::World,
};
use senmon_protocol::{
    ids::{AttemptId, CheckpointId, JobId},
    job::{Outcome, TerminationReason},
    view::{BranchState, JobState},
    worker::MetricBatch,
};
use senmon_server::domain::{
    lease::{Next, RETRIES_INFRA_MAX},
    metrics::{
        LOSS, Points,
        draw::{Piece, draw},
        pyramid::Buckets,
    },
    schedule::Plan,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A promise that was broken.
#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    /// The promise.
    pub invariant: String,
    /// What happened.
    pub what: String,
}

/// The books.
#[derive(Debug)]
pub struct Oracle {
    /// The first promise broken.
    pub broken: Option<Violation>,
    /// Checks made.
    pub checks: u64,
    /// Since when the server and its database could hear.
    pub hears_since: u64,
    /// Checkpoints that evaluations refer to.
    pub evaluated: BTreeSet<CheckpointId>,
    root: u64,
    states: Vec<Vec<u64>>,
    lengths: Vec<u64>,
    fences: Vec<i64>,
    acknowledged: BTreeSet<CheckpointId>,
    faults: Vec<(i32, i32)>,
    /// When each branch last got on.
    pub(super) progress_at: Vec<u64>,
    /// When nobody waited last for whom there was room.
    pub nobody_due_at: u64,
    /// When a slot was last granted.
    pub(super) granted_at: u64,
    /// Nothing was disturbed since.
    pub quiet_since: u64,
    /// When the server last heard of each worker.
    heard: BTreeMap<usize, u64>,
}

impl Oracle {
    /// Of a world.
    #[must_use]
    pub fn new(seed: u64, store: &Store) -> Self {
        let root = mix(seed, 0xfeed);
        let mut states: Vec<Vec<u64>> = Vec::new();
        for (index, branch) in store.branches.iter().enumerate() {
            let start =
                branch.parent.map_or(root, |parent| mix(states[parent].last().copied().unwrap_or(0), index as u64));
            let chain = std::iter::successors(Some((0, start)), |(n, state)| {
                (*n < branch.steps).then(|| (n + 1, mix(*state, mix(index as u64, n + 1))))
            });
            states.push(chain.map(|(_, state)| state).collect());
        }
        let n = store.branches.len();
        Self {
            broken: None,
            checks: 0,
            hears_since: 0,
            evaluated: BTreeSet::new(),
            root,
            states,
            lengths: vec![0; n],
            fences: vec![0; n],
            acknowledged: BTreeSet::new(),
            faults: vec![(0, 0); n],
            progress_at: vec![0; n],
            quiet_since: 0,
            heard: BTreeMap::new(),
            nobody_due_at: 0,
            granted_at: 0,
        }
    }

    /// The state before the first step.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The server heard of a worker.
    pub fn hears(&mut self, worker: usize, now: u64) {
        self.heard.insert(worker, now);
    }

    /// Another machine was given the name of a worker.
    pub fn gave_name(&mut self, worker: usize, now: u64, window_ms: u64) {
        let last = self.heard.get(&worker).copied().unwrap_or(0).max(self.hears_since);
        let silent = now.saturating_sub(last);
        self.ensure(silent >= window_ms, "a name is one machine's while it lives", || {
            format!("worker {worker}, silent for {silent} ms of {window_ms}")
        });
    }

    /// A broken promise; false.
    pub fn fail(&mut self, invariant: &str, what: String) -> bool {
        self.broken.get_or_insert(Violation { invariant: invariant.into(), what });
        false
    }

    /// One check.
    pub fn ensure(&mut self, holds: bool, invariant: &str, what: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.fail(invariant, what());
        }
    }

    /// Whether an attempt is the last of its job and not over, by the order of grants alone.
    #[must_use]
    pub fn is_current(&self, store: &Store, attempt: AttemptId) -> bool {
        let Some(found) = store.attempts.get(row(attempt.0)) else { return false };
        found.finished_ms.is_none() && !store.attempts[row(attempt.0) + 1..].iter().any(|later| later.job == found.job)
    }

    /// A fenced write was accepted.
    pub fn accepted(&mut self, current: bool, what: &str, attempt: AttemptId) {
        self.ensure(current, "no write with an old fence is accepted", || {
            format!("{what} of attempt {}", row(attempt.0))
        });
    }

    /// The scheduler decided.
    pub fn planned(&mut self, plan: &Plan, store: &Store, set: &Settings) {
        let priority = |job: JobId| store.branches[row(job.0)].want.priority;
        for preemption in &plan.preemptions {
            let (victim, job) = (preemption.victim, preemption.job);
            self.ensure(priority(victim) < priority(job), "slots are given up only for a higher priority", || {
                format!("branch {} for branch {}", row(victim.0), row(job.0))
            });
            let attempt = store.job(row(victim.0)).and_then(|job| job.attempt).map(|id| &store.attempts[row(id.0)]);
            let ran_s = attempt.map_or(0, |attempt| store.ran_s(attempt));
            self.ensure(ran_s >= set.preempt_after_s, "slots are given up only after some time", || {
                format!("branch {} after {ran_s} s of {}", row(victim.0), set.preempt_after_s)
            });
        }
    }

    /// A job was granted.
    pub fn granted(&mut self, attempt: AttemptId, store: &Store, set: &Settings, now: u64) {
        let at = row(attempt.0);
        let found = &store.attempts[at];
        let grown = found.fence == self.fences[found.job] + 1;
        self.ensure(grown, "fences only grow, by one", || format!("branch {}: fence {}", found.job, found.fence));
        self.fences[found.job] = found.fence;
        (self.progress_at[found.job], self.granted_at) = (now, now);
        let want = &store.branches[found.job].want;
        let has = set.machines[row(found.worker.0)].has(want) && found.slots.len() == usize::from(want.slots);
        self.ensure(has, "a job runs only where it has what it asks for", || {
            format!("branch {}: {want:?} on worker {}", found.job, row(found.worker.0))
        });
        let open = store.attempts[..at].iter().any(|other| other.job == found.job && other.finished_ms.is_none());
        self.ensure(!open, "at most one live lease per job", || format!("branch {}", found.job));
        let resume = store.job(found.job).and_then(|job| job.resume);
        let newest = store.checkpoints.iter().rev().find(|c| c.branch == found.job && !c.damaged).map(|c| c.id);
        self.ensure(resume == newest, "the latest checkpoint comes from committed rows", || {
            format!("branch {}", found.job)
        });
        let beside = |job: &super::store::Job| {
            job.attempt.is_some_and(|other| {
                let other_row = &store.attempts[row(other.0)];
                other != attempt
                    && other_row.worker == found.worker
                    && other_row.slots.iter().any(|slot| found.slots.contains(slot))
            })
        };
        self.ensure(!store.jobs.iter().flatten().any(beside), "no slot is leased twice", || format!("attempt {at}"));
    }

    /// A branch may be granted from now on.
    pub fn queued(&mut self, branch: usize, now: u64) {
        self.progress_at[branch] = now;
    }

    /// An attempt said where it starts.
    pub fn started(&mut self, branch: usize, step: u64, now: u64) {
        let there = self.lengths[branch];
        self.ensure(step <= there, "no acknowledged point is lost", || {
            format!("branch {branch} resumes at {step}, its curve ends at {there}")
        });
        self.lengths[branch] = step;
        self.progress_at[branch] = now;
    }

    /// A batch was stored.
    pub fn points(&mut self, branch: usize, batch: &MetricBatch, now: u64) {
        for (&step, value) in batch.steps.iter().zip(&batch.series["train/loss"]) {
            let next = self.lengths[branch] + 1;
            self.ensure(step == next, "one current value for each step, none lost and none twice", || {
                format!("branch {branch}: step {step} came, {next} was due")
            });
            let expected =
                self.states[branch].get(usize::try_from(step).unwrap_or(usize::MAX)).map(|state| loss(*state));
            self.ensure(*value == expected, "a resumed training has the same bits", || {
                format!("branch {branch}, step {step}")
            });
            self.lengths[branch] = step;
        }
        self.progress_at[branch] = now;
    }

    /// A checkpoint was committed.
    pub fn committed(&mut self, id: CheckpointId, storage: &Storage, now: u64) {
        let Some(folder) = storage.folders.get(&id) else { return };
        let expected = self.states[folder.branch].get(usize::try_from(folder.step).unwrap_or(usize::MAX)).copied();
        self.ensure(expected == Some(folder.state), "a resumed training has the same bits", || {
            format!("checkpoint {}", row(id.0))
        });
        let length = self.lengths[folder.branch];
        self.ensure(length >= folder.step, "points come before the checkpoint that follows them", || {
            format!("step {}, curve {length}", folder.step)
        });
        self.acknowledged.insert(id);
        self.faults[folder.branch].1 = 0;
        self.progress_at[folder.branch] = now;
    }

    /// A checkpoint was read again.
    pub fn scrubbed(&mut self, found: &Checkpoint, storage: &Storage) {
        let whole = storage.folders.get(&found.id).is_some_and(|folder| folder.whole && !folder.flipped);
        self.ensure(found.damaged != whole, "every altered checkpoint is detected, and no other", || {
            format!("checkpoint {}", row(found.id.0))
        });
    }

    /// Retention removes a checkpoint.
    pub fn removed(&mut self, id: CheckpointId, branch: usize, store: &Store, referenced: &BTreeSet<CheckpointId>) {
        self.ensure(!referenced.contains(&id), "retention removes nothing that is referenced", || {
            format!("checkpoint {}", row(id.0))
        });
        let last =
            store.checkpoints.iter().rev().find(|c| c.branch == branch && c.verified && !c.damaged).map(|c| c.id);
        self.ensure(last != Some(id), "retention never removes the last verified one", || {
            format!("checkpoint {}", row(id.0))
        });
        self.acknowledged.remove(&id);
    }

    /// An attempt ended.
    pub fn ended(&mut self, branch: usize, outcome: &Outcome, next: Option<Next>, store: &Store, now: u64) {
        self.progress_at[branch] = now;
        let Outcome::Ended(ended) = outcome else { return };
        if matches!(ended.reason, TerminationReason::Preempted | TerminationReason::Released) {
            let saved = store.checkpoints.iter().rev().find(|c| c.branch == branch).map(|c| c.step);
            let there = self.lengths[branch];
            self.ensure(saved == Some(there), "what gives its slots up has saved its last step", || {
                format!("branch {branch}: a checkpoint of step {saved:?}, {there} steps are current")
            });
        }
        let faults = &mut self.faults[branch];
        if ended.reason.is_users_fault() {
            faults.0 += 1;
        } else if !ended.reason.is_planned() {
            faults.1 += 1;
        }
        let (user, infra) = *faults;
        let spent = user > store.restarts_max || infra > RETRIES_INFRA_MAX;
        let given_up = next == Some(Next::GiveUp);
        let charged = store.job(branch).map(|job| job.retries);
        self.ensure(!given_up || spent, "a branch is given up only when a budget is spent", || {
            format!(
                "branch {branch}: {:?} after {user} faults of the user and {infra} of the infrastructure",
                ended.reason
            )
        });
        self.ensure(charged == Some((user, infra)), "each fault is charged once, to whom it belongs", || {
            format!("branch {branch}: {charged:?} charged, {user} and {infra} happened")
        });
    }

    /// A person lets a branch go on.
    pub fn forgiven(&mut self, branch: usize) {
        self.faults[branch] = (0, 0);
    }

    /// The server declared somebody lost.
    pub fn declared_lost(&mut self, now: u64, window_ms: u64) {
        let heard = now - self.hears_since;
        self.ensure(heard >= window_ms, "nobody is lost before a full window of listening", || {
            format!("after {heard} ms of {window_ms}")
        });
    }

    /// The whole curve, by the production code.
    fn check_curve(&mut self, store: &Store, branch: usize) {
        let batches =
            store.branches[branch].batches.iter().flat_map(|((fence, _), all)| all.iter().map(|b| (*fence, b)));
        let piece = |(fence, points): (i64, &Points)| Piece { fence, level: 0, buckets: Buckets::of(points.clone()) };
        let (points, _) = draw(batches.map(piece).collect(), &[], &store.segments(branch), (i64::MIN, i64::MAX));
        let length = self.lengths[branch];
        let whole = points.len() as u64 == length && points.step_last.iter().zip(1..).all(|(step, n)| *step == n);
        self.ensure(whole, "one current value for each step, none lost and none twice", || {
            format!("branch {branch}: the curve has {} points, {length} steps are current", points.len())
        });
        let same = points.series.get(LOSS).is_none_or(|stats| {
            let values = (0..points.len()).map(|i| stats.mean(i));
            values.zip(self.states[branch].iter().skip(1)).all(|(value, state)| value == Some(loss(*state)))
        });
        self.ensure(same, "the curve is the training's", || format!("branch {branch}"));
    }
}

impl World {
    /// After every event: what costs little; now and then all of it.
    pub fn check_after_event(&mut self) {
        for (branch, job) in self.store.jobs.iter().enumerate() {
            let Some(job) = job else { continue };
            let running = job.state == JobState::Running;
            let whole = running == (job.attempt.is_some() && job.worker.is_some());
            let same = job.attempt.is_none_or(|id| {
                let attempt = &self.store.attempts[row(id.0)];
                attempt.fence == job.fence && attempt.finished_ms.is_none()
            });
            let grown = job.fence == self.oracle.fences[branch];
            self.oracle.checks += 3;
            if !(whole && same && grown) {
                self.oracle.fail(
                    if grown { "at most one live lease per job" } else { "fences only grow, by one" },
                    format!("branch {branch}: {job:?}"),
                );
            }
            let done = self.store.branches[branch].state == BranchState::Completed;
            self.oracle.checks += 1;
            if done && job.state != JobState::Completed {
                self.oracle.fail("a completed branch has a completed job", format!("branch {branch}: {job:?}"));
            }
        }
        if self.events.is_multiple_of(self.set.check_all_every) {
            self.check_all();
        }
    }

    /// All of it.
    pub fn check_all(&mut self) {
        let acknowledged: Vec<CheckpointId> = self.oracle.acknowledged.iter().copied().collect();
        for id in acknowledged {
            let folder = self.storage.folders.get(&id);
            let loads = folder
                .is_some_and(|folder| folder.flipped || self.storage.load(id) == Some((folder.step, folder.state)));
            self.oracle.ensure(loads, "an acknowledged checkpoint loads", || format!("checkpoint {}", row(id.0)));
        }
        for branch in 0..self.store.branches.len() {
            self.oracle.check_curve(&self.store, branch);
            self.check_progress(branch);
        }
        self.check_queue();
    }

    /// At the end: everything is done, and what is stored is what a training without faults would have.
    pub fn check_end(&mut self) {
        self.check_all();
        for branch in 0..self.store.branches.len() {
            let found = &self.store.branches[branch];
            let (state, step, steps) = (found.state, found.step, found.steps);
            self.oracle.ensure(
                state == BranchState::Completed && step == steps,
                "every branch ends, whatever happened",
                || format!("branch {branch} is {state:?} at step {step} of {steps}: {:?}", self.store.jobs[branch]),
            );
            let account = &self.ledger.accounts[branch];
            let (wall, sum) = (account.wall_ms(), account.sum_ms());
            self.oracle.ensure(
                wall.abs_diff(sum) * 100 <= wall,
                "goodput and badput add up to wall time within 1 %",
                || format!("branch {branch}: {wall} ms of wall time, {sum} ms accounted for: {account:?}"),
            );
        }
    }

    /// A branch's time goes to another cause, where the attempt still has it.
    pub fn phase(&mut self, branch: usize, attempt: AttemptId, cause: &'static str) {
        if self.store.job(branch).is_some_and(|job| job.attempt == Some(attempt)) {
            self.ledger.enter(branch, cause, self.now);
        }
    }
}
