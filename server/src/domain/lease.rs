//! Leases, retries and the life of a worker, by database time given as an argument.

use chrono::{DateTime, TimeDelta, Utc};
use senmon_protocol::{
    job::TerminationReason,
    view::{ExperimentState, WorkerState},
    worker::Command,
};

/// Attempts that the infrastructure's faults may cost a job.
pub const RETRIES_INFRA_MAX: i32 = 20;
/// Longest pause before a job is tried again.
const BACKOFF_SECONDS_MAX: i64 = 60;

/// How long a server listens before it gives a worker up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Since when it hears its workers without a break.
    pub since: DateTime<Utc>,
    /// Life of a lease.
    pub ttl: TimeDelta,
    /// Silence beyond a lease.
    pub lost_after: TimeDelta,
}

impl Patience {
    /// State of a worker last heard of at `seen_at`.
    #[must_use]
    pub fn state(&self, seen_at: DateTime<Utc>, now: DateTime<Utc>) -> WorkerState {
        worker_state(seen_at, self.since, now, self.ttl, self.lost_after)
    }
}

/// State of a worker last heard of at `seen_at`. `server_since` is when this server started: it declares nobody lost
/// before it has listened for one full window itself.
#[must_use]
pub fn worker_state(
    seen_at: DateTime<Utc>,
    server_since: DateTime<Utc>,
    now: DateTime<Utc>,
    ttl: TimeDelta,
    lost_after: TimeDelta,
) -> WorkerState {
    let silent = now - seen_at;
    if silent <= ttl {
        WorkerState::Alive
    } else if silent > ttl + lost_after && may_declare_lost(server_since, now, ttl, lost_after) {
        WorkerState::Lost
    } else {
        WorkerState::Suspect
    }
}

/// Whether a server that has listened since `server_since` may end leases and declare workers lost: only after one full
/// window in which they could have been heard.
#[must_use]
pub fn may_declare_lost(
    server_since: DateTime<Utc>,
    now: DateTime<Utc>,
    ttl: TimeDelta,
    lost_after: TimeDelta,
) -> bool {
    now - server_since > ttl + lost_after || cfg!(feature = "plant-lost-at-once")
}

/// Since when a server has heard its workers without a break, by database time. While it was stopped, or its database
/// was away, nobody could be heard: silence in that time says nothing about a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    since: DateTime<Utc>,
    looked_at: DateTime<Utc>,
}

impl Listening {
    /// A server that begins to listen.
    #[must_use]
    pub fn begun(now: DateTime<Utc>) -> Self {
        Self { since: now, looked_at: now }
    }

    /// It looks at the database's clock, as it does all the time; since when it has listened. A longer pause between
    /// two looks, or a clock that went back, is a break, and listening begins again.
    pub fn look(&mut self, now: DateTime<Utc>, pause_max: TimeDelta) -> DateTime<Utc> {
        let broken = now - self.looked_at > pause_max || now < self.looked_at;
        if broken && !cfg!(feature = "plant-breaks-unnoticed") {
            self.since = now;
        }
        self.looked_at = now;
        self.since
    }

    /// Since when it has listened, by the last look.
    #[must_use]
    pub fn since(&self) -> DateTime<Utc> {
        self.since
    }
}

/// What people and the scheduler decided about a running attempt, read at each renewal so that nothing is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// Of its branch.
    pub asked: Command,
    /// State of its owner, in the words of experiments.
    pub owner: ExperimentState,
    /// Whether its worker shall give everything back.
    pub drains: bool,
    /// Whether a job of higher priority waits for its slots.
    pub gives_way: bool,
}

impl Wishes {
    /// What the attempt is told: an end without a checkpoint before one with, a person's wish before the scheduler's.
    #[must_use]
    pub fn command(self) -> Command {
        match self.owner {
            ExperimentState::Completed | ExperimentState::Failed | ExperimentState::Cancelled => Command::Cancel,
            _ if self.asked != Command::Continue => self.asked,
            ExperimentState::Paused => Command::Release,
            ExperimentState::Running if self.drains => Command::Release,
            ExperimentState::Running if self.gives_way => Command::Preempt,
            ExperimentState::Running => Command::Continue,
        }
    }
}

