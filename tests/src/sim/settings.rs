//! What a world is like: its fleet, its work, its costs, its weather.

use super::chance::Chance;

/// Settings of one seed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Simulated time in which faults come.
    pub storm_ms: u64,
    /// Time after it in which everything must be done.
    pub calm_ms: u64,
    /// Slots of each worker.
    pub slots: Vec<u16>,
    /// Steps of each branch; the first is the parent of the others.
    pub steps: Vec<u64>,
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
        let slots = fleet[chance.index(fleet.len())].to_vec();
        let step_ms = chance.between(10_000, 40_000);
        let all: u64 = slots.iter().map(|n| u64::from(*n)).sum();
        let branches = chance.between(all + 1, all + 3);
        let work = 20 * 3_600_000 / step_ms;
        let steps = (0..branches)
            .map(|b| if b == 0 { work / 6 } else { work * chance.between(50, 90) * all / (100 * branches) });
        Self {
            steps: steps.map(|n| n.max(20)).collect(),
            chain: true,
            storm_ms: 24 * 3_600_000,
            calm_ms: 72 * 3_600_000,
            slots,
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
        Self {
            // Faults come until the last step.
            storm_ms: 0,
            calm_ms: 480 * 3_600_000,
            chain: false,
            slots: vec![1; 4],
            steps: vec![20, 216_000, 216_000, 216_000, 216_000],
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
