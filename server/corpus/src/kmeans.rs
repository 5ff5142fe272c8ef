//! Domain centres: k-means++ and Lloyd (linfa) for the start, then balanced k-means, in which every domain takes at
//! most ⌈n/k⌉ documents.
//!
//! The balanced assignment is an auction (Bertsekas 1992) with capacities: a document bids for the centre of its best
//! net value the difference to its second best plus ε; a full centre lets its lowest bid go. Bids are bounded; what
//! is left over goes to its best centre with room.

use linfa::{Dataset, traits::Fit};
use linfa_clustering::KMeans;
use ndarray::{Array2, ArrayView1, Axis};
use rand_xoshiro::{Xoshiro256Plus, rand_core::SeedableRng};
use rayon::prelude::*;
use std::{cmp::Reverse, collections::BinaryHeap};

/// Rows that the plain fit looks at; the balanced passes look at all.
const START_ROWS: usize = 20_000;
/// Rows assigned in one auction.
const AUCTION_ROWS: usize = 50_000;
/// Bids per document before an auction is cut off.
const BIDS_PER_ROW: usize = 60;
/// The centres stand still when their summed squared shift is below this.
const TOLERANCE: f32 = 1e-5;

/// Fitted centres.
#[derive(Debug, Clone, PartialEq)]
pub struct Centres {
    /// [k, d].
    pub centres: Array2<f32>,
    /// Domain of each row of the sample by balanced assignment, `[n]`.
    pub balanced: Vec<u32>,
    /// Balanced passes made.
    pub iterations: u32,
}

/// Fits `k` centres to unit rows, [n, d].
///
/// # Errors
/// When there are fewer rows than centres, or k is 0.
pub fn fit(rows: &Array2<f32>, k: usize, iterations_max: u32, seed: u64) -> Result<Centres, String> {
    let n = rows.nrows();
    if k == 0 || n < k {
        return Err(format!("clustering.domains: found {k}, expected 1 to the {n} documents of the sample"));
    }
    let mut centres = start(rows, k, seed)?;
    let mut balanced = assign_balanced(rows, &centres);
    let mut iterations = 0;
    for _ in 0..iterations_max.max(1) {
        let next = means(rows, &balanced, &centres);
        let shift = (&next - &centres).mapv(|x| x * x).sum();
        centres = next;
        balanced = assign_balanced(rows, &centres);
        iterations += 1;
        if shift < TOLERANCE {
            break;
        }
    }
    Ok(Centres { centres, balanced, iterations })
}

/// Domain of each row by its nearest centre, ties to the lower number.
#[must_use]
pub fn assign_greedy(rows: &Array2<f32>, centres: &Array2<f32>) -> Vec<u32> {
    (0..rows.nrows()).into_par_iter().map(|i| nearest(rows.row(i), centres)).collect()
}

/// Number of the nearest centre.
#[must_use]
pub fn nearest(row: ArrayView1<f32>, centres: &Array2<f32>) -> u32 {
    let distances = centres.axis_iter(Axis(0)).map(|centre| squared_distance(row, centre));
    let best = distances.zip(0..).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(0, |(_, number)| number)
}

