//! `senmon report`: the contestants, the domains, forgetting, costs, and every model on every domain.

mod compared;

use crate::{
    client::Client,
    error::CliResult,
    lang::own,
    output::Format,
    resolve::{self, Id, short},
    table::{Table, fit},
    words,
};
use senmon_protocol::{
    ensemble::{CalibratedTemperature, Ensemble},
    ids::ExperimentId,
    job::DomainLoss,
    report::{ChainReport, MatrixRow, Report},
    said,
    said::{Said, decimal},
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
    let temperature =
        |found: &CalibratedTemperature| said!("router_top", top_k = found.top_k, temperature = found.temperature);
    let all: Vec<Said> = ensemble.temperatures.iter().map(temperature).collect();
    let router = ensemble.router.to_string();
    let said = match ensemble.chosen.as_ref().map(temperature) {
        Some(chosen) => said!("router_is_chosen", router = router, temperatures = all, chosen = chosen),
        None => said!("router_is", router = router, temperatures = all),
    };
    format!("{}\n{}\n", table.render(), own(&said))
}

/// Prints the report of an experiment.
///
/// # Errors
/// When there is none yet.
pub async fn print(client: &Client, format: Format, id: ExperimentId) -> CliResult {
    let report: Report = client.get(&format!("/experiments/{id}/report")).await?;
    format.print(&report, |report| render(report, format.width()))
}

fn render(report: &Report, width: Option<usize>) -> String {
    let mut text = format!("{}\n{}\n\n", report.name, report.headline);
    text.push_str(&compared::losses(report));
    let _ = write!(text, "\n{}\n{}", own(&said!("section_contestants")), compared::costs(report));
    if !report.surface.is_empty() {
        let surface = compared::surface(&report.surface);
        let _ = write!(text, "\n{}\n{surface}", own(&said!("section_surface")));
    }
    let _ = write!(text, "\n{}\n{}", own(&said!("section_domains")), domains(report, width));
    text.push_str(&clustering(report));
    let _ = write!(text, "\n{}\n{}", own(&said!("section_matrix")), matrix(report));
    for chain in &report.chains {
        let head = said!("section_chain", name = &chain.name, headline = &chain.headline);
        let _ = write!(text, "\n{}\n{}", own(&head), chain_table(chain));
    }
    let _ = write!(text, "\n{}\n{}\n", own(&said!("section_costs")), costs(report));
    for sentence in &report.method {
        let _ = writeln!(text, "{sentence}");
    }
    text
}

fn domains(report: &Report, width: Option<usize>) -> String {
    let mut table =
        Table::new(&[">#", "label", ">documents", ">held out", ">weight", ">tokens", ">share", "top terms"]);
    for domain in &report.domains {
        table.row(vec![
            domain.index.to_string(),
            fit(&domain.label, 24),
            words::count(domain.documents),
            words::count(domain.documents_held_out),
            format!("{:.1} %", domain.weight * 100.0),
            words::tokens(domain.tokens),
            format!("{:.1} %", domain.share * 100.0),
            fit(&domain.top_terms.join(" "), 40),
        ]);
    }
    table.render_in(width)
}

fn clustering(report: &Report) -> String {
    let quality = &report.clustering;
    let number = |value: Option<f64>, digits| Some(decimal(value?, digits));
    let figures = [
        number(quality.balance_max_over_mean, 2).map(|value| said!("clustering_balance", value = value)),
        number(quality.silhouette, 3).map(|value| said!("clustering_silhouette", value = value)),
        number(quality.stability_ari, 2).map(|value| said!("clustering_stability", value = value)),
        number(quality.source_nmi, 2).map(|value| said!("clustering_sources", value = value)),
    ];
    let figures: Vec<Said> = figures.into_iter().flatten().collect();
    let sample = words::count(quality.sample_documents);
    let sample = own(&said!("clustering_sample", documents = sample, figures = figures)) + "\n";
    let absent = quality.absent.iter().map(|absent| {
        own(&said!("figure_absent", figure = absent.figure.replace('_', " "), why = absent.why.as_str())) + "\n"
    });
    let remarks = quality.remarks.iter().map(|remark| format!("{remark}\n"));
    [sample].into_iter().chain(absent).chain(remarks).collect()
}

