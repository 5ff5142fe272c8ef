//! The report out of rows: who won, by how much, where the chains forgot.

use crate::domain::{
    advance::{ENSEMBLE, RANDOM_ENSEMBLE},
    held_out::sentences,
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    clustering::{ClusteringQuality, DomainView},
    ids::{EvaluationId, ExperimentId},
    job::{DomainLoss, EnsembleLine, EnsembleResult, ShardIndex, Split},
    report::{
        BranchCost, ChainLink, ChainReport, Contestant, Forgetting, HeldOutSummary, MatrixRow, Report, ReportDomain,
        RoutingCurve,
    },
    spec::{BranchGroup, ExperimentSpec},
    view::BranchRole,
};

/// Everything that a report is made of.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Its file.
    pub spec: &'a ExperimentSpec,
    /// Now, by the database.
    pub now: DateTime<Utc>,
    /// Quality of the clustering.
    pub quality: ClusteringQuality,
    /// The domains.
    pub domains: &'a [DomainView],
    /// The shards.
    pub index: &'a ShardIndex,
    /// One row a scored branch, in the plan's order.
    pub matrix: Vec<MatrixRow>,
    /// The ensembles by title.
    pub ensembles: Vec<(EvaluationId, String, EnsembleResult)>,
    /// Costs, in the plan's order.
    pub costs: Vec<BranchCost>,
    /// Branches that did not finish, with the reason.
    pub missing: Vec<(String, String)>,
    /// What became of the held-out documents.
    pub held_out: HeldOutSummary,
    /// Where the time went, in one sentence.
    pub goodput: Option<String>,
}

/// Assembles the report.
#[must_use]
pub fn assemble(input: Input) -> Report {
    let mut contestants = Vec::new();
    for (key, title, role) in
        [("seed", "Seed, untouched", BranchRole::Seed), ("dense", "Dense, same tokens", BranchRole::Dense)]
    {
        contestants.extend(input.matrix.iter().find(|row| row.role == role).map(|row| single(key, title, row)));
    }
    let ensemble = |title: &str| input.ensembles.iter().find(|(_, name, _)| name == title);
    if let Some((id, _, result)) = ensemble(RANDOM_ENSEMBLE)
        && let Some(line) = result.lines.last()
    {
        contestants.push(mixed("random_ensemble", "Random-split experts, uniform", *id, line));
    }
    let experts = input.matrix.iter().filter(|row| row.role == BranchRole::Expert);
    if let Some(best) = experts.min_by(|a, b| overall(&a.domains).total_cmp(&overall(&b.domains))) {
        contestants.push(single("best_expert", &format!("Best single expert ({})", best.branch), best));
    }
    contestants.extend(
        input
            .matrix
            .iter()
            .find(|row| row.role == BranchRole::Average)
            .map(|row| single("average", "Average of the experts' weights", row)),
    );
    let mut routing = Vec::new();
    if let Some((id, _, result)) = ensemble(ENSEMBLE) {
        let experts = result.lines.iter().map(|line| line.top_k).max().unwrap_or(0);
        for line in &result.lines {
            let (key, title) = if line.top_k == experts {
                ("ensemble_all".to_owned(), "Routed ensemble, all experts".to_owned())
            } else {
                (format!("ensemble_top_{}", line.top_k), format!("Routed ensemble, top {}", line.top_k))
            };
            contestants.push(mixed(&key, &title, *id, line));
            if let Some(temperature) = line.temperature {
                routing.push(RoutingCurve { top_k: line.top_k, temperature, curve: line.curve.clone() });
            }
        }
    }
    let dense = contestants.iter().find(|c| c.key == "dense").map(|c| c.perplexity);
    for contestant in &mut contestants {
        contestant.vs_dense_percent =
            dense.filter(|_| contestant.key != "dense").map(|dense| (contestant.perplexity / dense - 1.0) * 100.0);
    }
    Report {
        experiment_id: input.experiment_id,
        name: input.spec.name.clone(),
        created_at: input.now,
        headline: headline(&contestants, &input.missing),
        domains: domains(input.domains, input.index),
        clustering: input.quality,
        routing,
        chains: chains(input.spec, &input.matrix, input.domains),
        method: method(input.spec, &input.missing, &input.held_out).into_iter().chain(input.goodput).collect(),
        held_out: Some(input.held_out),
        contestants,
        matrix: input.matrix,
        costs: input.costs,
    }
}

/// The routed ensemble's best line against dense, in percent. Negative is better.
#[must_use]
pub fn ensemble_vs_dense_percent(report: &Report) -> Option<f64> {
    best_ensemble(&report.contestants)?.vs_dense_percent
}

