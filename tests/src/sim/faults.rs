//! What breaks, and what people do, by the seed.

use super::{
    server::delta,
    storage::Storage,
    store::{at, row, worker_id},
    world::{Event, World},
};
use senmon_protocol::{
    job::TerminationReason,
    view::{BranchState, WorkerMode, WorkerState},
};
use senmon_server::{
    db::jobs::Wish,
    domain::{
        access::{Entry, Holder, may_enrol},
        lease::Patience,
    },
};

/// The end of a fault, or of a person's absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A worker's process starts again.
    Start(usize),
    /// A stopped one goes on.
    Continue(usize),
    /// The server starts again.
    Serve,
    /// The database answers again.
    DatabaseUp,
    /// The server's machine has its store again.
    Mount,
    /// A person looks after the branch: resumes or continues it.
    Mend(usize),
    /// A person enables the worker.
    Enable(usize),
    /// A person resumes the experiment.
    ResumeAll,
}

const MINUTE: u64 = 60_000;

impl World {
    /// The next fault.
    pub fn strike(&mut self) {
        if !self.stormy {
            return;
        }
        let pause = self.chance.pause_ms(self.set.strike_mean_ms);
        self.after(pause, Event::Strike);
        if let Some(back_ms) = self.set.crashes_only {
            return self.crash_only(back_ms);
        }
        // Weather comes in bursts: several things at once find more than one at a time.
        for _ in 0..=self.chance.below(3) {
            self.break_something();
        }
    }

    fn crash_only(&mut self, back_ms: u64) {
        let w = self.chance.index(self.workers.len());
        if self.workers[w].up {
            self.count("worker killed");
            self.kill_worker(w);
            self.after(back_ms, Event::Fault(Fault::Start(w)));
        }
    }

    fn count(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
        if self.tells {
            println!("{} *** {kind}", super::world::clock(self.now));
        }
    }

    /// Nothing is quiet before `ms` from now.
    fn disturb(&mut self, ms: u64) {
        self.oracle.quiet_since = self.oracle.quiet_since.max(self.now + ms);
    }

    fn break_something(&mut self) {
        let w = self.chance.index(self.workers.len());
        let short = self.chance.between(1_000, 3 * MINUTE);
        let span = if self.chance.one_in(4) { self.chance.between(MINUTE, 40 * MINUTE) } else { short };
        let until = self.now + span;
        self.disturb(span + MINUTE);
        match self.chance.below(25) {
            0 | 1 => self.kill(w, "worker killed", span, false),
            2 => self.kill(w, "machine lost its power", span, true),
            3 | 4 if self.workers[w].up && !self.workers[w].stopped => {
                self.count("worker stopped (SIGSTOP) and continued");
                self.workers[w].stopped = true;
                self.each_branch_of(w, "stopped");
                self.after(span, Event::Fault(Fault::Continue(w)));
            }
            5 => {
                self.count("partition, requests lost");
                self.links[w].up_cut_until = until;
            }
            6 => {
                self.count("partition, answers lost");
                self.links[w].down_cut_until = until;
            }
            7 => {
                self.count("partition, both ways");
                (self.links[w].up_cut_until, self.links[w].down_cut_until) = (until, until);
            }
            8 => {
                self.count("messages delayed and reordered");
                self.links[w].slow_until = until;
            }
            9 => {
                self.count("requests duplicated");
                self.links[w].doubles_until = until;
            }
            10 => {
                self.count("answers lost after the commit");
                self.links[w].swallows_until = until;
            }
            11 => {
                self.count("worker's clock jumped");
                self.workers[w].wall_ms = i64::try_from(self.chance.below(864_000_000)).unwrap_or(0) - 432_000_000;
            }
            12 => {
                self.count("spool's disk full");
                self.workers[w].disk_full_until = until;
            }
            13 => {
                self.count("store's disk full");
                self.workers[w].store_full_until = until;
            }
            14 => self.flip(),
            15 | 16 if self.server.up => {
                self.count("server killed");
                self.kill_server();
                self.after(span, Event::Fault(Fault::Serve));
            }
            17 if self.database_up => {
                self.count("database away");
                (self.database_up, self.database_down_at) = (false, self.now);
                self.after(span, Event::Fault(Fault::DatabaseUp));
            }
            18 => self.person(w, span),
            19 => self.poison(w),
            20 => self.evaluate(),
            21 if self.database_up => self.jump_database_clock(),
            22 => self.prioritise(),
            23 if self.server.up && self.database_up => self.take_name(w),
            24 if !self.storage.unmounted => {
                self.count("store not mounted at the server");
                self.storage.unmounted = true;
                self.after(span, Event::Fault(Fault::Mount));
            }
            _ => {}
        }
    }

