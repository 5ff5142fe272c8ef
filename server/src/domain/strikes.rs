//! Jobs and workers that fail again and again are set aside instead of being tried for ever: decided from how recent
//! attempts ended.

use senmon_protocol::{
    ids::{JobId, WorkerId},
    job::TerminationReason,
};
use std::collections::HashSet;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Its job.
    pub job: JobId,
    /// Its worker.
    pub worker: WorkerId,
    /// Why it ended without a result; None with one.
    pub reason: Option<TerminationReason>,
    /// Step it started from.
    pub step_start: i64,
    /// Last step reported.
    pub step_last: i64,
}

impl Ending {
    fn got_further(&self) -> bool {
        self.reason.is_none() || self.step_last > self.step_start
    }
}

/// A job that is to be set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poison {
    /// Attempts that ended the same way.
    pub times: usize,
    /// Workers on which they did.
    pub workers: usize,
    /// The step at which they did.
    pub step: i64,
}

/// Ends of one kind after which a job is set aside. The store's failures are nobody's and never count. A damaged file
/// is left out once it was read again, which takes a moment. A worker may die by chance, or be killed: it takes many.
fn times_needed(reason: TerminationReason) -> Option<usize> {
    match reason {
        TerminationReason::InternalError
        | TerminationReason::Stalled
        | TerminationReason::OutOfMemory
        | TerminationReason::NonFiniteLoss => Some(2),
        // Before it takes all devices, one after the other.
        TerminationReason::DeviceFault => Some(3),
        TerminationReason::CorruptData => Some(4),
        TerminationReason::WorkerLost => Some(6),
        _ => None,
    }
}

/// Whether a job ended the same way, without getting further, on two or more workers. `recent` are its attempts that
/// are over, the latest first; planned ends (pause, preemption) say nothing and are left out.
#[must_use]
pub fn poison(recent: &[Ending]) -> Option<Poison> {
    let mut failures = recent.iter().filter(|ending| !ending.reason.is_some_and(TerminationReason::is_planned));
    let latest = failures.clone().next()?;
    let (reason, step) = (latest.reason?, latest.step_last);
    let same: Vec<&Ending> =
        failures.by_ref().take_while(|ending| ending.reason == Some(reason) && ending.step_last == step).collect();
    let workers: HashSet<WorkerId> = same.iter().map(|ending| ending.worker).collect();
    (workers.len() >= 2 && same.len() >= times_needed(reason)?).then_some(Poison {
        times: same.len(),
        workers: workers.len(),
        step,
    })
}

/// Failures in a row after which a worker is set aside; more where its process died, which may have been a person.
const FAILURES_MAX: usize = 3;
const DEATHS_MAX: usize = 6;

/// Failures in a row of different jobs on one worker, none of which got further, while attempts elsewhere did.
/// `recent` are its attempts that are over, the latest first. None where it need not be set aside.
#[must_use]
pub fn bad_worker(recent: &[Ending], succeeded_elsewhere: bool) -> Option<usize> {
    let failures: Vec<&Ending> = recent
        .iter()
        .filter(|ending| !ending.reason.is_some_and(|reason| reason.is_planned() || reason.is_users_fault()))
        .take_while(|ending| !ending.got_further())
        .collect();
    let jobs: HashSet<JobId> = failures.iter().map(|ending| ending.job).collect();
    let died = failures.iter().any(|ending| ending.reason == Some(TerminationReason::WorkerLost));
    let needed = if died { DEATHS_MAX } else { FAILURES_MAX };
    (succeeded_elsewhere && jobs.len() >= 2 && failures.len() >= needed).then_some(failures.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    const ERROR: TerminationReason = TerminationReason::InternalError;

    fn ending(job: u128, worker: u128, reason: TerminationReason, step_last: i64) -> Ending {
        let (job, worker) = (JobId(Uuid::from_u128(job)), WorkerId(Uuid::from_u128(worker)));
        Ending { job, worker, reason: Some(reason), step_start: 10, step_last }
    }

    #[test]
    fn a_job_that_fails_at_the_same_step_on_two_workers_is_set_aside() {
        let check = |recent: &[Ending], expect: Option<(usize, usize, i64)>| {
            let found = poison(recent).map(|poison| (poison.times, poison.workers, poison.step));
            assert_eq!(found, expect, "{recent:?}");
        };
        let at = |worker, step| ending(1, worker, ERROR, step);
        check(&[], None);
        check(&[at(1, 50), at(2, 50)], Some((2, 2, 50)));
        check(&[at(1, 50), at(1, 50), at(1, 50)], None);
        check(&[at(1, 60), at(2, 50)], None);
        check(&[at(2, 50), ending(1, 1, TerminationReason::Preempted, 70), at(1, 50)], Some((2, 2, 50)));
        check(&[at(2, 50), ending(1, 1, TerminationReason::OutOfMemory, 50)], None);
        let lost = |worker| ending(1, worker, TerminationReason::WorkerLost, 10);
        check(&[lost(1), lost(2), lost(1), lost(2), lost(1)], None);
        check(&[lost(1), lost(2), lost(1), lost(2), lost(1), lost(2)], Some((6, 2, 10)));
        let full = |worker| ending(1, worker, TerminationReason::StorageFailure, 10);
        check(&[full(1), full(2), full(3), full(1), full(2), full(3), full(1)], None);
    }

    #[test]
    fn a_worker_where_job_after_job_fails_is_set_aside_if_others_succeed() {
        let check = |recent: &[Ending], elsewhere, expect| {
            assert_eq!(bad_worker(recent, elsewhere), expect, "{recent:?}");
        };
        let (a, b) = (ending(1, 1, ERROR, 10), ending(2, 1, ERROR, 10));
        check(&[a, b, a], true, Some(3));
        check(&[a, b, a], false, None);
        check(&[a, a, a], true, None);
        check(&[a, b], true, None);
        let further = Ending { step_last: 20, ..b };
        check(&[a, b, further, a], true, None);
        check(&[a, Ending { reason: None, ..b }, a, b], true, None);
        check(&[a, ending(3, 1, TerminationReason::OutOfMemory, 10), b, a], true, Some(3));
        let died = ending(1, 1, TerminationReason::WorkerLost, 10);
        check(&[died, b, died, b, a], true, None);
        check(&[died, b, died, b, a, b], true, Some(6));
    }

    proptest! {
        #[test]
        fn one_worker_alone_condemns_no_job(steps in prop::collection::vec(0_i64..3, 0..20)) {
            let recent: Vec<_> = steps.into_iter().map(|step| ending(1, 1, ERROR, step)).collect();
            prop_assert_eq!(poison(&recent), None);
        }

        #[test]
        fn a_job_that_gets_further_is_never_set_aside(workers in prop::collection::vec(1_u128..4, 0..20)) {
            let recent: Vec<_> = workers.iter().rev().zip(0..).map(|(&worker, step)| ending(1, worker, ERROR, step)).collect();
            prop_assert_eq!(poison(&recent), None);
        }
    }
}
