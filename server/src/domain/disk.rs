//! How full a disk is, and when the reserve on it is given up and made again.
//!
//! The reserve is a file that holds room: given up when the disk is full, it is what Postgres writes its log into and
//! the server its deletions. All marks are multiples of its size, and apart enough that nothing flutters.

use serde::Serialize;

/// How full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// There is room.
    Ample,
    /// Nothing that grows is begun any more.
    Low,
    /// The reserve is in use: points and log lines wait with the workers.
    Full,
}

/// What to do with the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Nothing.
    Keep,
    /// Remove it.
    Release,
    /// Make it.
    Make,
}

/// Judges a disk. `free`: bytes that are free now; `held`: whether the reserve of `reserve` bytes stands; `was`: the last
/// judgement.
#[must_use]
pub fn judge(reserve: u64, free: u64, held: bool, was: Level) -> (Level, Move) {
    if reserve == 0 {
        return (Level::Ample, if held { Move::Release } else { Move::Keep });
    }
    // What is free beyond the reserve, once that stands.
    let spare = if held { free } else { free.saturating_sub(reserve) };
    let below = |enter: u64, leave: u64, level: Level| spare < enter || (was >= level && spare < leave);
    let level = if below(reserve / 4, reserve, Level::Full) {
        Level::Full
    } else if below(reserve * 2, reserve * 3, Level::Low) {
        Level::Low
    } else {
        Level::Ample
    };
    let step = match (held, level) {
        (true, Level::Full) if spare < reserve / 4 => Move::Release,
        (false, Level::Low | Level::Ample) if spare >= reserve => Move::Make,
        _ => Move::Keep,
    };
    (level, step)
}

#[cfg(test)]
mod tests {
    use super::{
        Level::{Ample, Full, Low},
        *,
    };
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_disk_fills_up_and_is_freed() {
        let (mut was, mut held) = (Ample, false);
        let mut seen = Vec::new();
        // Free bytes of a disk as somebody else fills it, and frees it again; the reserve takes its part.
        for others_free in [2048_u64, 1024, 700, 400, 300, 200, 310, 520, 600, 1100] {
            let free = |held| (others_free * MIB).saturating_sub(if held { 256 * MIB } else { 0 });
            let (level, step) = judge(256 * MIB, free(held), held, was);
            held = match step {
                Move::Keep => held,
                Move::Release => false,
                Move::Make => true,
            };
            was = level;
            seen.push((level, held));
        }
        let expect = [
            (Ample, true),
            (Ample, true),
            (Low, true),
            (Low, true),
            (Full, false),
            (Full, false),
            (Full, false),
            (Low, true),
            (Low, true),
            (Ample, true),
        ];
        assert_eq!(seen, expect);
    }

    proptest! {
        #[test]
        fn nothing_flutters(reserve in 4_u64..1 << 40, free in 0_u64..1 << 42, held: bool, was in 0..3) {
            let was = [Ample, Low, Full][usize::try_from(was).unwrap()];
            let (level, step) = judge(reserve, free, held, was);
            let (held, free) = match step {
                Move::Keep => (held, free),
                Move::Release => (false, free + reserve),
                Move::Make => (true, free - reserve),
            };
            prop_assert_eq!(judge(reserve, free, held, level), (level, Move::Keep));
            prop_assert!(held || level == Full || free < 2 * reserve);
        }
    }
}
