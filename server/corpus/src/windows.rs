//! Which window of tokens comes at which draw: a pure function of (seed, mixture, draw).
//!
//! Domain d with share w and phase φ takes its m-th draw at the virtual time (m + 1 − φ)/w; all draws are merged
//! in the order of those times (stride scheduling, Waldspurger & Weihl 1995). The m-th draw of a domain of n windows
//! is window π(m mod n) of epoch ⌊m/n⌋, π a Feistel permutation with cycle walking keyed by (seed, domain, epoch)
//! (Black & Rogaway 2002). Never keeps a shuffle table: memory is one entry per domain.

use senmon_protocol::job::{Mixture, MixturePart};
use std::{cmp::Reverse, collections::BinaryHeap};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// One draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Draw {
    /// Domain number.
    pub domain: u32,
    /// How often the domain was read before, 0 at first.
    pub epoch: u64,
    /// Window of the domain, numbered over all shards in index order.
    pub window: u64,
}

/// Why a mixture cannot be drawn from.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BadMixture {
    /// No weights.
    #[error("mixture: found no domains, expected at least one")]
    Empty,
    /// A weight that is no positive number.
    #[error("mixture of domain {domain}: found weight {weight}, expected a positive number")]
    Weight {
        /// The domain.
        domain: u32,
        /// Its weight.
        weight: f64,
    },
    /// A domain that holds no whole window.
    #[error(
        "mixture: domain {domain} holds no whole window of training tokens; leave it out or shorten data.sequence_length"
    )]
    NoWindow {
        /// The domain.
        domain: u32,
    },
    /// A budget beyond the epochs allowed.
    #[error(
        "budget: domain {domain} would be read {epochs:.2} times ({draws} windows drawn, {windows} held); \
         data.epochs_max allows {epochs_max}"
    )]
    TooManyEpochs {
        /// The domain.
        domain: u32,
        /// Windows that the budget draws.
        draws: u64,
        /// Windows that it holds.
        windows: u64,
        /// Draws over windows.
        epochs: f64,
        /// The limit.
        epochs_max: f64,
    },
}

#[derive(Debug, Clone)]
struct Lane {
    domain: u32,
    share: f64,
    phase: f64,
    windows: u64,
    /// For a part of a random partition: the windows that belong to it.
    chosen: Option<Vec<u64>>,
}

impl Lane {
    #[expect(clippy::cast_precision_loss, reason = "draws stay below 2^53")]
    fn time(&self, m: u64) -> f64 {
        (m as f64 + 1.0 - self.phase) / self.share
    }

    /// Draws with a time of at most `t`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, made non-negative first")]
    fn draws_until(&self, t: f64) -> u64 {
        let mut count = (t * self.share + self.phase).max(0.0) as u64;
        while count > 0 && self.time(count - 1) > t {
            count -= 1;
        }
        while self.time(count) <= t {
            count += 1;
        }
        count
    }
}

/// The order of windows of one branch.
#[derive(Debug, Clone)]
pub struct WindowOrder {
    lanes: Vec<Lane>,
    seed: u64,
}

impl WindowOrder {
    /// Prepares the order. `windows[d]` is the number of training windows of domain d.
    ///
    /// # Errors
    /// [`BadMixture`] for an empty mixture, a weight that is not positive, or a domain without a window.
    pub fn new(windows: &[u64], mixture: &Mixture, seed: u64) -> Result<Self, BadMixture> {
        let total: f64 = mixture.weights.iter().map(|w| w.weight).sum();
        let mut lanes = Vec::with_capacity(mixture.weights.len());
        for entry in &mixture.weights {
            let domain = entry.domain;
            if !(entry.weight.is_finite() && entry.weight > 0.0) {
                return Err(BadMixture::Weight { domain, weight: entry.weight });
            }
            let held = windows.get(domain as usize).copied().unwrap_or(0);
            let chosen = mixture.part.map(|part| windows_of_part(domain, held, part));
            let held = chosen.as_ref().map_or(held, |chosen| chosen.len() as u64);
            if held == 0 {
                return Err(BadMixture::NoWindow { domain });
            }
            #[expect(clippy::cast_precision_loss, reason = "a phase in [0, 1)")]
            let phase = (hash(&[seed, mixture.version.into(), domain.into()]) >> 11) as f64 / (1_u64 << 53) as f64;
            lanes.push(Lane { domain, share: entry.weight / total, phase, windows: held, chosen });
        }
        if lanes.is_empty() {
            return Err(BadMixture::Empty);
        }
        lanes.sort_by_key(|lane| lane.domain);
        Ok(Self { lanes, seed })
    }

