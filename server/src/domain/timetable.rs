//! When work on a fleet ends: list scheduling, as the scheduler does it (what runs stays, higher priority first, then
//! the longest). Graham 1969, "Bounds on multiprocessing timing anomalies", says how far off that can be.

use senmon_protocol::resources::DeviceKind;
use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

/// Slots that work side by side, by kind of device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    /// Shares of CPUs.
    pub cpu: u32,
    /// Accelerators.
    pub cuda: u32,
}

impl Slots {
    /// So many of the kind that there are most of.
    #[must_use]
    pub fn of(self, n: u32) -> Self {
        if self.cuda >= self.cpu { Self { cuda: n, ..self } } else { Self { cpu: n, ..self } }
    }

    /// Those of one kind; where a task does not care, accelerators if there are any.
    fn pool(self, device: Option<DeviceKind>) -> usize {
        match device {
            Some(DeviceKind::Cuda) => 1,
            Some(DeviceKind::Cpu) => 0,
            None => usize::from(self.cuda > 0),
        }
    }
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// How long it takes once it runs.
    pub seconds: f64,
    /// Slots that it takes; 0 for what needs none.
    pub slots: u32,
    /// Kind of device that it needs.
    pub device: Option<DeviceKind>,
    /// Higher goes first.
    pub priority: u8,
    /// Whether it runs already.
    pub is_running: bool,
    /// Tasks that must have ended, by their places in the list.
    pub after: Vec<usize>,
}

/// A time, or a length of it; never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seconds(f64);

impl Eq for Seconds {}

