//! Which job goes to which slots: a pure function of a snapshot.
//!
//! Higher priority first; inside a priority the experiment with the fewest slots, so that a small one is not kept
//! waiting by a large one; inside an experiment the job with the most tokens left, so that its branches end together;
//! then the older one. A job's slots are on one worker. Never grants a slot twice.

use senmon_protocol::{
    ids::{ExperimentId, JobId, WorkerId},
    job::JobKind,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
};

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    /// The job.
    pub id: JobId,
    /// Its experiment.
    pub experiment: ExperimentId,
    /// Its kind.
    pub kind: JobKind,
    /// 0 to 100.
    pub priority: i16,
    /// Slots it needs.
    pub slots: u16,
    /// Tokens left.
    pub remaining: i64,
    /// Place in the order of creation.
    pub age: u64,
}

/// A worker that is alive and enabled, with its free slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeWorker {
    /// The worker.
    pub id: WorkerId,
    /// Name.
    pub name: String,
    /// Kinds it can run.
    pub capabilities: Vec<JobKind>,
    /// All its slots.
    pub slots: u16,
    /// Numbers of the free ones.
    pub free: Vec<u16>,
}

/// A job for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// The worker.
    pub worker: WorkerId,
    /// The slots.
    pub slots: Vec<u16>,
}

/// Places waiting jobs on free slots. `busy` is the number of slots that each experiment has already.
#[must_use]
pub fn plan(jobs: &[WaitingJob], workers: &[FreeWorker], busy: &HashMap<ExperimentId, u32>) -> Vec<Placement> {
    let mut order: Vec<&WaitingJob> = jobs.iter().collect();
    order.sort_by_key(|job| (Reverse(job.priority), Reverse(job.remaining), job.age));
    let mut queues: BTreeMap<ExperimentId, VecDeque<&WaitingJob>> = BTreeMap::new();
    order.into_iter().for_each(|job| queues.entry(job.experiment).or_default().push_back(job));
    let mut share = busy.clone();
    let mut free: Vec<Vec<u16>> = workers.iter().map(|worker| worker.free.clone()).collect();
    let mut held = vec![false; workers.len()];
    let mut placements = Vec::new();
    loop {
        // Ids grow with time: of equal shares the older experiment goes first.
        let heads = queues.iter().filter_map(|(id, queue)| queue.front().map(|job| (*id, job.priority)));
        let next = heads.min_by_key(|(id, priority)| (Reverse(*priority), share.get(id).copied().unwrap_or(0), *id));
        let Some(job) = next.and_then(|(id, _)| queues.get_mut(&id)?.pop_front()) else { return placements };
        let able = |i: &usize| workers[*i].capabilities.contains(&job.kind) && workers[*i].slots >= job.slots;
        let fits = |i: &usize| able(i) && !held[*i] && free[*i].len() >= usize::from(job.slots);
        // The tightest fit, so that jobs of several slots find room.
        if let Some(i) = (0..workers.len()).filter(fits).min_by_key(|&i| (free[i].len(), i)) {
            let slots = free[i].drain(..usize::from(job.slots)).collect();
            *share.entry(job.experiment).or_default() += u32::from(job.slots);
            placements.push(Placement { job: job.id, worker: workers[i].id, slots });
        } else if job.slots > 1
            && let Some(i) = (0..workers.len()).filter(able).max_by_key(|&i| free[i].len())
        {
            // A gang waits for the fullest worker to drain instead of starving behind small jobs.
            held[i] = true;
        }
    }
}

