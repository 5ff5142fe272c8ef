//! The database in memory: the same guarded writes as `senmon_server::db`, by the same decisions of
//! `senmon_server::domain`. A differential test compares the two.
//!
//! Each function is one transaction. Never looks at a clock: `now_ms` is the database's.

mod ends;

use super::plants;
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{AttemptId, BranchId, CheckpointId, Fence, JobId, WorkerId},
    job::{EndedOutcome, JobResult, Outcome, WrittenCheckpoint},
    view::{BranchState, ExperimentState, JobState, WorkerMode},
    worker::{AttemptStarted, Command, MetricBatch},
};
use senmon_server::{
    db::jobs::Wish,
    domain::{
        lease::{Budgets, Charge, Next, Wishes, after_failure, charge},
        metrics::{Points, Segment},
    },
};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The attempt's lease is over.
    StaleFence,
    /// The row is in a state that does not allow it.
    Conflict(&'static str),
}

/// Result of a write.
pub type Result<T> = std::result::Result<T, Refusal>;

/// A branch's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// The branch whose last checkpoint it starts from.
    pub parent: Option<usize>,
    /// State.
    pub state: BranchState,
    /// Last reported step.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Stored batches by (fence, first step); more than one only where a bug is planted.
    pub batches: BTreeMap<(i64, u64), Vec<Points>>,
}

/// A job's row; its number is its branch's.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// State.
    pub state: JobState,
    /// Fence of the last grant.
    pub fence: i64,
    /// The attempt that holds the lease.
    pub attempt: Option<AttemptId>,
    /// The worker that holds it.
    pub worker: Option<WorkerId>,
    /// End of the lease.
    pub lease_expires_ms: i64,
    /// What the next renewal says.
    pub command: Command,
    /// Budgets spent.
    pub retries: (i32, i32),
    /// Not granted before then.
    pub not_before_ms: i64,
    /// Tokens left.
    pub remaining: i64,
    /// What the last grant resumes from.
    pub resume: Option<CheckpointId>,
}

/// An attempt's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The job.
    pub job: usize,
    /// Its fence.
    pub fence: i64,
    /// The worker.
    pub worker: WorkerId,
    /// The slots.
    pub slots: Vec<u16>,
    /// Where it started.
    pub step_start: Option<u64>,
    /// When it was granted.
    pub started_ms: i64,
    /// When it ended.
    pub finished_ms: Option<i64>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Handed to the worker.
    pub delivered: bool,
}

/// A committed checkpoint's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Id.
    pub id: CheckpointId,
    /// The branch.
    pub branch: usize,
    /// Its step.
    pub step: u64,
    /// Read back whole.
    pub verified: bool,
    /// Found damaged.
    pub damaged: bool,
}

/// A worker's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Session.
    pub session: i64,
    /// Slots.
    pub slots: u16,
    /// Whether it is given jobs.
    pub mode: WorkerMode,
    /// Declared lost.
    pub lost: bool,
    /// Last heard of.
    pub seen_ms: i64,
}

/// All tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Store {
    /// The database's clock.
    pub now_ms: i64,
    /// Whether the experiment is paused.
    pub paused: bool,
    /// Branches.
    pub branches: Vec<Branch>,
    /// Their jobs, where they have one.
    pub jobs: Vec<Option<Job>>,
    /// Attempts.
    pub attempts: Vec<Attempt>,
    /// Committed checkpoints in the order of commits.
    pub checkpoints: Vec<Checkpoint>,
    /// Workers.
    pub workers: Vec<Worker>,
    /// User faults that a job may have.
    pub restarts_max: i32,
}

/// The id of row `index`.
macro_rules! ids { ($($name:ident: $type:ident),+) => {$(
    #[doc = "The id of a row."]
    #[must_use]
    pub fn $name(index: usize) -> $type { $type(Uuid::from_u128(index as u128 + 1)) }
)+} }
ids!(attempt_id: AttemptId, branch_id: BranchId, job_id: JobId, worker_id: WorkerId, checkpoint_id: CheckpointId);

/// The row of an id.
#[must_use]
pub fn row(id: Uuid) -> usize {
    usize::try_from(id.as_u128() - 1).unwrap_or(usize::MAX)
}