impl PartialOrd for Seconds {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seconds {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Seconds from now to the end of each task; None for what never ends: no slot is of its kind, or it comes after one of
/// those. Work that asks for more slots than there are takes all of them.
#[must_use]
pub fn ends(tasks: &[Task], slots: Slots) -> Vec<Option<f64>> {
    let mut free = [slots.cpu, slots.cuda];
    let all = free;
    let width = |task: &Task| task.slots.min(all[slots.pool(task.device)]);
    let mut missing: Vec<usize> = tasks.iter().map(|task| task.after.len()).collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    for (i, task) in tasks.iter().enumerate() {
        for &before in &task.after {
            // One that is not in the list holds nobody up.
            match followers.get_mut(before) {
                Some(list) => list.push(i),
                None => missing[i] -= 1,
            }
        }
    }
    let rank = |i: usize| (tasks[i].is_running, tasks[i].priority, Seconds(tasks[i].seconds), Reverse(i));
    let mut ready = [BinaryHeap::new(), BinaryHeap::new()];
    let enter = |i: usize, ready: &mut [BinaryHeap<_>; 2]| ready[slots.pool(tasks[i].device)].push((rank(i), i));
    (0..tasks.len()).filter(|&i| missing[i] == 0).for_each(|i| enter(i, &mut ready));
    let mut running: BinaryHeap<Reverse<(Seconds, usize)>> = BinaryHeap::new();
    let mut ends = vec![None; tasks.len()];
    let mut now = 0.0;
    loop {
        for (pool, heap) in ready.iter_mut().enumerate() {
            let mut too_wide = Vec::new();
            while let Some((rank, i)) = heap.pop() {
                let wants = width(&tasks[i]);
                if wants > free[pool] {
                    // A narrower one may still find room.
                    too_wide.push((rank, i));
                    if free[pool] == 0 {
                        break;
                    }
                } else if wants > 0 || tasks[i].slots == 0 {
                    free[pool] -= wants;
                    running.push(Reverse((Seconds(now + tasks[i].seconds.max(0.0)), i)));
                }
            }
            heap.extend(too_wide);
        }
        let Some(Reverse((end, i))) = running.pop() else { return ends };
        now = end.0;
        ends[i] = Some(now);
        free[slots.pool(tasks[i].device)] += width(&tasks[i]);
        for &follower in &followers[i] {
            missing[follower] -= 1;
            if missing[follower] == 0 {
                enter(follower, &mut ready);
            }
        }
    }
}

/// The end of the last task; None where one never ends.
#[must_use]
pub fn end(tasks: &[Task], slots: Slots) -> Option<f64> {
    ends(tasks, slots).into_iter().try_fold(0.0, |last: f64, end| Some(last.max(end?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(seconds: f64, after: &[usize]) -> Task {
        let after = after.to_vec();
        Task { seconds, slots: 1, device: None, priority: 50, is_running: false, after }
    }

    const fn cpus(cpu: u32) -> Slots {
        Slots { cpu, cuda: 0 }
    }

    #[test]
    fn parents_come_first_and_the_longest_of_what_is_ready() {
        let tasks = [task(10.0, &[]), task(3.0, &[0]), task(5.0, &[0]), task(4.0, &[0])];
        assert_eq!(ends(&tasks, cpus(1)), [10.0, 22.0, 15.0, 19.0].map(Some));
        assert_eq!(ends(&tasks, cpus(2)), [10.0, 17.0, 15.0, 14.0].map(Some));
        assert_eq!(end(&tasks, cpus(8)), Some(15.0));
    }

    #[test]
    fn what_runs_stays_and_higher_priority_goes_before_length() {
        let tasks = [
            Task { is_running: true, priority: 0, ..task(2.0, &[]) },
            Task { priority: 60, ..task(1.0, &[]) },
            task(9.0, &[]),
        ];
        assert_eq!(ends(&tasks, cpus(1)), [2.0, 3.0, 12.0].map(Some));
    }

    #[test]
    fn wide_work_waits_for_room_and_takes_no_more_than_there_is() {
        let wide = Task { slots: 2, ..task(4.0, &[]) };
        let tasks = [Task { is_running: true, ..task(3.0, &[]) }, wide.clone(), task(1.0, &[])];
        assert_eq!(ends(&tasks, cpus(2)), [3.0, 7.0, 1.0].map(Some));
        assert_eq!(end(&[wide], cpus(1)), Some(4.0));
    }

    #[test]
    fn what_has_no_slot_of_its_kind_never_ends_nor_what_follows_it() {
        let on_cuda = Task { device: Some(DeviceKind::Cuda), ..task(1.0, &[]) };
        let server = Task { slots: 0, ..task(2.0, &[]) };
        let tasks = [on_cuda, task(1.0, &[0]), task(1.0, &[3]), server, task(1.0, &[99])];
        assert_eq!(ends(&tasks, cpus(1)), [None, None, Some(3.0), Some(2.0), Some(1.0)]);
        assert_eq!(end(&tasks, cpus(1)), None);
        assert_eq!(ends(&[Task { slots: 0, ..task(2.0, &[]) }], Slots::default()), [Some(2.0)]);
    }

    proptest! {
        /// Graham's bounds, for tasks of one slot each.
        #[test]
        fn the_end_lies_within_grahams_bounds(
            tasks in prop::collection::vec((0.0_f64..100.0, prop::option::of(0_usize..40), 0_u8..3), 1..40), slots in 1_u32..9,
        ) {
            let tasks: Vec<Task> = tasks.into_iter().enumerate().map(|(i, (seconds, after, priority))| {
                let after = after.filter(|_| i > 0).map(|a| a % i).into_iter().collect();
                Task { seconds, slots: 1, device: None, priority, is_running: false, after }
            }).collect();
            let mut line = vec![0.0; tasks.len()];
            for (i, task) in tasks.iter().enumerate() {
                line[i] = task.seconds + task.after.iter().map(|&a| line[a]).fold(0.0, f64::max);
            }
            let longest = line.into_iter().fold(0.0, f64::max);
            let shared = tasks.iter().map(|task| task.seconds).sum::<f64>() / f64::from(slots);
            let found = end(&tasks, cpus(slots)).unwrap();
            prop_assert!(found >= longest.max(shared) - 1e-6);
            prop_assert!(found <= shared + longest * (1.0 - 1.0 / f64::from(slots)) + 1e-6);
        }
    }
}
