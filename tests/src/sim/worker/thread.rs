//! The attempt's thread: loads, steps, saves, ends; as `runner` and `train::session`.

use super::*;

impl World {
    /// A thread has loaded its checkpoint, or done a step.
    pub fn thread(&mut self, w: usize, attempt: AttemptId) {
        let (now, wall_ms) = (self.now, self.workers[w].wall_ms);
        let Some(seat) = self.workers[w].seats.get_mut(&attempt) else { return };
        let (branch, fence, command) = (seat.branch, seat.fence, seat.command);
        let Some(thread) = seat.thread.as_mut() else { return };
        if thread.loading {
            thread.loading = false;
            return self.loaded(w, attempt, branch, fence);
        }
        thread.step += 1;
        thread.state = mix(thread.state, mix(branch as u64, thread.step));
        let (step, state, steps) = (thread.step, thread.state, self.store.branches[branch].steps);
        if let Some(reason) = thread.poison.take() {
            thread.ending = Some(Some(ended(reason, "a planted fault of the user")));
        } else {
            seat.desk.point(step, state, now, wall_ms);
            if self.store.job(branch).is_some_and(|job| job.attempt == Some(attempt)) {
                self.ledger.step(branch, self.set.step_ms);
            }
        }
        self.age_batches(w, attempt, 3 * self.set.step_ms);
        let every = self.set.save_every_ms;
        let Some(thread) = self.workers[w].seats.get_mut(&attempt).and_then(|seat| seat.thread.as_mut()) else {
            return;
        };
        if thread.ending.is_none() {
            thread.ending = match command {
                Command::Fenced => Some(None),
                Command::Cancel => Some(Some(ended(TerminationReason::Cancelled, "cancelled."))),
                Command::Release => Some(Some(ended(TerminationReason::Released, "given back on request."))),
                Command::Preempt => Some(Some(ended(TerminationReason::Preempted, "gave its slots up."))),
                Command::Continue if step == steps => Some(Some(completed(steps))),
                Command::Continue => None,
            };
            let due = now - thread.saved_at >= every
                || command == Command::Release
                || (command == Command::Preempt && !plants::PREEMPTED_UNSAVED)
                || step == steps;
            let keeps = !matches!(command, Command::Fenced | Command::Cancel);
            thread.wants_save = keeps && due && thread.saved_step != Some(step);
        }
        self.go_on(w, attempt);
    }

    fn loaded(&mut self, w: usize, attempt: AttemptId, branch: usize, fence: Fence) {
        let from = match self.store.job(branch).filter(|job| job.attempt == Some(attempt)) {
            Some(job) => job.resume,
            None => None,
        };
        let parent = self.store.branches[branch].parent;
        let loaded = match (from, parent) {
            (Some(id), _) => self.storage.load(id),
            (None, Some(parent)) => {
                let last = self.store.checkpoints.iter().rev().find(|c| c.branch == parent).map(|c| c.id);
                last.and_then(|id| self.storage.load(id)).map(|(_, state)| (0, mix(state, branch as u64)))
            }
            (None, None) => Some((0, self.oracle.root())),
        };
        let Some((step, state)) = loaded else {
            return self.finish(w, attempt, Some(ended(TerminationReason::CorruptData, "a file is altered")));
        };
        let (now, steps) = (self.now, self.store.branches[branch].steps);
        if let Some(thread) = self.workers[w].seats.get_mut(&attempt).and_then(|seat| seat.thread.as_mut()) {
            (thread.step, thread.state, thread.saved_at) = (step, state, now);
            // Its last checkpoint was committed, and the end that follows it was lost.
            thread.ending = (step == steps).then(|| Some(completed(steps)));
            thread.saved_step = Some(step).filter(|step| *step > 0);
        }
        self.phase(branch, attempt, "training");
        let verified = from.map(|_| true);
        self.report(w, attempt, Record::Started(AttemptStarted { fence, step_start: step, resume_verified: verified }));
        self.go_on(w, attempt);
    }

