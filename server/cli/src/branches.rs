//! `senmon branch …`: one training lineage: its state, log, curves, and how to steer it.

use crate::{
    cell::{self, Cell},
    client::{Client, encoded},
    error::{CliError, CliResult},
    experiments::{branch_table, why},
    lang::own,
    logs,
    output::{Format, List, out},
    resolve::{self, short},
    steer::together,
    table::Table,
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand};
use senmon_protocol::{
    ids::BranchId,
    said,
    tokens::Tokens,
    view::{AttemptView, BranchState, BranchView, ExperimentView, ForkBranch, MetricsView},
};
use std::{collections::BTreeMap, fmt::Write as _};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Branch {
    /// List the branches of an experiment.
    #[command(visible_alias = "list")]
    Ls(crate::experiments::Id),
    /// Show a branch and its attempts.
    Show(Id),
    /// Show the log of a branch's attempts.
    Logs(Logs),
    /// Show a branch's metrics as a table.
    Metrics(Metrics),
    /// Pause: write a checkpoint and give the slot back.
    Pause(Ids),
    /// Go on after a pause.
    Resume(Ids),
    /// Stop for good.
    Cancel(Ids),
    /// Try a failed branch again from its last checkpoint.
    Continue(Ids),
    /// A new branch from a checkpoint of this one.
    Fork(Fork),
}

/// One branch.
#[derive(Debug, Args)]
pub struct Id {
    /// Id, part of one, or EXPERIMENT/BRANCH.
    #[arg(value_name = "BRANCH")]
    id: String,
}

/// Branches.
#[derive(Debug, Args)]
pub struct Ids {
    /// Ids, parts of them, or EXPERIMENT/BRANCH.
    #[arg(value_name = "BRANCH", required = true)]
    ids: Vec<String>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    branch: Id,
    /// Wait for more lines until the branch ends.
    #[arg(short, long)]
    follow: bool,
    /// At most so many lines, the last ones.
    #[arg(short = 'n', long)]
    lines: Option<usize>,
}

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub struct Metrics {
    #[command(flatten)]
    branch: Id,
    /// Metric names, separated by commas.
    #[arg(long, default_value = "train/loss,train/grad_norm,train/learning_rate,throughput/tokens_per_second")]
    keys: String,
    /// Rows, at most; more points than that are averaged.
    #[arg(long, default_value_t = 20)]
    points: u32,
}

/// Arguments of `fork`.
#[derive(Debug, Args)]
pub struct Fork {
    #[command(flatten)]
    branch: Id,
    /// Name of the new branch.
    #[arg(long)]
    name: String,
    /// Its token budget: 800K, 6.5M.
    #[arg(long)]
    tokens: Tokens,
    /// The checkpoint to start from: one of the branch's. Its last when absent.
    #[arg(long)]
    checkpoint: Option<String>,
    /// Weights over domain numbers: 0=1,3=0.5. The branch's own mixture when absent.
    #[arg(long, value_parser = mixture)]
    mixture: Option<BTreeMap<u32, f64>>,
}

fn mixture(text: &str) -> Result<BTreeMap<u32, f64>, String> {
    let bad = |part: &str| format!("found {part:?}, expected DOMAIN=WEIGHT such as 3=0.5, separated by commas");
    text.split(',')
        .map(|part| {
            let (domain, weight) = part.split_once('=').ok_or_else(|| bad(part))?;
            let domain = domain.trim().parse().map_err(|_| bad(part))?;
            let weight: f64 = weight.trim().parse().map_err(|_| bad(part))?;
            if weight > 0.0 && weight.is_finite() { Ok((domain, weight)) } else { Err(bad(part)) }
        })
        .collect()
}

