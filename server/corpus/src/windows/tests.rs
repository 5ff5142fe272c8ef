//! What an order draws: what it promises, over random lineages.

use super::*;
use proptest::prelude::*;
use senmon_protocol::job::DomainWeight;
use std::collections::{BTreeMap, BTreeSet};

fn mixture(weights: &[f64]) -> Mixture {
    let weights = weights.iter().zip(0..).map(|(&weight, domain)| DomainWeight { domain, weight }).collect();
    Mixture { version: 1, weights, part: None, reshuffle: None }
}

fn first(windows: &[u64], mixture: &Mixture, seed: u64) -> WindowOrder {
    WindowOrder::new(windows, mixture, &Lineage::default(), seed).unwrap()
}

/// A branch of a random tree: where it starts on an earlier one, what it draws, how much.
#[derive(Debug, Clone)]
struct Node {
    parent: prop::sample::Index,
    start: prop::sample::Index,
    weights: Vec<(u32, f64)>,
    draws: u64,
    reshuffle: Option<u64>,
    part: Option<(u32, u32)>,
}

fn node() -> impl Strategy<Value = Node> {
    let weights = prop::collection::vec((0_u32..3, 0.1..5.0_f64), 1..4);
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), weights, 0_u64..60, any::<Option<u64>>(), any::<u32>())
        .prop_map(|(parent, start, mut weights, draws, reshuffle, part)| {
            weights.sort_by_key(|entry| entry.0);
            weights.dedup_by_key(|entry| entry.0);
            let part = (part % 4 == 0).then_some((part / 4 % 3, 3));
            Node { parent, start, weights, draws, reshuffle: reshuffle.filter(|key| key % 3 == 0), part }
        })
}

proptest! {
    #[test]
    fn a_seek_is_the_same_as_walking(
        weights in prop::collection::vec(0.001..10.0_f64, 1..40), start in 0_u64..3000, seed: u64,
        part in prop::option::of((0_u32..5, 1_u32..9)),
    ) {
        let windows: Vec<u64> = (0..weights.len() as u64).map(|d| 1 + d * 3 % 17).collect();
        let part = part.map(|(index, block)| MixturePart { index, of: 5, block, seed: 3 });
        let order = first(&windows, &Mixture { part, ..mixture(&weights) }, seed);
        let walked: Vec<_> = order.from(0).skip(start as usize).take(20).collect();
        prop_assert_eq!(order.from(start).take(20).collect::<Vec<_>>(), walked);
    }

    #[test]
    fn shares_are_kept_within_one_draw(weights in prop::collection::vec(0.01..10.0_f64, 1..20), draws in 1_usize..2000) {
        let order = first(&vec![50; weights.len()], &mixture(&weights), 1);
        let mut counts = BTreeMap::new();
        for draw in order.from(0).take(draws) {
            *counts.entry(draw.domain as usize).or_insert(0.0) += 1.0;
        }
        let total: f64 = weights.iter().sum();
        for (d, weight) in weights.iter().enumerate() {
            let expected = draws as f64 * weight / total;
            let found = counts.get(&d).copied().unwrap_or(0.0);
            prop_assert!((found - expected).abs() <= 2.0, "domain {d}: {found} of {expected}");
        }
    }

    /// Branches from any point of any other branch, with any mixture, some reshuffled, some parts of a random split.
    /// A resume or a rollback draws again from a point of the same order, so a lineage is what is drawn up to the
    /// points where its branches left each other.
    #[test]
    fn no_window_comes_again_on_a_lineage_before_all_others_of_its_domain(
        nodes in prop::collection::vec(node(), 1..8), seed: u64, windows in prop::collection::vec(1_u64..20, 3),
    ) {
        let mut built: Vec<(WindowOrder, Vec<Draw>, Vec<Draw>, bool)> = Vec::new();
        for node in &nodes {
            let (lineage, before, split) = match built.is_empty() {
                true => (Lineage::default(), Vec::new(), false),
                false => {
                    let (order, inherited, own, split) = &built[node.parent.index(built.len())];
                    let start = node.start.index(own.len() + 1);
                    (order.after(start as u64), [&inherited[..], &own[..start]].concat(), *split)
                }
            };
            let weights = node.weights.iter().map(|&(domain, weight)| DomainWeight { domain, weight }).collect();
            let part = node.part.map(|(index, of)| MixturePart { index, of, block: 2, seed: 1 });
            let mixture = Mixture { version: 1, weights, part, reshuffle: node.reshuffle };
            let order = WindowOrder::new(&windows, &mixture, &lineage, seed).unwrap();
            let own: Vec<Draw> = order.from(0).take(node.draws as usize).collect();
            let split = split || node.part.is_some();
            let whole = [&before[..], &own[..]].concat();
            let distinct: BTreeSet<_> = whole.iter().collect();
            prop_assert_eq!(distinct.len(), whole.len(), "a window twice in one epoch");
            if !split {
                for domain in 0..3_u32 {
                    let of_domain: Vec<_> = whole.iter().filter(|draw| draw.domain == domain).collect();
                    prop_assert_eq!(order.after(node.draws).drawn_of(domain), of_domain.len() as u64);
                    for (epoch, draws) in of_domain.chunks(windows[domain as usize] as usize).enumerate() {
                        prop_assert!(draws.iter().all(|draw| draw.epoch == epoch as u64), "{draws:?}");
                    }
                }
            }
            built.push((order, before, own, split));
        }
    }

    #[test]
    fn the_parts_of_a_random_split_draw_together_what_dense_draws(
        weights in prop::collection::vec(0.1..5.0_f64, 1..6), of in 1_u32..6, block in 1_u32..5, steps in 0_u64..40, drawn in 0_u64..50,
    ) {
        let windows = vec![13; weights.len()];
        let lineage = first(&windows, &mixture(&weights), 4).after(drawn);
        let order = |part| WindowOrder::new(&windows, &Mixture { part, ..mixture(&weights) }, &lineage, 4).unwrap();
        let mut dense: Vec<_> = order(None).from(0).take((steps * u64::from(block)) as usize).collect();
        let mut parts = Vec::new();
        for index in 0..of {
            let part = MixturePart { index, of, block, seed: 9 };
            let draws = blocks_of_part(part, steps) * u64::from(block);
            prop_assert!(order(Some(part)).passed(draws) <= dense.len() as u64);
            parts.extend(order(Some(part)).from(0).take(draws as usize));
        }
        dense.sort_unstable();
        parts.sort_unstable();
        prop_assert_eq!(parts, dense);
    }
}

