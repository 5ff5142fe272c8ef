//! Promises of the plan, each as a test.

use super::{
    super::{FleetSlot, FleetWorker, Release, SlotState, why_waiting},
    *,
};
use proptest::prelude::*;
use senmon_protocol::resources::DeviceKind;

const GIB: u64 = 1 << 30;

fn owner(number: u128) -> OwnerId {
    OwnerId(uuid::Uuid::from_u128(number))
}

fn job(age: u64, priority: i16, slots: u16) -> WaitingJob {
    WaitingJob {
        id: JobId(uuid::Uuid::from_u128(1000 + u128::from(age))),
        owner: owner(1),
        kind: JobKind::Train,
        priority,
        slots,
        needs: Needs::default(),
        remaining: 1,
        age,
        slack_s: None,
        failed_on: None,
    }
}

fn with_memory(memory_gib: u64, job: WaitingJob) -> WaitingJob {
    WaitingJob { needs: Needs { memory_bytes: memory_gib * GIB, ..Needs::default() }, ..job }
}

/// A worker with one slot for each amount of memory.
fn worker(name: &str, memory_gib: &[u64]) -> FleetWorker {
    let number = name.bytes().fold(0, |sum, byte| sum * 256 + u128::from(byte));
    FleetWorker {
        id: WorkerId(uuid::Uuid::from_u128(number)),
        name: name.to_owned(),
        standing: Standing::Open,
        capabilities: vec![JobKind::Train],
        labels: BTreeMap::new(),
        slots: memory_gib
            .iter()
            .zip(0..)
            .map(|(&gib, index)| FleetSlot {
                index,
                device: DeviceKind::Cuda,
                memory_bytes: gib * GIB,
                state: SlotState::Free,
            })
            .collect(),
    }
}

fn fleet(waiting: Vec<WaitingJob>, workers: Vec<FleetWorker>) -> Snapshot {
    Snapshot { waiting, workers, preempt_after_s: 60, ..Snapshot::default() }
}

/// Puts a job on slots of a worker.
fn run(fleet: &mut Snapshot, job: WaitingJob, worker: usize, slots: &[u16], ran_s: i64) {
    let worker = &mut fleet.workers[worker];
    worker.slots.iter_mut().filter(|s| slots.contains(&s.index)).for_each(|s| s.state = SlotState::Taken);
    fleet.running.push(RunningJob {
        id: job.id,
        title: format!("train {}", job.age),
        owner: job.owner,
        kind: job.kind,
        priority: job.priority,
        worker: worker.id,
        slots: slots.to_vec(),
        ran_s,
        release: Release::No,
    });
}

/// The plan as text: `3 → a[0,1]`, `7 gives room to 3`; jobs by age.
fn text(fleet: &Snapshot) -> Vec<String> {
    let name = |id: JobId| (id.0.as_u128() - 1000).to_string();
    let plan = plan(fleet);
    let worker = |id| fleet.workers.iter().find(|worker| worker.id == id).unwrap().name.clone();
    let placed = plan.placements.iter().map(|p| format!("{} → {}{:?}", name(p.job), worker(p.worker), p.slots));
    let given = plan.preemptions.iter().map(|p| format!("{} gives room to {}", name(p.victim), name(p.job)));
    placed.chain(given).collect()
}

fn check(fleet: &Snapshot, expect: &[&str]) {
    assert_eq!(text(fleet), expect);
}

#[test]
fn priority_first_then_the_longest_then_the_oldest() {
    let long = |job: WaitingJob| WaitingJob { remaining: 99, ..job };
    let jobs = vec![job(0, 50, 1), long(job(2, 50, 1)), job(3, 80, 1), long(job(1, 50, 1))];
    check(&fleet(jobs, vec![worker("a", &[1, 1, 1])]), &["3 → a[0]", "1 → a[1]", "2 → a[2]"]);
}

#[test]
fn a_gang_is_not_starved_by_small_jobs() {
    let jobs = vec![WaitingJob { remaining: 99, ..job(0, 50, 2) }, job(1, 50, 1)];
    let mut half = fleet(jobs, vec![worker("a", &[1, 1])]);
    check(&half, &["0 → a[0, 1]"]);
    run(&mut half, job(7, 50, 1), 0, &[0], 1);
    check(&half, &[]);
}

