//! What losses on held-out documents say of a model: which documents are reported, how domains are weighted, the mean
//! over domains, and which of several models is best.
//!
//! Never gives a figure that stands on nothing or is not finite, and never chooses by itself on which half.

use senmon_protocol::{
    job::{DomainLoss, ShardIndex, Split},
    said,
    said::Said,
};

/// Each domain's share of the held-out tokens, `[k]`; zeros where there are none. The weights of the headline.
#[must_use]
pub fn held_out_shares(index: &ShardIndex) -> Vec<f64> {
    shares(index, Split::HeldOut)
}

/// Each domain's share of the training tokens, `[k]`; zeros where there are none. The router's prior.
#[must_use]
pub fn train_shares(index: &ShardIndex) -> Vec<f64> {
    shares(index, Split::Train)
}

#[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
fn shares(index: &ShardIndex, split: Split) -> Vec<f64> {
    let mut tokens = vec![0_u64; index.domains as usize];
    for range in index.shards.iter().flat_map(|shard| &shard.ranges).filter(|range| range.split == split) {
        tokens[range.domain as usize] += range.tokens;
    }
    let all: u64 = tokens.iter().sum();
    tokens.iter().map(|&tokens| tokens as f64 / all.max(1) as f64).collect()
}

/// Weights that make every domain alike, `[k]`.
#[must_use]
pub fn alike(domains: usize) -> Vec<f64> {
    vec![1.0; domains]
}

/// Mean over domains, nats per token: `Σ w_d ℓ_d / Σ w_d` over the domains with a weight in which something was scored.
///
/// # Errors
/// Why there is no such mean: nothing was scored, or a loss is not finite.
pub fn mean_loss(domains: &[DomainLoss], weights: &[f64]) -> Result<f64, Said> {
    let (mut sum, mut weight_sum) = (0.0, 0.0);
    for domain in domains.iter().filter(|domain| domain.tokens > 0) {
        let weight = weights.get(domain.domain as usize).copied().unwrap_or(0.0);
        if weight > 0.0 {
            let loss = domain.loss.filter(|loss| loss.is_finite());
            let loss = loss.ok_or_else(|| said!("domain_loss_not_finite", domain = domain.domain))?;
            sum += weight * loss;
            weight_sum += weight;
        }
    }
    if weight_sum <= 0.0 {
        return Err(said!("nothing_scored"));
    }
    Some(sum / weight_sum).filter(|mean| mean.is_finite()).ok_or_else(|| said!("mean_not_finite"))
}

/// Domains with a weight in which nothing was scored: [`mean_loss`] leaves them out.
#[must_use]
pub fn left_out(domains: &[DomainLoss], weights: &[f64]) -> Vec<u32> {
    let scored = |domain: u32| domains.iter().any(|found| found.domain == domain && found.tokens > 0);
    weights.iter().zip(0..).filter(|&(weight, domain)| *weight > 0.0 && !scored(domain)).map(|(_, d)| d).collect()
}

/// The candidate with the lowest loss, the first among equals; one without a finite loss is never chosen.
pub fn lowest<T>(candidates: impl IntoIterator<Item = (T, Option<f64>)>) -> Option<T> {
    let finite = candidates.into_iter().filter_map(|(item, loss)| Some((item, loss.filter(|loss| loss.is_finite())?)));
    finite.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(item, _)| item)
}

/// The held-out documents that were scored, in order: one entry of each list a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// Domain.
    pub domain: Vec<u32>,
    /// Tokens.
    pub tokens: Vec<u32>,
    /// Hash of its group: documents of one group are not independent of each other.
    pub group: Vec<u64>,
    /// Whether it is reported, or calibrates.
    pub reported: Vec<bool>,
}

/// One half of the scored documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// On which is chosen.
    Calibration,
    /// On which is reported.
    Reported,
}

