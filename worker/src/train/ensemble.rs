//! Several experts used together: probabilities mixed in log space from cached scores, by the router's weights of the
//! text before each token. No model runs here.

use super::{
    context::{JobContext, Place, asked_to_end, ended},
    evaluate::{HeldOut, Scores, held_out, losses},
};
use anyhow::{Context, Result, ensure};
use senmon_corpus::{
    router::{Router, weights},
    shard_set::ShardSet,
    tokenizer::Tokenizer,
};
use senmon_protocol::job::{
    DomainLoss, EndedOutcome, EnsembleJob, EnsembleLine, EnsembleMember, EnsembleResult, Routing, TemperaturePoint,
    TerminationReason,
};
/// Characters of context that the router looks at.
const CONTEXT_CHARS_MAX: usize = 4096;

/// Distances of one stretch of tokens from the members' centres; None where there is no context.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// First token and end.
    pub tokens: std::ops::Range<usize>,
    /// From each member's centre.
    pub distances: Option<Vec<f32>>,
}

/// Runs an ensemble.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &EnsembleJob, place: &Place, context: &dyn JobContext) -> Result<EnsembleResult, EndedOutcome> {
    let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
    let shards = ShardSet::open(place.shard_index(&job.shards)?, &place.storage).map_err(corrupt)?;
    let documents = held_out(&shards, place, &job.held_out).map_err(corrupt)?;
    let members = load_members(job, place).map_err(corrupt)?;
    let stretches = match job.routing {
        Routing::Uniform => vec![Stretch { tokens: 0..members[0].logprobs.len(), distances: None }],
        Routing::Router => route_job(job, place, &documents).map_err(corrupt)?,
    };
    let domains = shards.index().domains;
    let mut lines = Vec::new();
    for (&top_k, done) in job.top_k.iter().zip(0_u64..) {
        if let Some(end) = asked_to_end(context.command()) {
            return Err(end);
        }
        lines.push(line(&members, &stretches, job, top_k, domains));
        context.progress(done + 1, job.top_k.len() as u64, 0.0);
    }
    Ok(EnsembleResult { lines })
}

fn load_members(job: &EnsembleJob, place: &Place) -> Result<Vec<Scores>> {
    let members: Vec<Scores> = job
        .members
        .iter()
        .map(|member| Scores::load(&place.path(&member.scores), &member.sha256))
        .collect::<Result<_>>()?;
    let first = members.first().context("an ensemble needs at least one member")?;
    for (scores, member) in members.iter().zip(&job.members) {
        let same = scores.domain == first.domain && scores.tokens == first.tokens && scores.reported == first.reported;
        ensure!(same, "the scores of {} are of other documents than those of {}", member.branch, job.members[0].branch);
    }
    Ok(members)
}

/// Distances of a job's members.
fn route_job(job: &EnsembleJob, place: &Place, documents: &[HeldOut]) -> Result<Vec<Stretch>> {
    let (router, _) = Router::load(&place.path(&job.router))?;
    let tokenizer = Tokenizer::parse(&std::fs::read(place.path(&job.tokenizer))?)?;
    let centre = |member: &EnsembleMember| member.domain.map(|d| d as usize).context("a routed member needs a domain");
    let centres: Vec<usize> = job.members.iter().map(centre).collect::<Result<_>>()?;
    route(&router, &tokenizer, &centres, documents, job.route_every_tokens)
}

/// Distances from `centres` for every stretch of `every` tokens of every document, from the text before it.
///
/// # Errors
/// When the tokenizer does not know a token.
pub fn route(
    router: &Router,
    tokenizer: &Tokenizer,
    centres: &[usize],
    documents: &[impl AsRef<[u32]>],
    every: u32,
) -> Result<Vec<Stretch>> {
    let every = every.max(1) as usize;
    let mut stretches = Vec::new();
    let mut first = 0;
    for document in documents {
        let tokens = document.as_ref();
        for start in (0..tokens.len()).step_by(every) {
            let text = tokenizer.decode(&tokens[..start])?;
            let skipped = text.chars().count().saturating_sub(CONTEXT_CHARS_MAX);
            let recent: String = text.chars().skip(skipped).collect();
            let distances = router.distances(&recent).map(|all| centres.iter().map(|&centre| all[centre]).collect());
            let end = (start + every).min(tokens.len());
            stretches.push(Stretch { tokens: first + start..first + end, distances });
        }
        first += tokens.len();
    }
    Ok(stretches)
}

