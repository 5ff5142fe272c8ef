//! Which window of tokens comes at which draw: a pure function of (seed, lineage, mixture, draw).
//!
//! Domain d with share w and phase φ takes its m-th draw at the virtual time (m + 1 − φ)/w; all draws are merged
//! in the order of those times (stride scheduling, Waldspurger & Weihl 1995). A branch whose lineage drew c windows of
//! a domain takes as its m-th draw the one at place M = c + m of the domain's order: of n windows, window π(M mod n) of
//! epoch ⌊M/n⌋, π a permutation keyed by (seed, domain, epoch). So no window comes again on a lineage before all others
//! of its domain have come. Never keeps a shuffle table: memory is one entry per domain.

use crate::permutation::{hash, permute, reshuffled};
use senmon_protocol::{
    job::{Mixture, MixturePart},
    lineage::{Lineage, Reshuffle, drawn_of, draws},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// One draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Draw {
    /// Domain number.
    pub domain: u32,
    /// How often the lineage read the domain before, 0 at first.
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
        "budget: domain {domain} would be read {epochs:.2} times along its lineage ({drawn} windows drawn before, \
         {draws} here, {windows} held); data.epochs_max allows {epochs_max}"
    )]
    TooManyEpochs {
        /// The domain.
        domain: u32,
        /// Windows that the lineage drew before.
        drawn: u64,
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
    /// Windows that the lineage drew before.
    drawn: u64,
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

    /// Windows that `draws` draws of the whole order take of this domain, by its share.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts below 2^53"
    )]
    fn share_of(&self, draws: u64) -> u64 {
        (draws as f64 * self.share).floor() as u64
    }
}

/// The order of windows of one branch.
#[derive(Debug, Clone)]
pub struct WindowOrder {
    lanes: Vec<Lane>,
    part: Option<MixturePart>,
    seed: u64,
    /// Of the parent; its last reshuffle is the branch's own, where it has one.
    lineage: Lineage,
}

impl WindowOrder {
    /// Prepares the order of a branch behind `lineage`. `windows[d]` is the number of training windows of domain d.
    ///
    /// # Errors
    /// [`BadMixture`] for an empty mixture, a weight that is not positive, or a domain without a window.
    pub fn new(windows: &[u64], mixture: &Mixture, lineage: &Lineage, seed: u64) -> Result<Self, BadMixture> {
        let total: f64 = mixture.weights.iter().map(|w| w.weight).sum();
        let mut lanes = Vec::with_capacity(mixture.weights.len());
        for entry in &mixture.weights {
            let domain = entry.domain;
            if !(entry.weight.is_finite() && entry.weight > 0.0) {
                return Err(BadMixture::Weight { domain, weight: entry.weight });
            }
            let held = windows.get(domain as usize).copied().unwrap_or(0);
            if held == 0 {
                return Err(BadMixture::NoWindow { domain });
            }
            let words = [seed, mixture.version.into(), domain.into(), mixture.reshuffle.unwrap_or(0)];
            #[expect(clippy::cast_precision_loss, reason = "a phase in [0, 1)")]
            let phase = (hash(&words) >> 11) as f64 / (1_u64 << 53) as f64;
            let drawn = lineage.drawn_of(domain);
            lanes.push(Lane { domain, share: entry.weight / total, phase, windows: held, drawn });
        }
        if lanes.is_empty() {
            return Err(BadMixture::Empty);
        }
        lanes.sort_by_key(|lane| lane.domain);
        let mut lineage = lineage.clone();
        lineage.reshuffles.extend(mixture.reshuffle.map(|key| Reshuffle { key, drawn: lineage.drawn.clone() }));
        Ok(Self { lanes, part: mixture.part, seed, lineage })
    }

