//! Plain k-means: k-means++ (Arthur & Vassilvitskii 2007) with incremental distances, and Lloyd's passes.
//!
//! Each new centre costs one pass over the rows: only its own distances are computed and the smaller ones kept, O(n k d)
//! in all. Of several candidates the one that leaves the least cost is taken ("greedy k-means++", section 5 there). The
//! passes are linfa's. Never the process's random generator; the result is the same for any number of threads.

use linfa::{DatasetBase, traits::Fit};
use linfa_clustering::{KMeans, KMeansInit};
use ndarray::{Array2, ArrayView2, Axis};
use rand_xoshiro::{
    Xoshiro256Plus,
    rand_core::{RngCore, SeedableRng},
};
use rayon::prelude::*;

/// Lloyd's passes end when the centres' shift (root of the summed squares) is below this.
const TOLERANCE: f32 = 1e-4;
/// Rows whose costs are computed together: their products stay in the cache, and blocks do not depend on threads.
const BLOCK_ROWS: usize = 512;
/// Squared distances of unit vectors below this are rounding.
const ROUNDING: f32 = 1e-6;

/// `centres`, [k, d], moved by at most `passes_max` of Lloyd's passes over `rows`, [n, d].
///
/// # Errors
/// When linfa refuses, with its reason.
pub fn lloyd(rows: &Array2<f32>, centres: Array2<f32>, passes_max: u64) -> Result<Array2<f32>, String> {
    let k = centres.nrows();
    // Nothing is left to chance with centres given; linfa asks for a generator all the same.
    let settings = KMeans::params_with_rng(k, Xoshiro256Plus::seed_from_u64(0));
    let settings = settings.init_method(KMeansInit::Precomputed(centres)).n_runs(1).max_n_iterations(passes_max);
    let model = settings.tolerance(TOLERANCE).fit(&DatasetBase::from(rows.view()));
    model.map(|model| model.centroids().clone()).map_err(|error| format!("k-means of {k} centres: {error}"))
}

/// Squared Euclidean distances of all rows from all centres, [n, k].
#[must_use]
pub fn costs(rows: ArrayView2<f32>, centres: &Array2<f32>) -> Array2<f32> {
    let norms = centres.map_axis(Axis(1), |centre| centre.dot(&centre));
    let mut costs = Array2::zeros((rows.nrows(), centres.nrows()));
    let blocks = costs.axis_chunks_iter_mut(Axis(0), BLOCK_ROWS).into_par_iter();
    blocks.zip(rows.axis_chunks_iter(Axis(0), BLOCK_ROWS)).for_each(|(mut costs, rows)| {
        costs.assign(&rows.dot(&centres.t()));
        for (mut costs, row) in costs.axis_iter_mut(Axis(0)).zip(rows.axis_iter(Axis(0))) {
            let norm = row.dot(&row);
            costs.zip_mut_with(&norms, |cost, centre| *cost = (norm - 2.0 * *cost + centre).max(0.0));
        }
    });
    costs
}

/// `k` of the `rows`, [n, d], n ≥ k ≥ 1, that are far from each other: [k, d].
#[must_use]
pub fn plus_plus(rows: &Array2<f32>, k: usize, seed: u64) -> Array2<f32> {
    let rng = &mut Xoshiro256Plus::seed_from_u64(seed);
    let n = rows.nrows();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small")]
    let candidates = 2 + (k as f64).ln() as usize;
    let any = usize::try_from(rng.next_u64() % n.max(1) as u64).unwrap_or(0);
    let mut chosen = vec![any];
    let mut distances = vec![f32::MAX; n];
    keep_smaller(&mut distances, &costs(rows.view(), &rows.select(Axis(0), &chosen)), 0);
    while chosen.len() < k {
        let drawn = draw(&distances, candidates, rng);
        let found = costs(rows.view(), &rows.select(Axis(0), &drawn));
        let left = |c: usize| {
            let smaller = distances.iter().zip(found.column(c));
            smaller.map(|(old, new)| f64::from(old.min(*new))).sum::<f64>()
        };
        let left: Vec<f64> = (0..candidates).into_par_iter().map(left).collect();
        let best = (0..candidates).min_by(|&a, &b| left[a].total_cmp(&left[b])).unwrap_or(0);
        keep_smaller(&mut distances, &found, best);
        chosen.push(drawn[best]);
    }
    rows.select(Axis(0), &chosen)
}

fn keep_smaller(distances: &mut [f32], found: &Array2<f32>, column: usize) {
    for (distance, &new) in distances.iter_mut().zip(found.column(column)) {
        *distance = distance.min(if new < ROUNDING { 0.0 } else { new });
    }
}

/// `count` rows, each with a probability in proportion to its squared distance; any rows when all distances are 0.
fn draw(distances: &[f32], count: usize, rng: &mut Xoshiro256Plus) -> Vec<usize> {
    let sums: Vec<f64> = distances
        .iter()
        .scan(0.0, |sum, distance| {
            *sum += f64::from(*distance);
            Some(*sum)
        })
        .collect();
    let all = sums.last().copied().unwrap_or(0.0);
    let last = distances.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "below n")]
    let mut one = || {
        let unit = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let place = if all > 0.0 {
            sums.partition_point(|sum| *sum <= unit * all)
        } else {
            (unit * distances.len() as f64) as usize
        };
        place.min(last)
    };
    (0..count).map(|_| one()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmeans::squared_distance;

    fn rows(n: u16, d: usize) -> Array2<f32> {
        Array2::from_shape_fn((usize::from(n), d), |(i, j)| ((i * 31 + j * 17) as f32 * 0.37).sin())
    }

    #[test]
    fn costs_are_squared_distances_whatever_the_block() {
        let (rows, centres) = (rows(1100, 5), rows(7, 5));
        let found = costs(rows.view(), &centres);
        for (i, row) in rows.axis_iter(Axis(0)).enumerate() {
            for (j, centre) in centres.axis_iter(Axis(0)).enumerate() {
                assert!((found[[i, j]] - squared_distance(row, centre)).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn the_first_centres_are_rows_far_from_each_other() {
        let groups = Array2::from_shape_fn((300, 3), |(i, j)| if i % 3 == j { 1.0 } else { 0.01 * (i % 7) as f32 });
        let first = plus_plus(&groups, 3, 1);
        let pairs = [(0, 1), (0, 2), (1, 2)];
        assert!(pairs.iter().all(|&(a, b)| squared_distance(first.row(a), first.row(b)) > 1.0), "{first}");
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let rows = rows(3000, 8);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let four = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let fit = || lloyd(&rows, plus_plus(&rows, 20, 3), 20).unwrap();
        assert_eq!(alone.install(fit), four.install(fit));
    }
}
