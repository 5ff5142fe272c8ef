//! The planner alone, in the cases that cost it most: jobs of many owners on workers of eight slots.

use super::figures::Times;
use senmon_protocol::{
    ids::{JobId, OwnerId, WorkerId},
    job::JobKind,
    resources::{DeviceKind, Needs},
};
use senmon_server::domain::schedule::{
    FleetSlot, FleetWorker, Release, RunningJob, SlotState, Snapshot, Standing, WaitingJob, plan,
};
use std::{collections::BTreeMap, time::Instant};

const SLOTS: u16 = 8;
const ROUNDS: usize = 20;

/// 95 of 100 plans of `jobs` onto `slots` are faster, in the slowest case.
pub fn milliseconds_p95(jobs: u64, slots: u64) -> f64 {
    // Slots free (one in so many), owners, different needs.
    let cases = [
        (1, 20, 3),
        (50, 20, 3),
        (u64::MAX, 20, 3), // none is free: a tenth of the jobs may preempt
        (50, jobs, 3),
        (50, 20, jobs),
    ];
    let time = |(free_every, owners, needs)| {
        let fleet = fleet(jobs, slots, free_every, owners, needs);
        let found = plan(&fleet);
        let mut times = Times::default();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let again = plan(&fleet);
            times.push(start.elapsed().as_secs_f64() * 1000.0);
            assert_eq!(again.placements.len(), found.placements.len());
        }
        times.p95()
    };
    cases.into_iter().map(time).fold(0.0, f64::max)
}

fn fleet(jobs: u64, slots: u64, free_every: u64, owners: u64, needs: u64) -> Snapshot {
    let owner = |n: u64| OwnerId(uuid::Uuid::from_u128(u128::from(n % owners)));
    let waiting = (0..jobs).map(|n| WaitingJob {
        id: JobId(uuid::Uuid::from_u128(u128::from(n))),
        owner: owner(n),
        kind: JobKind::Train,
        priority: if n % 10 == 0 { 80 } else { 50 },
        slots: if n % 7 == 0 { 2 } else { 1 },
        needs: Needs { memory_bytes: (n % needs) << 20, ..Needs::default() },
        remaining: i64::try_from(n * 7919 % 10_007).unwrap_or(0),
        age: n,
        slack_s: None,
        failed_on: None,
    });
    let mut running = Vec::new();
    let mut workers = Vec::new();
    for n in 0..slots.div_ceil(u64::from(SLOTS)) {
        let id = WorkerId(uuid::Uuid::from_u128(u128::from(n)));
        let mut slots = Vec::new();
        for index in 0..SLOTS {
            let number = n * u64::from(SLOTS) + u64::from(index);
            let free = number.is_multiple_of(free_every);
            let state = if free { SlotState::Free } else { SlotState::Taken };
            slots.push(FleetSlot { index, device: DeviceKind::Cuda, memory_bytes: 80 << 30, state });
            if !free {
                running.push(RunningJob {
                    id: JobId(uuid::Uuid::from_u128(u128::from(jobs + number))),
                    title: String::new(),
                    owner: owner(number),
                    kind: JobKind::Train,
                    priority: 60,
                    worker: id,
                    slots: vec![index],
                    ran_s: 600,
                    release: Release::No,
                });
            }
        }
        workers.push(FleetWorker {
            id,
            name: format!("worker-{n}"),
            standing: Standing::Open,
            capabilities: vec![JobKind::Shard, JobKind::Train, JobKind::Evaluate],
            labels: BTreeMap::new(),
            slots,
        });
    }
    Snapshot { waiting: waiting.collect(), running, workers, preempt_after_s: 60, ..Snapshot::default() }
}
