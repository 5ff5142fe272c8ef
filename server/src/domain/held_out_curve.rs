//! Which held-out text is scored while a branch trains, and how often.

use senmon_protocol::{
    ids::StorageKey,
    job::{HeldOutCurve, Mixture},
    spec::DuringTraining,
    view::{BranchRole, BranchView},
};

/// Domains that are scored each by itself, at most: more curves than anybody reads.
const DOMAINS_MAX: usize = 32;
/// The whole gets as many tokens as so many domains, where there are as many.
const WHOLE: u32 = 4;
/// Tokens scored are at most this share of those trained. One costs a third of the other, so that a twentieth of the
/// arithmetic is spent on it.
const SHARE: (u64, u64) = (3, 20);

/// What is scored while `branch` trains; None where nothing is. `branches` are those of its experiment, `domains` how many
/// its clustering has, `step_tokens` what one step trains.
///
/// A branch is scored on its own domain, or on all that it draws from; a link of a chain also on those of the links
/// before it, where forgetting shows.
#[must_use]
pub fn held_out_curve(
    branch: &BranchView,
    branches: &[BranchView],
    domains: u32,
    step_tokens: u64,
    asked: DuringTraining,
    list: StorageKey,
) -> Option<HeldOutCurve> {
    let own = scored(branch, branches);
    let whole = u64::from(asked.tokens_per_domain) * u64::from(domains.clamp(1, WHOLE));
    let once = own.len() as u64 * u64::from(asked.tokens_per_domain) + whole;
    let affordable = branch.steps.saturating_mul(step_tokens) / SHARE.1 * SHARE.0 / once.max(1);
    let times = u64::from(asked.times).min(affordable).min(branch.steps);
    (times > 0).then(|| HeldOutCurve {
        list,
        domains: own,
        tokens_per_domain: asked.tokens_per_domain,
        tokens_whole: u32::try_from(whole).unwrap_or(u32::MAX),
        every_steps: branch.steps.div_ceil(times),
    })
}

/// The domains of a branch's curves, ascending: its own before those of the links before it, the nearest first.
fn scored(branch: &BranchView, branches: &[BranchView]) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let mut link = Some(branch);
    // A link's parent is the link before it; no line is longer than there are branches.
    for _ in 0..=branches.len() {
        let Some(at) = link else { break };
        let more: Vec<u32> = own(at).into_iter().filter(|domain| !found.contains(domain)).collect();
        found.extend(more);
        let before = branches.iter().find(|other| Some(other.id) == at.parent_id);
        link = before.filter(|before| at.role == BranchRole::Chain && before.role == BranchRole::Chain);
    }
    found.truncate(DOMAINS_MAX);
    found.sort_unstable();
    found
}

/// The domain that a branch is for, else those that it draws most of.
fn own(branch: &BranchView) -> Vec<u32> {
    let drawn = |mixture: &Mixture| {
        let mut weights = mixture.weights.clone();
        weights.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.domain.cmp(&b.domain)));
        weights.iter().take(DOMAINS_MAX).map(|entry| entry.domain).collect()
    };
    branch.domain.map_or_else(|| branch.mixture.as_ref().map(drawn).unwrap_or_default(), |domain| vec![domain])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use senmon_protocol::{
        ids::{BranchId, ExperimentId},
        job::DomainWeight,
    };
    use serde_json::json;

    fn branch(role: BranchRole, domain: Option<u32>, parent: Option<&BranchView>, steps: u64) -> BranchView {
        let weights = (0..3).map(|domain| DomainWeight { domain, weight: f64::from(domain + 1) }).collect();
        serde_json::from_value(json!({
            "id": BranchId::new(), "experiment_id": ExperimentId::new(), "name": "x", "role": role, "domain": domain,
            "parent_id": parent.map(|parent| parent.id), "state": "queued", "why": null,
            "mixture": Mixture { version: 1, weights, part: None, reshuffle: None }, "training": null, "step": 0,
            "steps": steps, "tokens": 0, "tokens_total": 0, "loss": null, "sparkline": [], "tokens_per_second": null,
            "wall_seconds": 0.0, "seconds_left": null, "worker": null, "attempts": 0, "checkpoint_id": null,
        }))
        .unwrap()
    }

    fn list() -> StorageKey {
        StorageKey::new("list").unwrap()
    }

    #[test]
    fn a_branch_is_scored_on_what_it_is_for_and_a_chain_on_what_it_may_forget() {
        let seed = branch(BranchRole::Seed, None, None, 1000);
        let first = branch(BranchRole::Chain, Some(2), Some(&seed), 1000);
        let second = branch(BranchRole::Chain, Some(0), Some(&first), 1000);
        let expert = branch(BranchRole::Expert, Some(2), Some(&seed), 1000);
        let all = [seed.clone(), first.clone(), second.clone(), expert.clone()];
        let domains = |branch: &BranchView| {
            let asked = DuringTraining { times: 10, tokens_per_domain: 8 };
            held_out_curve(branch, &all, 3, 4096, asked, list()).unwrap().domains
        };
        assert_eq!(domains(&seed), [0, 1, 2]);
        assert_eq!(domains(&first), [2]);
        assert_eq!(domains(&second), [0, 2]);
        assert_eq!(domains(&expert), [2]);
    }

    #[test]
    fn of_a_long_chain_the_branchs_own_domain_stays_and_the_links_just_before_it() {
        let mut links: Vec<BranchView> = Vec::new();
        for domain in 0..40 {
            links.push(branch(BranchRole::Chain, Some(domain), links.last(), 1000));
        }
        let found = scored(links.last().unwrap(), &links);
        assert_eq!(found, (8..40).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn it_costs_a_twentieth_at_most(
            times in 0_u32..100, tokens_per_domain in 1_u32..100_000, steps in 1_u64..100_000, domains in 1_u32..5000, step_tokens in 1_u64..1_000_000,
        ) {
            let branch = branch(BranchRole::Dense, None, None, steps);
            let asked = DuringTraining { times, tokens_per_domain };
            let Some(found) = held_out_curve(&branch, &[], domains, step_tokens, asked, list()) else { return Ok(()) };
            let scored = steps.div_ceil(found.every_steps);
            prop_assert!(scored <= u64::from(times));
            let once = 3 * u64::from(found.tokens_per_domain) + u64::from(found.tokens_whole);
            prop_assert!(scored * once * 20 <= steps * step_tokens * 3);
        }
    }
}
