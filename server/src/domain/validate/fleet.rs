//! What an experiment asks of the fleet: resources, a deadline, a budget; and whether the fleet could ever give it.

use super::faults::Faults;
use crate::domain::{
    known::Known,
    schedule::{Ask, FleetWorker, Lack, Standing, gib, lack},
};
use senmon_protocol::{
    job::JobKind,
    problem::Fault,
    resources::{BudgetSpec, DeviceKind, Needs},
    said,
    said::{
        Said,
        expected::{above_at_most, found, quoted},
        of,
    },
    spec::{BranchGroup, ExperimentSpec, SeedSpec, TrainingOverride},
};

/// What it asks of the fleet.
pub(super) fn fleet(spec: &ExperimentSpec, known: &Known, faults: &mut Faults) {
    if let Some(memory) = spec.resources.memory_gib {
        let good = memory > 0.0 && memory <= 65_536.0;
        faults.check(good, "resources.memory_gib", memory, above_at_most(0, 65536));
    }
    for key in spec.resources.labels.keys() {
        faults.check(!key.trim().is_empty(), "resources.labels", quoted(key), said!("expected_label"));
    }
    budget(&spec.budget, "budget", &mut faults.0);
    faults.0.extend(unused_slots(spec, &known.fleet));
    faults.0.extend(never(spec, &known.fleet));
    if let (Some(deadline), Some(now)) = (spec.deadline, known.now) {
        faults.check(deadline > now, "deadline", deadline.to_rfc3339(), said!("expected_future"));
    }
}

/// Faults of a budget.
pub fn budget(budget: &BudgetSpec, path: &str, faults: &mut Vec<Fault>) {
    for (key, hours) in [("slot_hours", budget.slot_hours), ("wall_hours", budget.wall_hours)] {
        if let Some(hours) = hours.filter(|hours| !(hours.is_finite() && *hours > 0.0)) {
            faults.push(Fault::said(format!("{path}.{key}"), found(hours, said!("expected_hours"))));
        }
    }
}

/// Somebody who asks for slots.
struct Asker {
    /// Where the number of slots stands in the file.
    path: String,
    /// For people.
    who: Said,
    ask: Ask,
}

/// Everything that an experiment asks the fleet for, trainings first.
fn askers(spec: &ExperimentSpec) -> Vec<Asker> {
    let mut askers = Vec::new();
    let mut train = |who: Said, path: &str, over: Option<&TrainingOverride>| {
        let own = over.and_then(|over| over.slots);
        let path = if own.is_some() { format!("{path}.training.slots") } else { "training.slots".to_owned() };
        let ask =
            Ask { kind: JobKind::Train, slots: own.unwrap_or(spec.training.slots), needs: spec.resources.needs(true) };
        askers.push(Asker { path, who, ask });
    };
    match &spec.seed {
        SeedSpec::Train(seed) => train(said!("asker_seed"), "seed", Some(&seed.training)),
        SeedSpec::Checkpoint(_) => train(said!("asker_seed"), "seed", None),
    }
    for (i, group) in spec.plan.iter().enumerate() {
        let path = format!("plan[{i}]");
        match group {
            BranchGroup::FanOut(fan_out) => train(said!("asker_each_expert"), &path, Some(&fan_out.training)),
            BranchGroup::Chain(chain) => {
                train(said!("asker_chain", name = chain.name.as_str()), &path, Some(&chain.training));
            }
            BranchGroup::Tree(tree) => {
                for (j, branch) in tree.branches.iter().enumerate() {
                    let path = format!("{path}.branches[{j}]");
                    train(said!("asker_branch", name = branch.name.as_str()), &path, Some(&branch.training));
                }
            }
        }
    }
    for (kind, holds_model) in
        [(JobKind::Shard, false), (JobKind::Evaluate, true), (JobKind::Merge, false), (JobKind::Ensemble, false)]
    {
        let ask = Ask { kind, slots: 1, needs: spec.resources.needs(holds_model) };
        askers.push(Asker { path: "resources".into(), who: of::kind(kind), ask });
    }
    askers
}

/// What no worker that is known could ever run. Nothing is known where no worker is connected: those that once were
/// say nothing of those to come.
fn never(spec: &ExperimentSpec, fleet: &[FleetWorker]) -> Vec<Fault> {
    if !fleet.iter().any(is_connected) {
        return Vec::new();
    }
    distinct(askers(spec).iter().filter_map(|asker| Some(fault(asker, &lack(&asker.ask, fleet)?))))
}

/// What could run, but not on the workers that are given jobs now.
#[must_use]
pub fn not_now(spec: &ExperimentSpec, fleet: &[FleetWorker]) -> Vec<Fault> {
    if !fleet.iter().any(is_connected) {
        return vec![Fault::said("resources", said!("fleet_none"))];
    }
    let open = || fleet.iter().filter(|worker| worker.standing == Standing::Open);
    distinct(askers(spec).iter().filter_map(|asker| {
        if lack(&asker.ask, fleet).is_some() {
            return None;
        }
        let (path, lack) = at_fault(asker, &lack(&asker.ask, open())?);
        Some(Fault::said(path, said!("fleet_now", lack = lack)))
    }))
}

