//! Balanced assignment: every domain takes ⌊n/k⌋ or ⌈n/k⌉ of n rows, at a total cost near the least.
//!
//! The auction of Bertsekas & Castañon ("The auction algorithm for the transportation problem", 1989) with ε-scaling:
//! a row bids for the place that is best for it as much as that is better than the second best, plus ε; a full class
//! of places lets its lowest bid go. All that wait bid at once against the same prices, so the rows are shared out over
//! all cores and the result is the same for any number of them. Prices give a lower bound of the least cost by
//! duality, so an assignment comes with a proof of how good it is.
//!
//! Never random, never endless: bids are counted, and what is left over when they are used up goes to its best domain
//! with room.

use ndarray::{Array2, ArrayView1, Axis};
use rayon::prelude::*;
use std::{cmp::Reverse, collections::BinaryHeap};

/// An assignment is good enough when its cost is proven to be within this of the least.
const GAP: f64 = 0.005;
/// The first ε is the range of costs by this; each later one the last by [`EPSILON_STEP`].
const EPSILON_FIRST: f64 = 8.0;
const EPSILON_STEP: f64 = 5.0;
/// Values of ε tried: the last one is 10⁻¹⁰ of the range.
const ROUNDS_MAX: usize = 14;
/// Bids per row before an assignment is cut off.
const BIDS_PER_ROW: usize = 400;
/// Rows handed to a core at once.
const ROWS_AT_ONCE: usize = 256;

/// An assignment of all rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Balanced {
    /// Domain of each row, `[n]`.
    pub domains: Vec<u32>,
    /// Sum of the rows' costs.
    pub cost: f64,
    /// No balanced assignment of these costs has a lower sum. Minus infinity where the bids were used up.
    pub bound: f64,
}

/// Prices of the places, kept from one assignment to the next of nearly the same costs: most bids are saved.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    /// `[2k]`, or empty before the first assignment: the domains' ⌊n/k⌋ common places, then their spare ones.
    of_class: Vec<f64>,
    epsilon: f64,
}

/// Assigns every row to a domain by `costs`, [n, k]: not negative, finite.
#[must_use]
pub fn assign(costs: &Array2<f32>, prices: &mut Prices) -> Balanced {
    let (n, k) = costs.dim();
    if k < 2 || n == 0 {
        let cost = costs.iter().map(|cost| f64::from(*cost)).sum();
        return Balanced { domains: vec![0; n], cost, bound: cost };
    }
    if prices.of_class.len() == 2 * k
        && let Some(found) = scaled(costs, prices)
    {
        return found;
    }
    // Cold, or the old prices were no help.
    let (low, high) = costs.iter().fold((f32::MAX, 0.0_f32), |(low, high), &cost| (low.min(cost), high.max(cost)));
    *prices = Prices { of_class: vec![0.0; 2 * k], epsilon: f64::from(high - low) / EPSILON_FIRST };
    scaled(costs, prices).unwrap_or_else(|| in_turn(costs))
}

/// Auctions with ever smaller ε until the cost is proven good enough, the best so far when the bids are used up. None
/// when not even one was complete.
fn scaled(costs: &Array2<f32>, prices: &mut Prices) -> Option<Balanced> {
    let (n, k) = costs.dim();
    let mut bids_left = n.saturating_mul(BIDS_PER_ROW);
    let mut best: Option<Balanced> = None;
    for _ in 0..ROUNDS_MAX {
        let mut market = Market::new(n, k, &prices.of_class);
        // No lower than what floating point can tell apart.
        market.run(costs, prices.epsilon.max(1e-9), &mut bids_left);
        if !market.is_complete() {
            break;
        }
        let domains = market.domains(n);
        prices.of_class = market.prices();
        let cost = cost_of(costs, &domains);
        let bound = market.bound(costs, &prices.of_class);
        let bound = best.as_ref().map_or(bound, |best| best.bound.max(bound));
        match &mut best {
            Some(best) if best.cost <= cost => best.bound = bound,
            _ => best = Some(Balanced { domains, cost, bound }),
        }
        let best = best.as_ref()?;
        if best.cost - best.bound <= GAP * best.cost {
            break;
        }
        // With this ε the proof is certain, so a smaller one is work for nothing.
        #[expect(clippy::cast_precision_loss, reason = "rows of a sample")]
        let certain = GAP * best.cost / (n + k) as f64;
        prices.epsilon = (prices.epsilon / EPSILON_STEP).max(certain);
    }
    best
}

fn cost_of(costs: &Array2<f32>, domains: &[u32]) -> f64 {
    costs.axis_iter(Axis(0)).zip(domains).map(|(row, &domain)| f64::from(row[domain as usize])).sum()
}

