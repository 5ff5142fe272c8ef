//! How leases are granted, renewed and taken back: as `db::leases` and `db::ingest::beats`.

use super::*;

impl Store {
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
        let (now_ms, ready) = (self.now_ms, self.job(branch).is_some_and(|job| self.is_ready(job)));
        let Some(job) = self.jobs[branch].as_mut().filter(|_| ready && able) else { return false };
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
            delivered: None,
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
            let session = self.workers.get(row(worker.0)).map_or(0, |worker| worker.session);
            let attempt_row = &mut self.attempts[row(attempt.0)];
            if attempt_row.delivered.is_none() {
                attempt_row.delivered = Some((self.now_ms, session));
                found.push(attempt);
            }
        }
        found
    }

    /// As `db::ingest::beats`, for one attempt.
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
        let gives_way = job.preempted_for.is_some();
        Wishes { asked: job.command, owner: experiment, drains, gives_way }.command()
    }

    /// As `db::leases::expired`.
    #[must_use]
    pub fn expired(&self, grace_ms: i64) -> Vec<AttemptId> {
        let over = |job: &&Job| job.state == JobState::Running && job.lease_expires_ms < self.now_ms - grace_ms;
        self.jobs.iter().flatten().filter(over).filter_map(|job| job.attempt).collect()
    }

    /// As `db::leases::unreported`.
    #[must_use]
    pub fn unreported(&self, ttl_ms: i64, silent_ms: i64) -> Vec<AttemptId> {
        let is_silent = |job: &&Job| {
            let (Some(attempt), Some(worker)) = (job.attempt, job.worker) else { return false };
            let worker = &self.workers[row(worker.0)];
            let delivered = self.attempts[row(attempt.0)].delivered;
            delivered.is_some_and(|(at, session)| {
                session == worker.session
                    && worker.beat_ms > at + silent_ms
                    && worker.beat_ms > job.lease_expires_ms - ttl_ms + silent_ms
            })
        };
        self.jobs.iter().flatten().filter(is_silent).filter_map(|job| job.attempt).collect()
    }

    /// As `db::leases::preempt`: whether the running one was asked to give its slots up.
    pub fn preempt(&mut self, victim: usize, branch: usize) -> bool {
        let there = self.jobs[branch].is_some();
        let Some(job) = self.jobs[victim].as_mut() else { return false };
        let asked =
            there && job.state == JobState::Running && job.command == Command::Continue && job.preempted_for.is_none();
        if asked {
            job.preempted_for = Some(branch);
        }
        asked
    }
}