#[test]
fn a_job_is_tried_where_it_did_not_fail_if_there_is_room() {
    let (a, b) = (worker("a", &[40]), worker("b", &[80]));
    let placed = |job: &WaitingJob, workers: &[FleetWorker]| {
        plan(&fleet(vec![job.clone()], workers.to_vec())).placements.first().map(|placement| placement.worker)
    };
    let fresh = job(1, 50, 1);
    assert_eq!(placed(&fresh, &[a.clone(), b.clone()]), Some(a.id), "the tightest");
    let failed = WaitingJob { failed_on: Some(a.id), ..fresh };
    assert_eq!(placed(&failed, &[a.clone(), b.clone()]), Some(b.id));
    assert_eq!(placed(&failed, std::slice::from_ref(&a)), Some(a.id), "there is no other");
}

#[test]
fn a_small_experiment_is_not_kept_waiting_by_a_large_one() {
    let mut jobs: Vec<_> = (0..4).map(|age| WaitingJob { remaining: 1_000, ..job(age, 50, 1) }).collect();
    jobs.push(WaitingJob { owner: owner(2), ..job(4, 50, 1) });
    let mut fleet = fleet(jobs, vec![worker("a", &[1, 1])]);
    check(&fleet, &["0 → a[0]", "4 → a[1]"]);
    run(&mut fleet, job(9, 50, 1), 0, &[0], 1);
    check(&fleet, &["4 → a[1]"]);
    fleet.elsewhere = [(owner(2), 5)].into();
    check(&fleet, &["0 → a[1]"]);
}

#[test]
fn what_a_deadline_presses_goes_before_fair_share_but_not_before_priority() {
    let pressed = |job: WaitingJob| WaitingJob { owner: owner(2), slack_s: Some(-5), ..job };
    let jobs = vec![job(0, 50, 1), pressed(job(1, 50, 1)), pressed(job(2, 50, 1)), job(3, 51, 1)];
    check(&fleet(jobs, vec![worker("a", &[1, 1, 1])]), &["3 → a[0]", "1 → a[1]", "2 → a[2]"]);
}

#[test]
fn a_job_gets_the_smallest_slots_that_offer_what_it_needs() {
    let workers = vec![worker("a", &[80]), worker("b", &[24]), worker("c", &[40, 80])];
    check(
        &fleet(vec![with_memory(30, job(0, 50, 1)), job(1, 50, 1), with_memory(60, job(2, 50, 1))], workers.clone()),
        &["0 → c[0]", "1 → b[0]", "2 → a[0]"],
    );
    let labelled = |job: WaitingJob| {
        let labels = BTreeMap::from([("zone".to_owned(), "x".to_owned())]);
        WaitingJob { needs: Needs { labels, ..Needs::default() }, ..job }
    };
    let mut fleet = fleet(vec![labelled(job(0, 50, 1))], workers);
    check(&fleet, &[]);
    fleet.workers[0].labels.insert("zone".into(), "x".into());
    check(&fleet, &["0 → a[0]"]);
    fleet.waiting[0].needs.device = Some(DeviceKind::Cpu);
    check(&fleet, &[]);
}

#[test]
fn work_beside_the_model_leaves_the_accelerators_alone() {
    let mut workers = vec![worker("a", &[80, 80])];
    workers[0].slots[1].device = DeviceKind::Cpu;
    workers[0].capabilities.push(JobKind::Shard);
    let shard = WaitingJob { kind: JobKind::Shard, ..job(0, 60, 1) };
    check(&fleet(vec![shard, job(1, 50, 1)], workers), &["0 → a[1]", "1 → a[0]"]);
}

#[test]
fn the_lowest_then_the_youngest_gives_room_to_a_higher_priority() {
    let mut fleet = fleet(vec![job(0, 80, 1)], vec![worker("a", &[1, 1]), worker("b", &[1])]);
    run(&mut fleet, job(5, 50, 1), 0, &[0], 500);
    run(&mut fleet, job(6, 50, 1), 0, &[1], 100);
    run(&mut fleet, job(7, 60, 1), 1, &[0], 90);
    check(&fleet, &["6 gives room to 0"]);
    // Too young to give anything up: the other one of its priority does.
    fleet.running[1].ran_s = 59;
    check(&fleet, &["5 gives room to 0"]);
    // A slot is about to be free: nobody gives anything up.
    fleet.running[1].release = Release::Asked;
    check(&fleet, &[]);
    // Equal priority gives nothing up.
    fleet.running.iter_mut().for_each(|job| (job.priority, job.release) = (80, Release::No));
    check(&fleet, &[]);
}

