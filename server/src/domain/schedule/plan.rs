//! The solve: jobs in order, each to the slots that fit it best.
//!
//! Higher priority first. Inside a priority: what its deadline presses, by slack; then the owner (experiment, corpus) with the fewest
//! slots, so that a small one is not kept waiting by a large one; inside an owner the job with the most tokens
//! left, so that its branches end together; then the older one. A job's slots are on one worker.

use super::{
    room::Room,
    snapshot::{Placement, Plan, Preemption, RunningJob, Snapshot, Standing, WaitingJob},
};
use senmon_protocol::{
    ids::{JobId, OwnerId, WorkerId},
    job::JobKind,
    resources::Needs,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
};

/// Places waiting jobs on free slots; and where a job fits nowhere, names the running jobs of lower priority, all on
/// one worker, that give their slots up so that it does.
#[must_use]
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut solve = Solve::new(snapshot);
    let mut placements = Vec::new();
    // Each placement changes the shares, and with them the order: solved until nothing changes, so that a solve of
    // what came of it changes nothing either.
    loop {
        let pass = solve.pass();
        if pass.placements.is_empty() {
            return Plan { placements, preemptions: pass.preemptions };
        }
        placements.extend(pass.placements);
    }
}

/// Jobs that ask for the same: where one does not fit, none does.
type Class = usize;

struct Solve<'a> {
    snapshot: &'a Snapshot,
    /// Waiting jobs in order, by owner.
    queues: BTreeMap<OwnerId, Vec<(&'a WaitingJob, Class)>>,
    classes: usize,
    waits: HashSet<JobId>,
    placed: HashMap<JobId, (WorkerId, Vec<u16>)>,
    share: HashMap<OwnerId, u32>,
}

