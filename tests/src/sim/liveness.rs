//! Liveness, judged by what a healthy cluster could do: what can go on goes on, and a queue moves.

use super::{
    store::{row, worker_id},
    world::World,
};
use senmon_protocol::view::{BranchState, WorkerMode};

impl World {
    /// A look at the queue, for the promise that it moves.
    pub fn look_at_queue(&mut self) {
        if !self.is_somebody_due() {
            self.oracle.nobody_due_at = self.now;
        }
    }

    /// Whether a branch waits that a healthy worker has room for, or makes room for, and no gang before it keeps that
    /// room for itself.
    fn is_somebody_due(&self) -> bool {
        let ready = |branch: &usize| self.store.job(*branch).is_some_and(|job| self.store.is_ready(job));
        let (due, blocked): (Vec<usize>, Vec<usize>) =
            (0..self.store.branches.len()).filter(ready).partition(|branch| self.has_room(*branch));
        let want = |branch: usize| &self.store.branches[branch].want;
        let gang = blocked.into_iter().filter(|b| want(*b).slots > 1).map(|b| want(b).priority).max();
        due.into_iter().any(|branch| gang.is_none_or(|gang| gang < want(branch).priority))
    }

    /// Whether one of the healthy workers has the slots that a branch asks for, or runs what gives them up for it.
    fn has_room(&self, branch: usize) -> bool {
        let want = &self.store.branches[branch].want;
        (0..self.workers.len()).any(|w| {
            let worker = &self.workers[w];
            let enabled = self.store.workers.get(w).is_some_and(|row| row.mode == WorkerMode::Enabled);
            if !enabled || !worker.up || worker.stopped || !self.set.machines[w].has(want) {
                return false;
            }
            let running = self.store.jobs.iter().flatten().filter_map(|job| job.attempt);
            let yielded = running.map(|id| &self.store.attempts[row(id.0)]).filter(|attempt| {
                let lower = self.store.branches[attempt.job].want.priority < want.priority;
                attempt.worker == worker_id(w) && lower && self.store.ran_s(attempt) >= self.set.preempt_after_s
            });
            let yielded: usize = yielded.map(|attempt| attempt.slots.len()).sum();
            worker.slots_free().len() + yielded >= usize::from(want.slots)
        })
    }

    /// With a healthy worker, the database and the network there for long enough, a branch that runs goes on.
    pub fn check_progress(&mut self, branch: usize) {
        let since = self.oracle.progress_at[branch].max(self.oracle.quiet_since);
        let running = self.store.branches[branch].state == BranchState::Running && !self.store.paused;
        let (waited, limit) = (self.now.saturating_sub(since), self.patience_ms());
        self.oracle.ensure(!running || waited <= limit, "every runnable branch goes on", || {
            format!("branch {branch} stands still for {} s: {:?}", waited / 1000, self.store.jobs[branch])
        });
    }

    /// Where there is room for somebody who waits, somebody is granted it.
    pub fn check_queue(&mut self) {
        let since = self.oracle.nobody_due_at.max(self.oracle.granted_at).max(self.oracle.quiet_since);
        let (waited, limit) = (self.now.saturating_sub(since), self.patience_ms());
        self.oracle.ensure(waited <= limit, "a queue with room for somebody moves", || {
            format!("nobody was granted a slot for {} s: {:?}", waited / 1000, self.store.jobs)
        });
    }

    /// A loss to notice, a start, a step, a save, and some pauses.
    fn patience_ms(&self) -> u64 {
        let set = &self.set;
        4 * (set.ttl_ms + set.lost_ms) + 2 * (set.load_ms + set.write_ms) + 10 * set.step_ms + 300_000
    }
}
