//! How good a partition is: agreement with another one, silhouette, balance.

use crate::kmeans::squared_distance;
use ndarray::Array2;
use rayon::prelude::*;
use std::collections::HashMap;
use std::hash::Hash;

/// Normalised mutual information of two labelings of the same rows, arithmetic mean of the entropies, 0 to 1
/// (Strehl & Ghosh 2002). 1 when both put everything into one class; 0 for empty inputs.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of a sample")]
pub fn nmi<A: Hash + Eq + Copy, B: Hash + Eq + Copy>(a: &[A], b: &[B]) -> f64 {
    let n = a.len().min(b.len()) as f64;
    if n == 0.0 {
        return 0.0;
    }
    let mut joint: HashMap<(A, B), f64> = HashMap::new();
    let (mut left, mut right): (HashMap<A, f64>, HashMap<B, f64>) = (HashMap::new(), HashMap::new());
    for (&x, &y) in a.iter().zip(b) {
        *joint.entry((x, y)).or_default() += 1.0;
        *left.entry(x).or_default() += 1.0;
        *right.entry(y).or_default() += 1.0;
    }
    // Sorted before summing: a hash map's order is not the same twice.
    let entropy = |mut counts: Vec<f64>| {
        counts.sort_by(f64::total_cmp);
        counts.iter().map(|c| -(c / n) * (c / n).ln()).sum::<f64>()
    };
    let (ha, hb) = (entropy(left.values().copied().collect()), entropy(right.values().copied().collect()));
    let hab = entropy(joint.values().copied().collect());
    if ha + hb == 0.0 { 1.0 } else { (2.0 * (ha + hb - hab) / (ha + hb)).clamp(0.0, 1.0) }
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

    #[test]
    fn agreement_is_one_for_renamed_classes_and_zero_for_independent_ones() {
        assert!((nmi(&[0, 0, 1, 1], &["b", "b", "a", "a"]) - 1.0).abs() < 1e-12);
        assert!(nmi(&[0, 0, 1, 1], &[0, 1, 0, 1]).abs() < 1e-12);
        assert!((nmi(&[0, 0], &[5, 5]) - 1.0).abs() < 1e-12);
        // By hand: entropies of (2, 2, 1)/5 on both sides and (2, 1, 1, 1)/5 together.
        assert!((nmi(&[0, 0, 1, 1, 2], &[0, 0, 1, 2, 2]) - 0.737175493807016).abs() < 1e-12);
    }

    #[test]
    fn silhouette_of_two_far_groups_is_near_one() {
        let rows = ndarray::arr2(&[[0.0, 1.0], [0.0, 1.01], [1.0, 0.0], [1.01, 0.0]]);
        assert!(silhouette(&rows, &[0, 0, 1, 1], 100).unwrap() > 0.95);
        assert_eq!(silhouette(&rows, &[0, 0, 0, 0], 100), None);
    }
}