    /// Checks that with `draws` draws more the lineage reads no domain more than `epochs_max` times.
    ///
    /// # Errors
    /// [`BadMixture::TooManyEpochs`] with the worst domain.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    pub fn ensure_budget(&self, draws: u64, epochs_max: f64) -> Result<(), BadMixture> {
        let passed = self.passed(draws);
        let epochs = |lane: &Lane| match lane.share_of(passed) {
            0 => 0.0,
            here => lane.drawn.saturating_add(here) as f64 / lane.windows as f64,
        };
        let worst = self.lanes.iter().max_by(|a, b| epochs(a).total_cmp(&epochs(b))).ok_or(BadMixture::Empty)?;
        if epochs(worst) <= epochs_max {
            return Ok(());
        }
        Err(BadMixture::TooManyEpochs {
            domain: worst.domain,
            drawn: worst.drawn,
            draws: worst.share_of(passed),
            windows: worst.windows,
            epochs: epochs(worst),
            epochs_max,
        })
    }

    /// The draws from number `draw` on, for ever. O(domains) to start, O(log domains) a draw; a part of a random split
    /// starts anew at each block.
    #[must_use]
    pub fn from(&self, draw: u64) -> Draws<'_> {
        Draws { order: self, merge: self.merge(self.dealt(draw)), number: draw }
    }

    /// Where the lineage stands after `draws` draws. For a part of a random split, what other parts took meanwhile
    /// counts as drawn.
    #[must_use]
    pub fn after(&self, draws_done: u64) -> Lineage {
        let mut counts: BTreeMap<u32, u64> =
            self.lineage.drawn.iter().map(|draws| (draws.domain, draws.windows)).collect();
        for Reverse((_, lane, m)) in self.merge(self.passed(draws_done)).heap {
            let lane = &self.lanes[lane];
            counts.insert(lane.domain, lane.drawn + m);
        }
        counts.retain(|_, windows| *windows > 0);
        Lineage { drawn: draws(counts), reshuffles: self.lineage.reshuffles.clone() }
    }

    /// Number in the undivided order of the branch's draw `draw`.
    fn dealt(&self, draw: u64) -> u64 {
        let Some(part) = self.part else { return draw };
        let (block, of) = (u64::from(part.block.max(1)), u64::from(part.of.max(1)));
        let (round, within) = (draw / block, draw % block);
        (round * of + place_in_round(part, round)) * block + within
    }

    /// Draws of the undivided order up to the branch's last one of `draws`.
    fn passed(&self, draws: u64) -> u64 {
        draws.checked_sub(1).map_or(0, |last| self.dealt(last) + 1)
    }

    fn merge(&self, draw: u64) -> Merge<'_> {
        // Below this time there are at most `draw` draws, since every domain is at most one draw ahead of its share.
        #[expect(clippy::cast_precision_loss, reason = "draws stay below 2^53")]
        let t = draw as f64 - self.lanes.len() as f64 - 1.0;
        let counts: Vec<u64> = self.lanes.iter().map(|lane| lane.draws_until(t)).collect();
        let skipped: u64 = counts.iter().sum();
        let entry = |(i, lane): (usize, &Lane)| Reverse((Time(lane.time(counts[i])), i, counts[i]));
        let heap = self.lanes.iter().enumerate().map(entry).collect();
        let mut merge = Merge { lanes: &self.lanes, heap };
        for _ in skipped..draw {
            merge.next();
        }
        merge
    }

    fn draw(&self, lane: usize, m: u64) -> Draw {
        let lane = &self.lanes[lane];
        let place = self.lineage.reshuffles.iter().rev().fold(lane.drawn + m, |place, shuffle| {
            reshuffled(
                place,
                lane.windows,
                drawn_of(&shuffle.drawn, lane.domain),
                hash(&[shuffle.key, lane.domain.into()]),
            )
        });
        let epoch = place / lane.windows;
        let key = hash(&[self.seed, lane.domain.into(), epoch]);
        Draw { domain: lane.domain, epoch, window: permute(place % lane.windows, lane.windows, key) }
    }
}

/// Blocks that a part takes of the first `blocks` of the undivided order. Over all parts they sum to `blocks`.
#[must_use]
pub fn blocks_of_part(part: MixturePart, blocks: u64) -> u64 {
    let of = u64::from(part.of.max(1));
    let (rounds, rest) = (blocks / of, blocks % of);
    rounds + u64::from(place_in_round(part, rounds) < rest)
}

/// Place of a part's block in a round.
fn place_in_round(part: MixturePart, round: u64) -> u64 {
    permute(part.index.into(), part.of.max(1).into(), hash(&[part.seed, round]))
}

/// Share of what a lineage drew between `before` and `after` that it read for the first time. None where it drew
/// nothing. `windows[d]` is the number of training windows of domain d.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "draws stay below 2^53")]
pub fn fresh_share(windows: &[u64], before: &Lineage, after: &Lineage) -> Option<f64> {
    let (mut fresh, mut all) = (0, 0);
    for draws in &after.drawn {
        let held = windows.get(draws.domain as usize).copied().unwrap_or(0);
        let drawn = before.drawn_of(draws.domain);
        all += draws.windows.saturating_sub(drawn);
        fresh += draws.windows.min(held).saturating_sub(drawn);
    }
    (all > 0).then(|| fresh as f64 / all as f64)
}

/// Iterator over draws; see [`WindowOrder::from`].
#[derive(Debug)]
pub struct Draws<'a> {
    order: &'a WindowOrder,
    merge: Merge<'a>,
    number: u64,
}

impl Iterator for Draws<'_> {
    type Item = Draw;

    fn next(&mut self) -> Option<Draw> {
        if self.order.part.is_some_and(|part| self.number.is_multiple_of(part.block.max(1).into())) {
            self.merge = self.order.merge(self.order.dealt(self.number));
        }
        self.number += 1;
        self.merge.next().map(|(lane, m)| self.order.draw(lane, m))
    }
}

/// The lanes' draws in the order of their times.
#[derive(Debug)]
struct Merge<'a> {
    lanes: &'a [Lane],
    heap: BinaryHeap<Reverse<(Time, usize, u64)>>,
}

impl Iterator for Merge<'_> {
    type Item = (usize, u64);

    fn next(&mut self) -> Option<(usize, u64)> {
        let Reverse((_, lane, m)) = self.heap.pop()?;
        self.heap.push(Reverse((Time(self.lanes[lane].time(m + 1)), lane, m + 1)));
        Some((lane, m))
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

#[cfg(test)]
mod tests;
