//! Domain centres: plain k-means for the start ([`crate::start`]), then balanced k-means, in which every domain takes
//! its equal share of the documents ([`crate::auction`]).
//!
//! The order of the rows is no information: where the rows are too many for one auction, they are shared out by a
//! seeded permutation of all of them, never in the order given. Every domain is the nearest one of some row, as long
//! as there are as many distinct rows as domains.

use crate::{
    auction::{self, Balanced, Prices},
    start::{self, costs},
};
use ndarray::{Array2, ArrayView1, Axis, aview1};
use rayon::prelude::*;
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Rows that the plain fit looks at; the balanced passes look at all.
const START_ROWS: usize = 20_000;
/// Costs (rows by centres) of one auction: 1 GiB.
const AUCTION_COSTS: usize = 1 << 28;
/// Starts tried, Lloyd's passes of each, and the balanced passes after which the best one is chosen: balanced k-means
/// has more minima than the plain one.
const STARTS: u64 = 6;
const START_PASSES: u64 = 10;
const TRIAL_PASSES: u32 = 5;
/// From this many centres on, one start: Lloyd's passes are what takes the time then, and starts differ less.
const ONE_START_CENTRES: usize = 128;
/// Lloyd's passes of the best plain start.
const PLAIN_PASSES: u64 = 60;
/// The centres stand still when the cost falls by less than this part of it.
const TOLERANCE: f64 = 1e-5;

/// Fitted centres.
#[derive(Debug, Clone, PartialEq)]
pub struct Centres {
    /// [k, d].
    pub centres: Array2<f32>,
    /// Domain of each row of the sample by balanced assignment, `[n]`.
    pub balanced: Vec<u32>,
    /// Balanced passes made, those of the starts that were not taken left out.
    pub iterations: u32,
    /// Centres without the balance, [k, d]: the best start's.
    pub plain: Array2<f32>,
    /// Distinct rows.
    pub distinct: usize,
    /// How far the cost of `balanced` is from the least possible at most, as a part of it. None where the proof failed.
    pub gap: Option<f64>,
}

/// Fits `k` centres to unit rows, [n, d].
///
/// # Errors
/// When there are fewer rows than centres, or k is 0.
pub fn fit(rows: &Array2<f32>, k: usize, iterations_max: u32, seed: u64) -> Result<Centres, String> {
    fit_in_batches(rows, k, iterations_max, seed, AUCTION_COSTS / k.max(1))
}

/// [`fit`] with at most `batch_rows` rows an auction.
fn fit_in_batches(
    rows: &Array2<f32>,
    k: usize,
    iterations_max: u32,
    seed: u64,
    batch_rows: usize,
) -> Result<Centres, String> {
    let n = rows.nrows();
    if k == 0 || n < k {
        return Err(format!("clustering.domains: found {k}, expected 1 to the {n} documents of the sample"));
    }
    let distinct = distinct(rows);
    if distinct.len() < k {
        return Ok(copies(rows, k, &distinct));
    }
    let batches = batches(n, batch_rows.max(k), seed);
    let step = n.div_ceil(START_ROWS.max(4 * k));
    let some = rows.select(Axis(0), &(0..n).step_by(step).collect::<Vec<_>>());
    let mut best: Option<Passes> = None;
    let mut plain: Option<(f64, Array2<f32>)> = None;
    for number in 0..if k < ONE_START_CENTRES { STARTS } else { 1 } {
        let centres = start::lloyd(&some, start::plus_plus(&some, k, seed.wrapping_add(number << 32)), START_PASSES)?;
        let mut passes = Passes::new(rows, &batches, centres.clone());
        passes.run(TRIAL_PASSES.min(iterations_max));
        best = best.into_iter().chain([passes]).min_by(|a, b| a.found.cost.total_cmp(&b.found.cost));
        let inertia = inertia(&some, &centres);
        plain = plain.into_iter().chain([(inertia, centres)]).min_by(|a, b| a.0.total_cmp(&b.0));
    }
    let (Some(mut passes), Some((_, plain))) = (best, plain) else { return Err("no start was tried".into()) };
    let plain = start::lloyd(&some, plain, PLAIN_PASSES)?;
    passes.run(iterations_max);
    let Passes { mut centres, found, iterations, .. } = passes;
    fill(rows, &mut centres);
    let gap = (found.bound.is_finite() && found.cost > 0.0).then(|| ((found.cost - found.bound) / found.cost).max(0.0));
    Ok(Centres { centres, balanced: found.domains, iterations, plain, distinct: distinct.len(), gap })
}