impl Documents {
    /// Loss by domain over one half, out of each document's negative log-likelihood in nats, `[n]`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
    pub fn losses(&self, nats: &[f64], half: Half, domains: u32) -> Vec<DomainLoss> {
        let mut losses: Vec<DomainLoss> =
            (0..domains).map(|domain| DomainLoss { domain, documents: 0, tokens: 0, loss: None }).collect();
        for (i, nats) in nats.iter().enumerate() {
            if self.reported[i] == (half == Half::Reported)
                && let Some(loss) = losses.get_mut(self.domain[i] as usize)
            {
                loss.documents += 1;
                loss.tokens += u64::from(self.tokens[i]);
                loss.loss = Some(loss.loss.unwrap_or(0.0) + nats);
            }
        }
        for loss in &mut losses {
            loss.loss = loss.loss.map(|sum| sum / loss.tokens as f64).filter(|loss| loss.is_finite());
        }
        losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use senmon_protocol::{
        ids::StorageKey,
        job::{ShardRange, ShardResult},
    };

    fn losses(values: &[(u64, Option<f64>)]) -> Vec<DomainLoss> {
        let loss = |(&(tokens, loss), domain): (&(u64, Option<f64>), u32)| DomainLoss {
            domain,
            documents: tokens.min(1),
            tokens,
            loss,
        };
        values.iter().zip(0..).map(loss).collect()
    }

    fn index(tokens: &[(Split, u64)], domains: u32) -> ShardIndex {
        let ranges = tokens.iter().enumerate().map(|(i, &(split, tokens))| ShardRange {
            domain: i as u32 % domains,
            split,
            document_first: 0,
            documents: 1,
            token_first: 0,
            tokens,
        });
        let shard = ShardResult {
            folder: StorageKey::new("s").unwrap(),
            bin_sha256: String::new(),
            idx_sha256: String::new(),
            counts: Default::default(),
            ranges: ranges.collect(),
            held_out_sha256: None,
            range_sha256: Vec::new(),
        };
        ShardIndex { domains, vocab_size: 1, separator_id: 0, bos_id: None, shards: vec![shard] }
    }

    #[test]
    fn domains_weigh_what_the_corpus_holds_of_them() {
        let index = index(&[(Split::HeldOut, 30), (Split::HeldOut, 10), (Split::Train, 100), (Split::Train, 300)], 2);
        assert_eq!(held_out_shares(&index), [0.75, 0.25]);
        assert_eq!(train_shares(&index), [0.25, 0.75]);
        let nothing = self::index(&[(Split::Train, 3)], 2);
        assert_eq!(held_out_shares(&nothing), [0.0, 0.0]);
        // The tokens scored of a domain do not matter: a hundred documents of each are scored, whatever it holds.
        let scored = losses(&[(1, Some(2.0)), (1000, Some(6.0))]);
        assert_eq!(mean_loss(&scored, &held_out_shares(&index)), Ok(3.0));
        assert_eq!(mean_loss(&scored, &alike(2)), Ok(4.0));
    }

    #[test]
    fn a_figure_that_stands_on_nothing_is_absent_with_the_reason() {
        let check = |values: &[(u64, Option<f64>)], weights: &[f64], expect: Result<f64, &str>| {
            assert_eq!(mean_loss(&losses(values), weights).map_err(|why| why.text()), expect.map_err(str::to_owned));
        };
        let nothing = Err("no held-out document was scored");
        check(&[], &[], nothing);
        check(&[(0, None), (0, None)], &[0.5, 0.5], nothing);
        check(&[(5, Some(1.0))], &[0.0], nothing);
        check(&[(5, Some(1.0)), (0, None)], &[0.5, 0.5], Ok(1.0));
        check(&[(5, Some(1.0)), (5, None)], &[0.5, 0.5], Err("the loss on domain 1 is not finite"));
        check(&[(5, Some(f64::NAN))], &[1.0], Err("the loss on domain 0 is not finite"));
        check(&[(5, Some(1.0)), (5, None)], &[1.0, 0.0], Ok(1.0));
        assert_eq!(left_out(&losses(&[(5, Some(1.0)), (0, None), (0, None)]), &[0.5, 0.5, 0.0]), [1]);
    }

    #[test]
    fn what_has_no_finite_loss_is_never_chosen() {
        assert_eq!(lowest([("a", Some(f64::NAN)), ("b", Some(2.0)), ("c", None), ("d", Some(2.0))]), Some("b"));
        assert_eq!(lowest([("a", None), ("b", Some(f64::INFINITY))]), None);
    }

    #[test]
    fn losses_that_are_not_finite_are_absent_and_never_zero() {
        let documents = Documents {
            domain: vec![0, 1, 1, 3],
            tokens: vec![2, 4, 1, 1],
            group: vec![0, 1, 2, 3],
            reported: vec![true, true, false, true],
        };
        let found = documents.losses(&[6.0, f64::NAN, 0.5, f64::INFINITY], Half::Reported, 4);
        let cells: Vec<_> = found.iter().map(|d| (d.documents, d.tokens, d.loss)).collect();
        assert_eq!(cells, [(1, 2, Some(3.0)), (1, 4, None), (0, 0, None), (1, 1, None)]);
        let found = documents.losses(&[6.0, f64::NAN, 0.5, f64::INFINITY], Half::Calibration, 4);
        assert_eq!(found[1].loss, Some(0.5));
    }

    proptest! {
        /// A mean lies between its smallest and largest part, grows with each of them, and is that of the weights alone.
        #[test]
        fn a_mean_is_of_the_weights_alone(
            parts in prop::collection::vec((0.01..1.0_f64, 0.0..9.0_f64, 1_u64..9), 1..9), factor in 0.1..10.0_f64,
        ) {
            let weights: Vec<f64> = parts.iter().map(|part| part.0).collect();
            let scored = losses(&parts.iter().map(|part| (part.2, Some(part.1))).collect::<Vec<_>>());
            let found = mean_loss(&scored, &weights).unwrap();
            let (low, high) = parts.iter().fold((f64::MAX, 0.0_f64), |(l, h), part| (l.min(part.1), h.max(part.1)));
            prop_assert!(found >= low - 1e-9 && found <= high + 1e-9);
            let scaled: Vec<f64> = weights.iter().map(|weight| weight * factor).collect();
            prop_assert!((mean_loss(&scored, &scaled).unwrap() - found).abs() < 1e-9);
        }
    }
}