fn loss_cell(losses: &[DomainLoss], domain: u32, own: bool) -> String {
    let found = losses.iter().find(|loss| loss.domain == domain).and_then(|found| found.loss);
    let value = words::or_dash(found.map(|loss| format!("{loss:.3}")));
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
        let scored: Vec<(u32, f64)> =
            row.domains.iter().filter_map(|found| Some((found.domain, found.loss?))).collect();
        let best = scored.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        #[expect(clippy::cast_precision_loss, reason = "a mean over domains")]
        let mean = scored.iter().map(|(_, loss)| loss).sum::<f64>() / scored.len() as f64;
        table.row(vec![
            row.branch.clone(),
            words::or_dash(row.domain.map(|domain| domain.to_string())),
            row.domain.map(|domain| loss_cell(&row.domains, domain, false)).unwrap_or_default().trim().to_owned(),
            words::or_dash(best.map(|(domain, _)| domain.to_string())),
            words::or_dash(best.map(|(_, loss)| format!("{loss:.3}"))),
            words::or_dash(best.map(|_| format!("{mean:.3}"))),
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
            .map(|forgetting| format!("{}: {:+.3}", forgetting.domain, forgetting.loss_delta))
            .collect();
        table.row(vec![
            link.branch.clone(),
            link.domain.to_string(),
            loss_cell(&link.domains, link.domain, false).trim().to_owned(),
            words::or_dash(link.loss.map(|loss| format!("{loss:.3}"))),
            if forgotten.is_empty() { "–".into() } else { forgotten.join("  ") },
        ]);
    }
    table.render()
}

fn costs(report: &Report) -> String {
    let mut table = Table::new(&["branch", "role", ">tokens", ">new", ">time", ">slot-hours", ">rate", ">checkpoints"]);
    let (mut tokens, mut seconds, mut hours, mut bytes) = (0, 0.0, 0.0, 0);
    for cost in &report.costs {
        tokens += cost.tokens;
        seconds += cost.wall_seconds;
        let slot_hours = cost.gpu_hours + cost.cpu_slot_hours;
        hours += slot_hours;
        bytes += cost.checkpoint_bytes;
        table.row(vec![
            cost.branch.clone(),
            words::name(&cost.role),
            words::tokens(cost.tokens),
            words::or_dash(cost.fresh_share.map(words::share)),
            words::duration(cost.wall_seconds),
            format!("{slot_hours:.2}"),
            words::or_dash(cost.tokens_per_second.map(words::rate)),
            words::bytes(cost.checkpoint_bytes),
        ]);
    }
    table.row(vec![
        own(&said!("all_together")),
        String::new(),
        words::tokens(tokens),
        String::new(),
        words::duration(seconds),
        format!("{hours:.2}"),
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
        job::{Interval, SurfacePoint},
        report::{
            Basis, BranchCost, ChainLink, Contestant, ContestantCost, Difference, Forgetting, ReportDomain, SurfaceRow,
        },
        view::BranchRole,
    };

    fn losses(values: &[f64]) -> Vec<DomainLoss> {
        values
            .iter()
            .zip(0..)
            .map(|(&loss, domain)| DomainLoss { domain, documents: 5, tokens: 100, loss: Some(loss) })
            .collect()
    }

    fn difference(percent: f64, half: f64) -> Difference {
        let nats = |percent: f64| (percent / 100.0).ln_1p();
        Interval { nats: nats(percent), nats_low: nats(percent - half), nats_high: nats(percent + half) }.into()
    }

    fn point(top_k: u32, chosen: bool) -> SurfaceRow {
        let point = SurfacePoint {
            top_k,
            temperature: 0.1,
            calibration: Some(3.5),
            calibration_macro: None,
            reported: None,
            reported_macro: None,
        };
        SurfaceRow { point, best_of_top_k: true, chosen }
    }

    fn sample() -> Report {
        let branch_id = BranchId::new();
        let contestant = |key: &str, title: &str, perplexity: f64, vs: Option<f64>, temperature| Contestant {
            key: key.into(),
            title: title.into(),
            title_said: None,
            repeat: 0,
            perplexity: Some(perplexity),
            loss: Some(perplexity.ln()),
            perplexity_macro: Some(perplexity + 1.0),
            loss_macro: Some((perplexity + 1.0).ln()),
            vs_dense_percent: vs,
            vs_dense: vs.map(|percent| difference(percent, 1.0)),
            vs_dense_macro: vs.map(|percent| difference(percent, 5.0)),
            temperature,
            top_k: None,
            domains: losses(&[3.5, 3.6]),
            documents: 10,
            tokens: 200,
            spread: None,
            cost: ContestantCost {
                parameters_active: Some(2_000_000),
                forward_passes: Some(2),
                training_tokens: 800_000,
                gpu_hours: 0.0,
                cpu_slot_hours: 0.25,
                hours_per_nat: Some(1.5),
            },
            absent: vec![],
            absent_said: vec![],
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
            tokens_held_out: 60_000,
            weight: 0.25,
            share: 0.5,
        };
        let row = |branch: &str, domain, values: &[f64]| MatrixRow {
            branch: branch.into(),
            branch_id,
            role: BranchRole::Expert,
            domain,
            repeat: 0,
            checkpoint_id: CheckpointId::new(),
            evaluation_id: EvaluationId::new(),
            domains: losses(values),
        };
        Report {
            experiment_id: ExperimentId::new(),
            name: "demo".into(),
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            headline: "The ensemble beats dense by 3.2 %.".into(),
            headline_said: None,
            contestants: vec![
                contestant("dense", "dense", 36.70, None, None),
                contestant("ensemble_top_2", "routed ensemble, top 2", 35.52, Some(-3.2), Some(0.1)),
            ],
            domains: vec![domain(0, "法律 条文"), domain(1, "perl module")],
            clustering: ClusteringQuality {
                balance_max_over_mean: Some(1.2),
                silhouette: Some(0.1),
                ..Default::default()
            },
            matrix: vec![row("expert-0", Some(0), &[3.1, 3.9]), row("dense", None, &[3.5, 3.6])],
            basis: Basis { documents_reported: 1200, repeats: 1, resamples: 2000, ..Basis::default() },
            surface: vec![point(1, false), point(2, true)],
            costs: vec![BranchCost {
                branch: "expert-0".into(),
                branch_id,
                role: BranchRole::Expert,
                tokens: 800_000,
                wall_seconds: 61.0,
                fresh_share: Some(1.0),
                gpu_hours: 0.0,
                cpu_slot_hours: 0.25,
                tokens_per_second: Some(13_100.0),
                checkpoint_bytes: 12 << 20,
                checkpoint_id: None,
            }],
            chains: vec![ChainReport {
                name: "chain".into(),
                links: vec![ChainLink {
                    branch: "chain-1".into(),
                    branch_id,
                    domain: 1,
                    loss: Some(3.7),
                    domains: losses(&[3.9, 3.3]),
                    forgetting: vec![Forgetting { domain: 0, loss_delta: 0.41 }],
                }],
                headline: "Domain 0 was forgotten most.".into(),
                headline_said: None,
            }],
            method: vec!["Perplexity per token.".into()],
            method_said: vec![],
            held_out: None,
        }
    }

    fn check(part: &str) {
        let text = render(&sample(), None);
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }

    #[test]
    fn the_report_shows_what_beat_what() {
        check("The ensemble beats dense by 3.2 %.");
        check("routed ensemble, top 2       35.52    −3.2 %  −4.2 % to −2.2 %");
        check("−8.2 % to +1.8 %, none shown");
        check("On 1200 reported documents");
    }

    #[test]
    fn the_matrix_marks_each_experts_own_domain() {
        check("expert-0  3.100*  3.900");
        check("dense     3.500   3.600");
    }

    #[test]
    fn what_each_contestant_costs_stands_beside_it() {
        check("slot-hours (CPU)  hours per nat over the seed");
        check("2.0 M                       2          800.0 K              0.25                         1.50");
    }

    #[test]
    fn the_surface_marks_what_was_chosen_and_shows_both_halves() {
        check("3.5000 / –*   3.5000 / –**");
    }

    #[test]
    fn a_figure_that_is_absent_has_its_reason() {
        let mut report = sample();
        report.contestants[0].loss = None;
        report.contestants[0].perplexity = None;
        report.contestants[0].absent = vec!["loss: no held-out document was scored".into()];
        let text = render(&report, None);
        assert!(text.contains("dense: no loss: no held-out document was scored"), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn a_chain_shows_what_it_forgot() {
        check("0: +0.410");
    }

    #[test]
    fn no_line_of_the_report_ends_in_spaces() {
        assert!(render(&sample(), None).lines().all(|line| line == line.trim_end()));
    }
}
