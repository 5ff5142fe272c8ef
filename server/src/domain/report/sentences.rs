//! The finding in a sentence or two, and how it was measured.

use super::input::Input;
use crate::domain::held_out;
use senmon_corpus::compare::left_out;
use senmon_protocol::{
    report::{Basis, Contestant, Difference},
    spec::SeedSpec,
};

/// The finding: the routed ensemble as it was chosen on the calibration half, against dense, on the reported half.
pub fn headline(contestants: &[Contestant], missing: &[(String, String)]) -> String {
    let find = |key: &str| contestants.iter().find(|contestant| contestant.key == key);
    let mut text = match (find("ensemble"), find("dense")) {
        (Some(ensemble), dense) => against(ensemble, dense),
        (None, _) if contestants.iter().any(|contestant| contestant.key.starts_with("ensemble_")) => {
            "The experts were trained, but no ensemble of them has a finite loss to choose it by.".to_owned()
        }
        (None, _) if find("best_expert").is_some() => "The experts were trained, but not mixed.".to_owned(),
        (None, _) => "No experts were compared, so there is no ensemble to report.".to_owned(),
    };
    if !missing.is_empty() {
        text.push_str(&format!(" {} of the planned branches did not finish.", missing.len()));
    }
    text
}

fn against(ensemble: &Contestant, dense: Option<&Contestant>) -> String {
    let top_k = ensemble.top_k.unwrap_or(0);
    let Some(perplexity) = ensemble.perplexity else {
        let why = ensemble.absent.first().map_or("", String::as_str);
        return format!("The routed ensemble (top {top_k}) has no figure: {why}.");
    };
    let reaches = format!("The routed ensemble (top {top_k}) reaches perplexity {perplexity:.2} on held-out text");
    let Some(dense) = dense else { return format!("{reaches}; there is no dense control to compare it with.") };
    let (Some(dense_perplexity), Some(percent)) = (dense.perplexity, ensemble.vs_dense_percent) else {
        let why = dense.absent.first().map_or("", String::as_str);
        return format!("{reaches}; the dense model has no figure: {why}.");
    };
    let mut text = format!("{reaches}; a dense model with the same tokens {dense_perplexity:.2}: ");
    match &ensemble.vs_dense {
        Some(difference) => text.push_str(&judged(difference)),
        None => text.push_str(&format!("{}, how surely is not known", better(percent))),
    }
    text.push('.');
    if let Some(difference) = &ensemble.vs_dense_macro {
        text.push_str(&format!(" With every domain alike: {}.", judged(difference)));
    }
    if let Some(spread) = &ensemble.spread
        && let (Some(mean), Some(low), Some(high)) =
            (spread.vs_dense_percent_mean, spread.vs_dense_percent_min, spread.vs_dense_percent_max)
    {
        let (mean, low, high) = (better(mean), better(low), better(high));
        text.push_str(&format!(" Over {} trainings with other seeds: {mean} ({low} to {high}).", spread.repeats));
    }
    text
}

/// A difference in words, with its interval.
fn judged(difference: &Difference) -> String {
    let Difference { percent, percent_low, percent_high, .. } = *difference;
    let (found, low, high) = (better(percent), better(percent_low), better(percent_high));
    if difference.is_shown() {
        format!("{found} (95 % interval: {low} to {high})")
    } else {
        format!("no difference that these documents can show ({found}; 95 % interval: {low} to {high})")
    }
}

fn better(percent: f64) -> String {
    if percent < 0.0 { format!("{:.1} % better", -percent) } else { format!("{percent:.1} % worse") }
}

/// How it was measured, a sentence each. `weights` are the domains' in the headline.
pub fn method(input: &Input, basis: &Basis, weights: &[f64]) -> Vec<String> {
    let (evaluation, data) = (&input.spec.evaluation, &input.spec.data);
    let mut method = vec![
        format!(
            "Up to {} held-out documents of each domain were scored, those with the smallest hashes of their ids, each up to {} tokens. {} of them ({} tokens) are reported; on the other {} ({} tokens) everything was chosen that is chosen: temperature, number of experts, the best single expert.",
            evaluation.documents_per_domain,
            evaluation.tokens_per_document_max,
            basis.documents_reported,
            basis.tokens_reported,
            basis.documents_calibration,
            basis.tokens_calibration,
        ),
        format!(
            "Windows of {} tokens without overlap, each document opened by the separator; perplexity per token. Overall figures weigh each domain by its share of the corpus's held-out tokens; the macro figures weigh every domain alike.",
            data.sequence_length
        ),
        format!(
            "The router sees only the text before a token, every {} tokens; where it knows nothing of that text, experts weigh as their domains' shares of the training tokens, and no more of them run than otherwise.",
            evaluation.route_every_tokens
        ),
        "Probabilities are mixed, not logits.".to_owned(),
    ];
    method.extend(held_out::sentences(&input.held_out, data.held_out_fraction));
    if basis.resamples > 0 {
        method.push(format!(
            "Intervals hold the middle 95 % of {} resamples of the reported documents, drawn domain by domain, the same draw for every contestant. They speak of other documents, not of other seeds.",
            basis.resamples
        ));
    }
    let seeds = match basis.repeats {
        0 | 1 => "each was trained once, so how another seed would have come out is not known".to_owned(),
        n => format!(
            "each was trained {n} times with other seeds; the table is of the first, with mean and range beside"
        ),
    };
    method.push(format!("Dense and the random-split experts have the experts' total tokens and settings; {seeds}."));
    method.push(
        "Every branch reads on where its parent stood; no window comes again on a lineage before all others of its domain have come."
            .to_owned(),
    );
    if matches!(input.spec.seed, SeedSpec::Checkpoint(_)) {
        method.push("The seed comes from outside: what it read is not known and counts as nothing read.".to_owned());
    }
    method.push(
        "Costs are of the training beyond the seed, for the seed its own; an hour is of one accelerator, or of one CPU slot where no accelerator was used."
            .to_owned(),
    );
    if let Some(scored) = input.matrix.first() {
        let without = left_out(&scored.row.domains, weights);
        if !without.is_empty() {
            let names: Vec<String> = without.iter().map(u32::to_string).collect();
            method.push(format!("Without a reported document, and so left out: domain {}.", names.join(", ")));
        }
    }
    method.extend(input.missing.iter().map(|(branch, why)| format!("{branch} is missing: {why}.")));
    method.extend(input.goodput.clone());
    method
}