/// Number of the nearest centre. Where several are nearest to the last bit (domains of one point), `tie` chooses among
/// them, so that they share what belongs to all of them.
#[must_use]
pub fn nearest(row: ArrayView1<f32>, centres: &Array2<f32>, tie: u64) -> u32 {
    let mut least = f32::INFINITY;
    let mut alike: Vec<u32> = Vec::new();
    for (centre, number) in centres.axis_iter(Axis(0)).zip(0..) {
        let distance = squared_distance(row, centre);
        if distance < least {
            alike.clear();
            least = distance;
        }
        if distance <= least {
            alike.push(number);
        }
    }
    let place = tie.checked_rem(alike.len() as u64).and_then(|place| usize::try_from(place).ok());
    place.map_or(0, |place| alike[place])
}

/// Nearest centre of each row and its squared distance, `[n]` each; ties to the lower number.
#[must_use]
pub fn assign_greedy(rows: &Array2<f32>, centres: &Array2<f32>) -> (Vec<u32>, Vec<f32>) {
    let one = |i: usize| {
        let domain = nearest(rows.row(i), centres, 0);
        (domain, squared_distance(rows.row(i), centres.row(domain as usize)))
    };
    (0..rows.nrows()).into_par_iter().map(one).unzip()
}

/// Squared Euclidean distance. Summed in eight lanes, then over these: always in this order, on every machine.
#[must_use]
pub fn squared_distance(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f32 {
    let (Some(x), Some(y)) = (a.as_slice(), b.as_slice()) else {
        return squared_distance(aview1(&a.to_vec()), aview1(&b.to_vec()));
    };
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let mut lanes = [0.0_f32; 8];
    for (x, y) in x.iter().zip(y) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += (x - y) * (x - y);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane += (x - y) * (x - y);
    }
    lanes.iter().sum()
}

fn inertia(rows: &Array2<f32>, centres: &Array2<f32>) -> f64 {
    assign_greedy(rows, centres).1.into_iter().map(f64::from).sum()
}

/// Balanced k-means from a start: assign with balance, move the centres to the means, again.
struct Passes<'a> {
    rows: &'a Array2<f32>,
    batches: &'a [Vec<usize>],
    centres: Array2<f32>,
    prices: Prices,
    found: Balanced,
    iterations: u32,
    stands_still: bool,
}

impl<'a> Passes<'a> {
    fn new(rows: &'a Array2<f32>, batches: &'a [Vec<usize>], centres: Array2<f32>) -> Self {
        let mut prices = Prices::default();
        let found = assign_balanced(rows, &centres, batches, &mut prices);
        Self { rows, batches, centres, prices, found, iterations: 0, stands_still: false }
    }

    fn run(&mut self, iterations_max: u32) {
        while self.iterations < iterations_max && !self.stands_still {
            let centres = means(self.rows, &self.found.domains, &self.centres);
            let found = assign_balanced(self.rows, &centres, self.batches, &mut self.prices);
            self.stands_still = found.cost >= self.found.cost * (1.0 - TOLERANCE);
            if found.cost < self.found.cost {
                (self.centres, self.found) = (centres, found);
            }
            self.iterations += 1;
        }
    }
}

/// Row numbers by batch: one of all rows, or equal parts of a seeded permutation.
fn batches(n: usize, rows_max: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..n).collect();
    if n > rows_max {
        order.sort_by_cached_key(|i| xxh3_64_with_seed(&i.to_le_bytes(), seed));
    }
    let count = n.div_ceil(rows_max.max(1)).max(1);
    order.chunks(n.div_ceil(count).max(1)).map(<[usize]>::to_vec).collect()
}

/// Balanced assignment of all rows: each batch by an auction of its own, every domain with its share of each.
fn assign_balanced(rows: &Array2<f32>, centres: &Array2<f32>, batches: &[Vec<usize>], prices: &mut Prices) -> Balanced {
    let mut all = Balanced { domains: vec![0; rows.nrows()], cost: 0.0, bound: 0.0 };
    for batch in batches {
        let costs = match batches.len() {
            1 => costs(rows.view(), centres),
            _ => costs(rows.select(Axis(0), batch).view(), centres),
        };
        let found = auction::assign(&costs, prices);
        all.cost += found.cost;
        all.bound += found.bound;
        batch.iter().zip(found.domains).for_each(|(&i, domain)| all.domains[i] = domain);
    }
    all
}

