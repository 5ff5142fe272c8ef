//! What a world is like: its fleet, its work, its costs, its weather.

use super::chance::Chance;
use senmon_protocol::resources::Needs;
use std::collections::BTreeMap;

/// A worker's machine; all its slots are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Slots.
    pub slots: u16,
    /// Memory of each.
    pub memory_bytes: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a branch asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// 0 to 100, higher first.
    pub priority: i16,
    /// Slots of one worker.
    pub slots: u16,
    /// What each of them must offer.
    pub needs: Needs,
}

impl Default for Want {
    fn default() -> Self {
        Self { priority: 50, slots: 1, needs: Needs::default() }
    }
}

impl Machine {
    /// Whether it has what is asked for, be it free or not; the judge's own word, not the scheduler's.
    #[must_use]
    pub fn has(&self, want: &Want) -> bool {
        let labels = want.needs.labels.iter().all(|(key, value)| self.labels.get(key) == Some(value));
        labels && self.memory_bytes >= want.needs.memory_bytes && self.slots >= want.slots
    }
}

/// Settings of one seed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Simulated time in which faults come.
    pub storm_ms: u64,
    /// Time after it in which everything must be done.
    pub calm_ms: u64,
    /// The workers' machines.
    pub machines: Vec<Machine>,
    /// Steps of each branch; the first is the parent of the others.
    pub steps: Vec<u64>,
    /// What each branch asks for.
    pub wants: Vec<Want>,
    /// A branch gives its slots up to one of higher priority only after it ran for so long.
    pub preempt_after_s: i64,
    /// Whether the last is a child of the second instead.
    pub chain: bool,
    /// One step.
    pub step_ms: u64,
    /// From a grant to the first step.
    pub load_ms: u64,
    /// Training stands still for a save.
    pub stall_ms: u64,
    /// A save is written in the background for so long.
    pub write_ms: u64,
    /// Between saves.
    pub save_every_ms: u64,
    /// Life of a lease.
    pub ttl_ms: u64,
    /// Silence beyond it.
    pub lost_ms: u64,
    /// Between faults, on average.
    pub strike_mean_ms: u64,
    /// Events between two looks at everything.
    pub check_all_every: u64,
    /// Only workers crash, and come back after this.
    pub crashes_only: Option<u64>,
}

impl Settings {
    /// A day with hundreds of faults.
    #[must_use]
    pub fn storm(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x0057_0124);
        let ttl_ms = [15_000, 30_000, 60_000, 60_000][chance.index(4)];
        let fleet: &[&[u16]] = &[&[1, 1], &[2, 1], &[1, 1, 1], &[2, 2], &[3]];
        let machines: Vec<Machine> =
            fleet[chance.index(fleet.len())].iter().map(|&slots| machine(slots, &mut chance)).collect();
        let step_ms = chance.between(10_000, 40_000);
        let all: u64 = machines.iter().map(|machine| u64::from(machine.slots)).sum();
        let branches = chance.between(all + 1, all + 3);
        let work = 20 * 3_600_000 / step_ms;
        let wants: Vec<Want> = (0..branches).map(|_| want(&machines, &mut chance)).collect();
        let steps = wants.iter().enumerate().map(|(b, want)| {
            let share = work * chance.between(50, 90) * all / (100 * branches);
            if b == 0 { work / 6 } else { share / u64::from(want.slots) }
        });
        Self {
            steps: steps.map(|n| n.max(20)).collect(),
            wants,
            preempt_after_s: [0, 300, 1_800][chance.index(3)],
            chain: true,
            storm_ms: 24 * 3_600_000,
            calm_ms: 120 * 3_600_000,
            machines,
            step_ms,
            load_ms: chance.between(5_000, 40_000),
            stall_ms: 100,
            write_ms: chance.between(1_000, 90_000),
            save_every_ms: chance.between(2, 20) * 60_000,
            ttl_ms,
            lost_ms: ttl_ms,
            strike_mean_ms: chance.between(3, 9) * 60_000,
            check_all_every: 1 << 15,
            crashes_only: None,
        }
    }

    /// Five days of one branch a slot, in which workers crash once in `apart_ms` on average: the measured costs of a
    /// save and of a start, the leases of the default configuration, saves at `save_every_ms`.
    #[must_use]
    pub fn goodput(apart_ms: u64, save_every_ms: u64) -> Self {
        let (workers, step_ms) = (4, 2_000);
        let machine = Machine { slots: 1, memory_bytes: 0, labels: BTreeMap::new() };
        Self {
            // Faults come until the last step.
            storm_ms: 0,
            calm_ms: 480 * 3_600_000,
            chain: false,
            machines: vec![machine; 4],
            steps: vec![20, 216_000, 216_000, 216_000, 216_000],
            wants: vec![Want::default(); 5],
            preempt_after_s: i64::MAX,
            step_ms,
            load_ms: 10_000,
            stall_ms: 100,
            write_ms: 5_000,
            save_every_ms,
            ttl_ms: 15_000,
            lost_ms: 14_000,
            strike_mean_ms: (apart_ms / workers).max(1),
            check_all_every: 1 << 20,
            crashes_only: Some(60_000),
        }
    }
}

fn machine(slots: u16, chance: &mut Chance) -> Machine {
    let gib = [24, 40, 80][chance.index(3)];
    let zone = ["east", "west"][chance.index(2)];
    Machine { slots, memory_bytes: gib << 30, labels: [("zone".to_owned(), zone.to_owned())].into() }
}

/// What one of the machines can give.
fn want(machines: &[Machine], chance: &mut Chance) -> Want {
    let machine = &machines[chance.index(machines.len())];
    let priority = [20, 50, 50, 50, 80][chance.index(5)];
    let slots = if chance.one_in(3) { machine.slots } else { 1 };
    let memory_bytes = if chance.one_in(3) { machine.memory_bytes } else { 0 };
    let labels = if chance.one_in(4) { machine.labels.clone() } else { BTreeMap::new() };
    Want { priority, slots, needs: Needs { memory_bytes, device: None, labels } }
}