fn is_connected(worker: &FleetWorker) -> bool {
    worker.standing != Standing::Lost
}

fn distinct(faults: impl Iterator<Item = Fault>) -> Vec<Fault> {
    let mut all: Vec<Fault> = Vec::new();
    for fault in faults {
        if all.iter().all(|other| other.path != fault.path) {
            all.push(fault);
        }
    }
    all
}

fn fault(asker: &Asker, lack: &Lack) -> Fault {
    let (path, said) = at_fault(asker, lack);
    Fault::said(path, said)
}

/// Where the fault is, and what.
fn at_fault(asker: &Asker, lack: &Lack) -> (String, Said) {
    let Asker { path, who, ask } = asker;
    let at = |path: &str, said: Said| (path.to_owned(), said);
    match lack {
        Lack::Kind => at(path, said!("fleet_lacks_kind", kind = of::kind(ask.kind))),
        Lack::Label(Some((key, value))) => {
            at(&format!("resources.labels.{key}"), said!("fleet_lacks_label", found = format!("{value:?}")))
        }
        Lack::Label(None) => at("resources.labels", said!("fleet_lacks_labels")),
        Lack::Device => {
            let device = ask.needs.device.map_or("", DeviceKind::word);
            at("resources.device", said!("fleet_lacks_device", device = device))
        }
        Lack::Memory(most) => {
            let (asked, most) = (gib(ask.needs.memory_bytes), gib(*most));
            at("resources.memory_gib", said!("fleet_lacks_memory", asked = asked, most = most))
        }
        Lack::Slots(most) => at(path, said!("fleet_lacks_slots", who = who.clone(), slots = ask.slots, most = *most)),
    }
}