/// Why a job waits, in one sentence.
#[must_use]
pub fn why_waiting(job: &WaitingJob, workers: &[FreeWorker]) -> String {
    let able: Vec<_> = workers.iter().filter(|worker| worker.capabilities.contains(&job.kind)).collect();
    let slots = |n: u16| if n == 1 { "1 slot".to_owned() } else { format!("{n} slots") };
    if workers.is_empty() {
        return "Waiting for a worker: none is alive and enabled.".to_owned();
    }
    if able.is_empty() {
        return format!("Waiting for a worker that can {}: none of {} can.", job.kind.word(), workers.len());
    }
    if able.iter().all(|worker| worker.slots < job.slots) {
        let largest = able.iter().map(|worker| worker.slots).max().unwrap_or(0);
        return format!("Needs {} on one worker; the largest has {}.", slots(job.slots), largest);
    }
    let count = if able.len() == 1 { "the one worker".to_owned() } else { format!("the {} workers", able.len()) };
    format!("Waiting for {}: {count} that can {} have none free yet.", slots(job.slots), job.kind.word())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    fn job(priority: i16, slots: u16, remaining: i64, age: u64) -> WaitingJob {
        let experiment = ExperimentId(uuid::Uuid::nil());
        WaitingJob { id: JobId::new(), experiment, kind: JobKind::Train, priority, slots, remaining, age }
    }

    fn worker(slots: u16, free: &[u16]) -> FreeWorker {
        FreeWorker {
            id: WorkerId::new(),
            name: "w".into(),
            capabilities: vec![JobKind::Train],
            slots,
            free: free.to_vec(),
        }
    }

    #[test]
    fn priority_first_then_the_longest_then_the_oldest() {
        let jobs = [job(50, 1, 10, 0), job(50, 1, 99, 2), job(80, 1, 1, 3), job(50, 1, 99, 1)];
        let placed: Vec<_> =
            plan(&jobs, &[worker(3, &[0, 1, 2])], &HashMap::new()).into_iter().map(|p| p.job).collect();
        assert_eq!(placed, [jobs[2].id, jobs[3].id, jobs[1].id]);
    }

    #[test]
    fn a_gang_is_not_starved_by_small_jobs() {
        let jobs = [job(50, 2, 99, 0), job(50, 1, 1, 1)];
        assert_eq!(plan(&jobs, &[worker(2, &[1])], &HashMap::new()), []);
        assert_eq!(plan(&jobs, &[worker(2, &[0, 1])], &HashMap::new())[0].slots, [0, 1]);
    }

    #[test]
    fn a_small_experiment_is_not_kept_waiting_by_a_large_one() {
        let (large, small) = (ExperimentId(uuid::Uuid::from_u128(1)), ExperimentId(uuid::Uuid::from_u128(2)));
        let mut jobs: Vec<_> =
            (0..4).map(|age| WaitingJob { experiment: large, ..job(50, 1, 1_000_000, age) }).collect();
        jobs.push(WaitingJob { experiment: small, ..job(50, 1, 0, 4) });
        let placed = |busy: &HashMap<_, _>, free: &[u16]| -> Vec<JobId> {
            plan(&jobs, &[worker(4, free)], busy).into_iter().map(|placement| placement.job).collect()
        };
        assert_eq!(placed(&HashMap::new(), &[0, 1]), [jobs[0].id, jobs[4].id]);
        assert_eq!(placed(&HashMap::from([(large, 2)]), &[2]), [jobs[4].id]);
        assert_eq!(placed(&HashMap::from([(small, 2)]), &[2]), [jobs[0].id]);
    }

    #[test]
    fn waiting_is_explained() {
        let check = |job: WaitingJob, workers: &[FreeWorker], expect: &str| {
            let why = why_waiting(&job, workers);
            assert!(why.contains(expect), "{why}");
        };
        check(job(1, 1, 1, 1), &[], "none is alive");
        check(job(1, 4, 1, 1), &[worker(2, &[])], "Needs 4 slots on one worker; the largest has 2");
        check(job(1, 1, 1, 1), &[worker(2, &[])], "Waiting for 1 slot");
        check(WaitingJob { kind: JobKind::Merge, ..job(1, 1, 1, 1) }, &[worker(2, &[])], "can merge");
    }

    proptest! {
        #[test]
        fn no_slot_is_granted_twice_and_a_second_plan_changes_nothing(
            needs in prop::collection::vec((0_i16..3, 1_u16..4, 0_i64..5), 0..30), free in prop::collection::vec(0_u16..5, 0..6),
        ) {
            let jobs: Vec<_> = needs.iter().zip(0..).map(|(&(priority, slots, remaining), age)| job(priority, slots, remaining, age)).collect();
            let workers: Vec<_> = free.iter().map(|&n| worker(n.max(1), &(0..n).collect::<Vec<_>>())).collect();
            let placed = plan(&jobs, &workers, &HashMap::new());
            let mut used = HashSet::new();
            for placement in &placed {
                let job = jobs.iter().find(|job| job.id == placement.job).unwrap();
                prop_assert_eq!(placement.slots.len(), usize::from(job.slots));
                for slot in &placement.slots {
                    prop_assert!(used.insert((placement.worker, *slot)), "slot granted twice");
                }
            }
            let left: Vec<_> = jobs.iter().filter(|job| placed.iter().all(|p| p.job != job.id)).cloned().collect();
            let rest: Vec<_> = workers.iter().cloned().map(|mut worker| {
                worker.free.retain(|slot| !used.contains(&(worker.id, *slot)));
                worker
            }).collect();
            prop_assert_eq!(plan(&left, &rest, &HashMap::new()), []);
        }
    }
}
