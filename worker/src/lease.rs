//! Decides when a lease must be renewed and whether its holder may still write. Time is an argument: milliseconds
//! of a clock that never goes back.
//!
//! Never talks to the server, never reads a clock, never stops a training by itself: a holder that hears nothing
//! trains on and keeps its writes to itself.

use senmon_protocol::worker::Command;

/// Renew at a third of the lease time, so that two renewals may be lost before the lease is.
const RENEW_THIRDS: u64 = 1;
/// Stop writing at two thirds without an answer: before the server can give the job to somebody else, with a third
/// left for what is on its way.
const WRITE_THIRDS: u64 = if cfg!(feature = "plant-lease-to-the-end") { 3 } else { 2 };

/// One lease, as its holder sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    ttl_ms: u64,
    /// When the last renewal that was answered had been asked for. The server counts from a later moment, so this
    /// side gives up first.
    since_ms: u64,
    /// When a renewal was last asked for; none before the first.
    asked_ms: Option<u64>,
    command: Command,
}

/// What the holder may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Train and write.
    Held,
    /// Train on, keep writes back: the server has not answered for two thirds of the lease.
    Quiet,
    /// Stop; write nothing more.
    Fenced,
}

impl Lease {
    /// A lease granted at `now_ms`. Its first renewal is due at once, because the answer that brought the grant may
    /// have been long on its way.
    #[must_use]
    pub fn granted(now_ms: u64, ttl_ms: u64) -> Self {
        Self { ttl_ms, since_ms: now_ms, asked_ms: None, command: Command::Continue }
    }

    /// When the next renewal is due.
    #[must_use]
    pub fn renewal_due_ms(&self) -> u64 {
        self.asked_ms.map_or(self.since_ms, |asked| asked + self.ttl_ms * RENEW_THIRDS / 3)
    }

    /// A renewal was asked for.
    pub fn asked(&mut self, now_ms: u64) {
        self.asked_ms = Some(self.asked_ms.map_or(now_ms, |asked| asked.max(now_ms)));
    }

    /// The renewal asked for at `asked_ms` was answered. Commands only grow: a release is not taken back by a
    /// `Continue`, and nothing follows `Fenced`.
    pub fn answered(&mut self, asked_ms: u64, command: Command) -> Command {
        if command != Command::Fenced {
            self.since_ms = self.since_ms.max(asked_ms);
        }
        self.command = stronger(self.command, command);
        self.command
    }

    /// A write was answered with `stale_fence`.
    pub fn fenced(&mut self) {
        self.command = Command::Fenced;
    }

    /// What the holder may do now.
    #[must_use]
    pub fn standing(&self, now_ms: u64) -> Standing {
        if self.command == Command::Fenced {
            Standing::Fenced
        } else if now_ms.saturating_sub(self.since_ms) < self.ttl_ms * WRITE_THIRDS / 3 {
            Standing::Held
        } else {
            Standing::Quiet
        }
    }
}

/// The stronger of two commands.
#[must_use]
pub fn stronger(a: Command, b: Command) -> Command {
    let rank = |command| match command {
        Command::Continue => 0,
        Command::Preempt => 1,
        Command::Release => 2,
        Command::Cancel => 3,
        Command::Fenced => 4,
    };
    if rank(b) > rank(a) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            Just(Command::Continue),
            Just(Command::Preempt),
            Just(Command::Release),
            Just(Command::Cancel),
            Just(Command::Fenced)
        ]
    }

    #[test]
    fn two_renewals_may_be_lost_before_the_lease_is() {
        let mut lease = Lease::granted(0, 30_000);
        lease.asked(0);
        lease.answered(0, Command::Continue);
        assert_eq!(lease.renewal_due_ms(), 10_000);
        lease.asked(10_000);
        assert_eq!(lease.renewal_due_ms(), 20_000);
        assert_eq!(lease.standing(19_999), Standing::Held);
        assert_eq!(lease.standing(20_000), Standing::Quiet);
        lease.asked(20_000);
        lease.answered(20_000, Command::Continue);
        assert_eq!(lease.standing(20_100), Standing::Held);
    }

    #[test]
    fn the_first_renewal_is_due_at_once() {
        assert_eq!(Lease::granted(500, 30_000).renewal_due_ms(), 500);
    }

    proptest! {
        /// The server ends a lease `ttl` after it handled the last renewal. It handled it after it was asked for;
        /// so a holder that still writes holds a lease that lives, by a margin of a third.
        #[test]
        fn nobody_writes_in_the_last_third_of_a_lease(
            ttl in 30u64..100_000,
            steps in proptest::collection::vec((0u64..50_000, 0u64..20_000, any::<bool>()), 1..50),
        ) {
            let (mut now, mut renewed_by_server) = (0, 0);
            let mut lease = Lease::granted(0, ttl);
            for (pause, travel, answered) in steps {
                now += pause;
                let asked = now;
                lease.asked(asked);
                now += travel;
                if answered {
                    renewed_by_server = asked.max(renewed_by_server);
                    lease.answered(asked, Command::Continue);
                }
                if lease.standing(now) == Standing::Held {
                    prop_assert!(now < renewed_by_server + ttl * 2 / 3 + 1);
                }
            }
        }

        #[test]
        fn fenced_is_final(before in command(), after in proptest::collection::vec((0u64..100_000, command()), 0..20)) {
            let mut lease = Lease::granted(0, 3_000);
            lease.answered(0, before);
            lease.fenced();
            for (asked, command) in after {
                prop_assert_eq!(lease.answered(asked, command), Command::Fenced);
                prop_assert_eq!(lease.standing(asked), Standing::Fenced);
            }
        }

        #[test]
        fn a_command_is_never_taken_back(commands in proptest::collection::vec(command(), 1..20)) {
            let mut lease = Lease::granted(0, 3_000);
            let mut last = Command::Continue;
            for command in commands {
                let now = lease.answered(0, command);
                prop_assert_eq!(stronger(last, now), now);
                last = now;
            }
        }

        #[test]
        fn an_answer_out_of_order_never_shortens_a_lease(asked in proptest::collection::vec(0u64..10_000, 1..20), now in 0u64..20_000) {
            let mut lease = Lease::granted(0, 3_000);
            let mut held = false;
            for at in asked {
                lease.answered(at, Command::Continue);
                let holds = lease.standing(now) == Standing::Held;
                prop_assert!(holds || !held);
                held = holds;
            }
        }
    }
}
