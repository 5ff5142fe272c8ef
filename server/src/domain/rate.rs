//! How often somebody may ask: so many times a second, and a number at once after a rest.

/// A rate: one may be spent each `1 / per_second`, and unspent ones keep up to `at_once`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run; 0 for no limit.
    pub per_second: u32,
    /// After a rest.
    pub at_once: u32,
}

/// When all that may be spent at once is there again, nanoseconds of any clock; 0 for somebody new.
pub type FullAt = u64;

impl Rate {
    /// Spends one, or says how long to wait until there is one, nanoseconds (the generic cell rate algorithm, ITU-T
    /// I.371).
    ///
    /// # Errors
    /// The wait.
    pub fn spend(self, full_at: &mut FullAt, now: u64) -> Result<(), u64> {
        let next = self.check(*full_at, now)?;
        *full_at = next;
        Ok(())
    }

    /// When it would be full after spending one.
    ///
    /// # Errors
    /// The wait.
    pub fn check(self, full_at: FullAt, now: u64) -> Result<FullAt, u64> {
        if self.per_second == 0 {
            return Ok(full_at);
        }
        let each = 1_000_000_000 / u64::from(self.per_second);
        let next = full_at.max(now).saturating_add(each);
        let latest = now.saturating_add(each.saturating_mul(u64::from(self.at_once.max(1))));
        if next <= latest { Ok(next) } else { Err(next - latest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let rate = Rate { per_second: 10, at_once: 5 };
        let (mut full_at, second) = (0, 1_000_000_000);
        let mut spent = |now: u64| (0..100).filter(|_| rate.spend(&mut full_at, now).is_ok()).count();
        assert_eq!(spent(second), 5);
        assert_eq!(spent(second), 0);
        assert_eq!(spent(second + second / 10), 1);
        assert_eq!(spent(2 * second), 5, "no more than at once, however long the rest");
        let no_limit = Rate { per_second: 0, at_once: 0 };
        assert!((0..1000).all(|_| no_limit.spend(&mut 0, 0).is_ok()));
    }

    proptest! {
        /// Whoever waits as long as told is let through; over any time no more pass than rate and burst allow.
        #[test]
        fn the_wait_is_exact_and_the_rate_holds(
            per_second in 1_u32..2000, at_once in 1_u32..50, gaps in prop::collection::vec(0_u64..30_000_000, 1..200),
        ) {
            let rate = Rate { per_second, at_once };
            let (mut full_at, mut now, mut passed) = (0, 5_000_000_000_u64, 0_u64);
            let begin = now;
            for gap in gaps {
                now += gap;
                match rate.spend(&mut full_at, now) {
                    Ok(()) => passed += 1,
                    Err(wait) => {
                        prop_assert!(rate.check(full_at, now + wait - 1).is_err());
                        prop_assert!(rate.check(full_at, now + wait).is_ok());
                    }
                }
            }
            let each = 1_000_000_000 / u64::from(per_second);
            prop_assert!(passed <= u64::from(at_once) + (now - begin) / each);
        }
    }
}