/// What becomes of a job whose attempt ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Back to the queue, not before this long from now.
    Retry(TimeDelta),
    /// Given up.
    GiveUp,
    /// Held until a person resumes it.
    Hold,
    /// Ended by a person.
    Cancelled,
}

/// What a failure costs the two budgets of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// To the experiment's own budget.
    pub user: i32,
    /// To the infrastructure's.
    pub infra: i32,
}

/// Which budget pays for an attempt that ended without a result; an end that was asked for costs nothing.
#[must_use]
pub fn charge(reason: TerminationReason) -> Charge {
    let users = reason.is_users_fault() || (cfg!(feature = "plant-infra-charged-to-user") && !reason.is_planned());
    Charge { user: i32::from(users), infra: i32::from(!users && !reason.is_planned()) }
}

/// Budgets spent so far, this failure included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Failures of the experiment's own making.
    pub user: i32,
    /// What it may spend.
    pub user_max: i32,
    /// Failures of the infrastructure's making.
    pub infra: i32,
}

/// Decides what becomes of the job. `wanted` is whether a person asked it to pause or be cancelled meanwhile.
#[must_use]
pub fn after_failure(reason: TerminationReason, budgets: Budgets, paused: bool) -> Next {
    match reason {
        TerminationReason::Cancelled => Next::Cancelled,
        TerminationReason::LossSpike => Next::Hold,
        _ if reason.is_planned() && paused => Next::Hold,
        _ if reason.is_planned() => Next::Retry(TimeDelta::zero()),
        _ if !reason.is_retryable() => Next::GiveUp,
        _ if reason.is_users_fault() && budgets.user > budgets.user_max => Next::GiveUp,
        _ if !reason.is_users_fault() && budgets.infra > RETRIES_INFRA_MAX => Next::GiveUp,
        _ if paused => Next::Hold,
        TerminationReason::WorkerLost => Next::Retry(TimeDelta::zero()),
        _ => {
            let spent = u32::try_from(budgets.user.max(budgets.infra).max(1)).unwrap_or(1);
            Next::Retry(TimeDelta::seconds(2_i64.saturating_pow(spent.min(10)).min(BACKOFF_SECONDS_MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_person_goes_before_the_scheduler_and_the_end_before_both() {
        use ExperimentState::{Cancelled, Paused, Running};
        let check = |owner, asked, drains, gives_way, expect| {
            let found = Wishes { asked, owner, drains, gives_way }.command();
            assert_eq!(found, expect, "{owner:?} {asked:?} {drains} {gives_way}");
        };
        check(Running, Command::Continue, false, false, Command::Continue);
        check(Running, Command::Continue, false, true, Command::Preempt);
        check(Running, Command::Continue, true, true, Command::Release);
        check(Paused, Command::Continue, false, true, Command::Release);
        check(Running, Command::Release, false, true, Command::Release);
        check(Paused, Command::Cancel, true, true, Command::Cancel);
        check(Cancelled, Command::Release, true, true, Command::Cancel);
    }

    #[test]
    fn a_silent_worker_is_suspect_before_it_is_lost() {
        let check = |silent: i64, listened: i64, expect| {
            let found = worker_state(
                at(1000 - silent),
                at(1000 - listened),
                at(1000),
                TimeDelta::seconds(15),
                TimeDelta::seconds(15),
            );
            assert_eq!(found, expect, "silent {silent}, listened {listened}");
        };
        check(0, 999, WorkerState::Alive);
        check(16, 999, WorkerState::Suspect);
        check(31, 999, WorkerState::Lost);
        check(31, 5, WorkerState::Suspect);
        check(900, 29, WorkerState::Suspect);
    }

    #[test]
    fn listening_begins_again_after_a_break() {
        let mut listening = Listening::begun(at(100));
        let pause_max = TimeDelta::seconds(5);
        assert_eq!(listening.look(at(104), pause_max), at(100));
        assert_eq!(listening.look(at(109), pause_max), at(100));
        // The database was away, or the server was stopped, or the clock jumped.
        assert_eq!(listening.look(at(900), pause_max), at(900));
        assert_eq!(listening.look(at(901), pause_max), at(900));
        assert_eq!(listening.look(at(300), pause_max), at(300));
    }

    #[test]
    fn each_failure_is_charged_once_and_to_whom_it_belongs() {
        let check = |reason, user, infra| assert_eq!(charge(reason), Charge { user, infra }, "{reason:?}");
        check(TerminationReason::OutOfMemory, 1, 0);
        check(TerminationReason::WorkerLost, 0, 1);
        check(TerminationReason::StorageFailure, 0, 1);
        check(TerminationReason::Released, 0, 0);
        check(TerminationReason::RolledBack, 0, 0);
        check(TerminationReason::Preempted, 0, 0);
        check(TerminationReason::Stalled, 0, 1);
    }

    #[test]
    fn people_and_budgets_decide() {
        let budgets = Budgets { user: 1, user_max: 2, infra: 1 };
        let check = |reason, budgets, paused, expect: Next| {
            assert_eq!(after_failure(reason, budgets, paused), expect, "{reason:?}")
        };
        check(TerminationReason::WorkerLost, budgets, false, Next::Retry(TimeDelta::zero()));
        check(TerminationReason::Released, budgets, true, Next::Hold);
        check(TerminationReason::LossSpike, budgets, false, Next::Hold);
        check(TerminationReason::Released, budgets, false, Next::Retry(TimeDelta::zero()));
        check(TerminationReason::Preempted, budgets, false, Next::Retry(TimeDelta::zero()));
        check(TerminationReason::Preempted, budgets, true, Next::Hold);
        check(TerminationReason::InvalidInput, budgets, false, Next::GiveUp);
        check(TerminationReason::Cancelled, budgets, false, Next::Cancelled);
        check(TerminationReason::OutOfMemory, Budgets { user: 3, ..budgets }, false, Next::GiveUp);
        check(TerminationReason::StorageFailure, Budgets { infra: 21, ..budgets }, false, Next::GiveUp);
        check(
            TerminationReason::StorageFailure,
            Budgets { infra: 3, ..budgets },
            false,
            Next::Retry(TimeDelta::seconds(8)),
        );
    }

    proptest! {
        /// Whatever the looks were, a worker is lost only after a full window without a break in which it could have
        /// been heard.
        #[test]
        fn nobody_is_lost_for_silence_that_nobody_heard(pauses in prop::collection::vec(-50_i64..100, 1..40), seen in 0_i64..1000) {
            let (pause_max, window) = (TimeDelta::seconds(5), TimeDelta::seconds(15));
            let mut listening = Listening::begun(at(1000));
            let (mut now, mut unbroken) = (1000, 1000);
            for pause in pauses {
                now += pause;
                if !(0..=5).contains(&pause) {
                    unbroken = now;
                }
                let since = listening.look(at(now), pause_max);
                if worker_state(at(seen), since, at(now), window, window) == WorkerState::Lost {
                    prop_assert!(now - unbroken > 30);
                }
            }
        }

        #[test]
        fn the_pause_before_a_retry_is_bounded(user in 0_i32..100, infra in 0_i32..100, user_max in 0_i32..100) {
            if let Next::Retry(pause) = after_failure(TerminationReason::InternalError, Budgets { user, user_max, infra }, false) {
                prop_assert!(pause >= TimeDelta::zero() && pause <= TimeDelta::seconds(BACKOFF_SECONDS_MAX));
            }
        }
    }
}
