//! `senmon report`: the contestants, the domains, forgetting, costs, and every model on every domain.

use crate::{
    client::Client,
    error::CliResult,
    experiments::Id,
    output::Format,
    resolve::{self, short},
    table::{Table, fit},
    words,
};
use senmon_protocol::{
    ensemble::{CalibratedTemperature, Ensemble},
    ids::ExperimentId,
    job::DomainLoss,
    report::{ChainReport, MatrixRow, Report},
};
use std::fmt::Write as _;

/// More domains than this make no readable matrix; each model's own and best domains are shown instead.
const MATRIX_DOMAINS_MAX: usize = 16;

/// `senmon report`.
///
/// # Errors
/// When there is no such experiment, or no report yet.
pub async fn show(client: &Client, format: Format, args: &Id) -> CliResult {
    let id = resolve::experiment(client, &args.id).await?;
    print(client, format, id).await
}

/// `senmon ensemble`.
///
/// # Errors
/// When there is no such experiment, or no report yet.
pub async fn ensemble(client: &Client, format: Format, args: &Id) -> CliResult {
    let id = resolve::experiment(client, &args.id).await?;
    let found: Ensemble = client.get(&format!("/experiments/{id}/ensemble")).await?;
    format.print(&found, experts)
}

fn experts(ensemble: &Ensemble) -> String {
    let mut table = Table::new(&["expert", ">domain", ">step", "checkpoint", "folder"]);
    for expert in &ensemble.experts {
        table.row(vec![
            expert.branch.clone(),
            expert.domain.to_string(),
            words::count(expert.checkpoint.step),
            short(expert.checkpoint.id),
            expert.checkpoint.folder.to_string(),
        ]);
    }
    let temperature = |found: &CalibratedTemperature| format!("top {}: {}", found.top_k, found.temperature);
    let temperatures: Vec<String> = ensemble.temperatures.iter().map(temperature).collect();
    format!("{}\nrouter {}, temperature {}\n", table.render(), ensemble.router, temperatures.join(", "))
}

/// Prints the report of an experiment.
///
/// # Errors
/// When there is none yet.
pub async fn print(client: &Client, format: Format, id: ExperimentId) -> CliResult {
    let report: Report = client.get(&format!("/experiments/{id}/report")).await?;
    format.print(&report, render)
}

fn render(report: &Report) -> String {
    let mut text = format!("{}\n{}\n\n", report.name, report.headline);
    text.push_str(&contestants(report));
    let _ = write!(text, "\nDomains\n{}", domains(report));
    text.push_str(&clustering(report));
    let _ =
        write!(text, "\nLoss of every model on every domain, nats per token (* its own domain)\n{}", matrix(report));
    for chain in &report.chains {
        let _ = write!(text, "\nChain {}: {}\n{}", chain.name, chain.headline, chain_table(chain));
    }
    let _ = write!(text, "\nCosts\n{}\n", costs(report));
    for sentence in &report.method {
        let _ = writeln!(text, "{sentence}");
    }
    text
}

fn contestants(report: &Report) -> String {
    let mut table = Table::new(&["", ">perplexity", ">vs dense", ">temperature", ">loss", "evaluation", "checkpoint"]);
    for line in &report.contestants {
        table.row(vec![
            line.title.clone(),
            format!("{:.2}", line.perplexity),
            words::or_dash(line.vs_dense_percent.map(words::percent_signed)),
            words::or_dash(line.temperature.map(|temperature| temperature.to_string())),
            format!("{:.4}", line.loss),
            short(line.evaluation_id),
            words::or_dash(line.checkpoint_id.map(short)),
        ]);
    }
    table.render()
}

fn domains(report: &Report) -> String {
    let mut table = Table::new(&[">#", "label", ">documents", ">held out", ">tokens", ">share", "top terms"]);
    for domain in &report.domains {
        table.row(vec![
            domain.index.to_string(),
            fit(&domain.label, 24),
            words::count(domain.documents),
            words::count(domain.documents_held_out),
            words::tokens(domain.tokens),
            format!("{:.1} %", domain.share * 100.0),
            fit(&domain.top_terms.join(" "), 40),
        ]);
    }
    table.render()
}

