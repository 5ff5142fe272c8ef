//! Which checkpoints of a branch may be removed, and how many stay at most.
//!
//! A checkpoint stays when something refers to it, when the policy keeps it, or when the branch would be lost without
//! it. Damaged ones are no reason to keep anything: they never take the place of a whole one.

use senmon_protocol::{
    checkpoint::CheckpointKind,
    ids::CheckpointId,
    problem::Fault,
    said,
    said::{Said, expected::found},
    storage::RetentionSpec,
};
use std::collections::BTreeSet;

/// A committed checkpoint as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointFacts {
    /// Id.
    pub id: CheckpointId,
    /// Steps of the branch.
    pub step: u64,
    /// Tokens of the branch.
    pub tokens: u64,
    /// Place in the order of commits: a branch that went back has older ones with higher steps.
    pub order: u64,
    /// What it can be used for.
    pub kind: CheckpointKind,
    /// Whether it was read back whole after its commit.
    pub verified: bool,
    /// Whether it is missing something or altered.
    pub damaged: bool,
    /// Loss of its last step.
    pub loss: Option<f64>,
}

impl CheckpointFacts {
    fn is_resumable(&self) -> bool {
        self.kind == CheckpointKind::Resumable && !self.damaged
    }
}

/// What the branch still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Whether the branch may still train: it is not completed. A failed or cancelled one can be continued.
    pub unfinished: bool,
    /// Where spikes are answered by going back: so many steps at least.
    pub roll_back_steps: Option<u64>,
}

/// The checkpoints of one branch that may be removed, oldest commit first. `referenced` are those that a branch's
/// start, an evaluation, an attempt, a merge, an ensemble or a report refers to.
#[must_use]
pub fn removable(
    checkpoints: &[CheckpointFacts],
    policy: &RetentionSpec,
    needs: Needs,
    referenced: &BTreeSet<CheckpointId>,
) -> Vec<CheckpointId> {
    let mut all: Vec<&CheckpointFacts> = checkpoints.iter().collect();
    all.sort_by_key(|c| (c.order, c.step));
    let kept = kept(&all, policy, needs);
    // A damaged one goes only when a whole one is known to stand in its place.
    let replaced = all.iter().any(|c| c.verified && !c.damaged);
    let free = |c: &&&CheckpointFacts| {
        let referenced = referenced.contains(&c.id) && !cfg!(feature = "plant-retention-ignores-references");
        !kept.contains(&c.id) && !referenced && (!c.damaged || replaced)
    };
    all.iter().filter(free).map(|c| c.id).collect()
}

/// What stays for the branch's own sake; `all` is in the order of commits.
fn kept(all: &[&CheckpointFacts], policy: &RetentionSpec, needs: Needs) -> BTreeSet<CheckpointId> {
    let whole = || all.iter().rev().filter(|c| !c.damaged);
    let resumable = || all.iter().rev().filter(|c| c.is_resumable());
    let mut kept = BTreeSet::new();
    // The branch itself: its newest commit of each use, and the last one that is known to be whole.
    kept.extend(resumable().next().map(|c| c.id));
    kept.extend(resumable().find(|c| c.verified).map(|c| c.id));
    if needs.unfinished {
        kept.extend(all.last().map(|c| c.id));
        if let (Some(back), Some(newest)) = (needs.roll_back_steps, resumable().next()) {
            let before = (newest.step + 1).saturating_sub(back.max(1));
            kept.extend(resumable().filter(|c| c.step <= before).max_by_key(|c| (c.step, c.order)).map(|c| c.id));
        }
    }
    if needs.unfinished || policy.keep_final {
        kept.extend(whole().next().map(|c| c.id));
    }
    // The policy.
    kept.extend(whole().take(policy.keep_latest as usize).map(|c| c.id));
    if let Some(every) = policy.keep_every_tokens {
        let mut passed = BTreeSet::from([0]);
        let mut by_tokens: Vec<_> = whole().collect();
        by_tokens.sort_by_key(|c| c.tokens);
        kept.extend(by_tokens.iter().filter(|c| passed.insert(c.tokens / every.0.max(1))).map(|c| c.id));
    }
    let mut best: Vec<_> =
        whole().filter_map(|c| c.loss.filter(|loss| loss.is_finite()).map(|loss| (loss, c.id))).collect();
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    kept.extend(best.iter().take(policy.keep_best as usize).map(|(_, id)| *id));
    kept
}

