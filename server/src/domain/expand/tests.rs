//! Files turned into branches: counts, budgets, lineages, repeats.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

pub(crate) fn spec() -> ExperimentSpec {
    serde_json::from_value(serde_json::json!({
        "name": "t", "corpus": "c", "clustering": { "domains": 3 },
        "tokenizer": { "kind": "train", "vocab_size": 300 },
        "model": { "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "max_position_embeddings": 16 },
        "data": { "sequence_length": 16 },
        "training": { "batch_windows": 4, "learning_rate": 0.01 },
        "seed": { "kind": "train", "tokens": 6400 },
        "plan": [
            { "kind": "fan_out", "tokens": 1920 },
            { "kind": "chain", "order": { "kind": "given", "domains": [2, 0] }, "tokens_per_domain": 640, "replay": 0.25 }
        ]
    })).unwrap()
}

fn names(branches: &[PlannedBranch]) -> Vec<&str> {
    branches.iter().map(|branch| branch.name.as_str()).collect()
}

#[test]
fn a_fan_out_brings_its_controls_at_the_same_cost() {
    let domains = Domains { windows: &[500, 400, 300], order: &[0, 1, 2] };
    let branches = expand(&spec(), &domains).sound().unwrap();
    let expect = [
        "seed", "expert-0", "expert-1", "expert-2", "dense", "random-0", "random-1", "random-2", "average", "chain-0",
        "chain-1",
    ];
    assert_eq!(names(&branches), expect);
    let tokens = |role| branches.iter().filter(|b| b.role == role).map(PlannedBranch::tokens).sum::<u64>();
    assert_eq!(tokens(BranchRole::Expert), 1920);
    assert_eq!(tokens(BranchRole::Dense), 1920);
    assert_eq!(tokens(BranchRole::Random), 1920);
    let last = branches.last().unwrap();
    assert_eq!(last.parent.as_deref(), Some("chain-0"));
    let weights: Vec<_> = last.mixture.as_ref().unwrap().weights.iter().map(|w| (w.domain, w.weight)).collect();
    assert_eq!(weights, [(0, 0.75), (2, 0.25)]);
}

#[test]
fn a_budget_beyond_the_epochs_is_refused_by_name() {
    let faults = expand(&spec(), &Domains { windows: &[500, 2, 300], order: &[0, 1, 2] }).faults;
    assert!(
        faults.iter().all(|fault| fault.path == "plan[0].tokens" && fault.message.contains("domain 1")),
        "{faults:?}"
    );
}

#[test]
fn epochs_are_counted_from_the_seed_on() {
    // The seed reads 400 of 450 windows, an expert 40 of its domain's 150.
    let plan = |epochs_max| {
        let mut spec = spec();
        spec.data.epochs_max = epochs_max;
        expand(&spec, &Domains { windows: &[150, 150, 150], order: &[0, 1, 2] })
    };
    let message = &plan(1.0).faults[0].message;
    assert!(message.contains("besides") && message.contains("that its lineage read before"), "{message}");
    let branches = plan(2.0).sound().unwrap();
    let fresh = |name: &str| branches.iter().find(|b| b.name == name).unwrap().fresh_share.unwrap();
    assert_eq!(fresh("seed"), 1.0);
    for name in ["expert-0", "dense", "random-1", "chain-0", "chain-1"] {
        assert!((0.3..0.55).contains(&fresh(name)), "{name}: {}", fresh(name));
    }
}

#[test]
fn a_repeat_is_the_same_plan_in_another_order() {
    let mut spec = spec();
    spec.evaluation.repeats = 2;
    let branches = expand(&spec, &Domains { windows: &[500, 400, 300], order: &[0, 1, 2] }).sound().unwrap();
    let of = |repeat| branches.iter().filter(move |b| b.repeat == repeat && b.path == "plan[0].tokens");
    assert_eq!((of(0).count(), of(1).count()), (8, 8));
    for (first, second) in of(0).zip(of(1)) {
        assert_eq!(second.name, format!("{}~2", first.name));
        assert_eq!((first.steps, first.fresh_share), (second.steps, second.fresh_share));
        let reshuffles = |b: &PlannedBranch| b.mixture.as_ref().map(|mixture| mixture.reshuffle);
        assert!(first.mixture.is_none() || reshuffles(first) != reshuffles(second));
    }
}

#[test]
fn an_empty_domain_is_left_out_and_said_and_the_rest_goes_on() {
    let mut spec = spec();
    spec.plan.push(
        serde_json::from_value(serde_json::json!({ "kind": "tree", "branches": [
        { "name": "both", "parent": "seed", "mixture": { "0": 1, "1": 1 }, "tokens": 640 } ] }))
        .unwrap(),
    );
    let BranchGroup::Chain(chain) = &mut spec.plan[1] else { panic!() };
    chain.order = serde_json::from_value(serde_json::json!({ "kind": "given", "domains": [2, 1, 0] })).unwrap();
    let out = expand(&spec, &Domains { windows: &[500, 0, 300], order: &[0, 2] });
    assert_eq!(out.faults, []);
    let of = |name: &str| out.branches.iter().find(|b| b.name == name).unwrap();
    assert!(of("expert-1").left_out.as_ref().unwrap().text().contains("domain 1 holds no whole window"));
    assert!(of("chain-1").left_out.is_some());
    assert_eq!(of("chain-2").parent.as_deref(), Some("chain-0"));
    assert_eq!(of("both").mixture.as_ref().unwrap().weights.len(), 1);
    assert_eq!(out.branches.iter().filter(|b| b.role == BranchRole::Random).count(), 2);
    assert!(out.notes.iter().any(|note| note.message.starts_with("both goes without: domain 1")), "{:?}", out.notes);
}

proptest! {
    #[test]
    fn parents_stand_before_children(windows in prop::collection::vec(2000_u64..9000, 3), length in 1_u32..4) {
        let mut spec = spec();
        spec.plan.push(serde_json::from_value(serde_json::json!({
            "kind": "chain", "name": "walk", "order": { "kind": "similarity", "length": length }, "tokens_per_domain": 64
        })).unwrap());
        let branches = expand(&spec, &Domains { windows: &windows, order: &[1, 0, 2] }).sound().unwrap();
        let mut seen = HashSet::new();
        let mut count = HashMap::new();
        for branch in &branches {
            prop_assert!(branch.parent.as_ref().is_none_or(|parent| seen.contains(parent)));
            prop_assert!(seen.insert(branch.name.clone()), "{} twice", branch.name);
            *count.entry(branch.role).or_insert(0) += 1;
            prop_assert!(branch.role == BranchRole::Average || branch.steps > 0);
        }
        prop_assert_eq!(count[&BranchRole::Chain], 2 + length as usize);
    }
}
