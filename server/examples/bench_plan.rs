//! How long a plan takes with 10,000 waiting jobs and 500 slots: `cargo run --release --example bench_plan`.

use senmon_protocol::{
    ids::{ExperimentId, JobId, WorkerId},
    job::JobKind,
    resources::{DeviceKind, Needs},
};
use senmon_server::domain::schedule::{
    FleetSlot, FleetWorker, Release, RunningJob, SlotState, Snapshot, Standing, WaitingJob, plan,
};
use std::{collections::BTreeMap, time::Instant};

const JOBS: u64 = 10_000;
const WORKERS: u64 = 63;
const SLOTS: u16 = 8;
const ROUNDS: usize = 20;

fn main() {
    println!("{JOBS} waiting jobs, {} slots; the median of {ROUNDS} plans:", WORKERS * u64::from(SLOTS));
    for (title, free_every, experiments, needs) in [
        ("all slots free, 20 experiments", 1, 20, 3),
        ("one slot in 50 free, 20 experiments", 50, 20, 3),
        ("no slot free, a tenth may preempt", u64::MAX, 20, 3),
        ("one slot in 50 free, an experiment for each job", 50, JOBS, 3),
        ("one slot in 50 free, each job needs something else", 50, 20, JOBS),
    ] {
        let fleet = fleet(free_every, experiments, needs);
        let found = plan(&fleet);
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            assert_eq!(plan(&fleet).placements.len(), found.placements.len());
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (placed, preempted) = (found.placements.len(), found.preemptions.len());
        println!("  {:6.2} ms  {title}: {placed} placed, {preempted} preempted", times[times.len() / 2]);
    }
}

fn fleet(free_every: u64, experiments: u64, needs: u64) -> Snapshot {
    let experiment = |n: u64| ExperimentId(uuid::Uuid::from_u128(u128::from(n % experiments)));
    let waiting = (0..JOBS).map(|n| WaitingJob {
        id: JobId(uuid::Uuid::from_u128(u128::from(n))),
        experiment: experiment(n),
        kind: JobKind::Train,
        priority: if n % 10 == 0 { 80 } else { 50 },
        slots: if n % 7 == 0 { 2 } else { 1 },
        needs: Needs { memory_bytes: (n % needs) << 20, ..Needs::default() },
        remaining: i64::try_from(n * 7919 % 10_007).unwrap_or(0),
        age: n,
        slack_s: None,
    });
    let mut running = Vec::new();
    let mut workers = Vec::new();
    for n in 0..WORKERS {
        let id = WorkerId(uuid::Uuid::from_u128(u128::from(n)));
        let mut slots = Vec::new();
        for index in 0..SLOTS {
            let number = n * u64::from(SLOTS) + u64::from(index);
            let free = number.is_multiple_of(free_every);
            let state = if free { SlotState::Free } else { SlotState::Taken };
            slots.push(FleetSlot { index, device: DeviceKind::Cuda, memory_bytes: 80 << 30, state });
            if !free {
                running.push(RunningJob {
                    id: JobId(uuid::Uuid::from_u128(u128::from(JOBS + number))),
                    title: String::new(),
                    experiment: experiment(number),
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
    Snapshot { waiting: waiting.collect(), running, workers, preempt_after_s: 60 }
}