/// Faults of a policy.
#[must_use]
pub fn faults(policy: &RetentionSpec) -> Vec<Fault> {
    let fault = |key: &str, expected: Said| Fault::said(format!("retention.{key}"), found(0, expected));
    let latest = (policy.keep_latest == 0).then(|| fault("keep_latest", said!("expected_newest_kept")));
    let every = policy.keep_every_tokens.filter(|every| every.0 == 0);
    latest.into_iter().chain(every.map(|_| fault("keep_every_tokens", said!("expected_every_kept")))).collect()
}

/// Checkpoints of a branch that stay at most, of `saves` written over `tokens`; what something else refers to is
/// among them or comes on top.
#[must_use]
pub fn kept_at_most(policy: &RetentionSpec, saves: u64, tokens: u64) -> u64 {
    // One more than the newest: the last one that is known to be whole may be older.
    let own = u64::from(policy.keep_latest.max(1)) + 1;
    let marks = policy.keep_every_tokens.map_or(0, |every| tokens / every.0.max(1));
    saves.min(own.saturating_add(marks).saturating_add(policy.keep_best.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use senmon_protocol::tokens::Tokens;

    fn checkpoint(order: u64) -> CheckpointFacts {
        CheckpointFacts {
            id: CheckpointId::new(),
            step: order * 10,
            tokens: order * 1000,
            order,
            kind: CheckpointKind::Resumable,
            verified: true,
            damaged: false,
            loss: Some(99.0 - order as f64),
        }
    }

    const TRAINS: Needs = Needs { unfinished: true, roll_back_steps: None };

    /// Orders of those that stay.
    fn left(all: &[CheckpointFacts], policy: &RetentionSpec, needs: Needs, referenced: &[CheckpointId]) -> Vec<u64> {
        let removed = removable(all, policy, needs, &referenced.iter().copied().collect());
        all.iter().filter(|c| !removed.contains(&c.id)).map(|c| c.order).collect()
    }

    fn latest(keep_latest: u32) -> RetentionSpec {
        RetentionSpec { keep_latest, ..RetentionSpec::default() }
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        let all: Vec<_> = (1..=9).map(checkpoint).collect();
        assert_eq!(left(&all, &latest(1), TRAINS, &[]), [9]);
        assert_eq!(left(&all, &latest(3), TRAINS, &[]), [7, 8, 9]);
        let every = |tokens| RetentionSpec { keep_every_tokens: Some(Tokens(tokens)), ..latest(1) };
        assert_eq!(left(&all, &every(4000), TRAINS, &[]), [4, 8, 9]);
        assert_eq!(left(&all, &every(1), TRAINS, &[]), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let mut spiky = all.clone();
        (spiky[2].loss, spiky[4].loss) = (Some(0.5), Some(f64::NAN));
        assert_eq!(left(&spiky, &RetentionSpec { keep_best: 1, ..latest(1) }, TRAINS, &[]), [3, 9]);
        let needs = Needs { roll_back_steps: Some(35), ..TRAINS };
        assert_eq!(left(&all, &latest(1), needs, &[]), [5, 9], "56 steps or fewer are far enough back");
    }

    #[test]
    fn a_damaged_checkpoint_takes_no_place() {
        let mut all: Vec<_> = (1..=5).map(checkpoint).collect();
        (all[3].damaged, all[3].loss) = (true, Some(0.0));
        assert_eq!(left(&all, &RetentionSpec { keep_best: 1, ..latest(2) }, TRAINS, &[]), [3, 5]);
        let mut lost: Vec<_> = (1..=2).map(checkpoint).collect();
        lost.iter_mut().for_each(|c| c.damaged = true);
        assert_eq!(left(&lost, &latest(1), TRAINS, &[]), [1, 2], "nothing whole stands in their place");
    }

    #[test]
    fn nothing_goes_before_a_newer_one_is_known_to_be_whole() {
        let mut all: Vec<_> = (1..=4).map(checkpoint).collect();
        all[2..].iter_mut().for_each(|c| c.verified = false);
        assert_eq!(left(&all, &latest(1), TRAINS, &[]), [2, 4]);
    }

    #[test]
    fn the_last_one_of_an_average_stays() {
        let weights = CheckpointFacts { kind: CheckpointKind::Weights, verified: false, ..checkpoint(0) };
        let done = Needs { unfinished: false, ..TRAINS };
        assert_eq!(left(&[weights], &latest(1), done, &[]), [0]);
    }

    prop_compose! {
        fn checkpoints()(rows in prop::collection::vec((0_u64..30, any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(0.0..9.0_f64)), 0..24))
            -> Vec<CheckpointFacts> {
            rows.into_iter().zip(0_u64..).map(|((step, resumable, verified, damaged, loss), order)| CheckpointFacts {
                id: CheckpointId::new(), step, tokens: step * 100, order,
                kind: if resumable { CheckpointKind::Resumable } else { CheckpointKind::Weights },
                verified, damaged, loss,
            }).collect()
        }
    }

    prop_compose! {
        fn policies()(keep_latest in 1_u32..5, every in prop::option::of(1_u64..2000), keep_final: bool, keep_best in 0_u32..4) -> RetentionSpec {
            RetentionSpec { keep_latest, keep_every_tokens: every.map(Tokens), keep_final, keep_best }
        }
    }

    prop_compose! {
        fn branches()(unfinished: bool, roll_back_steps in prop::option::of(0_u64..40)) -> Needs {
            Needs { unfinished, roll_back_steps }
        }
    }

    proptest! {
        #[test]
        fn what_is_needed_is_never_removed(all in checkpoints(), policy in policies(), needs in branches(), marks: u32) {
            let referenced: BTreeSet<_> = all.iter().filter(|c| marks >> (c.order % 32) & 1 == 1).map(|c| c.id).collect();
            let removed = removable(&all, &policy, needs, &referenced);
            prop_assert!(removed.iter().all(|id| !referenced.contains(id)), "a referenced one");
            let resumable = || all.iter().rev().filter(|c| c.kind == CheckpointKind::Resumable && !c.damaged);
            for needed in [resumable().find(|c| c.verified), resumable().next(), all.last().filter(|_| needs.unfinished)] {
                prop_assert!(needed.is_none_or(|c| !removed.contains(&c.id)), "{needed:?}");
            }
            let whole: Vec<_> = all.iter().rev().filter(|c| !c.damaged).take(policy.keep_latest as usize).collect();
            prop_assert!(whole.iter().all(|c| !removed.contains(&c.id)), "one of the newest");
        }

        #[test]
        fn what_stays_once_stays(all in checkpoints(), policy in policies(), needs in branches()) {
            let removed = removable(&all, &policy, needs, &BTreeSet::new());
            let rest: Vec<_> = all.into_iter().filter(|c| !removed.contains(&c.id)).collect();
            prop_assert_eq!(removable(&rest, &policy, needs, &BTreeSet::new()), []);
        }

        #[test]
        fn a_reference_or_a_rule_more_never_removes_more(all in checkpoints(), policy in policies(), needs in branches(), mark in 0_usize..24) {
            let bare: BTreeSet<_> = removable(&all, &policy, needs, &BTreeSet::new()).into_iter().collect();
            let referenced = all.get(mark).map(|c| c.id).into_iter().collect();
            let more = RetentionSpec { keep_latest: policy.keep_latest + 1, keep_best: policy.keep_best + 1, ..policy.clone() };
            for fewer in [removable(&all, &policy, needs, &referenced), removable(&all, &more, needs, &BTreeSet::new())] {
                prop_assert!(fewer.iter().all(|id| bare.contains(id)));
            }
        }

        #[test]
        fn no_more_stay_than_forecast(saves in 1_u64..60, policy in policies(), keep_final: bool) {
            let policy = RetentionSpec { keep_final, ..policy };
            let all: Vec<_> = (1..=saves).map(checkpoint).collect();
            let needs = Needs { unfinished: false, roll_back_steps: None };
            let stay = left(&all, &policy, needs, &[]).len() as u64;
            prop_assert!(stay <= kept_at_most(&policy, saves, saves * 1000), "{stay}");
        }
    }
}