/// Runs a command.
///
/// # Errors
/// When the branch is not there, or its state does not allow it.
pub async fn run(client: &Client, format: Format, command: Branch) -> CliResult {
    match command {
        Branch::Ls(args) => {
            let id = resolve::experiment(client, &args.id).await?;
            let view: ExperimentView = client.get(&format!("/experiments/{id}")).await?;
            format.list(&view.branches, |branches| {
                List::new(branch_table(branches), said!("none_branches")).with_notes(why(branches))
            })
        }
        Branch::Show(args) => show(client, format, &args).await,
        Branch::Logs(args) => logs(client, format, &args).await,
        Branch::Metrics(args) => metrics(client, format, &args).await,
        Branch::Pause(args) => steer(client, format, &args, "pause").await,
        Branch::Resume(args) => steer(client, format, &args, "resume").await,
        Branch::Cancel(args) => steer(client, format, &args, "cancel").await,
        Branch::Continue(args) => steer(client, format, &args, "continue").await,
        Branch::Fork(args) => fork(client, format, args).await,
    }
}

async fn steer(client: &Client, format: Format, args: &Ids, verb: &str) -> CliResult {
    // All names are resolved first: a typing error in the last changes nothing about the first.
    let mut ids: Vec<BranchId> = Vec::new();
    for text in &args.ids {
        ids.push(resolve::branch(client, text).await?);
    }
    let mut failures = Vec::new();
    for id in &ids {
        match client.verb::<BranchView>(&format!("/branches/{id}/{verb}")).await {
            Ok(view) => {
                let text =
                    |view: &BranchView| own(&said!("stands", name = &view.name, state = words::name(&view.state)));
                if ids.len() == 1 { format.print(&view, text) } else { format.line(&view, text) }?;
            }
            Err(error) => failures.push(error),
        }
    }
    together(failures)
}

async fn fork(client: &Client, format: Format, args: Fork) -> CliResult {
    let id = resolve::branch(client, &args.branch.id).await?;
    let checkpoint_id = match args.checkpoint {
        Some(text) => Some(resolve::checkpoint(client, &text).await?),
        None => None,
    };
    let body = ForkBranch { name: args.name, tokens: args.tokens, mixture: args.mixture, checkpoint_id };
    let view: BranchView = client.post(&format!("/branches/{id}/fork"), &body).await?;
    format.print(&view, |view| {
        let (state, id) = (words::name(&view.state), view.id.to_string());
        own(&said!("stands_as", name = &view.name, state = state, id = id))
    })
}

async fn show(client: &Client, format: Format, args: &Id) -> CliResult {
    let id = resolve::branch(client, &args.id).await?;
    let view: BranchView = client.get(&format!("/branches/{id}")).await?;
    if !format.is_text() {
        return format.print(&view, |_| String::new());
    }
    let attempts: Vec<AttemptView> = client.list(&format!("/branches/{id}/attempts")).await?;
    out(&describe(&view, &attempts, format.width()));
    Ok(())
}

fn describe(view: &BranchView, attempts: &[AttemptView], width: Option<usize>) -> String {
    let mut text = format!("{}  {}  {}\n", view.name, words::name(&view.state), view.id);
    if let Some(why) = &view.why {
        let _ = writeln!(text, "{why}");
    }
    let mut facts = Table::facts();
    let mut fact = |name: &str, value: String| facts.row(vec![name.to_owned(), value]);
    fact("role", words::name(&view.role));
    fact("steps", format!("{} of {}", words::count(view.step), words::count(view.steps)));
    fact("tokens", format!("{} of {}", words::tokens(view.tokens), words::tokens(view.tokens_total)));
    fact("loss", words::or_dash(view.loss.map(|loss| format!("{loss:.4} ({:.2} perplexity)", loss.exp()))));
    fact("rate", words::or_dash(view.tokens_per_second.map(words::rate)));
    fact("time", words::duration(view.wall_seconds));
    fact("left", words::or_dash(view.seconds_left.map(words::duration)));
    fact("checkpoint", words::or_dash(view.checkpoint_id.map(|id| id.to_string())));
    if let Some(mixture) = &view.mixture {
        let sum: f64 = mixture.weights.iter().map(|weight| weight.weight).sum();
        let part = |weight: &senmon_protocol::job::DomainWeight| {
            format!("{}: {:.0} %", weight.domain, 100.0 * weight.weight / sum)
        };
        fact("mixture", mixture.weights.iter().map(part).collect::<Vec<_>>().join("  "));
    }
    text.push_str(&facts.render());
    let mut table = Table::new(&["=attempt", ">fence", "worker", ">from step", "resume", "began", ">took", "ended"]);
    for attempt in attempts {
        let took = attempt.finished_at.unwrap_or_else(Utc::now) - attempt.started_at;
        let resume = attempt.resume_verified.map(|exact| if exact { "exact" } else { "not exact" });
        table.row(vec![
            short(attempt.id),
            attempt.fence.to_string(),
            attempt.worker.clone(),
            words::or_dash(attempt.step_start.map(|step| step.to_string())),
            resume.unwrap_or_default().to_owned(),
            words::ago(attempt.started_at, Utc::now()),
            words::duration(took.as_seconds_f64()),
            ended(attempt),
        ]);
    }
    if !table.is_empty() {
        let _ = write!(text, "\n{}", table.render_in(width));
    }
    for attempt in attempts.iter().filter(|attempt| attempt.reason.is_some()) {
        let message = attempt.message.as_deref().unwrap_or_default();
        let _ = writeln!(text, "{}: {message}", short(attempt.id));
        if let Some(advice) = &attempt.advice {
            let _ = writeln!(text, "  {advice}");
        }
    }
    text
}

