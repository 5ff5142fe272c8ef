//! Decides whether an attempt hangs, of whatever kind: whether it is silent for far longer than what it does takes. Time
//! is an argument, in milliseconds that this process was awake.
//!
//! What counts as a sign of life: a step of a training, a batch of an evaluation, a batch of documents of a shard, a
//! member of a merge, a line of an ensemble; and of anything that is fetched, checked or sent, each piece of it.
//!
//! Never ends anything and never reads a clock.

use senmon_engine::Phase;

/// Steps whose time is remembered.
const STEPS_MAX: usize = 31;
/// A step may take so many times the median one.
const TIMES_MAX: u64 = 5;
/// What is no step may be silent for so many times what a step may take: at the default half an hour.
const LONG_TIMES: u64 = 30;

/// What is known of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    phase: Phase,
    at_ms: u64,
    /// The last steps' times, as a ring.
    steps_ms: Vec<u64>,
    next: usize,
}

/// An attempt that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// How long it has been silent.
    pub silent_ms: u64,
    /// How long it may be.
    pub allowed_ms: u64,
}

impl Watch {
    /// A watch that begins now.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { at_ms: now_ms, ..Self::default() }
    }

    /// The attempt gives a sign of life and says what it does next.
    pub fn pulse(&mut self, now_ms: u64, next: Phase) {
        if self.phase == Phase::Step && next == Phase::Step {
            let took = now_ms.saturating_sub(self.at_ms);
            if self.steps_ms.len() < STEPS_MAX {
                self.steps_ms.push(took);
            } else {
                self.steps_ms[self.next] = took;
                self.next = (self.next + 1) % STEPS_MAX;
            }
        }
        (self.phase, self.at_ms) = (next, now_ms);
    }

    /// The attempt gives a sign of life in the middle of something long. Between steps it counts for nothing: another
    /// thread of the attempt may give it.
    pub fn alive(&mut self, now_ms: u64) {
        if self.phase == Phase::Long {
            self.at_ms = now_ms;
        }
    }

    /// Whether it hangs. A step may always take `stall_min_ms`.
    #[must_use]
    pub fn stall(&self, now_ms: u64, stall_min_ms: u64) -> Option<Stall> {
        let silent_ms = now_ms.saturating_sub(self.at_ms);
        let allowed_ms = match self.phase {
            Phase::Long => stall_min_ms.saturating_mul(LONG_TIMES),
            // The first step compiles, warms up and fills caches: it is no measure yet, and none is known.
            Phase::Step if self.steps_ms.is_empty() => stall_min_ms.saturating_mul(LONG_TIMES),
            Phase::Step => stall_min_ms.max(self.median_ms().saturating_mul(TIMES_MAX)),
        };
        (silent_ms > allowed_ms).then_some(Stall { silent_ms, allowed_ms })
    }

    fn median_ms(&self) -> u64 {
        let mut sorted = self.steps_ms.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stepping(step_ms: u64, steps: u64) -> Watch {
        let mut watch = Watch::new(0);
        (0..=steps).for_each(|step| watch.pulse(step * step_ms, Phase::Step));
        watch
    }

    #[test]
    fn a_step_that_takes_five_times_the_median_and_a_minute_hangs() {
        let check =
            |watch: Watch, now, expect: bool| assert_eq!(watch.stall(now, 60_000).is_some(), expect, "{watch:?}");
        check(stepping(100, 10), 1_000 + 60_000, false);
        check(stepping(100, 10), 1_000 + 60_001, true);
        check(stepping(30_000, 10), 300_000 + 150_000, false);
        check(stepping(30_000, 10), 300_000 + 150_001, true);
        check(stepping(100, 0), 1_800_000, false);
        check(Watch::new(0), 1_800_000, false);
        check(Watch::new(0), 1_800_001, true);
    }

    #[test]
    fn saving_is_no_step() {
        let mut watch = stepping(100, 10);
        watch.pulse(1_100, Phase::Long);
        assert_eq!(watch.stall(1_700_000, 60_000), None);
        watch.pulse(1_700_000, Phase::Step);
        assert_eq!(watch.median_ms(), 100);
        assert_eq!(watch.stall(1_760_001, 60_000), Some(Stall { silent_ms: 60_001, allowed_ms: 60_000 }));
    }

    #[test]
    fn a_fetch_that_goes_on_is_no_stall_however_long_it_takes() {
        let mut watch = Watch::new(0);
        for hour in 1..100 {
            let now = hour * 1_700_000;
            assert_eq!(watch.stall(now, 60_000), None);
            watch.alive(now);
        }
        assert!(watch.stall(99 * 1_700_000 + 1_800_001, 60_000).is_some(), "one that stands still is");
    }

    #[test]
    fn a_save_under_way_does_not_vouch_for_a_step_that_hangs() {
        let mut watch = stepping(100, 10);
        watch.alive(50_000);
        assert!(watch.stall(61_001, 60_000).is_some());
    }

    proptest! {
        #[test]
        fn nothing_hangs_while_steps_take_less_than_five_times_the_median(times in prop::collection::vec(1_000_u64..4_900, 1..80)) {
            let mut watch = Watch::new(0);
            let mut now = 0;
            watch.pulse(0, Phase::Step);
            for time in times {
                prop_assert_eq!(watch.stall(now + time, 1_000), None);
                now += time;
                watch.pulse(now, Phase::Step);
            }
        }
    }
}