    /// Checks that `draws` draws read no domain more than `epochs_max` times.
    ///
    /// # Errors
    /// [`BadMixture::TooManyEpochs`] with the worst domain.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts below 2^53"
    )]
    pub fn ensure_budget(&self, draws: u64, epochs_max: f64) -> Result<(), BadMixture> {
        let epochs = |lane: &Lane| (draws as f64 * lane.share).floor() / lane.windows as f64;
        let worst = self.lanes.iter().max_by(|a, b| epochs(a).total_cmp(&epochs(b))).ok_or(BadMixture::Empty)?;
        if epochs(worst) <= epochs_max {
            return Ok(());
        }
        Err(BadMixture::TooManyEpochs {
            domain: worst.domain,
            draws: (draws as f64 * worst.share).floor() as u64,
            windows: worst.windows,
            epochs: epochs(worst),
            epochs_max,
        })
    }

    /// The draws from number `draw` on, for ever. O(domains) to start, O(log domains) a draw.
    #[must_use]
    pub fn from(&self, draw: u64) -> Draws<'_> {
        // Below this time there are at most `draw` draws, since every domain is at most one draw ahead of its share.
        #[expect(clippy::cast_precision_loss, reason = "draws stay below 2^53")]
        let t = draw as f64 - self.lanes.len() as f64 - 1.0;
        let counts: Vec<u64> = self.lanes.iter().map(|lane| lane.draws_until(t)).collect();
        let skipped: u64 = counts.iter().sum();
        let entry = |(i, lane): (usize, &Lane)| Reverse((Time(lane.time(counts[i])), i, counts[i]));
        let heap = self.lanes.iter().enumerate().map(entry).collect();
        let mut draws = Draws { order: self, heap };
        for _ in skipped..draw {
            draws.next();
        }
        draws
    }

    fn draw(&self, lane: usize, m: u64) -> Draw {
        let lane = &self.lanes[lane];
        let epoch = m / lane.windows;
        let key = hash(&[self.seed, lane.domain.into(), epoch]);
        let place = permute(m % lane.windows, lane.windows, key);
        let window = lane.chosen.as_ref().map_or(place, |chosen| chosen[usize::try_from(place).unwrap_or(usize::MAX)]);
        Draw { domain: lane.domain, epoch, window }
    }
}

/// Iterator over draws; see [`WindowOrder::from`].
#[derive(Debug)]
pub struct Draws<'a> {
    order: &'a WindowOrder,
    heap: BinaryHeap<Reverse<(Time, usize, u64)>>,
}