fn best_ensemble(contestants: &[Contestant]) -> Option<&Contestant> {
    contestants.iter().filter(|c| c.key.starts_with("ensemble_")).min_by(|a, b| a.loss.total_cmp(&b.loss))
}

/// Mean over all tokens.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
pub fn overall(domains: &[DomainLoss]) -> f64 {
    let tokens: u64 = domains.iter().map(|domain| domain.tokens).sum();
    domains.iter().map(|domain| domain.loss * domain.tokens as f64).sum::<f64>() / tokens.max(1) as f64
}

fn single(key: &str, title: &str, row: &MatrixRow) -> Contestant {
    let loss = overall(&row.domains);
    Contestant {
        key: key.to_owned(),
        title: title.to_owned(),
        perplexity: loss.exp(),
        loss,
        vs_dense_percent: None,
        temperature: None,
        top_k: None,
        domains: row.domains.clone(),
        evaluation_id: row.evaluation_id,
        checkpoint_id: Some(row.checkpoint_id),
        branch_id: Some(row.branch_id),
    }
}

fn mixed(key: &str, title: &str, id: EvaluationId, line: &EnsembleLine) -> Contestant {
    let loss = overall(&line.domains);
    Contestant {
        key: key.to_owned(),
        title: title.to_owned(),
        perplexity: loss.exp(),
        loss,
        vs_dense_percent: None,
        temperature: line.temperature,
        top_k: Some(line.top_k),
        domains: line.domains.clone(),
        evaluation_id: id,
        checkpoint_id: None,
        branch_id: None,
    }
}

