//! How good a partition is: agreement with another one, with itself under another seed and order, silhouette.
//!
//! Never a number that stands on nothing: a figure without two classes, or without documents, is None.

use crate::kmeans::{assign_greedy, squared_distance};
use ndarray::{Array2, Axis};
use rayon::prelude::*;
use std::collections::HashMap;
use std::hash::Hash;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Normalised mutual information of two labelings of the same rows, arithmetic mean of the entropies, 0 to 1
/// (Strehl & Ghosh 2002). None where either puts everything into one class: nothing can agree or disagree.
#[must_use]
pub fn nmi<A: Hash + Eq + Copy, B: Hash + Eq + Copy>(a: &[A], b: &[B]) -> Option<f64> {
    let table = Contingency::new(a, b)?;
    let entropy = |counts: &[f64]| counts.iter().map(|c| -(c / table.n) * (c / table.n).ln()).sum::<f64>();
    let (left, right, joint) = (entropy(&table.left), entropy(&table.right), entropy(&table.joint));
    Some((2.0 * (left + right - joint) / (left + right)).clamp(0.0, 1.0))
}

/// Adjusted Rand index of two labelings of the same rows (Hubert & Arabie 1985): 1 for equal partitions, 0 for what
/// chance gives. None where either puts everything into one class.
#[must_use]
pub fn ari<A: Hash + Eq + Copy, B: Hash + Eq + Copy>(a: &[A], b: &[B]) -> Option<f64> {
    let table = Contingency::new(a, b)?;
    let pairs = |counts: &[f64]| counts.iter().map(|c| c * (c - 1.0) / 2.0).sum::<f64>();
    let (left, right, joint) = (pairs(&table.left), pairs(&table.right), pairs(&table.joint));
    let chance = left * right / pairs(&[table.n]);
    let most = (left + right) / 2.0;
    // Both all singletons: equal partitions.
    Some(if most <= chance { 1.0 } else { (joint - chance) / (most - chance) })
}

/// Counts of the classes of two labelings, sorted: a hash map's order is not the same twice, and sums depend on it.
struct Contingency {
    n: f64,
    left: Vec<f64>,
    right: Vec<f64>,
    joint: Vec<f64>,
}

impl Contingency {
    fn new<A: Hash + Eq + Copy, B: Hash + Eq + Copy>(a: &[A], b: &[B]) -> Option<Self> {
        let left = counts(a.iter());
        let right = counts(b.iter());
        #[expect(clippy::cast_precision_loss, reason = "rows of a sample")]
        let n = a.len().min(b.len()) as f64;
        (left.len() > 1 && right.len() > 1).then(|| Self { n, left, right, joint: counts(a.iter().zip(b)) })
    }
}

fn counts<T: Hash + Eq>(labels: impl Iterator<Item = T>) -> Vec<f64> {
    let mut counts: HashMap<T, f64> = HashMap::new();
    labels.for_each(|label| *counts.entry(label).or_default() += 1.0);
    let mut counts: Vec<f64> = counts.into_values().collect();
    counts.sort_by(f64::total_cmp);
    counts
}

/// Whether a fit says something of the documents: `rows` assigned to the nearest of `centres`, and of the centres of a
/// second fit under `seed` that sees the rows in another order, as (NMI, ARI). What depends on the order of files or
/// documents, or on chance, lowers it.
///
/// # Errors
/// What `fit` says.
pub fn stability<E>(
    rows: &Array2<f32>,
    centres: &Array2<f32>,
    seed: u64,
    fit: impl FnOnce(&Array2<f32>, u64) -> Result<Array2<f32>, E>,
) -> Result<(Option<f64>, Option<f64>), E> {
    let mut order: Vec<usize> = (0..rows.nrows()).collect();
    order.sort_by_cached_key(|i| xxh3_64_with_seed(&i.to_le_bytes(), seed));
    let again = fit(&rows.select(Axis(0), &order), seed)?;
    let (first, second) = (assign_greedy(rows, centres).0, assign_greedy(rows, &again).0);
    Ok((nmi(&first, &second), ari(&first, &second)))
}

