//! The world of one seed: its clock, what is due next, and everything that lives in it.
//!
//! One event at a time, in the order of time; equal times in the order of asking. After each event the invariants.

use super::{
    chance::{Chance, mix},
    faults::Fault,
    invariants::Oracle,
    ledger::Ledger,
    network::{Answered, Link, Request},
    server::Server,
    settings::Settings,
    storage::Storage,
    store::{self, Branch, Store},
    worker::Worker,
};
use senmon_protocol::{
    ids::{AttemptId, CheckpointId},
    view::BranchState,
};
use senmon_server::domain::schedule;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// A seed has less than a tenth of it.
const EVENTS_MAX: u64 = 20_000_000;

/// Something that happens at a moment.
#[derive(Debug)]
pub enum Event {
    /// A worker's heart beats, or enrols.
    Heart { w: usize, epoch: u32, token: u64 },
    /// A worker asks for work.
    Poll { w: usize, epoch: u32 },
    /// An attempt's thread has done what it was doing.
    Thread { w: usize, epoch: u32, attempt: AttemptId },
    /// A checkpoint is written, or its disk refused.
    Written { w: usize, epoch: u32, attempt: AttemptId, id: CheckpointId },
    /// The scribe tries its disk again.
    Scribe { w: usize, epoch: u32, attempt: AttemptId },
    /// A courier looks at its spool.
    Courier { w: usize, epoch: u32, attempt: AttemptId },
    /// A request reaches the server.
    Arrive(Request),
    /// A call of a worker is over.
    Answer(Answered),
    /// The server plans.
    Plan { epoch: u32 },
    /// The server carries its plan out.
    CarryOut { epoch: u32, plan: schedule::Plan },
    /// The server looks for leases that are over.
    Expire { epoch: u32 },
    /// A poll has waited long enough.
    PollOver { epoch: u32, number: u64 },
    /// The slow loops: scrub, retention, jobs of branches whose parent is done.
    Loops { epoch: u32 },
    /// The checkpoint that an attempt could not load is to be read next.
    Doubt { epoch: u32, branch: usize },
    /// The next fault is due.
    Strike,
    /// Something breaks, or a person acts.
    Fault(Fault),
}

struct Due {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything.
pub struct World {
    /// True time, in milliseconds.
    pub now: u64,
    /// How far the database's clock is off.
    pub database_ms: i64,
    /// Settings.
    pub set: Settings,
    /// Chance.
    pub chance: Chance,
    /// The database.
    pub store: Store,
    /// Whether it answers.
    pub database_up: bool,
    /// When it went away.
    pub database_down_at: u64,
    /// The object store.
    pub storage: Storage,
    /// The server.
    pub server: Server,
    /// The network, one link a worker.
    pub links: Vec<Link>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// What must hold.
    pub oracle: Oracle,
    /// Where the time went.
    pub ledger: Ledger,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Branches that were asked to give their slots up.
    pub preemptions: u64,
    /// Whether faults still come.
    pub stormy: bool,
    /// Events so far.
    pub events: u64,
    /// Hash of everything so far.
    pub trace: u64,
    /// Whether each event is printed.
    pub tells: bool,
    agenda: BinaryHeap<Reverse<Due>>,
    asked: u64,
}

impl World {
    /// The world of a seed, before its first event.
    #[must_use]
    pub fn new(seed: u64, set: Settings, tells: bool) -> Self {
        let mut chance = Chance::new(seed);
        let chained = |index: usize| set.chain && index > 1 && index == set.steps.len() - 1;
        let branch = |(index, steps): (usize, &u64)| Branch {
            parent: (index > 0).then_some(usize::from(chained(index))),
            state: BranchState::Waiting,
            step: 0,
            steps: *steps,
            want: set.wants[index].clone(),
            batches: BTreeMap::new(),
        };
        let branches: Vec<Branch> = set.steps.iter().enumerate().map(branch).collect();
        let store = Store {
            now_ms: 0,
            paused: false,
            jobs: vec![None; branches.len()],
            branches,
            restarts_max: 2,
            ..Store::default()
        };
        let oracle = Oracle::new(seed, &store);
        let workers = set.machines.iter().map(|machine| Worker::new(machine.slots)).collect::<Vec<_>>();
        let mut world = Self {
            now: 0,
            database_ms: 0,
            ledger: Ledger::new(store.branches.len()),
            server: Server::new(0),
            links: workers.iter().map(|_| Link::default()).collect(),
            storage: Storage::default(),
            database_up: true,
            database_down_at: 0,
            stormy: true,
            faults: BTreeMap::new(),
            preemptions: 0,
            events: 0,
            trace: seed,
            agenda: BinaryHeap::new(),
            asked: 0,
            chance: chance.clone(),
            set,
            store,
            workers,
            oracle,
            tells,
        };
        world.start_server();
        for w in 0..world.workers.len() {
            world.start_worker(w);
        }
        let first = chance.pause_ms(world.set.strike_mean_ms);
        world.after(first, Event::Strike);
        world
    }

