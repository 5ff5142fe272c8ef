//! How sure a difference is: paired bootstrap over documents, domain by domain.
//!
//! Documents of one group (pieces of one page, say) are alike, so groups are drawn, each with all its documents; a
//! document without fellows is a group of its own. They are drawn anew with replacement inside each domain, the same draw for every contestant (paired: Koehn 2004,
//! "Statistical significance tests for machine translation evaluation", section 4), and the difference is computed
//! again; the interval is the middle 95 % of what comes (percentile method: Efron and Tibshirani 1993, section 13.3). Of
//! a domain's n documents n − 1 are drawn, so that the variance of a mean comes out as s²/n and not (n − 1)/n of it (Rao
//! and Wu 1988, "Resampling inference with complex survey data", section 2, with m = n − 1).
//!
//! Never draws from a global generator: equal seeds give equal intervals. Never says anything of other seeds of the
//! training: only of other documents.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use senmon_protocol::{
    job::Interval,
    said,
    said::{Said, decimal},
};
use std::collections::BTreeMap;

/// Resamples of a report.
pub const RESAMPLES: u32 = 2000;
/// Share of the weight that may lie on domains with one group, whose chance a bootstrap cannot see.
const BLIND_SHARE_MAX: f64 = 0.05;
/// Resamples between two looks whether to go on.
const LOOK_EVERY: u32 = 20;
/// Ends of the interval.
const QUANTILES: [f64; 2] = [0.025, 0.975];

/// Negative log-likelihoods of several contestants on the same documents.
#[derive(Debug, Clone, Copy)]
pub struct Sums<'a> {
    /// Domain of each document, `[n]`.
    pub domain: &'a [u32],
    /// Tokens of each document, `[n]`.
    pub tokens: &'a [u32],
    /// Group of each document, `[n]`.
    pub group: &'a [u64],
    /// What the contestants are compared with: nats of each document, `[n]`.
    pub base: &'a [f64],
    /// The contestants: nats of each document, [c, n].
    pub contestants: &'a [Vec<f64>],
}

/// A difference with its interval, or why there is none.
pub type Judged = Result<Interval, Said>;

/// The documents of one domain with a weight.
struct Stratum {
    /// Documents of each group.
    groups: Vec<Vec<usize>>,
    /// Share of the domain in the mean, for each weighting, `[w]`.
    shares: Vec<f64>,
}

/// Differences to the base, `Σ w_d (Σ nats − Σ base) / Σ tokens`, nats per token, and their intervals, [c, w]: for each
/// contestant, one a weighting over domains. None when `go_on`, which is told the resamples done, says so.
pub fn differences(
    sums: &Sums,
    weightings: &[Vec<f64>],
    resamples: u32,
    seed: u64,
    go_on: &mut dyn FnMut(u32) -> bool,
) -> Option<Vec<Vec<Judged>>> {
    let strata = strata(sums, weightings);
    let finite: Vec<usize> = (0..sums.contestants.len()).filter(|&c| is_finite(sums, &sums.contestants[c])).collect();
    // [n, c]: the contestants of a document lie beside one another, as they are read.
    let (n, width) = (sums.tokens.len(), finite.len());
    let mut deltas = Vec::with_capacity(n * width);
    for i in 0..n {
        deltas.extend(finite.iter().map(|&c| sums.contestants[c][i] - sums.base[i]));
    }
    let whole = |stratum: &Stratum, take: &mut dyn FnMut(usize)| stratum.groups.iter().flatten().for_each(|&i| take(i));
    let points = once(sums, &strata, &deltas, width, weightings.len(), whole);
    let mut drawn: Vec<Vec<f64>> = vec![Vec::with_capacity(resamples as usize); points.len()];
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    for resample in 0..resamples {
        if resample % LOOK_EVERY == 0 && !go_on(resample) {
            return None;
        }
        let draw = |stratum: &Stratum, take: &mut dyn FnMut(usize)| {
            let groups = &stratum.groups;
            for _ in 0..groups.len().saturating_sub(1).max(1) {
                groups[below(&mut chance, groups.len())].iter().for_each(|&i| take(i));
            }
        };
        let found = once(sums, &strata, &deltas, width, weightings.len(), draw);
        drawn.iter_mut().zip(found).for_each(|(all, found)| all.push(found));
    }
    let mut judged = vec![vec![Err(not_finite(sums)); weightings.len()]; sums.contestants.len()];
    for (place, &c) in finite.iter().enumerate() {
        for (w, judged) in judged[c].iter_mut().enumerate() {
            let at = w * width + place;
            *judged = unseen(&strata, w).map_or_else(|| interval(points[at], &mut drawn[at]), Err);
        }
    }
    Some(judged)
}