impl Iterator for Draws<'_> {
    type Item = Draw;

    fn next(&mut self) -> Option<Draw> {
        let Reverse((_, lane, m)) = self.heap.pop()?;
        self.heap.push(Reverse((Time(self.order.lanes[lane].time(m + 1)), lane, m + 1)));
        Some(self.order.draw(lane, m))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Time(f64);
impl Eq for Time {}
impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Windows of `domain` that belong to `part`, ascending.
fn windows_of_part(domain: u32, windows: u64, part: MixturePart) -> Vec<u64> {
    let of = u64::from(part.of.max(1));
    (0..windows).filter(|&w| hash(&[part.seed, domain.into(), w]) % of == u64::from(part.index)).collect()
}

fn hash(words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    xxh3_64(&bytes)
}

/// A permutation of 0..n: four Feistel rounds on the next even number of bits, walked until inside.
fn permute(index: u64, n: u64, key: u64) -> u64 {
    let bits = (64 - n.saturating_sub(1).leading_zeros()).max(2).next_multiple_of(2);
    let half = bits / 2;
    let mask = (1_u64 << half) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4_u64 {
            let mixed = xxh3_64_with_seed(&right.to_le_bytes(), key.wrapping_add(round)) & mask;
            (left, right) = (right, left ^ mixed);
        }
        value = left << half | right;
        if value < n {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use senmon_protocol::job::DomainWeight;
    use std::collections::{BTreeMap, BTreeSet};

    fn mixture(weights: &[f64], part: Option<MixturePart>) -> Mixture {
        let weights = weights.iter().zip(0..).map(|(&weight, domain)| DomainWeight { domain, weight }).collect();
        Mixture { version: 1, weights, part }
    }

    proptest! {
        #[test]
        fn a_seek_is_the_same_as_walking(
            weights in prop::collection::vec(0.001..10.0_f64, 1..40), start in 0_u64..3000, seed: u64,
        ) {
            let windows: Vec<u64> = (0..weights.len() as u64).map(|d| 1 + d * 3 % 17).collect();
            let order = WindowOrder::new(&windows, &mixture(&weights, None), seed).unwrap();
            let walked: Vec<_> = order.from(0).skip(start as usize).take(20).collect();
            prop_assert_eq!(order.from(start).take(20).collect::<Vec<_>>(), walked);
        }

        #[test]
        fn every_window_comes_once_an_epoch(n in 1_u64..600, seed: u64) {
            let order = WindowOrder::new(&[n], &mixture(&[1.0], None), seed).unwrap();
            let draws: Vec<_> = order.from(0).take(2 * n as usize).collect();
            for (epoch, draws) in draws.chunks(n as usize).enumerate() {
                prop_assert!(draws.iter().all(|draw| draw.epoch == epoch as u64));
                let windows: BTreeSet<_> = draws.iter().map(|draw| draw.window).collect();
                prop_assert_eq!(windows, (0..n).collect());
            }
        }

        #[test]
        fn shares_are_kept_within_one_draw(weights in prop::collection::vec(0.01..10.0_f64, 1..20), draws in 1_usize..2000) {
            let order = WindowOrder::new(&vec![50; weights.len()], &mixture(&weights, None), 1).unwrap();
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

        #[test]
        fn parts_are_a_partition(n in 20_u64..300, of in 1_u32..5, seed: u64) {
            let mut seen = BTreeSet::new();
            for index in 0..of {
                for window in windows_of_part(3, n, MixturePart { index, of, seed }) {
                    prop_assert!(seen.insert(window), "window {window} is in two parts");
                }
            }
            prop_assert_eq!(seen.len() as u64, n);
        }
    }

    #[test]
    fn thousands_of_domains_are_ordinary() {
        let weights: Vec<f64> = (0..5000).map(|d| 1.0 + f64::from(d % 7)).collect();
        let order = WindowOrder::new(&vec![9; 5000], &mixture(&weights, None), 5).unwrap();
        let far: Vec<_> = order.from(1_000_000_000).take(3).collect();
        assert_eq!(far, order.from(999_999_999).skip(1).take(3).collect::<Vec<_>>());
    }

    #[test]
    fn bad_mixtures_are_named() {
        let check = |weights: &[f64], windows: &[u64], expect: &str| {
            let error = WindowOrder::new(windows, &mixture(weights, None), 0).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        };
        check(&[], &[1], "no domains");
        check(&[1.0, -1.0], &[1, 1], "domain 1: found weight -1");
        check(&[1.0, f64::NAN], &[1, 1], "domain 1");
        check(&[1.0, 1.0], &[5], "domain 1 holds no whole window");
        let order = WindowOrder::new(&[10], &mixture(&[1.0], None), 0).unwrap();
        assert_eq!(order.ensure_budget(40, 4.0), Ok(()));
        assert!(order.ensure_budget(41, 4.0).unwrap_err().to_string().contains("epochs_max allows 4"));
    }
}
