//! New text scored by a set of experts: the router looks first, and each expert runs only where it has a weight.

use super::{
    checkpoint::from_host,
    context::JobContext,
    device,
    evaluate::{BATCH_WINDOWS, Window, run_windows, telling, windows},
    hub,
    mix::{Mixing, mix},
    model::Model,
    route::{Sight, Stretch, route},
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;
use senmon_corpus::{
    manifest::verify,
    router::{Router, weights},
    tokenizer::Tokenizer,
};
use senmon_protocol::{ensemble::Ensemble, spec::Precision};
use serde::Serialize;
use std::path::Path;
use tch::Kind;

/// How texts are scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manner {
    /// Experts mixed for a token.
    pub top_k: u32,
    /// None takes the calibrated one.
    pub temperature: Option<f64>,
    /// Number format of the experts' computation.
    pub precision: Precision,
}

/// What scoring found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    /// Experts mixed for a token.
    pub top_k: u32,
    /// Temperature of the router.
    pub temperature: f64,
    /// Tokens scored.
    pub tokens: u64,
    /// Mean negative log-likelihood, nats per token; absent where it is not finite.
    pub loss: Option<f64>,
    /// Its exponential.
    pub perplexity: Option<f64>,
    /// Why a figure is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// Tokens that experts read, over tokens times experts: 1 where every expert reads everything.
    pub share_run: f64,
    /// Tokens that each expert read, by branch.
    pub tokens_run: Vec<(String, u64)>,
    /// Each text, in order.
    pub texts: Vec<ScoredText>,
}

/// One text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredText {
    /// Tokens, the separator at its end included.
    pub tokens: u64,
    /// Nats per token; absent where it is not finite.
    pub loss: Option<f64>,
}

/// Scores texts with the experts of `ensemble`, whose folders lie below `storage`. Experts are loaded one after the
/// other.
///
/// A token needs what its window holds before it, so an expert reads a window up to the last token that it has a
/// weight for, and a window without such a token not at all. Where the router knows nothing of the text yet (its
/// beginning), the experts with the largest prior have the weight.
///
/// # Errors
/// When an artefact is missing or altered, or the ensemble has no such number of experts.
pub fn score(
    ensemble: &Ensemble,
    storage: &Path,
    texts: &[&str],
    manner: Manner,
    device: &str,
    context: &dyn JobContext,
) -> Result<Scored> {
    let device = device::open(device).map_err(|error| anyhow!(error))?;
    let experts = &ensemble.experts;
    ensure!(!experts.is_empty(), "the ensemble has no experts");
    let top_k = manner.top_k as usize;
    ensure!((1..=experts.len()).contains(&top_k), "top_k: found {top_k}, the ensemble has {} experts", experts.len());
    let temperature = temperature(ensemble, manner)?;
    let folder = |expert: usize| storage.join(experts[expert].checkpoint.folder.as_str());
    let tokenizer = Tokenizer::load(&folder(0).join("tokenizer.json"), &ensemble.separator, ensemble.bos.as_deref())?;
    let (router, _) = Router::load(&storage.join(ensemble.router.as_str()))?;
    let documents: Vec<Vec<u32>> = texts.par_iter().map(|text| tokenizer.encode(text)).collect::<Result<_>>()?;
    let centres: Vec<usize> = experts.iter().map(|expert| expert.domain as usize).collect();
    if let Some(unknown) = centres.iter().find(|centre| **centre >= router.domains()) {
        bail!("domain {unknown}: the router has {} domains", router.domains());
    }
    let sight = Sight { router: &router, tokenizer: &tokenizer, centres: &centres, every: ensemble.route_every_tokens };
    let stretches = route(&sight, &documents, &mut || Ok(())).map_err(|end| anyhow!(end.message))?;
    let prior: Vec<f64> = experts.iter().map(|expert| expert.prior).collect();
    let total: usize = documents.iter().map(Vec::len).sum();
    let mut logprobs = Vec::with_capacity(experts.len());
    let mut tokens_run = Vec::with_capacity(experts.len());
    for (number, expert) in experts.iter().enumerate() {
        let needed =
            needed(&stretches, total, |distances| weights(distances, &prior, top_k, temperature)[number] > 0.0);
        let all = windows(&documents, tokenizer.opener_id(), ensemble.sequence_length);
        let read: Vec<Window> = all.into_iter().filter_map(|window| up_to_last(window, &needed)).collect();
        tokens_run.push((expert.branch.clone(), read.iter().map(|window| window.inputs.len() as u64).sum()));
        if read.is_empty() {
            logprobs.push(Vec::new());
            continue;
        }
        verify(&folder(number), &expert.checkpoint.manifest_sha256).with_context(|| expert.branch.clone())?;
        let (spec, weights) = hub::load_model(&folder(number)).with_context(|| expert.branch.clone())?;
        let kind = if manner.precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
        let model = Model::new(spec, &from_host(&weights), device, kind, ensemble.sequence_length.into(), false);
        let found = run_windows(&model, device, read, total, BATCH_WINDOWS, &mut telling(context));
        logprobs.push(found.map_err(|end| anyhow!(end.message))?);
    }
    let members: Vec<&[f32]> = logprobs.iter().map(Vec::as_slice).collect();
    let mut mixed = Vec::with_capacity(total);
    mix(&members, &stretches, Mixing { prior: &prior, top_k, temperature }, |_, logprob| mixed.push(logprob));
    Ok(sum_up(&mixed, &documents, tokens_run, manner, temperature))
}