/// Mean silhouette (Rousseeuw 1987) of at most `limit` evenly chosen rows, Euclidean distance. None for one class.
#[must_use]
pub fn silhouette(rows: &Array2<f32>, labels: &[u32], limit: usize) -> Option<f64> {
    let step = rows.nrows().div_ceil(limit).max(1);
    let chosen: Vec<usize> = (0..rows.nrows()).step_by(step).collect();
    let classes = labels.iter().max().map_or(0, |max| *max as usize + 1);
    let mut sizes = vec![0_u32; classes];
    chosen.iter().for_each(|&i| sizes[labels[i] as usize] += 1);
    if sizes.iter().filter(|size| **size > 0).count() < 2 {
        return None;
    }
    let one = |&i: &usize| {
        let own = labels[i] as usize;
        if sizes[own] < 2 {
            return 0.0;
        }
        let mut sums = vec![0.0_f64; classes];
        for &j in &chosen {
            sums[labels[j] as usize] += f64::from(squared_distance(rows.row(i), rows.row(j))).sqrt();
        }
        let inside = sums[own] / f64::from(sizes[own] - 1);
        let others = (0..classes).filter(|&c| c != own && sizes[c] > 0).map(|c| sums[c] / f64::from(sizes[c]));
        let outside = others.fold(f64::MAX, f64::min);
        (outside - inside) / outside.max(inside).max(1e-12)
    };
    let values: Vec<f64> = chosen.par_iter().map(one).collect();
    #[expect(clippy::cast_precision_loss, reason = "at most `limit`")]
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmeans;

    #[test]
    fn agreement_is_one_for_renamed_classes_and_zero_for_independent_ones() {
        let check = |a: &[u8], b: &[u8], nmi: f64, ari: f64| {
            let found = (super::nmi(a, b).unwrap(), super::ari(a, b).unwrap());
            assert!((found.0 - nmi).abs() < 1e-12 && (found.1 - ari).abs() < 1e-12, "{found:?}");
        };
        check(&[0, 0, 1, 1], &[7, 7, 3, 3], 1.0, 1.0);
        // The values of scikit-learn 1.9.1.
        check(&[0, 0, 1, 1], &[0, 1, 0, 1], 0.0, -0.5);
        check(&[0, 0, 1, 1, 2], &[0, 0, 1, 2, 2], 0.737175493807016, 0.375);
        check(&[0, 1, 2], &[5, 6, 7], 1.0, 1.0);
    }

    #[test]
    fn agreement_that_stands_on_nothing_is_absent() {
        assert_eq!((nmi(&[0, 0], &[5, 5]), ari(&[0, 0], &[5, 5])), (None, None));
        assert_eq!((nmi(&[0, 1], &[5, 5]), ari(&[0, 1], &[5, 5])), (None, None));
        assert_eq!((nmi::<u8, u8>(&[], &[]), ari::<u8, u8>(&[], &[])), (None, None));
    }

    #[test]
    fn a_fit_that_depends_on_the_order_of_the_documents_is_not_stable() {
        // Four groups in four directions, one after the other as files in four languages are.
        let rows = Array2::from_shape_fn((400, 6), |(i, j)| {
            f32::from(u8::from(i / 100 == j)) + 0.2 * ((i * 7919 + j * 104_729) as f32).sin()
        });
        let good = |rows: &Array2<f32>, seed| kmeans::fit(rows, 4, 20, seed).map(|fitted| fitted.centres);
        let found = stability(&rows, &good(&rows, 1).unwrap(), 2, good).unwrap();
        assert!(found.0.unwrap() > 0.95 && found.1.unwrap() > 0.95, "{found:?}");
        // Balanced in batches in the order given: each batch is one group, and is split over all domains.
        let faulty = |rows: &Array2<f32>, seed| -> Result<_, String> {
            let mut centres = kmeans::fit(rows, 4, 20, seed)?.centres;
            for _ in 0..20 {
                let mut sums = Array2::zeros(centres.raw_dim());
                for batch in rows.axis_chunks_iter(Axis(0), 100) {
                    let costs = crate::start::costs(batch, &centres);
                    let found = crate::auction::assign(&costs, &mut crate::auction::Prices::default());
                    batch.axis_iter(Axis(0)).zip(found.domains).for_each(|(row, domain)| {
                        sums.row_mut(domain as usize).scaled_add(0.01, &row);
                    });
                }
                centres = sums;
            }
            Ok(centres)
        };
        let found = stability(&rows, &faulty(&rows, 1).unwrap(), 2, faulty).unwrap();
        assert!(found.0.unwrap() < 0.5 && found.1.unwrap() < 0.5, "{found:?}");
    }

    #[test]
    fn silhouette_of_two_far_groups_is_near_one() {
        let rows = ndarray::arr2(&[[0.0, 1.0], [0.0, 1.01], [1.0, 0.0], [1.01, 0.0]]);
        assert!(silhouette(&rows, &[0, 0, 1, 1], 100).unwrap() > 0.95);
        assert_eq!(silhouette(&rows, &[0, 0, 0, 0], 100), None);
    }
}
