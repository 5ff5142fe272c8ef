//! The fleet over a window of time: what its slots did, and when they did nothing.

use super::{Account, Piece, attempt::Attempt};
use chrono::{DateTime, Utc};
use senmon_protocol::goodput::TimeCause;

/// What is known of a worker's time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supply {
    /// Slots that it brought to the fleet from each moment on, in order; 0 while it was lost.
    pub slots: Vec<(DateTime<Utc>, u32)>,
    /// Attempts on it, in any order.
    pub attempts: Vec<Attempt>,
}

/// Slot-time from one moment to another, all of it: slots with an attempt by the attempt's causes, the other slots of
/// workers that are not lost as idle.
#[must_use]
pub fn fleet(workers: &[Supply], from: DateTime<Utc>, until: DateTime<Utc>) -> Account {
    let mut account = Account::default();
    for worker in workers {
        let clip = |at: DateTime<Utc>| at.clamp(from, until);
        // Changes of (slots brought, slots taken) at each moment.
        let mut changes: Vec<(DateTime<Utc>, i64, i64)> = Vec::new();
        let mut before = 0;
        for (at, slots) in &worker.slots {
            changes.push((clip(*at), i64::from(*slots) - before, 0));
            before = i64::from(*slots);
        }
        for attempt in &worker.attempts {
            for piece in attempt.pieces(until) {
                let piece = piece.clipped(from, until);
                account.add(&piece, attempt.slots);
                changes.push((clip(piece.from), 0, i64::from(attempt.slots)));
                changes.push((clip(piece.until), 0, -i64::from(attempt.slots)));
            }
        }
        changes.sort_by_key(|(at, _, _)| *at);
        let (mut cursor, mut brought, mut taken) = (from, 0, 0);
        let mut idle = |from, until, free: i64| {
            account.add(&Piece::of(TimeCause::Idle, from, until), u32::try_from(free).unwrap_or(0));
        };
        for (at, more_brought, more_taken) in changes {
            idle(cursor, at, brought - taken);
            (cursor, brought, taken) = (at, brought + more_brought, taken + more_taken);
        }
        idle(cursor, until, brought - taken);
    }
    account
}