fn ended(attempt: &AttemptView) -> String {
    match (&attempt.reason, attempt.finished_at) {
        (Some(reason), _) => words::name(reason),
        (None, Some(_)) => "completed".into(),
        (None, None) => "runs".into(),
    }
}

/// `senmon branch logs` and `senmon logs`.
///
/// # Errors
/// When there is no such branch.
pub async fn logs(client: &Client, format: Format, args: &Logs) -> CliResult {
    let path = format!("/branches/{}", resolve::branch(client, &args.branch.id).await?);
    let is_over = async || {
        let branch: BranchView = client.get(&path).await?;
        Ok(matches!(branch.state, BranchState::Completed | BranchState::Failed | BranchState::Cancelled))
    };
    logs::show(client, format, &path, (args.follow, args.lines), is_over).await
}

async fn metrics(client: &Client, format: Format, args: &Metrics) -> CliResult {
    if args.points == 0 {
        return Err(CliError::refused(&said!("points_zero")));
    }
    let id = resolve::branch(client, &args.branch.id).await?;
    let path = format!("/branches/{id}/metrics?keys={}&points_max={}", encoded(&args.keys), args.points);
    let view: MetricsView = client.get(&path).await?;
    format.list(&view, |view| {
        let keys: Vec<&str> = args.keys.split(',').filter(|key| view.series.contains_key(*key)).collect();
        let heads: Vec<String> = ["step", "tokens"].iter().chain(&keys).map(|head| format!(">{head}")).collect();
        let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
        for (row, step) in view.steps.iter().enumerate() {
            let tokens = view.tokens.get(row).copied().unwrap_or_default();
            let value = |key: &&str| view.series[*key].mean.get(row).copied().flatten();
            let cells = keys
                .iter()
                .map(|key| Cell::from(value(key).map(|value| cell::either(significant(value), value.to_string()))));
            table.row([cell::count(*step), cell::tokens(tokens)].into_iter().chain(cells).collect());
        }
        List::new(table, said!("none_points"))
    })
}

/// Four significant digits.
fn significant(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v >= 1_000.0 => format!("{value:.0}"),
        v if v >= 0.1 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_is_written_as_domains_and_weights() {
        assert_eq!(mixture("0=1,3=0.5").unwrap(), BTreeMap::from([(0, 1.0), (3, 0.5)]));
        for bad in ["", "0", "0=-1", "a=1", "0=nan"] {
            assert!(mixture(bad).unwrap_err().contains("3=0.5"), "{bad:?} was accepted");
        }
    }

    #[test]
    fn values_keep_four_digits() {
        for (value, expect) in [(3.456_78, "3.4568"), (12_345.6, "12346"), (0.000_3, "3.000e-4"), (0.0, "0")] {
            assert_eq!(significant(value), expect);
        }
    }
}