impl<'a> Solve<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let mut order: Vec<&WaitingJob> = snapshot.waiting.iter().collect();
        let slack = |job: &WaitingJob| job.slack_s.unwrap_or(i64::MAX);
        order.sort_by_key(|job| (Reverse(job.priority), slack(job), Reverse(job.remaining), job.age, job.id));
        let mut known: HashMap<(JobKind, u16, &Needs), Class> = HashMap::new();
        let mut queues: BTreeMap<OwnerId, Vec<_>> = BTreeMap::new();
        for job in order {
            let next = known.len();
            let class = *known.entry((job.kind, job.slots, &job.needs)).or_insert(next);
            queues.entry(job.owner).or_default().push((job, class));
        }
        let mut share: HashMap<OwnerId, u32> = snapshot.elsewhere.clone().into_iter().collect();
        for job in &snapshot.running {
            *share.entry(job.owner).or_default() += u32::try_from(job.slots.len()).unwrap_or(u32::MAX);
        }
        Self {
            snapshot,
            queues,
            classes: known.len(),
            waits: snapshot.waiting.iter().map(|job| job.id).collect(),
            placed: HashMap::new(),
            share,
        }
    }

    /// Open workers by id, without what earlier passes took.
    fn rooms(&self) -> Vec<Room<'a>> {
        let mut on_worker: HashMap<WorkerId, Vec<&'a RunningJob>> = HashMap::new();
        for job in &self.snapshot.running {
            on_worker.entry(job.worker).or_default().push(job);
        }
        let mut workers: Vec<_> =
            self.snapshot.workers.iter().filter(|worker| worker.standing == Standing::Open).collect();
        workers.sort_by_key(|worker| worker.id);
        let mut rooms: Vec<Room> = workers
            .into_iter()
            .map(|worker| {
                let running = on_worker.remove(&worker.id).unwrap_or_default();
                Room::new(worker, &running, &self.waits, self.snapshot.preempt_after_s)
            })
            .collect();
        for (worker, slots) in self.placed.values() {
            if let Some(room) = rooms.iter_mut().find(|room| room.worker.id == *worker) {
                room.close(slots);
            }
        }
        rooms
    }

    fn pass(&mut self) -> Plan {
        let mut rooms = self.rooms();
        let mut plan = Plan::default();
        let mut hopeless = vec![false; self.classes];
        let mut at: HashMap<OwnerId, usize> = HashMap::new();
        let mut heads = BinaryHeap::new();
        let queues = std::mem::take(&mut self.queues);
        // The next job of an owner that may still find something, as a place in the order of all.
        let head = |solve: &Self, at: &mut HashMap<OwnerId, usize>, hopeless: &[bool], id: OwnerId| {
            let queue = &queues[&id];
            let place = at.entry(id).or_default();
            while let Some((job, class)) = queue.get(*place) {
                if !hopeless[*class] && !solve.placed.contains_key(&job.id) {
                    let share = solve.share.get(&id).copied().unwrap_or(0);
                    // Ids grow with time: of equal shares the older owner goes first.
                    return Some(Reverse((Reverse(job.priority), job.slack_s.unwrap_or(i64::MAX), share, id)));
                }
                *place += 1;
            }
            None
        };
        heads.extend(queues.keys().filter_map(|id| head(self, &mut at, &hopeless, *id)));
        while let Some(Reverse((.., id))) = heads.pop() {
            let place = at.entry(id).or_default();
            let (job, class) = queues[&id][*place];
            if !hopeless[class] {
                *place += 1;
                match self.settle(job, &mut rooms, &mut plan) {
                    Settled::Placed(placement) => {
                        *self.share.entry(id).or_default() += u32::from(job.slots);
                        self.placed.insert(job.id, (placement.worker, placement.slots.clone()));
                        plan.placements.push(placement);
                    }
                    Settled::Waits => {}
                    Settled::Hopeless => hopeless[class] = true,
                }
            }
            heads.extend(head(self, &mut at, &hopeless, id));
        }
        self.queues = queues;
        plan
    }

    fn settle(&self, job: &WaitingJob, rooms: &mut [Room<'a>], plan: &mut Plan) -> Settled {
        // Most workers are full most of the time: looked at once.
        let some: Vec<usize> = (0..rooms.len()).filter(|&i| !rooms[i].is_full(job.priority)).collect();
        let best = some.iter().filter_map(|&i| Some((rooms[i].fit(job)?, i))).min();
        if let Some((_, i)) = best {
            let slots = rooms[i].take(job);
            return Settled::Placed(Placement { job: job.id, worker: rooms[i].worker.id, slots });
        }
        let coming = some.iter().find(|&&i| rooms[i].gives_up_for(job));
        if let Some(&i) = coming.or_else(|| some.iter().find(|&&i| rooms[i].has_coming(job))) {
            rooms[i].reserve(job);
            return Settled::Waits;
        }
        let cheapest = some.iter().filter_map(|&i| rooms[i].victims(job).map(|(cost, victims)| (cost, i, victims)));
        if let Some((_, i, victims)) = cheapest.min_by_key(|(cost, i, _)| (*cost, *i)) {
            rooms[i].preempt(&victims, job);
            plan.preemptions.extend(victims.iter().map(|victim| Preemption { victim: victim.id, job: job.id }));
            return Settled::Waits;
        }
        if job.slots == 1 {
            return Settled::Hopeless;
        }
        let able = |i: &usize| !rooms[*i].held && rooms[*i].is_able(job);
        match (0..rooms.len()).filter(able).max_by_key(|&i| (rooms[i].free(), Reverse(i))) {
            // A gang waits for the fullest worker to drain instead of starving behind small jobs.
            Some(i) => {
                rooms[i].held = true;
                Settled::Waits
            }
            None => Settled::Hopeless,
        }
    }
}

enum Settled {
    Placed(Placement),
    /// It fits later, and what it needs is kept for it.
    Waits,
    /// Nor does any job that asks for the same.
    Hopeless,
}

/// The snapshot after the plan was carried out and every job that was asked to has given its slots up.
#[cfg(test)]
pub(super) fn carried_out(snapshot: &Snapshot, plan: &Plan) -> Snapshot {
    use super::snapshot::{Release, SlotState};
    let mut after = snapshot.clone();
    for placement in &plan.placements {
        let at = after.waiting.iter().position(|job| job.id == placement.job).unwrap();
        let job = after.waiting.remove(at);
        let worker = after.workers.iter_mut().find(|worker| worker.id == placement.worker).unwrap();
        for slot in worker.slots.iter_mut().filter(|slot| placement.slots.contains(&slot.index)) {
            assert_eq!(slot.state, SlotState::Free, "a slot was granted that is not free");
            slot.state = SlotState::Taken;
        }
        let (worker, slots) = (placement.worker, placement.slots.clone());
        let title = "t".to_owned();
        let WaitingJob { id, owner, kind, priority, .. } = job;
        after.running.push(RunningJob {
            id,
            title,
            owner,
            kind,
            priority,
            worker,
            slots,
            ran_s: 0,
            release: Release::No,
        });
    }
    for preemption in &plan.preemptions {
        let victim = after.running.iter_mut().find(|job| job.id == preemption.victim).unwrap();
        victim.release = Release::For(preemption.job);
    }
    after
}

#[cfg(test)]
mod tests;