#[test]
fn victims_are_on_one_worker_and_no_more_than_needed() {
    let mut fleet = fleet(vec![job(0, 80, 2)], vec![worker("a", &[1]), worker("b", &[1, 1, 1]), worker("c", &[1])]);
    run(&mut fleet, job(4, 10, 1), 0, &[0], 999);
    run(&mut fleet, job(5, 20, 1), 1, &[0], 999);
    run(&mut fleet, job(6, 30, 2), 1, &[1, 2], 999);
    run(&mut fleet, job(7, 10, 1), 2, &[0], 999);
    check(&fleet, &["6 gives room to 0"]);
}

#[test]
fn a_slot_given_up_is_kept_for_whom_it_was_given_up() {
    let mut fleet = fleet(vec![job(0, 80, 1), job(1, 50, 1)], vec![worker("a", &[1])]);
    run(&mut fleet, job(5, 50, 1), 0, &[0], 999);
    let after = carried_out(&fleet, &plan(&fleet));
    check(&after, &[]);
    let mut gone = after;
    let victim = gone.running.pop().unwrap();
    gone.waiting.push(WaitingJob { id: victim.id, ..job(5, 50, 1) });
    // Its worker does not ask yet: still nobody else gives anything up.
    gone.workers[0].slots[0].state = SlotState::Coming;
    check(&gone, &[]);
    gone.workers[0].slots[0].state = SlotState::Free;
    check(&gone, &["0 → a[0]"]);
}

#[test]
fn waiting_is_explained() {
    let say = |job: &WaitingJob, fleet: &Snapshot, expect: &str| assert_eq!(why_waiting(job, fleet).text(), expect);
    let needy = with_memory(40, job(0, 50, 1));
    say(&needy, &fleet(vec![], vec![]), "Waiting for a worker: none has enrolled.");
    let mut all = fleet(vec![], vec![worker("a", &[80]), worker("b", &[24])]);
    say(&needy, &all, "Waiting for a slot: the one worker that can train has none free for it yet.");
    all.workers[0].standing = Standing::Draining;
    say(&needy, &all, "Needs 1 slot with 40 GiB: worker a is draining, worker b has 24 GiB.");
    let gang = job(1, 50, 2);
    say(&gang, &all, "Needs 2 slots on one worker: worker a is draining, worker b has 1 such slot.");
    let on_cpu = WaitingJob { needs: Needs { device: Some(DeviceKind::Cpu), ..Needs::default() }, ..job(2, 50, 1) };
    say(&on_cpu, &all, "Needs 1 slot with cpu: worker a is draining, worker b has no cpu slot.");
    let merge = WaitingJob { kind: JobKind::Merge, ..job(3, 50, 1) };
    say(&merge, &all, "Needs 1 slot: worker a is draining, worker b cannot merge.");
    let labels = BTreeMap::from([("zone".to_owned(), "x".to_owned())]);
    let labelled = WaitingJob { needs: Needs { labels, ..Needs::default() }, ..job(4, 50, 1) };
    say(&labelled, &all, "Needs 1 slot with zone=x: worker a is draining, worker b is not labelled zone=x.");
    run(&mut all, job(9, 10, 1), 1, &[0], 99);
    all.running[0].release = Release::For(job(5, 80, 1).id);
    say(&job(5, 80, 1), &all, "Starts soon: train 9 writes a checkpoint and gives room to it.");
}

prop_compose! {
    fn any_job(ages: std::ops::Range<u64>)(
        age in ages, priority in 0_i16..3, slots in 1_u16..4, remaining in 0_i64..3, number in 1_u128..4, gib in 0_u64..3,
        slack_s in prop::option::weighted(0.2, -5_i64..5),
    ) -> WaitingJob {
        let job = WaitingJob { owner: owner(number), remaining, slack_s, ..job(age, priority, slots) };
        with_memory(gib, job)
    }
}

/// A fleet in which some slots are taken by jobs that were placed there before.
fn any_fleet() -> impl Strategy<Value = Snapshot> {
    let workers = prop::collection::vec(prop::collection::vec(0_u64..3, 1..5), 0..5);
    let jobs = |ages: std::ops::Range<u64>, most| prop::collection::vec(any_job(ages), 0..most);
    (workers, jobs(0..100, 30), jobs(100..200, 8), prop::collection::vec((0_i64..120, 0_u8..5), 8)).prop_map(
        |(workers, waiting, running, pasts)| {
            let names = ["a", "b", "c", "d", "e"];
            let workers = workers.iter().zip(names).map(|(memory, name)| worker(name, memory)).collect();
            let unique = |jobs: Vec<WaitingJob>| {
                let mut seen = HashSet::new();
                jobs.into_iter().filter(|job| seen.insert(job.id)).collect::<Vec<_>>()
            };
            let before = fleet(unique(running), workers);
            let mut now = carried_out(&before, &Plan { preemptions: vec![], ..plan(&before) });
            now.waiting = unique(waiting);
            for (job, (ran_s, asked)) in now.running.iter_mut().zip(pasts) {
                (job.ran_s, job.release) = (ran_s, if asked == 0 { Release::Asked } else { Release::No });
            }
            now
        },
    )
}