/// Mean of each domain's rows; an empty domain keeps its centre.
fn means(rows: &Array2<f32>, assignment: &[u32], old: &Array2<f32>) -> Array2<f32> {
    let mut sums = Array2::<f64>::zeros(old.raw_dim());
    let mut counts = vec![0_u32; old.nrows()];
    for (row, &domain) in rows.axis_iter(Axis(0)).zip(assignment) {
        sums.row_mut(domain as usize).zip_mut_with(&row, |sum, x| *sum += f64::from(*x));
        counts[domain as usize] += 1;
    }
    let mut means = old.clone();
    for (domain, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        #[expect(clippy::cast_possible_truncation, reason = "kept as f32 by the format")]
        means.row_mut(domain).zip_mut_with(&sums.row(domain), |mean, sum| *mean = (sum / f64::from(count)) as f32);
    }
    means
}

/// Gives every centre that is nearest to no row a row of its own: the farthest one of the domain with the most
/// inertia. A centre that lies on a row keeps it, so each is moved at most once, and with k distinct rows none is left.
fn fill(rows: &Array2<f32>, centres: &mut Array2<f32>) {
    let k = centres.nrows();
    for _ in 0..k {
        let (domains, distances) = assign_greedy(rows, centres);
        let mut sizes = vec![(0_usize, 0.0_f64); k];
        for (&domain, &distance) in domains.iter().zip(&distances) {
            sizes[domain as usize].0 += 1;
            sizes[domain as usize].1 += f64::from(distance);
        }
        let Some(empty) = sizes.iter().position(|size| size.0 == 0) else { return };
        let largest = (0..k).max_by(|&a, &b| sizes[a].1.total_cmp(&sizes[b].1)).unwrap_or(0);
        let of_largest = (0..rows.nrows()).filter(|&i| domains[i] as usize == largest);
        let Some(farthest) = of_largest.max_by(|&a, &b| distances[a].total_cmp(&distances[b])) else { return };
        centres.row_mut(empty).assign(&rows.row(farthest));
    }
}