    /// What a thread does next: a save, its end, or a step.
    fn go_on(&mut self, w: usize, attempt: AttemptId) {
        let worker = &mut self.workers[w];
        let (epoch, full) = (worker.epoch, worker.store_full_until > self.now);
        let Some(seat) = worker.seats.get_mut(&attempt) else { return };
        let branch = seat.branch;
        let Some(thread) = seat.thread.as_mut() else { return };
        let mut stall_ms = 0;
        if thread.wants_save || thread.ending.is_some() {
            thread.waits = thread.saving.is_some();
            if thread.waits {
                return;
            }
        }
        if thread.wants_save {
            thread.wants_save = false;
            (thread.saved_step, thread.saved_at) = (Some(thread.step), self.now);
            let folder = Folder { branch, step: thread.step, state: thread.state, whole: false, flipped: false };
            stall_ms = self.set.stall_ms;
            self.asked_save(w, attempt, folder, epoch, full);
            return self.after_save(w, attempt, stall_ms);
        }
        if thread.ending.is_some() {
            return self.after_save(w, attempt, 0);
        }
        self.after(stall_ms + self.set.step_ms, Event::Thread { w, epoch, attempt });
    }

    fn asked_save(&mut self, w: usize, attempt: AttemptId, folder: Folder, epoch: u32, full: bool) {
        let id = self.checkpoint_id();
        if !full {
            self.storage.folders.insert(id, folder);
        }
        if let Some(thread) = self.workers[w].seats.get_mut(&attempt).and_then(|seat| seat.thread.as_mut()) {
            thread.saving = Some(id);
        }
        if self.store.job(folder.branch).is_some_and(|job| job.attempt == Some(attempt)) {
            self.ledger.stall(folder.branch, self.set.stall_ms);
        }
        self.after(self.set.stall_ms + self.set.write_ms, Event::Written { w, epoch, attempt, id });
    }

    fn after_save(&mut self, w: usize, attempt: AttemptId, stall_ms: u64) {
        let epoch = self.workers[w].epoch;
        let Some(thread) = self.workers[w].seats.get_mut(&attempt).and_then(|seat| seat.thread.as_mut()) else {
            return;
        };
        if thread.ending.is_some() {
            thread.waits = thread.saving.is_some();
            if !thread.waits {
                let outcome = thread.ending.take().flatten();
                self.finish(w, attempt, outcome);
            }
            return;
        }
        self.after(stall_ms + self.set.step_ms, Event::Thread { w, epoch, attempt });
    }

    /// A save is over.
    pub fn written(&mut self, w: usize, attempt: AttemptId, id: CheckpointId) {
        let full = self.workers[w].store_full_until > self.now;
        let Some(seat) = self.workers[w].seats.get_mut(&attempt) else { return };
        let (branch, fence) = (seat.branch, seat.fence);
        let Some(thread) = seat.thread.as_mut() else { return };
        thread.saving = None;
        let waits = std::mem::take(&mut thread.waits);
        match self.storage.folders.get_mut(&id).filter(|_| !full) {
            Some(folder) => {
                folder.whole = true;
                let step = folder.step;
                let checkpoint = committed(id, branch, fence, step);
                self.report(w, attempt, Record::Checkpoint(CommitCheckpoint { fence, checkpoint }));
            }
            None => thread.ending = Some(Some(ended(TerminationReason::StorageFailure, "no space left on device"))),
        }
        if waits {
            self.go_on(w, attempt);
        }
    }

    /// A thread is over; without an outcome it says nothing.
    pub(super) fn finish(&mut self, w: usize, attempt: AttemptId, outcome: Option<Outcome>) {
        let Some(seat) = self.workers[w].seats.get_mut(&attempt) else { return };
        let (branch, fence) = (seat.branch, seat.fence);
        seat.thread = None;
        self.phase(branch, attempt, "ending");
        if let Some(outcome) = outcome {
            self.report(w, attempt, Record::Complete(CompleteAttempt { fence, outcome, time: None }));
        }
        self.unseat(w, attempt);
    }
}
