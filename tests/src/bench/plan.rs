//! The planner alone: ten thousand branches of many experiments, and slots on workers of eight.

use super::figures::Times;
use senmon_protocol::{
    ids::{ExperimentId, JobId, WorkerId},
    job::JobKind,
};
use senmon_server::domain::schedule::{FreeWorker, WaitingJob, plan};
use std::{collections::HashMap, time::Instant};

const EXPERIMENTS: usize = 20;
const SLOTS_A_WORKER: u16 = 8;

/// Times of planning `jobs` onto `slots`.
pub fn milliseconds(jobs: usize, slots: usize) -> Times {
    let experiments: Vec<ExperimentId> = (0..EXPERIMENTS).map(|_| ExperimentId::new()).collect();
    let waiting: Vec<WaitingJob> = (0..jobs)
        .zip(0_u64..)
        .map(|(i, age)| WaitingJob {
            id: JobId::new(),
            experiment: experiments[i % EXPERIMENTS],
            kind: JobKind::Train,
            priority: if i % 7 == 0 { 80 } else { 50 },
            slots: [1, 1, 1, 2, 4][i % 5],
            remaining: i64::try_from(i * 7919 % 1_000_003).unwrap_or(0),
            age,
        })
        .collect();
    let workers: Vec<FreeWorker> = (0..slots.div_ceil(usize::from(SLOTS_A_WORKER)))
        .map(|i| FreeWorker {
            id: WorkerId::new(),
            name: format!("worker-{i}"),
            capabilities: vec![JobKind::Train],
            slots: SLOTS_A_WORKER,
            free: (0..SLOTS_A_WORKER).collect(),
        })
        .collect();
    let mut times = Times::default();
    for _ in 0..20 {
        let start = Instant::now();
        let placed = plan(&waiting, &workers, &HashMap::new());
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        assert!(!placed.is_empty());
    }
    times
}
