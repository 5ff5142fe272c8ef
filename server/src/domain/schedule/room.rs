//! One worker during a solve: which of its slots are free, coming free, or spoken for.

use super::{
    fit::{slot_fits, waste, worker_fits},
    snapshot::{FleetWorker, Release, RunningJob, SlotState, WaitingJob},
};
use senmon_protocol::{ids::JobId, job::JobKind};
use std::{cmp::Reverse, collections::HashSet};

/// A worker that is given jobs.
#[derive(Debug)]
pub(super) struct Room<'a> {
    pub worker: &'a FleetWorker,
    /// By position in `worker.slots`.
    slots: Vec<SlotUse>,
    /// Running jobs that could give their slots up, the cheapest first.
    running: Vec<&'a RunningJob>,
    /// A gang waits for it to drain: nothing else is placed here in this pass.
    pub held: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotUse {
    Free,
    Coming,
    ComingFor(JobId),
    Taken,
}

/// Whether a running job gives its slots up for one of this priority.
fn yields(running: &RunningJob, priority: i16) -> bool {
    running.priority < priority || (cfg!(feature = "plant-preempts-equals") && running.priority == priority)
}

/// What preempting on this worker would cost; the least is chosen.
pub(super) type Cost = (i16, usize, i64);

impl<'a> Room<'a> {
    /// The room of an open worker. `waits` are the jobs that wait: slots given up for another one are anybody's.
    pub fn new(worker: &'a FleetWorker, on_worker: &[&'a RunningJob], waits: &HashSet<JobId>, after_s: i64) -> Self {
        let mut slots: Vec<SlotUse> = worker
            .slots
            .iter()
            .map(|slot| match slot.state {
                SlotState::Free => SlotUse::Free,
                SlotState::Coming => SlotUse::Coming,
                SlotState::Taken => SlotUse::Taken,
            })
            .collect();
        for job in on_worker {
            let coming = match job.release {
                Release::No => SlotUse::Taken,
                Release::For(id) if waits.contains(&id) => SlotUse::ComingFor(id),
                Release::Asked | Release::For(_) => SlotUse::Coming,
            };
            for (slot, state) in worker.slots.iter().zip(&mut slots) {
                if job.slots.contains(&slot.index) {
                    *state = coming;
                }
            }
        }
        // Only training saves what it did; the rest is short, and begun again it would be lost.
        let gives_up =
            |job: &&&RunningJob| job.release == Release::No && job.kind == JobKind::Train && job.ran_s >= after_s;
        let mut running: Vec<_> = on_worker.iter().filter(gives_up).copied().collect();
        running.sort_by_key(|job| (job.priority, job.ran_s, job.id));
        Self { worker, slots, running, held: false }
    }

    /// Whether the job could ever run here.
    pub fn is_able(&self, job: &WaitingJob) -> bool {
        let fitting = || self.worker.slots.iter().filter(|slot| slot_fits(slot, &job.needs)).count();
        worker_fits(self.worker, job.kind, &job.needs) && fitting() >= usize::from(job.slots)
    }

    /// Free slots, whatever they offer.
    pub fn free(&self) -> usize {
        self.slots.iter().filter(|state| **state == SlotUse::Free).count()
    }

    /// Slots that fit and are free or coming free for this job.
    fn open_count(&self, job: &WaitingJob) -> usize {
        let mut open = 0;
        for (slot, state) in self.worker.slots.iter().zip(&self.slots) {
            let is_open = match state {
                SlotUse::Free | SlotUse::Coming => true,
                SlotUse::ComingFor(id) => *id == job.id,
                SlotUse::Taken => false,
            };
            open += usize::from(is_open && slot_fits(slot, &job.needs));
        }
        open
    }

    /// Positions of the fitting slots in one of the states, the least waste first.
    fn fitting(&self, job: &WaitingJob, states: &[SlotUse]) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.slots.len())
            .filter(|&i| states.contains(&self.slots[i]) && slot_fits(&self.worker.slots[i], &job.needs))
            .collect();
        found.sort_by_key(|&i| (waste(&self.worker.slots[i], job.kind), self.worker.slots[i].index));
        found
    }

    /// How well the job fits into the free slots, the least best; None where it does not.
    pub fn fit(&self, job: &WaitingJob) -> Option<(bool, (bool, u64), usize)> {
        if self.held || self.free() < usize::from(job.slots) || !worker_fits(self.worker, job.kind, &job.needs) {
            return None;
        }
        let fitting = self.fitting(job, &[SlotUse::Free]);
        let last = fitting.get(usize::from(job.slots).checked_sub(1)?)?;
        // One on which it did not fail a moment ago; the tightest, so that jobs of several slots find room.
        let failed_here = job.failed_on == Some(self.worker.id);
        Some((failed_here, waste(&self.worker.slots[*last], job.kind), self.free()))
    }

    /// Gives the job its slots.
    pub fn take(&mut self, job: &WaitingJob) -> Vec<u16> {
        let mut fitting = self.fitting(job, &[SlotUse::Free]);
        fitting.truncate(usize::from(job.slots));
        fitting.iter().for_each(|&i| self.slots[i] = SlotUse::Taken);
        fitting.into_iter().map(|i| self.worker.slots[i].index).collect()
    }

    /// Takes slots out that were given away before.
    pub fn close(&mut self, taken: &[u16]) {
        for (slot, state) in self.worker.slots.iter().zip(&mut self.slots) {
            if taken.contains(&slot.index) {
                *state = SlotUse::Taken;
            }
        }
    }

    /// Whether running jobs give slots up for this one.
    pub fn gives_up_for(&self, job: &WaitingJob) -> bool {
        self.slots.contains(&SlotUse::ComingFor(job.id))
    }

    /// Whether nothing can be had here, by any job of this priority.
    pub fn is_full(&self, priority: i16) -> bool {
        let taken = |state: &SlotUse| *state == SlotUse::Taken;
        self.slots.iter().all(taken) && !self.running.first().is_some_and(|cheapest| yields(cheapest, priority))
    }

    /// Whether enough slots are free or coming free.
    pub fn has_coming(&self, job: &WaitingJob) -> bool {
        !self.held && self.open_count(job) >= usize::from(job.slots) && worker_fits(self.worker, job.kind, &job.needs)
    }

    /// Fitting slots that are free or coming free for this job; what comes for it first, free ones last.
    fn open(&self, job: &WaitingJob) -> Vec<usize> {
        let mut found = self.fitting(job, &[SlotUse::ComingFor(job.id)]);
        found.extend(self.fitting(job, &[SlotUse::Coming]));
        found.extend(self.fitting(job, &[SlotUse::Free]));
        found
    }

    /// Keeps slots that are free or coming free for the job; what was given up for it is nobody else's either.
    pub fn reserve(&mut self, job: &WaitingJob) {
        let mut kept = self.open(job);
        kept.truncate(usize::from(job.slots));
        for i in 0..self.slots.len() {
            if kept.contains(&i) || self.slots[i] == SlotUse::ComingFor(job.id) {
                self.slots[i] = SlotUse::Taken;
            }
        }
    }

    /// The running jobs that would have to give their slots up, and what that costs. None where the job would not
    /// fit even then.
    pub fn victims(&self, job: &WaitingJob) -> Option<(Cost, Vec<&'a RunningJob>)> {
        if self.held || !self.running.first().is_some_and(|cheapest| yields(cheapest, job.priority)) {
            return None;
        }
        if !worker_fits(self.worker, job.kind, &job.needs) {
            return None;
        }
        let fitting = |victim: &RunningJob| {
            let offers = self.worker.slots.iter().filter(|slot| victim.slots.contains(&slot.index));
            offers.filter(|slot| slot_fits(slot, &job.needs)).count()
        };
        let open = self.open_count(job);
        let mut missing = usize::from(job.slots).saturating_sub(open);
        let mut chosen: Vec<&RunningJob> = Vec::new();
        for victim in self.running.iter().filter(|victim| yields(victim, job.priority)) {
            if missing == 0 {
                break;
            }
            let found = fitting(victim);
            if found > 0 {
                chosen.push(victim);
                missing = missing.saturating_sub(found);
            }
        }
        if missing > 0 || chosen.is_empty() {
            return None;
        }
        // What a later, larger one made needless goes on.
        let mut spare =
            (open + chosen.iter().map(|victim| fitting(victim)).sum::<usize>()).saturating_sub(usize::from(job.slots));
        chosen.sort_by_key(|victim| Reverse((victim.priority, victim.ran_s, victim.id)));
        chosen.retain(|victim| {
            let needless = fitting(victim) <= spare;
            if needless {
                spare -= fitting(victim);
            }
            !needless
        });
        let highest = chosen.iter().map(|victim| victim.priority).max().unwrap_or(0);
        Some(((highest, chosen.len(), chosen.iter().map(|victim| victim.ran_s).sum()), chosen))
    }

    /// The chosen jobs give their slots up for this one.
    pub fn preempt(&mut self, victims: &[&RunningJob], job: &WaitingJob) {
        for (slot, state) in self.worker.slots.iter().zip(&mut self.slots) {
            if victims.iter().any(|victim| victim.slots.contains(&slot.index)) {
                *state = SlotUse::ComingFor(job.id);
            }
        }
        self.running.retain(|running| victims.iter().all(|victim| victim.id != running.id));
        self.reserve(job);
    }
}