/// Trainings that would hold several accelerators and use one: the engine computes on the first. CPU slots bring their
/// threads, and all of them are used.
#[must_use]
pub fn unused_slots(spec: &ExperimentSpec, fleet: &[FleetWorker]) -> Vec<Fault> {
    let lands_on_accelerators = |ask: &Ask| match ask.needs.device {
        Some(device) => device == DeviceKind::Cuda,
        // Work on the model goes to accelerators first, where one worker has enough of them.
        None => {
            let needs = Needs { device: Some(DeviceKind::Cuda), ..ask.needs.clone() };
            lack(&Ask { needs, ..ask.clone() }, fleet).is_none()
        }
    };
    let several = askers(spec).into_iter().filter(|asker| asker.ask.slots > 1 && lands_on_accelerators(&asker.ask));
    distinct(several.map(|Asker { path, ask, .. }| Fault::said(path, said!("one_accelerator", slots = ask.slots))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        expand::tests::spec,
        schedule::{FleetSlot, SlotState, Snapshot, WaitingJob, plan},
    };
    use proptest::prelude::*;
    use senmon_protocol::{
        ids::{JobId, OwnerId, WorkerId},
        resources::ResourcesSpec,
    };
    use std::collections::BTreeMap;

    const GIB: u64 = 1 << 30;
    const ALL: [JobKind; 5] = [JobKind::Shard, JobKind::Train, JobKind::Evaluate, JobKind::Merge, JobKind::Ensemble];

    fn worker(slots: &[(DeviceKind, u64)], labels: &[(&str, &str)]) -> FleetWorker {
        let slots = slots.iter().zip(0..).map(|(&(device, gib), index)| FleetSlot {
            index,
            device,
            memory_bytes: gib * GIB,
            state: SlotState::Free,
        });
        FleetWorker {
            id: WorkerId::new(),
            name: "w".into(),
            standing: Standing::Open,
            capabilities: ALL.to_vec(),
            labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            slots: slots.collect(),
        }
    }

    fn check(change: impl Fn(&mut ExperimentSpec), fleet: &[FleetWorker], expect: &[(&str, &str)]) {
        let mut spec = spec();
        change(&mut spec);
        let mut found = Faults(Vec::new());
        super::fleet(&spec, &Known { fleet: fleet.to_vec(), ..Known::default() }, &mut found);
        let found: Vec<_> = found.0.iter().map(|fault| (fault.path.as_str(), fault.message.as_str())).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for ((path, message), (expect_path, expect_words)) in found.iter().zip(expect) {
            assert!(path == expect_path && message.contains(expect_words), "{path}: {message}");
        }
    }

    fn seed_of_two(spec: &mut ExperimentSpec) {
        if let SeedSpec::Train(seed) = &mut spec.seed {
            seed.training.slots = Some(2);
        }
    }

    #[test]
    fn a_job_that_can_never_run_says_so_with_what_the_fleet_has() {
        let cpu = |count: usize| vec![worker(&vec![(DeviceKind::Cpu, 4); count], &[("zone", "a")])];
        let fault = [("seed.training.slots", "seed asks for 2 slots on one worker; the largest has 1")];
        check(seed_of_two, &cpu(1), &fault);
        check(seed_of_two, &cpu(2), &[]);
        check(|spec| spec.training.slots = 3, &cpu(2), &[("training.slots", "seed asks for 3 slots")]);
        check(
            |spec| spec.resources.memory_gib = Some(40.0),
            &cpu(2),
            &[("resources.memory_gib", "found 40 GiB, the largest slot that may be taken has 4 GiB")],
        );
        check(|spec| spec.resources.device = Some(DeviceKind::Cuda), &cpu(2), &[("resources.device", "found cuda")]);
        let label = |value: &str| ResourcesSpec {
            labels: BTreeMap::from([("zone".to_owned(), value.to_owned())]),
            ..ResourcesSpec::default()
        };
        check(|spec| spec.resources = label("b"), &cpu(2), &[("resources.labels.zone", "found \"b\"")]);
        check(|spec| spec.resources = label("a"), &cpu(2), &[]);
        let only_shards = FleetWorker { capabilities: vec![JobKind::Shard], ..cpu(2).remove(0) };
        check(
            |_| {},
            &[only_shards],
            &[("training.slots", "no worker can train"), ("resources", "no worker can eval")],
        );
    }

    #[test]
    fn where_no_worker_is_connected_it_is_a_warning() {
        let lost = FleetWorker { standing: Standing::Lost, ..worker(&[(DeviceKind::Cpu, 4)], &[]) };
        for fleet in [vec![], vec![lost.clone()]] {
            check(seed_of_two, &fleet, &[]);
            assert!(not_now(&spec(), &fleet)[0].message.contains("no worker is connected"));
        }
        // A worker that is known, but given nothing now, could run it: no refusal, a warning.
        let draining =
            FleetWorker { standing: Standing::Draining, ..worker(&[(DeviceKind::Cpu, 4), (DeviceKind::Cpu, 4)], &[]) };
        let fleet = [worker(&[(DeviceKind::Cpu, 4)], &[]), draining];
        check(seed_of_two, &fleet, &[]);
        let mut spec = spec();
        seed_of_two(&mut spec);
        let warned = not_now(&spec, &fleet);
        assert!(warned.len() == 1 && warned[0].message.contains("the largest has 1"), "{warned:?}");
    }

    #[test]
    fn several_accelerators_for_one_branch_are_refused_and_several_cpu_slots_are_not() {
        let cuda = [worker(&[(DeviceKind::Cuda, 80), (DeviceKind::Cuda, 80)], &[])];
        let cpu = [worker(&[(DeviceKind::Cpu, 80), (DeviceKind::Cpu, 80)], &[])];
        let refused = [("seed.training.slots", "found 2, expected 1: no engine")];
        check(seed_of_two, &cuda, &refused);
        check(seed_of_two, &cpu, &[]);
        let on = |device| {
            move |spec: &mut ExperimentSpec| {
                seed_of_two(spec);
                spec.resources.device = Some(device);
            }
        };
        check(on(DeviceKind::Cuda), &[], &refused);
        check(on(DeviceKind::Cpu), &[cpu[0].clone(), cuda[0].clone()], &[]);
    }

    proptest! {
        /// What is accepted is placed when everything is idle, and what is refused never is.
        #[test]
        fn what_is_accepted_is_placed_on_an_idle_fleet_and_nothing_else(
            fleet in prop::collection::vec(
                (prop::collection::vec((any::<bool>(), 0_u64..4), 1..4), any::<bool>(), any::<bool>()), 1..4),
            slots in 1_u16..4, memory in 0_u64..4, device in 0_usize..3, labelled: bool, kind in 0_usize..5,
        ) {
            let device_of = |cuda| if cuda { DeviceKind::Cuda } else { DeviceKind::Cpu };
            let fleet: Vec<FleetWorker> = fleet
                .iter()
                .map(|(slots, has_label, only_shards)| {
                    let slots: Vec<_> = slots.iter().map(|&(cuda, gib)| (device_of(cuda), gib)).collect();
                    let worker = worker(&slots, if *has_label { &[("zone", "a")] } else { &[] });
                    let kinds = if *only_shards { vec![JobKind::Shard] } else { ALL.to_vec() };
                    FleetWorker { capabilities: kinds, ..worker }
                })
                .collect();
            let needs = Needs {
                memory_bytes: memory * GIB,
                device: [None, Some(DeviceKind::Cpu), Some(DeviceKind::Cuda)][device],
                labels: if labelled { BTreeMap::from([("zone".to_owned(), "a".to_owned())]) } else { BTreeMap::new() },
            };
            let ask = Ask { kind: ALL[kind], slots, needs: needs.clone() };
            let waiting = WaitingJob {
                id: JobId::new(), owner: OwnerId::new(), kind: ALL[kind], priority: 50, slots, needs,
                remaining: 1, age: 0, slack_s: None, failed_on: None,
            };
            let able = lack(&ask, &fleet).is_none();
            let placed = plan(&Snapshot { waiting: vec![waiting], workers: fleet, ..Snapshot::default() }).placements;
            prop_assert_eq!(able, !placed.is_empty());
        }
    }
}
