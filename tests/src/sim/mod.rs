//! Days of simulated time with hundreds of faults, by a seed: the decisions of production (placement, leases on both
//! sides, budgets, which points are current, retention) in a world in memory. The same seed is the same world.
//!
//! Never sleeps, never opens a socket or a file, never asks for the time.

pub mod chance;
pub mod faults;
pub mod invariants;
pub mod ledger;
pub mod liveness;
pub mod network;
pub mod plants;
pub mod report;
pub mod scheduler;
pub mod server;
pub mod settings;
pub mod spool;
pub mod storage;
pub mod store;
pub mod worker;
pub mod world;

use invariants::Violation;
use ledger::Account;
use settings::Settings;
use std::collections::BTreeMap;
use world::World;

/// What came of one seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Events.
    pub events: u64,
    /// Checks of invariants.
    pub checks: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Branches that were asked to give their slots up for a higher priority.
    pub preemptions: u64,
    /// Hash of all that happened.
    pub trace: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Where the branches' time went.
    pub accounts: Vec<Account>,
    /// Steps of each branch, and what one takes.
    pub steps: Vec<u64>,
}

/// Runs a seed to its end or to the first broken promise.
#[must_use]
pub fn run(seed: u64, settings: Settings, tells: bool) -> Outcome {
    let mut world = World::new(seed, settings, tells);
    let (storm, end) = (world.set.storm_ms, world.set.storm_ms + world.set.calm_ms);
    let mut looked = 0;
    while world.step() {
        if world.now >= storm && world.now - looked > 60_000 && world.set.crashes_only.is_none() {
            looked = world.now;
            world.heal();
        }
        if world.now >= storm && (world.is_over() && world.store.branches.iter().all(is_completed) || world.now > end) {
            world.check_end();
            break;
        }
    }
    Outcome {
        seed,
        simulated_ms: world.now,
        events: world.events,
        checks: world.oracle.checks,
        faults: world.faults,
        preemptions: world.preemptions,
        trace: world.trace,
        violation: world.oracle.broken,
        accounts: world.ledger.accounts,
        steps: world.set.steps,
    }
}

fn is_completed(branch: &store::Branch) -> bool {
    branch.state == senmon_protocol::view::BranchState::Completed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_identically() {
        let trace = |seed| run(seed, Settings::storm(seed), false).trace;
        assert_eq!(trace(7), trace(7));
        assert_ne!(trace(7), trace(8));
    }

    #[test]
    fn no_promise_is_broken_in_a_month_of_storms() {
        for seed in 0..30 {
            let outcome = run(seed, Settings::storm(seed), false);
            assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
            assert!(outcome.faults.values().sum::<u64>() >= 100, "seed {seed}: {:?}", outcome.faults);
        }
    }
}