    /// Asks for an event after a while.
    pub fn after(&mut self, ms: u64, event: Event) {
        self.asked += 1;
        self.agenda.push(Reverse(Due { at: self.now + ms, order: self.asked, event }));
    }

    /// Lets the next thing happen; false when a promise was broken.
    pub fn step(&mut self) -> bool {
        let Some(Reverse(due)) = self.agenda.pop() else {
            return self.oracle.fail("liveness", "nothing happens any more".into());
        };
        self.now = due.at;
        self.store.now_ms = i64::try_from(self.now).unwrap_or(i64::MAX) + self.database_ms;
        self.events += 1;
        if self.events > EVENTS_MAX {
            return self
                .oracle
                .fail("liveness", format!("more than {EVENTS_MAX} events: somebody asks without a pause"));
        }
        self.ledger.tick(self.now);
        if self.tells {
            self.tell(&due.event);
        }
        self.trace = mix(self.trace, mix(self.now, mix(due.order, self.chance.position())));
        self.happen(due.event);
        self.check_after_event();
        self.oracle.broken.is_none()
    }

    fn tell(&self, event: &Event) {
        let mut text = format!("{event:?}");
        text.truncate(240);
        println!("{} {text}", clock(self.now));
    }

    fn happen(&mut self, event: Event) {
        // A stopped process sees nothing until it goes on.
        if let Some((w, epoch)) = of_worker(&event) {
            if self.workers[w].epoch != epoch || !self.workers[w].up {
                return;
            }
            if self.workers[w].stopped {
                self.workers[w].missed.push(event);
                return;
            }
        }
        match event {
            Event::Heart { w, token, .. } => self.heart(w, token),
            Event::Poll { w, .. } => self.poll(w),
            Event::Thread { w, attempt, .. } => self.thread(w, attempt),
            Event::Written { w, attempt, id, .. } => self.written(w, attempt, id),
            Event::Scribe { w, attempt, .. } => self.scribe(w, attempt),
            Event::Courier { w, attempt, .. } => self.courier(w, attempt),
            Event::Arrive(request) => self.arrive(request),
            Event::Answer(answered) => self.answered(answered),
            Event::Strike => self.strike(),
            Event::Fault(fault) => self.fault(fault),
            Event::Plan { epoch } if self.serves(epoch) => self.plan(),
            Event::CarryOut { epoch, plan } if self.serves(epoch) => self.carry_out(&plan),
            Event::Expire { epoch } if self.serves(epoch) => self.expire(),
            Event::PollOver { epoch, number } if self.serves(epoch) => self.poll_over(number),
            Event::Loops { epoch } if self.serves(epoch) => self.loops(),
            Event::Doubt { epoch, branch } if self.serves(epoch) && self.database_up => self.store.doubt(branch),
            _ => {}
        }
    }

    fn serves(&self, epoch: u32) -> bool {
        self.server.up && self.server.epoch == epoch
    }

    /// Whether every branch is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        use BranchState::{Cancelled, Completed, Failed};
        self.store.branches.iter().all(|b| matches!(b.state, Completed | Failed | Cancelled))
    }

    /// A fresh checkpoint id.
    pub fn checkpoint_id(&mut self) -> CheckpointId {
        self.asked += 1;
        store::checkpoint_id(usize::try_from(self.asked).unwrap_or(0))
    }
}

/// The process that an event belongs to.
fn of_worker(event: &Event) -> Option<(usize, u32)> {
    match event {
        Event::Heart { w, epoch, .. }
        | Event::Poll { w, epoch }
        | Event::Thread { w, epoch, .. }
        | Event::Written { w, epoch, .. }
        | Event::Scribe { w, epoch, .. }
        | Event::Courier { w, epoch, .. } => Some((*w, *epoch)),
        Event::Answer(answered) => Some((answered.w, answered.epoch)),
        _ => None,
    }
}

/// Simulated time for people.
#[must_use]
pub fn clock(ms: u64) -> String {
    let (s, h) = (ms / 1000, ms / 3_600_000);
    format!("{h:03}:{:02}:{:02}.{:03}", s / 60 % 60, s % 60, ms % 1000)
}
