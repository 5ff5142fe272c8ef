//! Deadlines and budgets of experiments: when a deadline presses, when it cannot be kept, when a budget is spent.

use senmon_protocol::{resources::BudgetSpec, said, said::Said};

/// A branch that is not over, and its place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// Tokens left.
    pub tokens: u64,
    /// Place of its parent in the list, where that is not over either.
    pub parent: Option<usize>,
    /// Slots that it takes.
    pub slots: u16,
}

/// Seconds that the branches take at least, parents before children, with `rate` tokens per second of a slot on
/// `slots` slots: the longest line of descent, or all of it on all slots.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub fn seconds_needed(branches: &[Ahead], rate: f64, slots: u32) -> f64 {
    let own = |branch: &Ahead| branch.tokens as f64 / (rate * f64::from(branch.slots.max(1)));
    // Parents stand before their children.
    let mut ends: Vec<f64> = Vec::with_capacity(branches.len());
    for branch in branches {
        let start = branch.parent.and_then(|parent| ends.get(parent)).copied().unwrap_or(0.0);
        ends.push(start + own(branch));
    }
    let all = branches.iter().map(|branch| branch.tokens as f64).sum::<f64>() / (rate * f64::from(slots.max(1)));
    ends.into_iter().fold(all, f64::max)
}

/// Where nothing is measured yet, a deadline presses so long before.
const CLOSE_S: f64 = 3600.0;

/// Seconds to spare, once the deadline is close: half of the time left is needed, or nothing is known and an hour is
/// left. None before that.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "seconds")]
pub fn slack_s(left_s: f64, needed_s: Option<f64>) -> Option<i64> {
    match needed_s {
        Some(needed) => (left_s < 2.0 * needed).then_some((left_s - needed) as i64),
        None => (left_s < CLOSE_S).then_some(left_s as i64),
    }
}

/// Why a budget is spent, in one sentence; None where it is not.
#[must_use]
pub fn budget_spent(budget: &BudgetSpec, slot_hours: f64, wall_hours: f64) -> Option<Said> {
    let over = |limit: Option<f64>, spent: f64| limit.filter(|limit| spent >= *limit);
    if let Some(limit) = over(budget.slot_hours, slot_hours) {
        return Some(said!("budget_slot_hours_spent", limit = limit.to_string()));
    }
    over(budget.wall_hours, wall_hours).map(|limit| said!("budget_wall_hours_spent", limit = limit.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ahead(tokens: u64, parent: Option<usize>) -> Ahead {
        Ahead { tokens, parent, slots: 1 }
    }

    #[test]
    fn the_longest_line_of_descent_decides_unless_slots_are_few() {
        let branches = [ahead(100, None), ahead(50, Some(0)), ahead(20, Some(1)), ahead(60, Some(0))];
        assert!((seconds_needed(&branches, 1.0, 8) - 170.0).abs() < 1e-9);
        assert!((seconds_needed(&branches, 1.0, 1) - 230.0).abs() < 1e-9);
        assert!((seconds_needed(&[Ahead { slots: 2, ..ahead(100, None) }], 1.0, 8) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_deadline_presses_when_half_of_the_time_left_is_needed() {
        let check = |left, needed, expect| assert_eq!(slack_s(left, needed), expect, "{left} {needed:?}");
        check(1000.0, Some(400.0), None);
        check(1000.0, Some(600.0), Some(400));
        check(1000.0, Some(1200.0), Some(-200));
        check(7200.0, None, None);
        check(600.0, None, Some(600));
    }

    #[test]
    fn a_spent_budget_says_which_key_to_raise() {
        let budget = BudgetSpec { slot_hours: Some(10.0), wall_hours: Some(2.0) };
        assert_eq!(budget_spent(&budget, 9.9, 1.9), None);
        assert!(budget_spent(&budget, 10.0, 0.0).unwrap().text().contains("budget.slot_hours"));
        assert!(budget_spent(&budget, 0.0, 2.5).unwrap().text().contains("budget.wall_hours"));
        assert_eq!(budget_spent(&BudgetSpec::default(), 1e9, 1e9), None);
    }

    proptest! {
        #[test]
        fn more_slots_never_take_longer(tokens in prop::collection::vec(0_u64..1_000, 0..20), slots in 1_u32..9) {
            let branches: Vec<_> = tokens.iter().enumerate().map(|(i, &tokens)| ahead(tokens, i.checked_sub(2))).collect();
            prop_assert!(seconds_needed(&branches, 3.0, slots + 1) <= seconds_needed(&branches, 3.0, slots));
        }
    }
}
