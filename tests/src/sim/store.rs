//! The database in memory: the same guarded writes as `senmon_server::db`, by the same decisions of
//! `senmon_server::domain`. A differential test compares the two.
//!
//! Each function is one transaction. Never looks at a clock: `now_ms` is the database's.

mod ends;
mod leases;

use super::{plants, settings::Want};
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
    /// What its job asks for.
    pub want: Want,
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
    /// The branch of higher priority for which it shall give its slots up.
    pub preempted_for: Option<usize>,
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
    /// When it was handed to the worker, and in which of its sessions.
    pub delivered: Option<(i64, i64)>,
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
    /// Its last heartbeat.
    pub beat_ms: i64,
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

    /// Whether a job waits for slots and nothing else.
    #[must_use]
    pub fn is_ready(&self, job: &Job) -> bool {
        job.state == JobState::Queued && job.not_before_ms <= self.now_ms && !self.paused
    }

    /// Seconds since an attempt was granted.
    #[must_use]
    pub fn ran_s(&self, attempt: &Attempt) -> i64 {
        (self.now_ms - attempt.started_ms) / 1000
    }

    fn hold(&self, attempt: AttemptId, fence: Fence) -> Result<usize> {
        let found = self.attempts.get(row(attempt.0)).ok_or(Refusal::StaleFence)?;
        let job = self.jobs[found.job].as_ref().ok_or(Refusal::StaleFence)?;
        let held = job.attempt == Some(attempt) && job.fence == fence.0 && job.state == JobState::Running;
        if held || plants::NO_FENCE_CHECK { Ok(found.job) } else { Err(Refusal::StaleFence) }
    }

    /// As `db::jobs::ensure`.
    pub fn ensure_job(&mut self, branch: usize) {
        if self.paused || self.branches[branch].state != BranchState::Waiting {
            return;
        }
        let remaining = signed(self.branches[branch].steps - self.branches[branch].step);
        self.jobs[branch].get_or_insert(Job {
            state: JobState::Queued,
            fence: 0,
            attempt: None,
            worker: None,
            lease_expires_ms: 0,
            command: Command::Continue,
            preempted_for: None,
            retries: (0, 0),
            not_before_ms: 0,
            remaining,
            resume: None,
        });
        self.branches[branch].state = BranchState::Queued;
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
            self.workers.push(Worker {
                session: 0,
                slots,
                mode: WorkerMode::Enabled,
                lost: false,
                seen_ms: now_ms,
                beat_ms: now_ms,
            });
        }
        let row = &mut self.workers[worker];
        row.session += 1;
        (row.slots, row.seen_ms, row.lost) = (slots, now_ms, false);
        row.session
    }

    /// As `db::workers::seen`.
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

    /// As `db::ingest::beats`, without the renewals.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] for an old session.
    pub fn beat(&mut self, worker: WorkerId, session: i64) -> Result<()> {
        self.seen(worker, session)?;
        self.workers[row(worker.0)].beat_ms = self.now_ms;
        Ok(())
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