/// Each row in turn takes its cheapest domain with room.
fn in_turn(costs: &Array2<f32>) -> Balanced {
    let (n, k) = costs.dim();
    let mut sizes = vec![0; k];
    let mut domains = Vec::with_capacity(n);
    for row in costs.axis_iter(Axis(0)) {
        let open = (0..k).zip(0_u32..).filter(|(j, _)| sizes[*j] < n.div_ceil(k));
        let (j, number) = open.min_by(|a, b| row[a.0].total_cmp(&row[b.0])).unwrap_or_default();
        sizes[j] += 1;
        domains.push(number);
    }
    Balanced { cost: cost_of(costs, &domains), domains, bound: f64::NEG_INFINITY }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bid {
    price: f64,
    bidder: u32,
}
impl Eq for Bid {}
impl PartialOrd for Bid {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Bid {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.price.total_cmp(&other.price).then(self.bidder.cmp(&other.bidder))
    }
}

/// Places of one kind in one domain: what one of them costs is what the lowest bid is.
#[derive(Debug, Clone)]
struct Class {
    capacity: usize,
    /// Before it is full.
    price_first: f64,
    held: BinaryHeap<Reverse<Bid>>,
}

impl Class {
    fn price(&self) -> f64 {
        match self.held.peek() {
            _ if self.capacity == 0 => f64::INFINITY,
            Some(Reverse(lowest)) if self.held.len() == self.capacity => lowest.price,
            _ => self.price_first,
        }
    }

    /// Takes the bids; returns those who lose their place or get none.
    fn take(&mut self, bids: &[Bid]) -> Vec<u32> {
        self.held.extend(bids.iter().copied().map(Reverse));
        let over = self.held.len().saturating_sub(self.capacity);
        (0..over).filter_map(|_| self.held.pop()).map(|Reverse(bid)| bid.bidder).collect()
    }
}

/// One auction. Bidders are the n rows, then, where n is no multiple of k, as many empties as domains stay without a
/// spare row: an empty costs nothing anywhere and takes only a spare place.
struct Market {
    rows: u32,
    /// `[2k]`: ⌊n/k⌋ common places a domain, then one spare place a domain.
    classes: Vec<Class>,
    waiting: Vec<u32>,
}

/// The cheaper and the dearer class of each domain.
struct Offer {
    low: f64,
    high: f64,
    class: usize,
}

impl Market {
    fn new(n: usize, k: usize, prices: &[f64]) -> Self {
        let (common, spare) = (n / k, n % k);
        let empties = if spare == 0 { 0 } else { k - spare };
        let capacity = |class: usize| if class < k { common } else { usize::from(spare > 0) };
        let class = |(class, &price)| Class { capacity: capacity(class), price_first: price, held: BinaryHeap::new() };
        let bidders = u32::try_from(n + empties).expect("a sample has fewer than 2^32 documents");
        Self {
            rows: bidders - u32::try_from(empties).unwrap_or(0),
            classes: prices.iter().enumerate().map(class).collect(),
            waiting: (0..bidders).collect(),
        }
    }

    fn domain_count(&self) -> usize {
        self.classes.len() / 2
    }

    fn run(&mut self, costs: &Array2<f32>, epsilon: f64, bids_left: &mut usize) {
        while !self.is_complete() && *bids_left >= self.waiting.len() {
            *bids_left -= self.waiting.len();
            let offers = self.offers();
            let bid = |&bidder: &u32| {
                let (class, price) = best_bid(costs.row(bidder as usize), &offers, epsilon);
                (class, Bid { price, bidder })
            };
            let (rows, empties): (Vec<u32>, Vec<u32>) = self.waiting.iter().partition(|bidder| **bidder < self.rows);
            let bids: Vec<_> = rows.par_iter().with_min_len(ROWS_AT_ONCE).map(bid).collect();
            let mut bids_of_class = vec![Vec::new(); self.classes.len()];
            bids.into_iter().for_each(|(class, bid)| bids_of_class[class].push(bid));
            self.bid_for_empties(&empties, epsilon, &mut bids_of_class);
            let take = |(class, bids): (&mut Class, &Vec<Bid>)| class.take(bids);
            // A few bids are judged faster than they are handed out; what comes of them is the same.
            let losers: Vec<Vec<u32>> = if self.waiting.len() < ROWS_AT_ONCE {
                self.classes.iter_mut().zip(&bids_of_class).map(take).collect()
            } else {
                self.classes.par_iter_mut().zip(&bids_of_class).map(take).collect()
            };
            self.waiting = losers.concat();
        }
    }

    fn offers(&self) -> Vec<Offer> {
        let k = self.domain_count();
        let offer = |j: usize| {
            let (common, spare) = (self.classes[j].price(), self.classes[k + j].price());
            let class = if common <= spare { j } else { k + j };
            Offer { low: common.min(spare), high: common.max(spare), class }
        };
        (0..k).map(offer).collect()
    }

    /// Empties are all alike, so bidding at once they would all want the same place: one after the other, each at the
    /// prices that the one before left.
    fn bid_for_empties(&self, empties: &[u32], epsilon: f64, bids_of_class: &mut [Vec<Bid>]) {
        let k = self.domain_count();
        let mut prices: Vec<f64> =
            if empties.is_empty() { Vec::new() } else { self.classes[k..].iter().map(Class::price).collect() };
        for &bidder in empties {
            let (mut best, mut first, mut second) = (0, f64::INFINITY, f64::INFINITY);
            for (j, &price) in prices.iter().enumerate() {
                if price < first {
                    (best, second, first) = (j, first, price);
                } else if price < second {
                    second = price;
                }
            }
            prices[best] = second + epsilon;
            bids_of_class[k + best].push(Bid { price: prices[best], bidder });
        }
    }

    fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    fn prices(&self) -> Vec<f64> {
        self.classes.iter().map(|class| if class.capacity == 0 { 0.0 } else { class.price() }).collect()
    }

    fn domains(&self, n: usize) -> Vec<u32> {
        let k = self.domain_count();
        let mut domains = vec![0; n];
        for (class, number) in self.classes.iter().zip((0_u32..).take(k).chain(0..)) {
            for Reverse(bid) in class.held.iter().filter(|bid| bid.0.bidder < self.rows) {
                domains[bid.bidder as usize] = number;
            }
        }
        domains
    }

    /// The dual's value at these prices: each bidder's least cost and price together, minus the price of all places.
    fn bound(&self, costs: &Array2<f32>, prices: &[f64]) -> f64 {
        let offers = self.offers();
        let least = |row: ArrayView1<f32>| {
            row.iter().zip(&offers).map(|(cost, offer)| f64::from(*cost) + offer.low).fold(f64::INFINITY, f64::min)
        };
        // Collected before summing, so that the order of the sum is that of the rows.
        let rows: Vec<f64> = costs.axis_iter(Axis(0)).into_par_iter().with_min_len(ROWS_AT_ONCE).map(least).collect();
        let (mut places, mut bidders) = (0, 0.0);
        for (class, price) in self.classes.iter().zip(prices) {
            places += class.capacity;
            #[expect(clippy::cast_precision_loss, reason = "places of a sample")]
            let all = class.capacity as f64 * price;
            bidders -= all;
        }
        let empties = places - costs.nrows();
        let spare = prices[self.domain_count()..].iter().copied().fold(f64::INFINITY, f64::min);
        #[expect(clippy::cast_precision_loss, reason = "at most k")]
        let empties = if empties == 0 { 0.0 } else { empties as f64 * spare };
        rows.iter().sum::<f64>() + bidders + empties
    }
}

/// The class that is worth most to a row, and what the row bids for it.
fn best_bid(costs: ArrayView1<f32>, offers: &[Offer], epsilon: f64) -> (usize, f64) {
    let (mut best, mut first, mut second) = (0, f64::INFINITY, f64::INFINITY);
    for (j, (cost, offer)) in costs.iter().zip(offers).enumerate() {
        let total = f64::from(*cost) + offer.low;
        if total < first {
            (best, second, first) = (j, first, total);
        } else if total < second {
            second = total;
        }
    }
    let offer = &offers[best];
    // The other class of the same domain may be the second best.
    let second = second.min(f64::from(costs[best]) + offer.high);
    (offer.class, offer.low + (second - first) + epsilon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The least total cost of a balanced assignment, by the Hungarian method (Kuhn 1955, with potentials) on a square
    /// matrix: one column a place, one row a row or empty.
    fn exact(costs: &Array2<f32>) -> f64 {
        let (n, k) = costs.dim();
        let (common, spare) = (n / k, n % k);
        let size = common * k + if spare > 0 { k } else { 0 };
        let cost = |i: usize, place: usize| match (i < n, place < common * k) {
            (true, _) => f64::from(costs[[i, place % k]]),
            (false, true) => 1e9,
            (false, false) => 0.0,
        };
        let (mut u, mut v) = (vec![0.0; size + 1], vec![0.0; size + 1]);
        let mut of_place = vec![usize::MAX; size + 1];
        for i in 0..size {
            of_place[size] = i;
            let (mut least, mut from, mut used) = (vec![f64::MAX; size], vec![size; size], vec![false; size + 1]);
            let mut here = size;
            while of_place[here] != usize::MAX {
                used[here] = true;
                let (row, mut delta, mut next) = (of_place[here], f64::MAX, size);
                for place in (0..size).filter(|place| !used[*place]) {
                    let reduced = cost(row, place) - u[row] - v[place];
                    if reduced < least[place] {
                        (least[place], from[place]) = (reduced, here);
                    }
                    if least[place] < delta {
                        (delta, next) = (least[place], place);
                    }
                }
                for place in 0..=size {
                    if used[place] {
                        u[of_place[place]] += delta;
                        v[place] -= delta;
                    } else if place < size {
                        least[place] -= delta;
                    }
                }
                here = next;
            }
            while here != size {
                of_place[here] = of_place[from[here]];
                here = from[here];
            }
        }
        (0..size).map(|place| cost(of_place[place], place)).sum()
    }

    fn random_costs(values: &[f32], k: usize) -> Array2<f32> {
        Array2::from_shape_vec((values.len() / k, k), values[..values.len() / k * k].to_vec()).unwrap()
    }

    fn is_balanced(found: &Balanced, n: usize, k: usize) -> bool {
        let mut sizes = vec![0; k];
        found.domains.iter().for_each(|&domain| sizes[domain as usize] += 1);
        sizes.iter().all(|&size| size == n / k || size == n.div_ceil(k))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn the_cost_is_within_two_percent_of_the_exact_assignment(
            values in prop::collection::vec(prop_oneof![4 => 0.0..4.0_f32, 1 => Just(0.0_f32), 1 => Just(1.0), 1 => Just(4.0)], 8..400),
            k in 1_usize..8,
        ) {
            let costs = random_costs(&values, k);
            let found = assign(&costs, &mut Prices::default());
            let exact = exact(&costs);
            prop_assert!(is_balanced(&found, costs.nrows(), k), "{:?}", found);
            prop_assert!((found.cost - cost_of(&costs, &found.domains)).abs() < 1e-6);
            prop_assert!(found.cost <= 1.02 * exact + 1e-6, "{} and {exact}", found.cost);
            prop_assert!(found.bound <= exact + 1e-4, "bound {} and {exact}", found.bound);
        }

        #[test]
        fn prices_of_other_costs_do_no_harm(
            values in prop::collection::vec(0.0..4.0_f32, 40..200), others in prop::collection::vec(0.0..4.0_f32, 200),
            k in 2_usize..8,
        ) {
            let (costs, others) = (random_costs(&values, k), random_costs(&others, k));
            let mut prices = Prices::default();
            let _ = assign(&others, &mut prices);
            let found = assign(&costs, &mut prices);
            prop_assert!(is_balanced(&found, costs.nrows(), k));
            prop_assert!(found.cost <= 1.02 * exact(&costs) + 1e-6);
        }
    }

    #[test]
    fn the_exact_assignment_of_a_small_matrix_is_known() {
        // By hand: the first three take 0, 1 and 0 for 1 each, so the last one takes 1 for 2.
        let costs = ndarray::arr2(&[[1.0, 9.0], [9.0, 1.0], [1.0, 9.0], [1.0, 2.0]]);
        assert!((exact(&costs) - 5.0).abs() < 1e-9);
        assert_eq!(assign(&costs, &mut Prices::default()).domains, [0, 1, 0, 1]);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let costs =
            Array2::from_shape_fn((5003, 9), |(i, j)| ((i * 31 + j * 17) as f32 * 0.37).sin().abs() + (j / 4) as f32);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| assign(&costs, &mut Prices::default()))
        };
        let one = with(1);
        assert!(is_balanced(&one, 5003, 9));
        assert!(one.cost - one.bound <= GAP * one.cost, "{} and {}", one.cost, one.bound);
        assert_eq!(one, with(2));
        assert_eq!(one, with(5));
    }

    #[test]
    fn costs_that_break_others_end() {
        for costs in [
            Array2::zeros((100, 7)),
            Array2::from_elem((100, 7), 2.0),
            Array2::from_elem((7, 7), 1e-30),
            Array2::from_shape_fn((100, 7), |(_, j)| j as f32),
            Array2::from_shape_fn((100, 7), |(i, j)| if i == j { 0.0 } else { 4.0 }),
            Array2::from_shape_fn((100, 2), |(i, _)| (i as f32).exp2().min(1e30)),
        ] {
            let found = assign(&costs, &mut Prices::default());
            assert!(is_balanced(&found, costs.nrows(), costs.ncols()), "{costs}");
            assert!(found.cost.is_finite());
        }
        assert_eq!(assign(&Array2::zeros((0, 3)), &mut Prices::default()).domains, [0; 0]);
        assert_eq!(assign(&Array2::zeros((3, 1)), &mut Prices::default()).domains, [0, 0, 0]);
    }
}