fn is_finite(sums: &Sums, nats: &[f64]) -> bool {
    nats.iter().chain(sums.base).all(|nats| nats.is_finite())
}

fn not_finite(sums: &Sums) -> Said {
    if is_finite(sums, &[]) { said!("document_loss_not_finite") } else { said!("dense_document_loss_not_finite") }
}

/// Domains in which there is something, with their shares.
fn strata(sums: &Sums, weightings: &[Vec<f64>]) -> Vec<Stratum> {
    let domains = weightings.first().map_or(0, Vec::len);
    let mut groups: Vec<BTreeMap<u64, Vec<usize>>> = vec![BTreeMap::new(); domains];
    for (i, &domain) in sums.domain.iter().enumerate() {
        if sums.tokens[i] > 0 && (domain as usize) < domains {
            groups[domain as usize].entry(sums.group[i]).or_default().push(i);
        }
    }
    let total = |weights: &Vec<f64>| {
        let held = weights.iter().zip(&groups).filter(|(_, groups)| !groups.is_empty());
        held.map(|(weight, _)| weight).sum::<f64>()
    };
    let totals: Vec<f64> = weightings.iter().map(total).collect();
    let share = |domain: usize, (weights, total): (&Vec<f64>, &f64)| {
        if *total > 0.0 { weights[domain] / total } else { 0.0 }
    };
    let stratum = |(domain, groups): (usize, BTreeMap<u64, Vec<usize>>)| Stratum {
        groups: groups.into_values().collect(),
        shares: weightings.iter().zip(&totals).map(|pair| share(domain, pair)).collect(),
    };
    groups.into_iter().enumerate().filter(|(_, groups)| !groups.is_empty()).map(stratum).collect()
}

/// The statistic of one draw, [w, c].
fn once(
    sums: &Sums,
    strata: &[Stratum],
    deltas: &[f64],
    width: usize,
    weightings: usize,
    mut draw: impl FnMut(&Stratum, &mut dyn FnMut(usize)),
) -> Vec<f64> {
    let mut found = vec![0.0; weightings * width];
    let mut nats = vec![0.0; width];
    for stratum in strata {
        nats.fill(0.0);
        let mut tokens = 0.0;
        draw(stratum, &mut |i| {
            tokens += f64::from(sums.tokens[i]);
            let row = &deltas[i * width..(i + 1) * width];
            nats.iter_mut().zip(row).for_each(|(sum, delta)| *sum += delta);
        });
        for (w, share) in stratum.shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let row = &mut found[w * width..(w + 1) * width];
            row.iter_mut().zip(&nats).for_each(|(sum, nats)| *sum += share * nats / tokens);
        }
    }
    found
}

/// A number below `n`: the bias is below n / 2^32.
fn below(chance: &mut ChaCha8Rng, n: usize) -> usize {
    ((u64::from(chance.next_u32()) * n as u64) >> 32) as usize
}

/// Why an interval would promise too much or nothing, if it would.
fn unseen(strata: &[Stratum], w: usize) -> Option<Said> {
    if strata.iter().all(|stratum| stratum.shares[w] <= 0.0) {
        return Some(said!("nothing_scored"));
    }
    let blind: f64 = strata.iter().filter(|s| s.groups.len() < 2).map(|stratum| stratum.shares[w]).sum();
    (blind > BLIND_SHARE_MAX).then(|| {
        let (percent, most) = (decimal(blind * 100.0, 0), decimal(BLIND_SHARE_MAX * 100.0, 0));
        said!("too_few_groups", percent = percent, most = most)
    })
}

fn interval(nats: f64, drawn: &mut [f64]) -> Judged {
    if drawn.is_empty() {
        return Err(said!("no_resample"));
    }
    drawn.sort_by(f64::total_cmp);
    let [nats_low, nats_high] = QUANTILES.map(|q| quantile(drawn, q));
    Ok(Interval { nats, nats_low, nats_high })
}

