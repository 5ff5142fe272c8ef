//! How attempts end, and what people wish of their jobs: as `db::attempts::complete`, `db::jobs::wish` and
//! `db::branches::go_on`.

use super::*;

impl Store {
    /// As `db::attempts::complete`: what becomes of the job where it ended without a result; None inside where it is
    /// completed; None where it had ended so before.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn complete(&mut self, attempt: AttemptId, fence: Fence, outcome: &Outcome) -> Result<Option<Option<Next>>> {
        let before = self.attempts.get(row(attempt.0)).filter(|a| a.fence == fence.0).and_then(|a| a.outcome.as_ref());
        if before == Some(outcome) && !plants::COMPLETE_TWICE {
            return Ok(None);
        }
        let branch = match self.hold(attempt, fence) {
            Err(_) if plants::COMPLETE_TWICE && before == Some(outcome) => self.attempts[row(attempt.0)].job,
            held => held?,
        };
        let next = match outcome {
            Outcome::Completed(done) => {
                let JobResult::Train(trained) = &done.result else { return Err(Refusal::Conflict("another kind")) };
                let steps = self.branches[branch].steps;
                if trained.steps != steps || !self.checkpoints.iter().any(|c| c.branch == branch && c.step == steps) {
                    return Err(Refusal::Conflict("no checkpoint of its last step"));
                }
                // One that somebody cancelled meanwhile stays so.
                if self.branches[branch].state != BranchState::Cancelled {
                    (self.branches[branch].state, self.branches[branch].step) = (BranchState::Completed, steps);
                }
                self.release(branch, JobState::Completed, 0);
                None
            }
            Outcome::Ended(ended) => Some(self.end(branch, ended)),
        };
        let row = &mut self.attempts[row(attempt.0)];
        (row.finished_ms, row.outcome) = (Some(self.now_ms), Some(outcome.clone()));
        Ok(Some(next))
    }

    fn end(&mut self, branch: usize, ended: &EndedOutcome) -> Next {
        let Charge { user, infra } = charge(ended.reason);
        let Branch { state, steps, step, .. } = self.branches[branch];
        let Some(job) = self.jobs[branch].as_mut() else { return Next::GiveUp };
        job.remaining = signed(steps.saturating_sub(step));
        job.retries = (job.retries.0 + user, job.retries.1 + infra);
        let budgets = Budgets { user: job.retries.0, user_max: self.restarts_max, infra: job.retries.1 };
        let next = if state == BranchState::Cancelled || job.command == Command::Cancel {
            Next::Cancelled
        } else {
            after_failure(ended.reason, budgets, state == BranchState::Paused)
        };
        let (job_state, branch_state, wait_ms) = match next {
            Next::Retry(pause) => (JobState::Queued, BranchState::Queued, pause.num_milliseconds()),
            Next::Hold => (JobState::Paused, BranchState::Paused, 0),
            Next::Cancelled => (JobState::Cancelled, BranchState::Cancelled, 0),
            Next::GiveUp => (JobState::Failed, BranchState::Failed, 0),
        };
        self.branches[branch].state = branch_state;
        self.release(branch, job_state, wait_ms);
        next
    }

    fn release(&mut self, branch: usize, state: JobState, wait_ms: i64) {
        let Some(job) = self.jobs[branch].as_mut() else { return };
        (job.state, job.attempt, job.worker, job.preempted_for) = (state, None, None, None);
        if state == JobState::Completed {
            job.remaining = 0;
        } else {
            (job.command, job.not_before_ms) = (Command::Continue, self.now_ms + wait_ms);
        }
    }

    /// As `db::jobs::wish`.
    ///
    /// # Errors
    /// [`Refusal::Conflict`].
    pub fn wish(&mut self, branch: usize, wish: Wish) -> Result<()> {
        use BranchState::{Cancelled, Paused, Queued, Running, Waiting};
        let job = self.jobs[branch].as_mut();
        let state = &mut self.branches[branch].state;
        let (from, to): (&[_], _) = match (wish, job.as_ref().map(|job| job.state)) {
            (Wish::Pause, _) => (&[Waiting, Queued, Running], Paused),
            (Wish::Resume, None) => (&[Paused], Waiting),
            (Wish::Resume, Some(JobState::Running)) => (&[Paused], Running),
            (Wish::Resume, _) => (&[Paused], Queued),
            (Wish::Cancel, _) => (&[Waiting, Queued, Running, Paused], Cancelled),
        };
        if !from.contains(state) {
            return Err(Refusal::Conflict("the branch's state does not allow it"));
        }
        *state = to;
        let Some(job) = job else { return Ok(()) };
        match (wish, job.state) {
            (Wish::Pause, JobState::Queued) => job.state = JobState::Paused,
            (Wish::Resume, JobState::Paused) => job.state = JobState::Queued,
            (Wish::Cancel, JobState::Queued | JobState::Paused) => job.state = JobState::Cancelled,
            (wish, JobState::Running) => {
                job.command = match wish {
                    Wish::Pause => Command::Release,
                    Wish::Resume => Command::Continue,
                    Wish::Cancel => Command::Cancel,
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// As `db::branches::go_on`.
    ///
    /// # Errors
    /// [`Refusal::Conflict`].
    pub fn go_on(&mut self, branch: usize) -> Result<()> {
        let (now_ms, state) = (self.now_ms, &mut self.branches[branch].state);
        let running = self.jobs[branch].as_ref().is_some_and(|job| job.state == JobState::Running);
        if !matches!(state, BranchState::Failed | BranchState::Cancelled) || running {
            return Err(Refusal::Conflict("continue needs a failed or cancelled branch whose last attempt is over"));
        }
        *state = if self.jobs[branch].is_some() { BranchState::Queued } else { BranchState::Waiting };
        if let Some(job) = self.jobs[branch].as_mut() {
            (job.state, job.retries, job.not_before_ms, job.command) =
                (JobState::Queued, (0, 0), now_ms, Command::Continue);
        }
        Ok(())
    }
}