/// First row and number of rows of each distinct vector, in the order of the first rows.
fn distinct(rows: &Array2<f32>) -> Vec<Vec<usize>> {
    let mut groups: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
    for (i, row) in rows.axis_iter(Axis(0)).enumerate() {
        groups.entry(row.iter().map(|x| (x + 0.0).to_bits()).collect()).or_default().push(i);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_unstable();
    groups
}

/// Fewer distinct rows than centres: each centre is one of them exactly, the more frequent ones several times, and
/// domains of one point share its rows alike.
fn copies(rows: &Array2<f32>, k: usize, distinct: &[Vec<usize>]) -> Centres {
    // One each; each further one to the point with the most rows a copy.
    let mut counts = vec![1; distinct.len()];
    for _ in distinct.len()..k {
        let rows_each =
            |a: &usize, b: &usize| (distinct[*a].len() * counts[*b]).cmp(&(distinct[*b].len() * counts[*a]));
        let most = (0..distinct.len()).rev().max_by(rows_each).unwrap_or(0);
        counts[most] += 1;
    }
    let (mut chosen, mut balanced) = (Vec::with_capacity(k), vec![0; rows.nrows()]);
    for (group, count) in distinct.iter().zip(counts) {
        let copies: Vec<u32> = (0_u32..).skip(chosen.len()).take(count).collect();
        group.iter().zip(copies.iter().cycle()).for_each(|(&i, copy)| balanced[i] = *copy);
        chosen.extend((0..count).map(|_| group[0]));
    }
    let centres = rows.select(Axis(0), &chosen);
    Centres { plain: centres.clone(), centres, balanced, iterations: 0, distinct: distinct.len(), gap: None }
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

    fn sizes(domains: &[u32], k: usize) -> Vec<usize> {
        (0..k).map(|j| domains.iter().filter(|domain| **domain as usize == j).count()).collect()
    }

    /// Rows around `groups` axes, one group after the other.
    fn sorted_groups(n: usize, groups: usize) -> Array2<f32> {
        let values = |i: usize| {
            (0..groups + 2).map(move |j| {
                let noise = ((i * 7919 + j * 104_729) as f32).sin() * 0.25;
                if j == i * groups / n { 1.0 + noise } else { noise }
            })
        };
        unit_rows(&(0..n).flat_map(values).collect::<Vec<_>>(), groups + 2)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_domain_takes_its_share_and_none_is_empty(
            // Few values: many rows are equal.
            values in prop::collection::vec(prop_oneof![Just(0.0_f32), Just(1.0), -1.0..1.0_f32], 12..400), k in 1_usize..12,
        ) {
            let rows = unit_rows(&values, 4);
            let n = rows.nrows();
            let k = k.min(n);
            let fitted = fit(&rows, k, 5, 1).unwrap();
            prop_assert!(fitted.centres.iter().all(|x| x.is_finite()));
            if distinct(&rows).len() >= k {
                let sizes = sizes(&fitted.balanced, k);
                prop_assert!(sizes.iter().all(|&size| size == n / k || size == n.div_ceil(k)), "{:?}", sizes);
                let greedy = assign_greedy(&rows, &fitted.centres).0;
                prop_assert!((0..k).all(|j| greedy.contains(&u32::try_from(j).unwrap())), "{:?}", greedy);
            }
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            prop_assert_eq!(alone.install(|| fit(&rows, k, 5, 1)).unwrap(), fitted);
        }
    }

    #[test]
    fn ordinary_inputs_that_break_others() {
        let equal = Array2::from_elem((10, 3), 0.5);
        assert!(fit(&equal, 11, 5, 1).unwrap_err().contains("found 11"));
        assert!(fit(&equal, 0, 5, 1).unwrap_err().contains("found 0"));
        assert_eq!(fit(&equal, 1, 5, 1).unwrap().balanced, vec![0; 10]);
        let many = unit_rows(&(0..3000_u16).map(|i| (f32::from(i) * 0.7).sin()).collect::<Vec<_>>(), 4);
        let fitted = fit(&many, 256, 3, 1).unwrap();
        assert_eq!(fitted.centres.nrows(), 256);
    }

    #[test]
    fn fewer_distinct_rows_than_domains_share_their_rows_alike() {
        let fitted = fit(&Array2::from_elem((10, 3), 0.5), 4, 5, 1).unwrap();
        assert_eq!(sizes(&fitted.balanced, 4), [3, 3, 2, 2]);
        assert!(fitted.centres.iter().all(|x| *x == 0.5));
        // A tie is broken by what is asked about, not always for the first.
        let found: Vec<u32> = (0..8).map(|tie| nearest(aview1(&[0.5, 0.5, 0.5]), &fitted.centres, tie)).collect();
        assert_eq!(found, [0, 1, 2, 3, 0, 1, 2, 3]);
        let two = Array2::from_shape_fn((9, 2), |(i, j)| if (i < 6) == (j == 0) { 1.0 } else { 0.0 });
        assert_eq!(sizes(&fit(&two, 3, 5, 1).unwrap().balanced, 3), [3, 3, 3]);
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter_at_any_number_of_batches() {
        let sorted = sorted_groups(1500, 6);
        let order: Vec<usize> = batches(1500, 1, 9).concat();
        let shuffled = sorted.select(Axis(0), &order);
        for batch_rows in [1500, 500, 200] {
            let fit = |rows: &Array2<f32>| fit_in_batches(rows, 6, 20, 3, batch_rows).unwrap().centres;
            let (of_sorted, of_shuffled) = (fit(&sorted), fit(&shuffled));
            let ari =
                crate::quality::ari(&assign_greedy(&sorted, &of_sorted).0, &assign_greedy(&sorted, &of_shuffled).0);
            assert!(ari.unwrap() >= 0.95, "{batch_rows} rows a batch: {ari:?}");
        }
    }

    #[test]
    fn a_distance_does_not_depend_on_how_the_numbers_lie() {
        let rows = Array2::from_shape_fn((2, 101), |(i, j)| ((i * 31 + j * 17) as f32 * 0.37).sin());
        let columns = rows.t().as_standard_layout().into_owned();
        let found = squared_distance(rows.row(0), rows.row(1));
        assert_eq!(found, squared_distance(columns.column(0), columns.column(1)));
        let exact: f64 = rows.row(0).iter().zip(rows.row(1)).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        assert!((f64::from(found) - exact).abs() < 1e-4, "{found} and {exact}");
    }

    #[test]
    fn clear_groups_are_found() {
        let rows: Vec<f32> = (0..60_u8).flat_map(|i| if i % 2 == 0 { [1.0, 0.1] } else { [0.1, 1.0] }).collect();
        let fitted = fit(&unit_rows(&rows, 2), 2, 10, 3).unwrap();
        assert!(fitted.balanced.chunks(2).all(|pair| pair[0] == fitted.balanced[0] && pair[1] == fitted.balanced[1]));
        assert_ne!(fitted.balanced[0], fitted.balanced[1]);
    }
}