/// Squared Euclidean distance, summed in order.
#[must_use]
pub fn squared_distance(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

fn start(rows: &Array2<f32>, k: usize, seed: u64) -> Result<Array2<f32>, String> {
    let step = rows.nrows().div_ceil(START_ROWS.max(4 * k)).max(1);
    let chosen: Vec<usize> = (0..rows.nrows()).step_by(step).collect();
    let data = Dataset::from(rows.select(Axis(0), &chosen));
    let rng = Xoshiro256Plus::seed_from_u64(seed);
    let model = KMeans::params_with_rng(k, rng).n_runs(4).max_n_iterations(60).tolerance(1e-4).fit(&data);
    model.map(|model| model.centroids().clone()).map_err(|error| format!("k-means of {k} centres: {error}"))
}

/// Mean of each domain's rows; an empty domain takes the row that is farthest from its own centre.
fn means(rows: &Array2<f32>, assignment: &[u32], old: &Array2<f32>) -> Array2<f32> {
    let mut sums = Array2::<f32>::zeros(old.raw_dim());
    let mut counts = vec![0_u32; old.nrows()];
    for (row, &domain) in rows.axis_iter(Axis(0)).zip(assignment) {
        sums.row_mut(domain as usize).scaled_add(1.0, &row);
        counts[domain as usize] += 1;
    }
    let distance = |i: usize| squared_distance(rows.row(i), old.row(assignment[i] as usize));
    let mut far: Option<Vec<usize>> = None;
    for (domain, &count) in counts.iter().enumerate() {
        if count > 0 {
            #[expect(clippy::cast_precision_loss, reason = "rows of a sample")]
            sums.row_mut(domain).mapv_inplace(|x| x / count as f32);
        } else {
            let far = far.get_or_insert_with(|| {
                let mut order: Vec<usize> = (0..rows.nrows()).collect();
                order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
                order
            });
            sums.row_mut(domain).assign(&rows.row(far.pop().unwrap_or(0)));
        }
    }
    sums
}

/// Assigns every row to a centre, at most ⌈m/k⌉ of each batch of m rows to one centre, with a high sum of scores
/// (minus squared distance).
#[must_use]
pub fn assign_balanced(rows: &Array2<f32>, centres: &Array2<f32>) -> Vec<u32> {
    let batches = rows.axis_chunks_iter(Axis(0), AUCTION_ROWS);
    batches.into_iter().flat_map(|batch| auction(&scores(&batch.to_owned(), centres))).collect()
}

/// Minus squared distance, [n, k].
fn scores(rows: &Array2<f32>, centres: &Array2<f32>) -> Array2<f32> {
    let norms = centres.map_axis(Axis(1), |centre| centre.dot(&centre));
    let mut scores = rows.dot(&centres.t()) * 2.0;
    scores.axis_iter_mut(Axis(0)).for_each(|mut row| row -= &norms);
    scores
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bid {
    price: f32,
    row: usize,
}
impl Eq for Bid {}
impl PartialOrd for Bid {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Bid {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.price.total_cmp(&other.price).then(self.row.cmp(&other.row))
    }
}

fn auction(scores: &Array2<f32>) -> Vec<u32> {
    let (n, k) = scores.dim();
    let capacity = n.div_ceil(k.max(1));
    let (low, high) = scores.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let epsilon = ((high - low) / 200.0).max(1e-6);
    let mut held: Vec<BinaryHeap<Reverse<Bid>>> = vec![BinaryHeap::new(); k];
    let mut waiting: Vec<usize> = (0..n).rev().collect();
    let mut bids_left = n * BIDS_PER_ROW;
    while let Some(row) = waiting.pop() {
        if bids_left == 0 {
            waiting.push(row);
            break;
        }
        bids_left -= 1;
        // A centre with room costs nothing; a full one costs its lowest bid.
        let price =
            |j: usize| if held[j].len() < capacity { 0.0 } else { held[j].peek().map_or(0.0, |bid| bid.0.price) };
        let (mut best, mut first, mut second) = (0, f32::MIN, f32::MIN);
        for j in 0..k {
            let value = scores[[row, j]] - price(j);
            if value > first {
                (best, second, first) = (j, first, value);
            } else if value > second {
                second = value;
            }
        }
        let margin = if second == f32::MIN { 0.0 } else { first - second };
        let bid = Bid { price: price(best) + margin + epsilon, row };
        if held[best].len() == capacity
            && let Some(Reverse(out)) = held[best].pop()
        {
            waiting.push(out.row);
        }
        held[best].push(Reverse(bid));
    }
    let mut assignment = vec![0; n];
    for (heap, j) in held.iter().zip(0_u32..) {
        heap.iter().for_each(|bid| assignment[bid.0.row] = j);
    }
    let mut sizes: Vec<usize> = held.iter().map(BinaryHeap::len).collect();
    for row in waiting {
        let open = (0..k).filter(|&j| sizes[j] < capacity);
        let best = open.max_by(|&a, &b| scores[[row, a]].total_cmp(&scores[[row, b]])).unwrap_or(0);
        assignment[row] = u32::try_from(best).unwrap_or(0);
        sizes[best] += 1;
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unit_rows(values: &[f32], d: usize) -> Array2<f32> {
        let mut rows = Array2::from_shape_vec((values.len() / d, d), values[..values.len() / d * d].to_vec()).unwrap();
        for mut row in rows.axis_iter_mut(Axis(0)) {
            let norm = row.dot(&row).sqrt().max(1e-6);
            row.mapv_inplace(|x| x / norm);
        }
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_domain_takes_more_than_its_share(values in prop::collection::vec(-1.0..1.0_f32, 12..400), k in 1_usize..12) {
            let rows = unit_rows(&values, 4);
            let k = k.min(rows.nrows());
            let fitted = fit(&rows, k, 5, 1).unwrap();
            let mut sizes = vec![0; k];
            fitted.balanced.iter().for_each(|&domain| sizes[domain as usize] += 1);
            prop_assert_eq!(sizes.iter().sum::<usize>(), rows.nrows());
            prop_assert!(sizes.iter().all(|&size| size <= rows.nrows().div_ceil(k)), "{:?}", sizes);
            prop_assert!(fitted.centres.iter().all(|x| x.is_finite()));
            prop_assert_eq!(fit(&rows, k, 5, 1).unwrap(), fitted);
        }
    }

    #[test]
    fn ordinary_inputs_that_break_others() {
        let equal = Array2::from_elem((10, 3), 0.5);
        assert_eq!(fit(&equal, 4, 5, 1).unwrap().balanced.len(), 10);
        assert_eq!(fit(&equal, 1, 5, 1).unwrap().balanced, vec![0; 10]);
        assert!(fit(&equal, 11, 5, 1).unwrap_err().contains("found 11"));
        let many = unit_rows(&(0..3000_u16).map(|i| (f32::from(i) * 0.7).sin()).collect::<Vec<_>>(), 4);
        let fitted = fit(&many, 256, 3, 1).unwrap();
        assert_eq!(fitted.centres.nrows(), 256);
    }

    #[test]
    fn clear_groups_are_found() {
        let rows: Vec<f32> = (0..60_u8).flat_map(|i| if i % 2 == 0 { [1.0, 0.1] } else { [0.1, 1.0] }).collect();
        let fitted = fit(&unit_rows(&rows, 2), 2, 10, 3).unwrap();
        assert!(fitted.balanced.chunks(2).all(|pair| pair[0] == fitted.balanced[0] && pair[1] == fitted.balanced[1]));
        assert_ne!(fitted.balanced[0], fitted.balanced[1]);
    }
}