    fn kill(&mut self, w: usize, kind: &'static str, back_ms: u64, power: bool) {
        if !self.workers[w].up {
            return;
        }
        self.count(kind);
        self.kill_worker(w);
        if power {
            let (keep_more, keeps_mark) = (self.chance.index(20), self.chance.one_in(2));
            self.workers[w].spools.values_mut().for_each(|spool| spool.lose_cache(keep_more, keeps_mark));
        }
        self.after(back_ms.min(10 * MINUTE), Event::Fault(Fault::Start(w)));
    }

    /// Another machine asks, by an enrolment token, to be the worker of this name; it is, when that one is lost.
    fn take_name(&mut self, w: usize) {
        let Some(row) = self.store.workers.get(w) else { return };
        let now = at(self.store.now_ms);
        let since = self.server.listening.look(now, delta((self.set.ttl_ms / 3).max(2_000)));
        let patience = Patience { since, ttl: delta(self.set.ttl_ms), lost_after: delta(self.set.lost_ms) };
        let was_lost = row.lost;
        let lives = !was_lost && patience.state(at(row.seen_ms), now) != WorkerState::Lost;
        let holder = Holder { id: worker_id(w), host: "home".into(), lives };
        if may_enrol(&Entry::Token, "elsewhere", Some(&holder)).is_err() {
            return self.count("another machine was refused a name");
        }
        self.count("another machine took the name of a lost worker");
        // That it was rightly declared lost is judged where that is done.
        if !was_lost {
            self.oracle.gave_name(w, self.now, self.set.ttl_ms + self.set.lost_ms);
        }
        self.kill_worker(w);
        self.start_worker(w);
    }

    fn each_branch_of(&mut self, w: usize, cause: &'static str) {
        let seats: Vec<_> = self.workers[w].seats.iter().map(|(id, seat)| (*id, seat.branch)).collect();
        seats.into_iter().for_each(|(attempt, branch)| self.phase(branch, attempt, cause));
    }

    /// A bit of the newest checkpoint of a branch that still trains.
    fn flip(&mut self) {
        let branch = self.chance.index(self.store.branches.len());
        if self.store.branches[branch].state == BranchState::Completed {
            return;
        }
        let steps = self.store.branches[branch].steps;
        let newest = self.store.checkpoints.iter().rev().find(|c| c.branch == branch && c.step < steps).map(|c| c.id);
        if let Some(folder) = newest.and_then(|id| Storage::folder(&mut self.storage, id)) {
            folder.flipped = true;
            self.count("checkpoint's bit flipped");
        }
    }

    fn person(&mut self, w: usize, span: u64) {
        let branch = self.chance.index(self.store.branches.len());
        match self.chance.below(6) {
            0 if self.store.wish(branch, Wish::Pause).is_ok() => {
                self.count("person paused a branch");
                self.after(span, Event::Fault(Fault::Mend(branch)));
            }
            // The root cannot be cancelled without ending the experiment.
            1 if branch > 0 && self.store.wish(branch, Wish::Cancel).is_ok() => {
                self.count("person cancelled a branch");
                self.after(span, Event::Fault(Fault::Mend(branch)));
            }
            2 | 3 if self.store.workers.len() > w => {
                let draining = self.chance.one_in(2);
                self.count(if draining { "person drained a worker" } else { "person disabled a worker" });
                self.store.workers[w].mode = if draining { WorkerMode::Draining } else { WorkerMode::Disabled };
                self.after(span, Event::Fault(Fault::Enable(w)));
            }
            4 => {
                self.count("person paused the experiment");
                self.store.paused = true;
                self.after(span, Event::Fault(Fault::ResumeAll));
            }
            _ => {}
        }
        let state = self.store.branches[branch].state;
        if matches!(state, BranchState::Paused | BranchState::Cancelled)
            && self.store.job(branch).is_some_and(|job| job.attempt.is_none())
        {
            self.ledger.enter(branch, "held", self.now);
        }
    }

