//! A plan in time: how long each stage takes, whether all of it fits the days at hand, and what would.

use crate::domain::{
    forecast::{Left, end, lay_out, stage_ends},
    rates::Speeds,
    timetable::Slots,
};
use senmon_protocol::{
    plan::{PlanFit, PlannedBranch, PlannedStage},
    view::Stage,
};

const DAY_S: f64 = 86_400.0;
/// Slots beyond which nobody looks for a plan that fits.
const SLOTS_MAX: u32 = 1 << 16;
/// Times the budgets beyond which nobody looks either.
const TIMES_MAX: f64 = 1024.0;
/// Halvings of an interval: to a thousandth of what is looked for.
const HALVINGS: u32 = 20;

/// Seconds in all, and of each stage beyond those before it; None where nothing says how fast training is.
pub(super) fn stages(left: &Left, speeds: &Speeds, slots: Slots) -> Option<(f64, Vec<PlannedStage>)> {
    let mut tasks = Vec::new();
    let unmeasured = lay_out(left, speeds, &mut tasks)?;
    let whole = 0..tasks.len();
    let ends = stage_ends(&tasks, slots, &[whole]).pop()?;
    let all = end(&ends)?;
    let mut reached = 0.0_f64;
    let stages = Stage::ALL.into_iter().filter_map(|stage| {
        let own = ends.get(&stage).copied().flatten();
        if own.is_none() && !unmeasured.contains(&stage) {
            return None;
        }
        let seconds = own.filter(|_| !unmeasured.contains(&stage)).map(|own| (own - reached).max(0.0));
        reached = reached.max(own.unwrap_or(0.0));
        Some(PlannedStage { stage, seconds })
    });
    Some((all, stages.collect()))
}

/// A plan that takes `seconds` against the days at hand.
pub(super) fn fit(
    days: f64,
    seconds: f64,
    branches: &[PlannedBranch],
    left: &Left,
    speeds: &Speeds,
    slots: Slots,
) -> PlanFit {
    let takes =
        |times: f64, slots: Slots| stages(&left.times(times), speeds, slots).map(|(seconds, _)| seconds / DAY_S);
    let fits = |times: f64, slots: Slots| takes(times, slots).is_some_and(|needed| needed <= days);
    let longest = branches.iter().max_by(|a, b| a.seconds.unwrap_or(0.0).total_cmp(&b.seconds.unwrap_or(0.0)));
    let days_needed = seconds / DAY_S;
    let (mut low, mut high) = if days_needed <= days { (1.0, TIMES_MAX) } else { (0.0, 1.0) };
    if fits(high, slots) {
        low = high;
    } else {
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if fits(middle, slots) { low = middle } else { high = middle }
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count of tokens"
    )]
    let tokens = branches.iter().map(|branch| (branch.tokens as f64 * low) as u64).fold(0, u64::saturating_add);
    PlanFit {
        days,
        days_needed,
        longest: longest.map(|branch| branch.name.clone()).unwrap_or_default(),
        longest_days: longest.and_then(|branch| branch.seconds).unwrap_or(0.0) / DAY_S,
        budgets_times: (low > 0.0).then_some(low),
        tokens: (low > 0.0).then_some(tokens),
        slots: fewest(|n| fits(1.0, slots.of(n))),
    }
}

/// The smallest number of slots that is enough; None where no number is.
fn fewest(is_enough: impl Fn(u32) -> bool) -> Option<u32> {
    let mut high = 1;
    while !is_enough(high) {
        high = (high < SLOTS_MAX).then(|| high * 2)?;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = u32::midpoint(low, high);
        if is_enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::forecast::BranchLeft;
    use senmon_protocol::view::BranchRole;

    fn left(branches: &[(BranchRole, Option<usize>, u64)]) -> Left {
        let branch = |&(role, parent, days): &(BranchRole, Option<usize>, u64)| BranchLeft {
            role,
            repeat: 0,
            parent,
            tokens: days * 86_400,
            slots: 1,
            rate: None,
            is_over: false,
            is_scored_later: false,
        };
        Left { branches: branches.iter().map(branch).collect(), ..Left::default() }
    }

    fn lines(left: &Left) -> Vec<PlannedBranch> {
        let line = |(i, branch): (usize, &BranchLeft)| PlannedBranch {
            name: format!("b{i}"),
            role: branch.role,
            parent: None,
            domain: None,
            repeat: 0,
            tokens: branch.tokens,
            steps: 1,
            fresh_share: None,
            seconds: Some(branch.tokens as f64),
            checkpoint_bytes: 0,
        };
        left.branches.iter().enumerate().map(line).collect()
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        use BranchRole::{Expert, Seed};
        let speeds = Speeds { train: Some(1.0), ..Speeds::default() };
        let of = |days: f64, slots: u32, left: &Left| {
            let slots = Slots { cpu: slots, cuda: 0 };
            let (seconds, _) = stages(left, &speeds, slots).unwrap();
            fit(days, seconds, &lines(left), left, &speeds, slots)
        };
        // A seed of 54 days, then four experts of 9 days each.
        let plan = left(&[
            (Seed, None, 54),
            (Expert, Some(0), 9),
            (Expert, Some(0), 9),
            (Expert, Some(0), 9),
            (Expert, Some(0), 9),
        ]);
        let found = of(30.0, 1, &plan);
        assert!((found.days_needed - 90.0).abs() < 1e-6 && !found.is_met());
        assert_eq!((found.longest.as_str(), found.longest_days, found.slots), ("b0", 54.0, None));
        assert!((found.budgets_times.unwrap() - 1.0 / 3.0).abs() < 1e-3);
        assert!((found.tokens.unwrap() as f64 / 86_400.0 - 30.0).abs() < 0.1);
        let found = of(64.0, 1, &plan);
        assert_eq!(found.slots, Some(4));
        let found = of(126.0, 2, &plan);
        assert!(found.is_met() && (found.budgets_times.unwrap() - 126.0 / 72.0).abs() < 1e-2, "{found:?}");
        assert_eq!(found.slots, Some(1));
    }
}
