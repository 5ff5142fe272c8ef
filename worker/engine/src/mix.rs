//! Probabilities of several experts mixed in log space, by the router's weights of the text before each token.
//!
//! Never mixes logits, and never looks at an expert without a weight.

use super::route::Stretch;
use senmon_corpus::router::weights;

/// How experts are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixing<'a> {
    /// What is believed of each expert where nothing is known of the text.
    pub prior: &'a [f64],
    /// Experts that run for a token.
    pub top_k: usize,
    /// Temperature.
    pub temperature: f64,
}

/// Gives the log-probability of each token under the mixture, `log Σ w_j p_j`, in order. `members` are the experts'
/// log-probabilities; a member without a weight may be empty there.
pub fn mix(members: &[&[f32]], stretches: &[Stretch], mixing: Mixing, mut give: impl FnMut(usize, f64)) {
    for stretch in stretches {
        let weights = weights(stretch.distances.as_deref(), mixing.prior, mixing.top_k, mixing.temperature);
        let logs: Vec<(usize, f64)> =
            weights.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(j, w)| (j, w.ln())).collect();
        for token in stretch.tokens.clone() {
            give(token, log_sum(&logs, |j| f64::from(members[j][token])));
        }
    }
}

/// `log Σ exp(log_j + value_j)` by the largest term; not a number where a term is none.
fn log_sum(logs: &[(usize, f64)], value: impl Fn(usize) -> f64) -> f64 {
    let term = |&(j, log): &(usize, f64)| log + value(j);
    let largest = logs.iter().map(term).fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        // All impossible, or none of them a number: then their sum says which.
        return logs.iter().map(term).sum();
    }
    largest + logs.iter().map(|entry| (term(entry) - largest).exp()).sum::<f64>().ln()
}

/// Negative log-likelihood of each of `documents` documents under the mixture, nats. `go_on` is asked after each.
///
/// # Errors
/// What `go_on` says.
pub fn document_nats<E>(
    members: &[&[f32]],
    stretches: &[Stretch],
    documents: usize,
    mixing: Mixing,
    go_on: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Vec<f64>, E> {
    let mut nats = vec![0.0; documents];
    for own in stretches.chunk_by(|a, b| a.document == b.document) {
        let sum = &mut nats[own[0].document];
        mix(members, own, mixing, |_, logprob| *sum -= logprob);
        go_on()?;
    }
    Ok(nats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(members: &[&[f32]], stretches: &[Stretch], mixing: Mixing) -> Vec<f64> {
        let mut mixed = Vec::new();
        mix(members, stretches, mixing, |token, logprob| {
            assert_eq!(token, mixed.len());
            mixed.push(logprob);
        });
        mixed
    }

    fn stretch(document: usize, tokens: std::ops::Range<usize>, distances: Option<Vec<f32>>) -> Stretch {
        Stretch { document, tokens, distances }
    }

    #[test]
    fn probabilities_are_mixed_and_not_logits() {
        let members: [&[f32]; 2] = [&[0.5_f32.ln(), 0.2_f32.ln()], &[0.1_f32.ln(), 0.4_f32.ln()]];
        let stretches = [stretch(0, 0..1, None), stretch(0, 1..2, Some(vec![0.5, 1.0]))];
        let check = |top_k, expect: [f64; 2]| {
            let mixing = Mixing { prior: &[0.25, 0.75], top_k, temperature: 0.5 };
            for (found, expect) in all(&members, &stretches, mixing).iter().zip(expect) {
                assert!((found.exp() - expect).abs() < 1e-6, "{} and {expect}", found.exp());
            }
        };
        let far = (-1.5_f64).exp();
        check(2, [0.25 * 0.5 + 0.75 * 0.1, (0.2 + far * 0.4) / (1.0 + far)]);
        // Top 1 is one expert, at the first token the one with the largest prior.
        check(1, [0.1, 0.2]);
    }

    #[test]
    fn an_ensemble_of_one_is_that_expert() {
        let mixing = Mixing { prior: &[1.0], top_k: 1, temperature: 0.1 };
        let mixed = all(&[&[-1.0, -2.5]], &[stretch(0, 0..2, Some(vec![0.7]))], mixing);
        assert!((mixed[0] + 1.0).abs() < 1e-6 && (mixed[1] + 2.5).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_number_stays_none_and_what_is_impossible_is_infinite() {
        let mixing = Mixing { prior: &[0.5, 0.5], top_k: 2, temperature: 0.1 };
        let check = |a: f32, b: f32| all(&[&[a], &[b]], &[stretch(0, 0..1, None)], mixing)[0];
        assert!(check(f32::NAN, -1.0).is_nan() && check(f32::NAN, f32::NAN).is_nan());
        assert!(check(f32::NEG_INFINITY, f32::NEG_INFINITY) == f64::NEG_INFINITY);
        assert!(check(f32::NEG_INFINITY, f32::NAN).is_nan());
        assert!((check(f32::NEG_INFINITY, -1.0) - (-1.0 - 2.0_f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn a_document_is_the_sum_of_its_tokens() {
        let stretches = [stretch(0, 0..2, None), stretch(1, 2..3, None), stretch(1, 3..4, Some(vec![0.1]))];
        let mixing = Mixing { prior: &[1.0], top_k: 1, temperature: 0.1 };
        let mut asked = 0;
        let found = document_nats(&[&[-1.0, -2.0, -3.0, -4.0]], &stretches, 3, mixing, &mut || {
            asked += 1;
            Ok::<(), ()>(())
        });
        assert_eq!((found, asked), (Ok(vec![3.0, 7.0, 0.0]), 2));
        assert_eq!(document_nats(&[&[0.0; 4]], &stretches, 2, mixing, &mut || Err("stop")), Err("stop"));
    }
}