fn clustering(report: &Report) -> String {
    let quality = &report.clustering;
    let mut parts = vec![format!("largest over mean {:.2}", quality.balance_max_over_mean)];
    parts.extend(quality.silhouette.map(|value| format!("silhouette {value:.3}")));
    parts.extend(quality.stability_nmi.map(|value| format!("agreement of two seeds (NMI) {value:.2}")));
    parts.extend(quality.source_nmi.map(|value| format!("agreement with the source labels (NMI) {value:.2}")));
    format!("{}\n", parts.join(", "))
}

fn loss_cell(losses: &[DomainLoss], domain: u32, own: bool) -> String {
    let found = losses.iter().find(|loss| loss.domain == domain && loss.tokens > 0);
    let value = words::or_dash(found.map(|loss| format!("{:.3}", loss.loss)));
    format!("{value}{}", if own { '*' } else { ' ' })
}

fn matrix(report: &Report) -> String {
    if report.domains.len() > MATRIX_DOMAINS_MAX {
        return wide_matrix(&report.matrix);
    }
    let heads: Vec<String> =
        ["".to_owned()].into_iter().chain(report.domains.iter().map(|domain| format!(">{} ", domain.index))).collect();
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for row in &report.matrix {
        let cells =
            report.domains.iter().map(|domain| loss_cell(&row.domains, domain.index, row.domain == Some(domain.index)));
        table.row([row.branch.clone()].into_iter().chain(cells).collect());
    }
    table.render()
}

fn wide_matrix(rows: &[MatrixRow]) -> String {
    let mut table = Table::new(&["", ">own domain", ">loss there", ">best domain", ">loss there", ">mean"]);
    for row in rows {
        let scored: Vec<&DomainLoss> = row.domains.iter().filter(|loss| loss.tokens > 0).collect();
        let best = scored.iter().min_by(|a, b| a.loss.total_cmp(&b.loss));
        #[expect(clippy::cast_precision_loss, reason = "a mean over domains")]
        let mean = scored.iter().map(|loss| loss.loss).sum::<f64>() / scored.len().max(1) as f64;
        table.row(vec![
            row.branch.clone(),
            words::or_dash(row.domain.map(|domain| domain.to_string())),
            row.domain.map(|domain| loss_cell(&row.domains, domain, false)).unwrap_or_default().trim().to_owned(),
            words::or_dash(best.map(|loss| loss.domain.to_string())),
            words::or_dash(best.map(|loss| format!("{:.3}", loss.loss))),
            format!("{mean:.3}"),
        ]);
    }
    table.render()
}

fn chain_table(chain: &ChainReport) -> String {
    let mut table =
        Table::new(&["link", ">domain", ">loss there", ">loss overall", "forgotten so far (nats per token)"]);
    for link in &chain.links {
        let forgotten: Vec<String> = link
            .forgetting
            .iter()
            .map(|forgetting| format!("{}: +{:.3}", forgetting.domain, forgetting.loss_delta))
            .collect();
        table.row(vec![
            link.branch.clone(),
            link.domain.to_string(),
            loss_cell(&link.domains, link.domain, false).trim().to_owned(),
            format!("{:.3}", link.loss),
            if forgotten.is_empty() { "–".into() } else { forgotten.join("  ") },
        ]);
    }
    table.render()
}