fn temperature(ensemble: &Ensemble, manner: Manner) -> Result<f64> {
    let calibrated = ensemble.temperatures.iter().find(|found| found.top_k == manner.top_k);
    let known: Vec<u32> = ensemble.temperatures.iter().map(|found| found.top_k).collect();
    manner.temperature.or(calibrated.map(|found| found.temperature)).with_context(|| {
        format!("top_k: {} has no calibrated temperature (there are {known:?}); give one", manner.top_k)
    })
}

/// Which tokens an expert has a weight for.
fn needed(stretches: &[Stretch], total: usize, has_weight: impl Fn(Option<&[f32]>) -> bool) -> Vec<bool> {
    let mut needed = vec![false; total];
    for stretch in stretches.iter().filter(|stretch| has_weight(stretch.distances.as_deref())) {
        needed[stretch.tokens.clone()].fill(true);
    }
    needed
}

/// The window cut behind its last needed token; None where there is none.
fn up_to_last(mut window: Window, needed: &[bool]) -> Option<Window> {
    let range = window.first..window.first + window.inputs.len();
    let last = needed[range].iter().rposition(|needed| *needed)?;
    window.inputs.truncate(last + 1);
    window.targets.truncate(last + 1);
    Some(window)
}

/// Nats per token; None where that is not finite, or there is no token.
#[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
fn mean_loss(logprobs: &[f64]) -> Option<f64> {
    Some(-logprobs.iter().sum::<f64>() / logprobs.len() as f64).filter(|loss| loss.is_finite())
}

#[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
fn sum_up(
    mixed: &[f64],
    documents: &[Vec<u32>],
    tokens_run: Vec<(String, u64)>,
    manner: Manner,
    temperature: f64,
) -> Scored {
    let mut rest = mixed;
    let texts: Vec<ScoredText> = documents
        .iter()
        .map(|document| {
            let (own, behind) = rest.split_at(document.len());
            rest = behind;
            ScoredText { tokens: own.len() as u64, loss: mean_loss(own) }
        })
        .collect();
    let loss = mean_loss(mixed);
    let spoilt = texts.iter().filter(|text| text.loss.is_none()).count();
    let absent = (loss.is_none()).then(|| format!("the loss of {spoilt} of {} texts is not finite", texts.len()));
    let run: u64 = tokens_run.iter().map(|(_, tokens)| tokens).sum();
    Scored {
        top_k: manner.top_k,
        temperature,
        tokens: mixed.len() as u64,
        loss,
        perplexity: loss.map(f64::exp).filter(|perplexity| perplexity.is_finite()),
        absent,
        share_run: run as f64 / (mixed.len() * tokens_run.len()).max(1) as f64,
        tokens_run,
        texts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every needed token is read, with all that its window holds before it, and nothing behind the last one.
        #[test]
        fn windows_are_read_as_far_as_needed(
            length in 1_u32..9,
            documents in proptest::collection::vec(proptest::collection::vec(1_u32..50, 1..30), 1..5),
            pattern in proptest::collection::vec(any::<bool>(), 150),
        ) {
            let total: usize = documents.iter().map(Vec::len).sum();
            let needed = &pattern[..total];
            let all = windows(&documents, 0, length);
            let read: Vec<Window> = all.iter().cloned().filter_map(|window| up_to_last(window, needed)).collect();
            let covered = |token: usize| read.iter().any(|w| (w.first..w.first + w.inputs.len()).contains(&token));
            for (token, needed) in needed.iter().enumerate() {
                prop_assert!(!needed || covered(token));
            }
            for window in &read {
                prop_assert!(needed[window.first + window.inputs.len() - 1]);
                let whole = all.iter().find(|whole| whole.first == window.first).unwrap();
                prop_assert_eq!(&whole.inputs[..window.inputs.len()], &window.inputs[..]);
            }
        }
    }
}