    /// The database's clock is set, as after the loss of its time source.
    fn jump_database_clock(&mut self) {
        let ms = i64::try_from(self.chance.between(MINUTE, 15 * MINUTE)).unwrap_or(0);
        let back = self.chance.one_in(2);
        self.count(if back { "database's clock set back" } else { "database's clock set forward" });
        self.database_ms += if back { -ms } else { ms };
        // Whatever it dated lasts as much longer; and a server listens anew from a clock that jumped.
        self.disturb(ms.unsigned_abs() + MINUTE);
        self.oracle.hears_since = self.now;
    }

    /// A person sets another priority.
    fn prioritise(&mut self) {
        let (branch, tens) = (self.chance.index(self.store.branches.len()), self.chance.below(11));
        self.count("person set another priority");
        self.store.branches[branch].want.priority = i16::try_from(10 * tens).unwrap_or(50);
        self.plan_soon();
    }

    /// The next step of an attempt fails by the user's fault.
    fn poison(&mut self, w: usize) {
        let reason =
            if self.chance.one_in(2) { TerminationReason::OutOfMemory } else { TerminationReason::NonFiniteLoss };
        if let Some(thread) = self.workers[w].seats.values_mut().find_map(|seat| seat.thread.as_mut()) {
            thread.poison = Some(reason);
            self.count("user's fault");
        }
    }

    /// Somebody evaluates an older checkpoint, and refers to it from now on.
    fn evaluate(&mut self) {
        if !self.store.checkpoints.is_empty() {
            let at = self.chance.index(self.store.checkpoints.len());
            let found = &self.store.checkpoints[at];
            if found.verified && !found.damaged {
                self.oracle.evaluated.insert(found.id);
                self.count("older checkpoint referenced");
            }
        }
    }

    /// The end of a fault.
    pub fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Start(w) if !self.workers[w].up => self.start_worker(w),
            Fault::Continue(w) if self.workers[w].stopped => {
                self.workers[w].stopped = false;
                self.each_branch_of(w, "training");
                // Everything is overdue, in any order.
                for event in std::mem::take(&mut self.workers[w].missed) {
                    let soon = self.chance.below(50);
                    self.after(soon, event);
                }
            }
            // A server waits for its database before it serves.
            Fault::Serve if !self.database_up => self.after(1_000, Event::Fault(fault)),
            Fault::Serve if !self.server.up => self.start_server(),
            Fault::DatabaseUp => {
                self.database_up = true;
                // Less than a third of a lease costs one renewal, and two may be lost.
                if self.now - self.database_down_at > (self.set.ttl_ms / 3).max(2_000) {
                    self.oracle.hears_since = self.now;
                }
            }
            Fault::Mount => self.storage.unmounted = false,
            Fault::Mend(branch) => self.mend(branch),
            Fault::Enable(w) => {
                if let Some(row) = self.store.workers.get_mut(w) {
                    row.mode = WorkerMode::Enabled;
                }
            }
            Fault::ResumeAll => self.store.paused = false,
            _ => {}
        }
        self.disturb(MINUTE);
    }

    fn mend(&mut self, branch: usize) {
        let mended = match self.store.branches[branch].state {
            BranchState::Paused => self.store.wish(branch, Wish::Resume).is_ok(),
            BranchState::Failed | BranchState::Cancelled => {
                let continued = self.store.go_on(branch).is_ok();
                if continued {
                    self.oracle.forgiven(branch);
                } else if self.stormy {
                    // Its last attempt has not let go yet.
                    self.after(MINUTE, Event::Fault(Fault::Mend(branch)));
                }
                continued
            }
            _ => false,
        };
        if mended && self.store.job(branch).is_some_and(|job| job.attempt.is_none()) {
            self.ledger.enter(branch, "queued", self.now);
        }
        self.plan_soon();
    }

    /// The storm is over: what is broken is mended, now and when it shows.
    pub fn heal(&mut self) {
        if self.stormy {
            self.stormy = false;
            for link in &mut self.links {
                *link = super::network::Link::default();
            }
            for w in 0..self.workers.len() {
                (self.workers[w].disk_full_until, self.workers[w].store_full_until) = (0, 0);
            }
            self.disturb(45 * MINUTE);
        }
        for branch in 0..self.store.branches.len() {
            let state = self.store.branches[branch].state;
            if matches!(state, BranchState::Paused | BranchState::Failed | BranchState::Cancelled) {
                self.mend(branch);
            }
        }
    }
}

impl Storage {
    /// A folder to damage.
    fn folder(&mut self, id: senmon_protocol::ids::CheckpointId) -> Option<&mut super::storage::Folder> {
        debug_assert!(row(id.0) < usize::MAX);
        self.folders.get_mut(&id)
    }
}
