//! The finding in a sentence or two, and how it was measured.

use super::input::Input;
use crate::domain::held_out;
use senmon_corpus::compare::left_out;
use senmon_protocol::{
    report::{Basis, Contestant, Difference},
    said,
    said::{Said, SaidValue, decimal},
    spec::SeedSpec,
};

/// The finding: the routed ensemble as it was chosen on the calibration half, against dense, on the reported half.
pub fn headline(contestants: &[Contestant], missing: &[(String, SaidValue)]) -> Said {
    let find = |key: &str| contestants.iter().find(|contestant| contestant.key == key);
    let mut all = match (find("ensemble"), find("dense")) {
        (Some(ensemble), dense) => against(ensemble, dense),
        (None, _) if contestants.iter().any(|contestant| contestant.key.starts_with("ensemble_")) => {
            vec![said!("report_unchosen")]
        }
        (None, _) if find("best_expert").is_some() => vec![said!("report_not_mixed")],
        (None, _) => vec![said!("report_nothing")],
    };
    if !missing.is_empty() {
        all.push(said!("report_unfinished", count = missing.len()));
    }
    said!("sentences", all = all)
}

fn against(ensemble: &Contestant, dense: Option<&Contestant>) -> Vec<Said> {
    let top_k = ensemble.top_k.unwrap_or(0);
    let why = |line: &Contestant| line.absent_said.first().cloned().unwrap_or_else(|| Said::verbatim(""));
    let Some(perplexity) = ensemble.perplexity.map(|perplexity| decimal(perplexity, 2)) else {
        return vec![said!("report_no_figure", top_k = top_k, why = why(ensemble))];
    };
    let Some(dense) = dense else { return vec![said!("report_no_dense", top_k = top_k, perplexity = perplexity)] };
    let (Some(dense_perplexity), Some(percent)) = (dense.perplexity, ensemble.vs_dense_percent) else {
        let why = why(dense);
        return vec![said!("report_dense_no_figure", top_k = top_k, perplexity = perplexity, why = why)];
    };
    let difference = match &ensemble.vs_dense {
        Some(difference) => judged(difference),
        None => said!("difference_unsure", found = better(percent)),
    };
    let dense = decimal(dense_perplexity, 2);
    let first =
        said!("report_against_dense", top_k = top_k, perplexity = perplexity, dense = dense, difference = difference);
    let mut all = vec![first];
    all.extend(ensemble.vs_dense_macro.as_ref().map(|found| said!("report_alike", difference = judged(found))));
    if let Some(spread) = &ensemble.spread
        && let (Some(mean), Some(low), Some(high)) =
            (spread.vs_dense_percent_mean, spread.vs_dense_percent_min, spread.vs_dense_percent_max)
    {
        let (mean, low, high) = (better(mean), better(low), better(high));
        all.push(said!("report_repeats", repeats = spread.repeats, mean = mean, low = low, high = high));
    }
    all
}

/// A difference in words, with its interval.
fn judged(difference: &Difference) -> Said {
    let Difference { percent, percent_low, percent_high, .. } = *difference;
    let (found, low, high) = (better(percent), better(percent_low), better(percent_high));
    if difference.is_shown() {
        said!("difference_shown", found = found, low = low, high = high)
    } else {
        said!("difference_not_shown", found = found, low = low, high = high)
    }
}

fn better(percent: f64) -> Said {
    if percent < 0.0 {
        said!("percent_better", percent = decimal(-percent, 1))
    } else {
        said!("percent_worse", percent = decimal(percent, 1))
    }
}

/// How it was measured, a sentence each. `weights` are the domains' in the headline.
pub fn method(input: &Input, basis: &Basis, weights: &[f64]) -> Vec<Said> {
    let (evaluation, data) = (&input.spec.evaluation, &input.spec.data);
    let mut method = vec![
        said!(
            "method_documents",
            documents = evaluation.documents_per_domain,
            tokens = evaluation.tokens_per_document_max,
            reported = basis.documents_reported,
            reported_tokens = basis.tokens_reported,
            calibration = basis.documents_calibration,
            calibration_tokens = basis.tokens_calibration,
        ),
        said!("method_windows", length = data.sequence_length),
        said!("method_router", every = evaluation.route_every_tokens),
        said!("method_mixing"),
    ];
    method.extend(held_out::sentences(&input.held_out, data.held_out_fraction));
    if basis.resamples > 0 {
        method.push(said!("method_resamples", resamples = basis.resamples));
    }
    let seeds = match basis.repeats {
        0 | 1 => said!("seeds_once"),
        n => said!("seeds_repeated", repeats = n),
    };
    method.push(said!("method_controls", seeds = seeds));
    method.push(said!("method_order"));
    if matches!(input.spec.seed, SeedSpec::Checkpoint(_)) {
        method.push(said!("method_seed_from_outside"));
    }
    method.push(said!("method_costs"));
    if let Some(scored) = input.matrix.first() {
        let without: Vec<u64> = left_out(&scored.row.domains, weights).into_iter().map(u64::from).collect();
        if !without.is_empty() {
            method.push(said!("method_domains_left_out", domains = without));
        }
    }
    let missing = |(branch, why): &(String, SaidValue)| said!("method_missing", branch = branch, why = why.clone());
    method.extend(input.missing.iter().map(missing));
    method.extend(input.goodput.clone());
    method
}