/// A time for the pure decisions.
#[must_use]
pub fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Store {
    /// A job of a branch, which has one.
    #[must_use]
    pub fn job(&self, branch: usize) -> Option<&Job> {
        self.jobs[branch].as_ref()
    }

    fn hold(&self, attempt: AttemptId, fence: Fence) -> Result<usize> {
        let found = self.attempts.get(row(attempt.0)).ok_or(Refusal::StaleFence)?;
        let job = self.jobs[found.job].as_ref().ok_or(Refusal::StaleFence)?;
        let held = job.attempt == Some(attempt) && job.fence == fence.0 && job.state == JobState::Running;
        if held || plants::NO_FENCE_CHECK { Ok(found.job) } else { Err(Refusal::StaleFence) }
    }

    /// As `db::jobs::ensure` and `db::branches::set_queued`.
    pub fn ensure_job(&mut self, branch: usize) {
        let remaining = signed(self.branches[branch].steps - self.branches[branch].step);
        self.jobs[branch].get_or_insert(Job {
            state: JobState::Queued,
            fence: 0,
            attempt: None,
            worker: None,
            lease_expires_ms: 0,
            command: Command::Continue,
            retries: (0, 0),
            not_before_ms: 0,
            remaining,
            resume: None,
        });
        if self.branches[branch].state == BranchState::Waiting {
            self.branches[branch].state = BranchState::Queued;
        }
    }

    /// As `db::leases::grant`. `uncommitted` is the newest folder of the branch in the object store, for a planted bug.
    pub fn grant(
        &mut self,
        branch: usize,
        worker: WorkerId,
        slots: &[u16],
        ttl_ms: i64,
        uncommitted: Option<CheckpointId>,
    ) -> bool {
        let resume = self.checkpoints.iter().rev().find(|c| c.branch == branch && !c.damaged).map(|c| c.id);
        let able = self.workers.get(row(worker.0)).is_some_and(|w| w.mode == WorkerMode::Enabled && !w.lost);
        let attempt = attempt_id(self.attempts.len());
        let (now_ms, paused) = (self.now_ms, self.paused);
        let Some(job) = self.jobs[branch].as_mut() else { return false };
        if job.state != JobState::Queued || job.not_before_ms > now_ms || paused || !able {
            return false;
        }
        job.state = JobState::Running;
        job.fence += 1;
        (job.attempt, job.worker, job.command) = (Some(attempt), Some(worker), Command::Continue);
        job.lease_expires_ms = now_ms + ttl_ms;
        job.resume = if plants::RESUME_UNCOMMITTED { uncommitted.or(resume) } else { resume };
        self.attempts.push(Attempt {
            job: branch,
            fence: job.fence,
            worker,
            slots: slots.to_vec(),
            step_start: None,
            started_ms: now_ms,
            finished_ms: None,
            outcome: None,
            delivered: false,
        });
        if matches!(self.branches[branch].state, BranchState::Waiting | BranchState::Queued) {
            self.branches[branch].state = BranchState::Running;
        }
        true
    }

    /// As `db::leases::fetch_grants`: the attempts.
    pub fn fetch_grants(&mut self, worker: WorkerId) -> Vec<AttemptId> {
        let mut found = Vec::new();
        for branch in 0..self.jobs.len() {
            let Some(attempt) = self.jobs[branch].as_ref().filter(|j| j.worker == Some(worker)).and_then(|j| j.attempt)
            else {
                continue;
            };
            let attempt_row = &mut self.attempts[row(attempt.0)];
            if !attempt_row.delivered {
                attempt_row.delivered = true;
                found.push(attempt);
            }
        }
        found
    }

    /// As `db::ingest::renew`.
    pub fn renew(&mut self, worker: WorkerId, attempt: AttemptId, fence: Fence, ttl_ms: i64) -> Command {
        let drains = self.workers.get(row(worker.0)).is_some_and(|w| w.mode == WorkerMode::Draining);
        let now_ms = self.now_ms;
        let experiment = if self.paused { ExperimentState::Paused } else { ExperimentState::Running };
        let Some(job) = self.attempts.get(row(attempt.0)).and_then(|a| self.jobs[a.job].as_mut()) else {
            return Command::Fenced;
        };
        if job.attempt != Some(attempt)
            || job.worker != Some(worker)
            || job.fence != fence.0
            || job.state != JobState::Running
        {
            return Command::Fenced;
        }
        job.lease_expires_ms = now_ms + ttl_ms;
        Wishes { asked: job.command, experiment, drains, gives_way: false }.command()
    }

    /// As `db::leases::expired`.
    #[must_use]
    pub fn expired(&self, grace_ms: i64) -> Vec<AttemptId> {
        let over = |job: &&Job| job.state == JobState::Running && job.lease_expires_ms < self.now_ms - grace_ms;
        self.jobs.iter().flatten().filter(over).filter_map(|job| job.attempt).collect()
    }

    /// As `db::attempts::started`: whether it was not said before.
    ///
    /// # Errors
    /// [`Refusal::StaleFence`].
    pub fn started(&mut self, attempt: AttemptId, body: &AttemptStarted) -> Result<bool> {
        let branch = self.hold(attempt, body.fence)?;
        let attempt = &mut self.attempts[row(attempt.0)];
        if attempt.step_start.is_some() {
            return Ok(false);
        }
        attempt.step_start = Some(body.step_start);
        self.branches[branch].step = body.step_start;
        Ok(true)
    }

    /// As `db::ingest::batches`: the branch, and whether the batch is new.
    ///
    /// # Errors
    /// [`Refusal::StaleFence`].
    pub fn metrics(&mut self, attempt: AttemptId, batch: &MetricBatch) -> Result<(usize, bool)> {
        let index = self.hold(attempt, batch.fence)?;
        let branch = &mut self.branches[index];
        let (Some(&first), Some(&last)) = (batch.steps.first(), batch.steps.last()) else { return Ok((index, false)) };
        let there = branch.batches.entry((batch.fence.0, first)).or_default();
        if !there.is_empty() && !plants::METRICS_TWICE {
            return Ok((index, false));
        }
        let column = |values: &[u64]| values.iter().map(|v| signed(*v)).collect();
        there.push(Points {
            steps: column(&batch.steps),
            tokens: column(&batch.tokens),
            at_ms: batch.at_ms.clone(),
            series: batch.series.clone(),
        });
        branch.step = branch.step.max(last);
        Ok((index, true))
    }

    /// As `db::attempts::checkpoint`: whether it is new.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn checkpoint(&mut self, attempt: AttemptId, fence: Fence, written: &WrittenCheckpoint) -> Result<bool> {
        let branch = self.hold(attempt, fence)?;
        if written.meta.branch_id != branch_id(branch) || written.meta.fence != fence {
            return Err(Refusal::Conflict("another attempt's checkpoint"));
        }
        if self.checkpoints.iter().any(|c| c.id == written.id) {
            return Ok(false);
        }
        self.checkpoints.push(Checkpoint {
            id: written.id,
            branch,
            step: written.meta.step,
            verified: false,
            damaged: false,
        });
        if let Some(job) = self.jobs[branch].as_mut() {
            job.retries.1 = 0;
        }
        Ok(true)
    }

    /// As `db::workers::enrol`: the session.
    pub fn enrol(&mut self, worker: usize, slots: u16) -> i64 {
        let now_ms = self.now_ms;
        while self.workers.len() <= worker {
            self.workers.push(Worker { session: 0, slots, mode: WorkerMode::Enabled, lost: false, seen_ms: now_ms });
        }
        let row = &mut self.workers[worker];
        row.session += 1;
        (row.slots, row.seen_ms, row.lost) = (slots, now_ms, false);
        row.session
    }

    /// As `db::workers::seen` and `heartbeat`.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] for an old session.
    pub fn seen(&mut self, worker: WorkerId, session: i64) -> Result<()> {
        let now_ms = self.now_ms;
        match self.workers.get_mut(row(worker.0)).filter(|w| w.session == session) {
            Some(row) => {
                (row.seen_ms, row.lost) = (now_ms, false);
                Ok(())
            }
            None => Err(Refusal::Conflict("this session is over")),
        }
    }

    /// As `db::workers::mark_lost`: those newly lost.
    pub fn mark_lost(&mut self, silent_ms: i64) -> Vec<usize> {
        let before = self.now_ms - silent_ms;
        let newly = |(index, row): (usize, &mut Worker)| {
            let lost = !row.lost && row.seen_ms < before;
            row.lost |= lost;
            lost.then_some(index)
        };
        self.workers.iter_mut().enumerate().filter_map(newly).collect()
    }

    /// As `db::checkpoints::doubt`.
    pub fn doubt(&mut self, branch: usize) {
        if let Some(last) = self.checkpoints.iter_mut().rev().find(|c| c.branch == branch && !c.damaged) {
            last.verified = false;
        }
    }

    /// As `db::metrics::segments`.
    #[must_use]
    pub fn segments(&self, branch: usize) -> Vec<Segment> {
        let of = |a: &&Attempt| a.job == branch;
        let segment = |a: &Attempt| Some(Segment { fence: a.fence, step_start: signed(a.step_start?) });
        self.attempts.iter().filter(of).filter_map(segment).collect()
    }

    /// A planted bug: the fences live in the server's memory and are gone with it.
    pub fn forget_fences(&mut self) {
        self.jobs.iter_mut().flatten().filter(|job| job.state != JobState::Running).for_each(|job| job.fence = 0);
    }
}