fn headline(contestants: &[Contestant], missing: &[(String, String)]) -> String {
    let mut text = match (best_ensemble(contestants), contestants.iter().find(|c| c.key == "dense")) {
        (Some(ensemble), Some(dense)) => {
            let percent = (ensemble.perplexity / dense.perplexity - 1.0) * 100.0;
            let verdict =
                if percent < 0.0 { format!("{:.1} % better", -percent) } else { format!("{percent:.1} % worse") };
            format!(
                "The ensemble of experts reaches perplexity {:.2} on held-out text (top {}); a dense model with the same tokens {:.2}: {verdict}.",
                ensemble.perplexity,
                ensemble.top_k.unwrap_or(0),
                dense.perplexity
            )
        }
        (Some(ensemble), None) => format!(
            "The ensemble of experts reaches perplexity {:.2} on held-out text; no dense control was trained.",
            ensemble.perplexity
        ),
        (None, _) => "No experts were trained, so there is no ensemble to compare.".to_owned(),
    };
    if !missing.is_empty() {
        text.push_str(&format!(" {} of the planned branches did not finish.", missing.len()));
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
fn domains(views: &[DomainView], index: &ShardIndex) -> Vec<ReportDomain> {
    let sums = domain_sums(index);
    let all: u64 = sums.iter().map(|sum| sum.tokens).sum();
    views
        .iter()
        .zip(&sums)
        .map(|(view, sum)| ReportDomain {
            index: view.index,
            label: view.label.clone(),
            top_terms: view.top_terms.clone(),
            documents: sum.documents,
            tokens: sum.tokens,
            documents_held_out: sum.held_out,
            share: sum.tokens as f64 / all.max(1) as f64,
        })
        .collect()
}

/// Sums of one domain over all shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DomainSum {
    /// Training tokens.
    pub tokens: u64,
    /// Documents, both splits.
    pub documents: u64,
    /// Held-out documents.
    pub held_out: u64,
}

/// Sums by domain.
#[must_use]
pub fn domain_sums(index: &ShardIndex) -> Vec<DomainSum> {
    let mut sums = vec![DomainSum::default(); index.domains as usize];
    for range in index.shards.iter().flat_map(|shard| &shard.ranges) {
        let sum = &mut sums[range.domain as usize];
        sum.documents += range.documents;
        match range.split {
            Split::Train => sum.tokens += range.tokens,
            Split::HeldOut => sum.held_out += range.documents,
        }
    }
    sums
}

fn chains(spec: &ExperimentSpec, matrix: &[MatrixRow], views: &[DomainView]) -> Vec<ChainReport> {
    let groups = spec.plan.iter().filter_map(|group| match group {
        BranchGroup::Chain(chain) => Some(chain.name.as_str()),
        _ => None,
    });
    groups
        .map(|name| {
            let mut rows: Vec<_> = matrix
                .iter()
                .filter(|row| row.role == BranchRole::Chain)
                .filter_map(|row| Some((row.branch.strip_prefix(name)?.strip_prefix('-')?.parse::<u32>().ok()?, row)))
                .collect();
            rows.sort_by_key(|(link, _)| *link);
            let links: Vec<ChainLink> = rows
                .iter()
                .enumerate()
                .map(|(i, (_, row))| ChainLink {
                    branch: row.branch.clone(),
                    branch_id: row.branch_id,
                    domain: row.domain.unwrap_or(0),
                    loss: overall(&row.domains),
                    domains: row.domains.clone(),
                    forgetting: rows[..i]
                        .iter()
                        .filter_map(|(_, before)| {
                            forgetting(before.domain?, &rows[..=i].iter().map(|(_, row)| *row).collect::<Vec<_>>())
                        })
                        .collect(),
                })
                .collect();
            ChainReport { headline: chain_headline(&links, views), name: name.to_owned(), links }
        })
        .collect()
}

/// Loss of the last row on a domain over the lowest of all rows.
fn forgetting(domain: u32, rows: &[&MatrixRow]) -> Option<Forgetting> {
    let loss = |row: &MatrixRow| row.domains.iter().find(|d| d.domain == domain && d.tokens > 0).map(|d| d.loss);
    let lowest = rows.iter().filter_map(|row| loss(row)).reduce(f64::min)?;
    Some(Forgetting { domain, loss_delta: loss(rows.last()?)? - lowest })
}

fn chain_headline(links: &[ChainLink], views: &[DomainView]) -> String {
    let Some(last) = links.last() else { return "No link of the chain finished.".to_owned() };
    let worst = last.forgetting.iter().max_by(|a, b| a.loss_delta.total_cmp(&b.loss_delta));
    match worst.filter(|worst| worst.loss_delta > 0.005) {
        Some(worst) => {
            let label = views.get(worst.domain as usize).map_or("", |view| view.label.as_str());
            format!(
                "After its last link the chain has forgotten {:.3} nats per token of domain {} ({label}).",
                worst.loss_delta, worst.domain
            )
        }
        None => "The chain forgot nothing of note of the domains it had learned.".to_owned(),
    }
}

fn method(spec: &ExperimentSpec, missing: &[(String, String)], held_out: &HeldOutSummary) -> Vec<String> {
    let evaluation = &spec.evaluation;
    let mut method = vec![
        format!("Up to {} held-out documents of each domain were scored, those with the smallest hashes of their ids; one half, whole groups, is reported, the other calibrates.", evaluation.documents_per_domain),
        format!("Windows of {} tokens without overlap, each document opened by the separator; perplexity per token, every token weighs the same.", spec.data.sequence_length),
        format!("The router sees only the text before a token, every {} tokens; before the first word all experts weigh the same.", evaluation.route_every_tokens),
        "The temperature has the lowest loss on the calibration half; probabilities are mixed, not logits.".to_owned(),
        "Dense and the random-split experts have the experts' total tokens and settings; one seed, so small differences mean little.".to_owned(),
    ];
    method.extend(sentences(held_out, spec.data.held_out_fraction));
    method.extend(missing.iter().map(|(branch, why)| format!("{branch} is missing: {why}.")));
    method
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::ids::{BranchId, CheckpointId};

    fn row(branch: &str, domain: u32, losses: [f64; 2]) -> MatrixRow {
        let domains = losses
            .iter()
            .zip(0..)
            .map(|(&loss, domain)| DomainLoss { domain, documents: 1, tokens: 10, loss })
            .collect();
        MatrixRow {
            branch: branch.into(),
            branch_id: BranchId::new(),
            role: BranchRole::Chain,
            domain: Some(domain),
            checkpoint_id: CheckpointId::new(),
            evaluation_id: EvaluationId::new(),
            domains,
        }
    }

    #[test]
    fn forgetting_is_the_loss_over_the_lowest_so_far() {
        let spec = crate::domain::expand::tests::spec();
        let chains = chains(&spec, &[row("chain-0", 0, [2.0, 3.0]), row("chain-1", 1, [2.5, 2.0])], &[]);
        assert_eq!(chains[0].links[0].forgetting, []);
        assert_eq!(chains[0].links[1].forgetting, [Forgetting { domain: 0, loss_delta: 0.5 }]);
        assert!(chains[0].headline.contains("0.500 nats"), "{}", chains[0].headline);
    }

    #[test]
    fn the_headline_is_honest_both_ways() {
        let contestant = |key: &str, perplexity: f64| Contestant {
            key: key.into(),
            title: String::new(),
            perplexity,
            loss: perplexity.ln(),
            vs_dense_percent: None,
            temperature: None,
            top_k: Some(2),
            domains: Vec::new(),
            evaluation_id: EvaluationId::new(),
            checkpoint_id: None,
            branch_id: None,
        };
        assert!(
            headline(&[contestant("dense", 20.0), contestant("ensemble_top_2", 18.0)], &[]).contains("10.0 % better")
        );
        assert!(
            headline(&[contestant("dense", 20.0), contestant("ensemble_top_2", 22.0)], &[]).contains("10.0 % worse")
        );
    }
}