#[test]
fn the_share_read_for_the_first_time_is_what_lies_in_the_first_epoch() {
    let lineage =
        |drawn: &[(u32, u64)]| Lineage { drawn: draws(drawn.iter().copied().collect()), reshuffles: Vec::new() };
    let share = |before: &[(u32, u64)], after: &[(u32, u64)]| fresh_share(&[10, 20], &lineage(before), &lineage(after));
    assert_eq!(share(&[], &[(0, 5), (1, 5)]), Some(1.0));
    assert_eq!(share(&[(0, 5)], &[(0, 15), (1, 10)]), Some(0.75));
    assert_eq!(share(&[(0, 12)], &[(0, 15)]), Some(0.0));
    assert_eq!(share(&[(0, 12)], &[(0, 12)]), None);
}

/// Domains of one size come in turn, so that every k-th draw would be of the same one: the deal must not show that.
#[test]
fn a_part_of_a_random_split_is_no_domain_in_disguise() {
    for block in [1, 16] {
        let mut seen = BTreeMap::new();
        let part = MixturePart { index: 2, of: 8, block, seed: 7 };
        let order = first(&[1000; 8], &Mixture { part: Some(part), ..mixture(&[1.0; 8]) }, 7);
        order.from(0).take(800).for_each(|draw| *seen.entry(draw.domain).or_insert(0) += 1);
        assert!(seen.len() == 8 && seen.values().all(|count| (60..140).contains(count)), "{seen:?}");
    }
}

#[test]
fn thousands_of_domains_are_ordinary() {
    let weights: Vec<f64> = (0..5000).map(|d| 1.0 + f64::from(d % 7)).collect();
    let order = first(&vec![9; 5000], &mixture(&weights), 5);
    let far: Vec<_> = order.from(1_000_000_000).take(3).collect();
    assert_eq!(far, order.from(999_999_999).skip(1).take(3).collect::<Vec<_>>());
}

#[test]
fn bad_mixtures_are_named() {
    let check = |weights: &[f64], windows: &[u64], expect: &str| {
        let error = WindowOrder::new(windows, &mixture(weights), &Lineage::default(), 0).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(&[], &[1], "no domains");
    check(&[1.0, -1.0], &[1, 1], "domain 1: found weight -1");
    check(&[1.0, f64::NAN], &[1, 1], "domain 1");
    check(&[1.0, 1.0], &[5], "domain 1 holds no whole window");
}

#[test]
fn epochs_are_counted_along_the_lineage() {
    let order = first(&[10], &mixture(&[1.0]), 0);
    assert_eq!(order.ensure_budget(40, 4.0), Ok(()));
    assert!(order.ensure_budget(41, 4.0).unwrap_err().to_string().contains("epochs_max allows 4"));
    let child = WindowOrder::new(&[10], &mixture(&[1.0]), &order.after(15), 0).unwrap();
    assert_eq!(child.ensure_budget(25, 4.0), Ok(()));
    let refused = child.ensure_budget(26, 4.0).unwrap_err().to_string();
    assert!(refused.contains("15 windows drawn before, 26 here, 10 held"), "{refused}");
}