fn costs(report: &Report) -> String {
    let mut table = Table::new(&["branch", "role", ">tokens", ">time", ">rate", ">checkpoints"]);
    let (mut tokens, mut seconds, mut bytes) = (0, 0.0, 0);
    for cost in &report.costs {
        tokens += cost.tokens;
        seconds += cost.wall_seconds;
        bytes += cost.checkpoint_bytes;
        table.row(vec![
            cost.branch.clone(),
            words::name(&cost.role),
            words::tokens(cost.tokens),
            words::duration(cost.wall_seconds),
            words::rate(cost.tokens_per_second),
            words::bytes(cost.checkpoint_bytes),
        ]);
    }
    table.row(vec![
        "all".into(),
        String::new(),
        words::tokens(tokens),
        words::duration(seconds),
        String::new(),
        words::bytes(bytes),
    ]);
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::{
        clustering::ClusteringQuality,
        ids::{BranchId, CheckpointId, EvaluationId},
        report::{BranchCost, ChainLink, Contestant, Forgetting, ReportDomain},
        view::BranchRole,
    };

    fn losses(values: &[f64]) -> Vec<DomainLoss> {
        values.iter().zip(0..).map(|(&loss, domain)| DomainLoss { domain, documents: 5, tokens: 100, loss }).collect()
    }

    fn sample() -> Report {
        let branch_id = BranchId::new();
        let contestant = |key: &str, title: &str, perplexity: f64, vs: Option<f64>, temperature| Contestant {
            key: key.into(),
            title: title.into(),
            perplexity,
            loss: perplexity.ln(),
            vs_dense_percent: vs,
            temperature,
            top_k: None,
            domains: losses(&[3.5, 3.6]),
            evaluation_id: EvaluationId::new(),
            checkpoint_id: Some(CheckpointId::new()),
            branch_id: Some(branch_id),
        };
        let domain = |index: u32, label: &str| ReportDomain {
            index,
            label: label.into(),
            top_terms: vec![label.into()],
            documents: 1200,
            tokens: 1_200_000,
            documents_held_out: 60,
            share: 0.5,
        };
        let row = |branch: &str, domain, values: &[f64]| MatrixRow {
            branch: branch.into(),
            branch_id,
            role: BranchRole::Expert,
            domain,
            checkpoint_id: CheckpointId::new(),
            evaluation_id: EvaluationId::new(),
            domains: losses(values),
        };
        Report {
            experiment_id: ExperimentId::new(),
            name: "demo".into(),
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            headline: "The ensemble beats dense by 3.2 %.".into(),
            contestants: vec![
                contestant("dense", "dense", 36.70, None, None),
                contestant("ensemble_top_2", "routed ensemble, top 2", 35.52, Some(-3.2), Some(0.1)),
            ],
            domains: vec![domain(0, "法律 条文"), domain(1, "perl module")],
            clustering: ClusteringQuality { balance_max_over_mean: 1.2, silhouette: Some(0.1), ..Default::default() },
            matrix: vec![row("expert-0", Some(0), &[3.1, 3.9]), row("dense", None, &[3.5, 3.6])],
            routing: vec![],
            costs: vec![BranchCost {
                branch: "expert-0".into(),
                branch_id,
                role: BranchRole::Expert,
                tokens: 800_000,
                wall_seconds: 61.0,
                tokens_per_second: 13_100.0,
                checkpoint_bytes: 12 << 20,
                checkpoint_id: None,
            }],
            chains: vec![ChainReport {
                name: "chain".into(),
                links: vec![ChainLink {
                    branch: "chain-1".into(),
                    branch_id,
                    domain: 1,
                    loss: 3.7,
                    domains: losses(&[3.9, 3.3]),
                    forgetting: vec![Forgetting { domain: 0, loss_delta: 0.41 }],
                }],
                headline: "Domain 0 was forgotten most.".into(),
            }],
            method: vec!["Perplexity per token.".into()],
            held_out: None,
        }
    }

    fn check(part: &str) {
        let text = render(&sample());
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }

    #[test]
    fn the_report_shows_what_beat_what() {
        check("The ensemble beats dense by 3.2 %.");
        check("routed ensemble, top 2       35.52    −3.2 %          0.1");
    }

    #[test]
    fn the_matrix_marks_each_experts_own_domain() {
        check("expert-0  3.100*  3.900");
        check("dense     3.500   3.600");
    }

    #[test]
    fn a_chain_shows_what_it_forgot() {
        check("0: +0.410");
    }

    #[test]
    fn no_line_of_the_report_ends_in_spaces() {
        assert!(render(&sample()).lines().all(|line| line == line.trim_end()));
    }
}