fn line(members: &[Scores], stretches: &[Stretch], job: &EnsembleJob, top_k: u32, domains: u32) -> EnsembleLine {
    let logprobs: Vec<&[f32]> = members.iter().map(|member| member.logprobs.as_slice()).collect();
    let at = |temperature: f64| mix(&logprobs, logprobs[0].len(), stretches, top_k as usize, temperature);
    if job.routing == Routing::Uniform {
        let mixed = at(1.0);
        return EnsembleLine {
            top_k,
            temperature: None,
            domains: losses(&members[0], domains, |token| mixed[token], true),
            curve: Vec::new(),
        };
    }
    let curve: Vec<TemperaturePoint> = job
        .temperatures
        .iter()
        .map(|&temperature| {
            let mixed = at(temperature);
            TemperaturePoint { temperature, loss: mean(&losses(&members[0], domains, |token| mixed[token], false)) }
        })
        .collect();
    let best = curve.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).map_or(1.0, |point| point.temperature);
    let mixed = at(best);
    EnsembleLine {
        top_k,
        temperature: Some(best),
        domains: losses(&members[0], domains, |token| mixed[token], true),
        curve,
    }
}

#[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
fn mean(domains: &[DomainLoss]) -> f64 {
    let tokens: u64 = domains.iter().map(|domain| domain.tokens).sum();
    domains.iter().map(|domain| domain.loss * domain.tokens as f64).sum::<f64>() / tokens.max(1) as f64
}

/// Log-probability of each of `total` tokens under the mixture: `log Σ w_j p_j`, by the largest term. `members` are the
/// experts' log-probabilities; those without a weight are not looked at.
#[must_use]
pub fn mix(members: &[&[f32]], total: usize, stretches: &[Stretch], top_k: usize, temperature: f64) -> Vec<f64> {
    let mut mixed = vec![0.0; total];
    for stretch in stretches {
        let weights = weights(stretch.distances.as_deref(), members.len(), top_k, temperature);
        let logs: Vec<(usize, f64)> =
            weights.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(j, w)| (j, w.ln())).collect();
        for token in stretch.tokens.clone() {
            let term = |&(j, log): &(usize, f64)| log + f64::from(members[j][token]);
            let largest = logs.iter().map(term).fold(f64::NEG_INFINITY, f64::max);
            mixed[token] = largest + logs.iter().map(|entry| (term(entry) - largest).exp()).sum::<f64>().ln();
        }
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_mixed_and_not_logits() {
        let members: [&[f32]; 2] = [&[0.5_f32.ln(), 0.2_f32.ln()], &[0.1_f32.ln(), 0.4_f32.ln()]];
        let stretches =
            [Stretch { tokens: 0..1, distances: None }, Stretch { tokens: 1..2, distances: Some(vec![0.5, 1.0]) }];
        let check = |top_k, expect: [f64; 2]| {
            for (found, expect) in mix(&members, 2, &stretches, top_k, 0.5).iter().zip(expect) {
                assert!((found.exp() - expect).abs() < 1e-6, "{} and {expect}", found.exp());
            }
        };
        let far = (-1.5_f64).exp();
        check(2, [0.3, (0.2 + far * 0.4) / (1.0 + far)]);
        check(1, [0.3, 0.2]);
    }

    #[test]
    fn an_ensemble_of_one_is_that_expert() {
        let mixed = mix(&[&[-1.0, -2.5]], 2, &[Stretch { tokens: 0..2, distances: Some(vec![0.7]) }], 1, 0.1);
        assert!((mixed[0] + 1.0).abs() < 1e-6 && (mixed[1] + 2.5).abs() < 1e-6);
    }
}