proptest! {
    #[test]
    fn no_slot_is_granted_twice_and_a_second_plan_changes_nothing(fleet in any_fleet()) {
        let first = plan(&fleet);
        let mut used = HashSet::new();
        for placement in &first.placements {
            let job = fleet.waiting.iter().find(|job| job.id == placement.job).unwrap();
            prop_assert_eq!(placement.slots.len(), usize::from(job.slots));
            for slot in &placement.slots {
                prop_assert!(used.insert((placement.worker, *slot)), "slot granted twice");
            }
        }
        prop_assert_eq!(plan(&carried_out(&fleet, &first)), Plan::default());
    }

    #[test]
    fn a_preempting_job_fits_once_its_victims_are_gone(fleet in any_fleet()) {
        let first = plan(&fleet);
        let mut after = carried_out(&fleet, &first);
        let victims: HashSet<JobId> = first.preemptions.iter().map(|p| p.victim).collect();
        prop_assert_eq!(victims.len(), first.preemptions.len(), "a job gives its slots up once");
        for preemption in &first.preemptions {
            let victim = fleet.running.iter().find(|job| job.id == preemption.victim).unwrap();
            let job = fleet.waiting.iter().find(|job| job.id == preemption.job).unwrap();
            prop_assert!(victim.priority < job.priority && victim.ran_s >= fleet.preempt_after_s);
        }
        let gone: Vec<RunningJob> = after.running.iter().filter(|job| job.release != Release::No).cloned().collect();
        after.running.retain(|job| job.release == Release::No);
        for job in gone {
            let worker = after.workers.iter_mut().find(|worker| worker.id == job.worker).unwrap();
            let given = worker.slots.iter_mut().filter(|slot| job.slots.contains(&slot.index));
            given.for_each(|slot| slot.state = SlotState::Free);
        }
        for preemption in &first.preemptions {
            after.waiting = fleet.waiting.iter().filter(|job| job.id == preemption.job).cloned().collect();
            prop_assert_eq!(plan(&after).placements.len(), 1, "it does not fit: {:?}", preemption);
        }
    }

    #[test]
    fn the_order_in_which_things_are_listed_changes_nothing(fleet in any_fleet(), seed: u64) {
        let mut shuffled = fleet.clone();
        let turn = |n: usize| usize::try_from(seed % 97).unwrap() % n.max(1);
        let by = turn(shuffled.waiting.len());
        shuffled.waiting.rotate_left(by);
        shuffled.waiting.reverse();
        let by = turn(shuffled.workers.len());
        shuffled.workers.rotate_left(by);
        shuffled.running.reverse();
        prop_assert_eq!(plan(&shuffled), plan(&fleet));
    }

    /// Small jobs of another experiment never end; a gang that holds nothing yet is served all the same.
    #[test]
    fn a_gang_is_served_while_small_jobs_keep_coming(slots in 2_u16..5, ends in prop::collection::vec(0_usize..8, 60)) {
        let small = |age| WaitingJob { owner: owner(2), remaining: 1_000, ..job(age, 50, 1) };
        let start = fleet((10..30).map(small).collect(), vec![worker("a", &[1; 4]), worker("b", &[1; 4])]);
        let mut now = carried_out(&start, &plan(&start));
        let gang = job(0, 50, slots);
        now.waiting.push(gang.clone());
        for (age, end) in (100..).zip(ends) {
            if now.running.iter().any(|running| running.id == gang.id) {
                return Ok(());
            }
            let ended = now.running.remove(end % now.running.len());
            let worker = now.workers.iter_mut().find(|worker| worker.id == ended.worker).unwrap();
            let freed = worker.slots.iter_mut().filter(|slot| ended.slots.contains(&slot.index));
            freed.for_each(|slot| slot.state = SlotState::Free);
            now.waiting.push(small(age));
            let found = plan(&now);
            now = carried_out(&now, &found);
        }
        prop_assert!(now.running.iter().any(|running| running.id == gang.id), "the gang still waits");
    }
}