/// Linear between the neighbours (Hyndman and Fan 1996, type 7). `sorted` holds something.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in the list"
)]
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::rand_core::RngCore;

    /// Something like a normal deviate: the sum of twelve uniform ones.
    fn normal(chance: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| f64::from(chance.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }

    struct World {
        domain: Vec<u32>,
        tokens: Vec<u32>,
        group: Vec<u64>,
        base: Vec<f64>,
        contestants: Vec<Vec<f64>>,
    }

    impl World {
        /// Documents of `sizes.len()` domains; the first contestant differs from the base by noise alone.
        fn new(sizes: &[usize], seed: u64, tokens: impl Fn(usize) -> u32) -> Self {
            let mut chance = ChaCha8Rng::seed_from_u64(seed);
            let domain: Vec<u32> = sizes.iter().zip(0..).flat_map(|(&n, d)| vec![d; n]).collect();
            let tokens: Vec<u32> = (0..domain.len()).map(tokens).collect();
            // Documents differ far more among themselves than contestants do on one of them.
            let base: Vec<f64> = tokens.iter().map(|&t| f64::from(t) * (3.0 + normal(&mut chance))).collect();
            let noisy = base.iter().zip(&tokens).map(|(b, &t)| b + f64::from(t) * 0.1 * normal(&mut chance)).collect();
            let group = (0..domain.len() as u64).collect();
            Self { domain, tokens, group, base, contestants: vec![noisy] }
        }

        fn judge(&self, weightings: &[Vec<f64>], resamples: u32, seed: u64) -> Vec<Vec<Judged>> {
            let Self { domain, tokens, group, base, contestants } = self;
            differences(&Sums { domain, tokens, group, base, contestants }, weightings, resamples, seed, &mut |_| true)
                .unwrap()
        }
    }

    /// With documents of one length a domain's difference is a plain mean: `Σ w_d² s_d² / n_d` is its variance.
    #[test]
    fn the_interval_is_as_wide_as_the_closed_form_says() {
        for (sizes, weights) in
            [(vec![200], vec![1.0]), (vec![60, 30, 9], vec![0.2, 0.5, 0.3]), (vec![3, 4, 5, 6, 7, 8], vec![1.0; 6])]
        {
            let world = World::new(&sizes, 5, |_| 10);
            let total: f64 = weights.iter().sum();
            let (mut mean, mut variance) = (0.0, 0.0);
            for (d, weight) in weights.iter().enumerate() {
                let own: Vec<f64> = (0..world.domain.len())
                    .filter(|&i| world.domain[i] as usize == d)
                    .map(|i| (world.contestants[0][i] - world.base[i]) / 10.0)
                    .collect();
                let n = own.len() as f64;
                let centre = own.iter().sum::<f64>() / n;
                let spread = own.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / (n - 1.0);
                mean += weight / total * centre;
                variance += (weight / total).powi(2) * spread / n;
            }
            let found = world.judge(&[weights], 4000, 1)[0][0].clone().unwrap();
            assert!((found.nats - mean).abs() < 1e-12);
            let ratio = (found.nats_high - found.nats_low) / (2.0 * 1.96 * variance.sqrt());
            assert!((0.93..1.07).contains(&ratio), "{sizes:?}: {ratio} of the closed form");
        }
    }

    /// In 19 of 20 worlds the interval holds the truth, which is no difference, within what 400 worlds can show.
    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_promises() {
        let worlds: Vec<World> =
            (0..400).map(|seed| World::new(&[12, 25], seed, |i| 5 + (i as u32 * 7) % 11)).collect();
        let holds = |world: &World| {
            let found = world.judge(&[vec![0.4, 0.6]], 400, 9)[0][0].clone().unwrap();
            found.nats_low <= 0.0 && found.nats_high >= 0.0
        };
        let held = worlds.iter().filter(|world| holds(world)).count() as f64 / 400.0;
        assert!((0.90..0.98).contains(&held), "{held}");
    }

    /// Documents that are copies of each other say what one of them says, and not more.
    #[test]
    fn fellows_of_a_group_add_no_certainty() {
        let single = World::new(&[30], 3, |_| 10);
        let copies = |list: &[f64]| list.iter().flat_map(|x| [*x; 4]).collect::<Vec<f64>>();
        let world = World {
            domain: vec![0; 120],
            tokens: vec![10; 120],
            group: (0..120).map(|i| i / 4).collect(),
            base: copies(&single.base),
            contestants: vec![copies(&single.contestants[0])],
        };
        let width = |world: &World| {
            let found = world.judge(&[vec![1.0]], 2000, 1)[0][0].clone().unwrap();
            found.nats_high - found.nats_low
        };
        assert!((width(&world) / width(&single) - 1.0).abs() < 0.05);
        let apart = World { group: (0..120).collect(), ..world };
        assert!((width(&apart) / width(&single) - 0.5).abs() < 0.05, "as if they were independent");
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        let mut world = World::new(&[4, 1], 1, |_| 10);
        let check = |world: &World, weights: [f64; 2], expect: &str| {
            let found = world.judge(&[weights.to_vec()], 50, 1)[0][0].clone();
            assert!(found.clone().is_err_and(|why| why.text().contains(expect)), "{expect:?} is not in {found:?}");
        };
        check(&world, [0.9, 0.1], "10 % of the weight lies on domains whose reported documents are one");
        assert!(world.judge(&[vec![0.99, 0.01]], 50, 1)[0][0].is_ok());
        check(&world, [0.0, 0.0], "no held-out document");
        let nothing = World { domain: vec![], tokens: vec![], group: vec![], base: vec![], contestants: vec![vec![]] };
        check(&nothing, [0.5, 0.5], "no held-out document");
        let good = world.contestants[0].clone();
        world.contestants.push(vec![f64::NAN; 5]);
        check(&World { contestants: world.contestants[1..].to_vec(), ..world }, [1.0, 0.0], "its loss on a document");
        let world = World::new(&[4, 1], 1, |_| 10);
        let beside = World { contestants: vec![vec![f64::INFINITY; 5], good], ..world };
        assert!(beside.judge(&[vec![1.0, 0.0]], 50, 1)[1][0].is_ok(), "one that is not finite spoils no other");
        let mut world = World::new(&[4, 1], 1, |_| 10);
        world.base[2] = f64::NAN;
        check(&world, [1.0, 0.0], "dense's loss on a document");
        let stopped = Sums { domain: &[], tokens: &[], group: &[], base: &[], contestants: &[] };
        assert!(differences(&stopped, &[vec![1.0]], 50, 1, &mut |done| done < 20).is_none());
    }

    proptest! {
        /// Paired: however much documents differ, a contestant that is better by the same on each token is so surely.
        #[test]
        fn a_shift_of_every_token_has_no_uncertainty(
            seed: u64, shift in -1.0..1.0_f64, sizes in prop::collection::vec(2_usize..20, 1..5),
        ) {
            let mut world = World::new(&sizes, seed, |i| 1 + (i as u32 * 13) % 29);
            world.contestants =
                vec![world.base.iter().zip(&world.tokens).map(|(b, &t)| b + shift * f64::from(t)).collect()];
            let found = world.judge(&[vec![1.0; sizes.len()]], 60, seed)[0][0].clone().unwrap();
            for nats in [found.nats, found.nats_low, found.nats_high] {
                prop_assert!((nats - shift).abs() < 1e-9);
            }
        }

        /// The others' company, a domain without a weight and the scale of the weights change nothing.
        #[test]
        fn a_contestant_is_judged_by_itself(seed: u64, scale in 0.1..10.0_f64) {
            let mut world = World::new(&[5, 6, 7], seed, |i| 3 + i as u32);
            let alone = world.judge(&[vec![0.5, 0.5, 0.0]], 60, seed)[0][0].clone().unwrap();
            world.contestants.insert(0, world.base.clone());
            for i in 11..18 {
                world.contestants[1][i] += 100.0;
            }
            let found = world.judge(&[vec![0.5 * scale, 0.5 * scale, 0.0]], 60, seed);
            let same = found[1][0].clone().unwrap();
            prop_assert!((same.nats_low - alone.nats_low).abs() < 1e-9 && (same.nats_high - alone.nats_high).abs() < 1e-9);
            prop_assert_eq!(found[0][0].clone(), Ok(Interval { nats: 0.0, nats_low: 0.0, nats_high: 0.0 }));
            prop_assert_eq!(&found, &world.judge(&[vec![0.5 * scale, 0.5 * scale, 0.0]], 60, seed), "equal seeds");
        }

        /// A list of numbers lies between its own quantiles' neighbours.
        #[test]
        fn quantiles_are_of_the_list(mut values in prop::collection::vec(-5.0..5.0_f64, 1..40), q in 0.0..1.0_f64) {
            values.sort_by(f64::total_cmp);
            let found = quantile(&values, q);
            prop_assert!(found >= values[0] && found <= values[values.len() - 1]);
            let below = values.iter().filter(|value| **value < found).count() as f64;
            prop_assert!(below <= q * (values.len() as f64 - 1.0) + 1.0);
        }
    }
}
