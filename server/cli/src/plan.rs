//! `senmon plan FILE`: what an experiment would do, before anything runs; and how many tokens fit in given days.

use crate::{
    client::Client,
    error::{CliError, CliResult, line},
    lang::own,
    output::Format,
    spec_file,
    table::Table,
    words,
};
use clap::Args;
use senmon_protocol::{
    plan::{PlanFit, PlanRequest, PlanView, PlannedStage},
    said,
    said::decimal,
};
use std::{fmt::Write as _, path::PathBuf};

/// Arguments.
#[derive(Debug, Args)]
pub struct Plan {
    /// Experiment file (YAML or JSON); `-` reads standard input.
    file: PathBuf,
    /// Accelerators (or CPU slots) that work side by side; those of the fleet when absent.
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Peak of one of them in FLOP/s: 989e12 for an H100 in bf16.
    #[arg(long, value_name = "X")]
    peak_flops: Option<f64>,
    /// Share of that peak that training reaches: 0.4 is usual.
    #[arg(long, value_name = "U")]
    utilisation: Option<f64>,
    /// Tokens per second of one slot, instead of the two above.
    #[arg(long, value_name = "R")]
    tokens_per_second: Option<f64>,
    /// Days at hand: the answer then says whether the plan fits, and what would.
    #[arg(long, value_name = "D")]
    days: Option<f64>,
}

/// Asks the server and shows the plan.
///
/// # Errors
/// When the file is no experiment, or the server would refuse it.
pub async fn plan(client: &Client, format: Format, args: &Plan) -> CliResult {
    let request = PlanRequest {
        experiment: spec_file::load(&args.file)?,
        slots: args.slots,
        peak_flops: args.peak_flops,
        utilisation: args.utilisation,
        tokens_per_second: args.tokens_per_second,
        days: args.days,
    };
    let plan: PlanView = client.post("/plan", &request).await?;
    format.print(&plan, render)?;
    if plan.refused.is_empty() {
        return Ok(());
    }
    let faults: String = plan.refused.iter().map(|fault| format!("\n  {}", line(fault))).collect();
    Err(CliError::Refused(format!("{}{faults}", own(&said!("would_be_refused")))))
}

fn render(plan: &PlanView) -> String {
    let mut table =
        Table::new(&["branch", "role", "from", ">domain", ">tokens", ">new", ">steps", ">time", ">checkpoints"]);
    for branch in &plan.branches {
        table.row(vec![
            branch.name.clone(),
            words::name(&branch.role),
            branch.parent.clone().unwrap_or_default(),
            branch.domain.map(|domain| domain.to_string()).unwrap_or_default(),
            words::tokens(branch.tokens),
            words::or_dash(branch.fresh_share.map(words::share)),
            words::count(branch.steps),
            words::or_dash(branch.seconds.map(words::duration)),
            words::bytes(branch.checkpoint_bytes),
        ]);
    }
    let mut text = table.render();
    text.push('\n');
    let mut facts = Table::facts();
    let mut fact = |name: &str, value: String| facts.row(vec![name.to_owned(), value]);
    fact(
        "model",
        own(&said!(
            "plan_model",
            parameters = words::tokens(plan.parameters),
            flops = format!("{:.3e}", plan.flops_per_token)
        )),
    );
    let tokens = words::tokens(plan.tokens);
    fact("tokens", own(&said!("plan_tokens", tokens = tokens, branches = plan.branches.len())));
    if let Some(corpus) = plan.corpus_tokens {
        fact("corpus", own(&said!("plan_corpus", tokens = words::tokens(corpus))));
    }
    let rate = words::or_dash(plan.tokens_per_second.map(words::rate));
    fact("throughput", own(&said!("plan_throughput", rate = rate, source = &plan.throughput_source)));
    if let Some(seconds) = plan.seconds {
        fact("wall time", own(&said!("plan_wall_time", time = words::duration(seconds), slots = plan.slots)));
        fact("", stages(plan));
    }
    fact(
        "checkpoints",
        own(&said!(
            "plan_checkpoints",
            all = words::bytes(plan.checkpoint_bytes),
            each = words::bytes(plan.checkpoint_bytes_each)
        )),
    );
    if let Some(found) = &plan.fit {
        fact(if found.is_met() { "fits" } else { "does not fit" }, fit(found));
        fact("", would_fit(found));
    }
    if let Some(tokens) = plan.tokens_in_days {
        fact("at most", own(&said!("plan_at_most", tokens = words::tokens(tokens), slots = plan.slots)));
    }
    text.push_str(&facts.render());
    let _ = writeln!(text, "{}", own(&said!("plan_new_is")));
    for warning in &plan.warnings {
        let _ = writeln!(text, "{}", own(&said!("plan_note", fault = line(warning))));
    }
    text
}

/// `discover not measured yet, shard 2 min, seed 54 d, ...`.
fn stages(plan: &PlanView) -> String {
    let stage = |stage: &PlannedStage| {
        let takes = stage.seconds.map_or_else(|| own(&said!("plan_not_measured")), words::duration);
        format!("{} {takes}", words::name(&stage.stage))
    };
    plan.stages.iter().map(stage).collect::<Vec<_>>().join(", ")
}

/// `90 of 30 days, seed alone 54`.
fn fit(fit: &PlanFit) -> String {
    let days = |days: f64| decimal(days, usize::from(days < 10.0));
    let (needed, at_hand, longest) = (days(fit.days_needed), days(fit.days), days(fit.longest_days));
    own(&said!("plan_days", needed = needed, days = at_hand, branch = &fit.longest, longest = longest))
}

/// What would fit, in one sentence; nothing where there is nothing to say.
fn would_fit(fit: &PlanFit) -> String {
    let budgets = fit
        .budgets_times
        .zip(fit.tokens)
        .map(|(times, tokens)| said!("plan_budgets", times = decimal(times, 2), tokens = words::tokens(tokens)));
    let slots = fit.slots.map(|slots| said!("plan_slots", slots = slots));
    own(&match (fit.is_met(), budgets, slots) {
        (true, Some(budgets), Some(slots)) => said!("plan_room_or_slots", budgets = budgets, slots = slots),
        (true, Some(budgets), None) => said!("plan_room", budgets = budgets),
        (true, None, _) => return String::new(),
        (false, Some(budgets), Some(slots)) => said!("plan_would_fit_either", slots = slots, budgets = budgets),
        (false, Some(budgets), None) => said!("plan_would_fit_budgets", budgets = budgets),
        (false, None, Some(slots)) => said!("plan_would_fit", what = slots),
        (false, None, None) => said!("plan_nothing_fits"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::{
        plan::PlannedBranch,
        view::{BranchRole, Stage},
    };

    #[test]
    fn a_plan_answers_how_many_tokens_fit() {
        let branch = PlannedBranch {
            name: "seed".into(),
            role: BranchRole::Seed,
            parent: None,
            domain: None,
            repeat: 0,
            tokens: 42_000_000_000,
            steps: 10_000,
            fresh_share: Some(0.25),
            seconds: Some(86_400.0),
            checkpoint_bytes: 1 << 30,
        };
        let plan = PlanView {
            branches: vec![branch],
            tokens: 42_000_000_000,
            parameters: 10_000_000_000,
            flops_per_token: 6.2e10,
            tokens_per_second: Some(6_400.0),
            throughput_source: "40 % of 989 TFLOP/s".into(),
            throughput_source_said: None,
            slots: 20,
            seconds: Some(90.0 * 86_400.0),
            stages: vec![
                PlannedStage { stage: Stage::Shard, seconds: None },
                PlannedStage { stage: Stage::Seed, seconds: Some(54.0 * 86_400.0) },
            ],
            fit: Some(PlanFit {
                days: 30.0,
                days_needed: 90.0,
                longest: "seed".into(),
                longest_days: 54.0,
                budgets_times: Some(1.0 / 3.0),
                tokens: Some(93_000_000_000),
                slots: None,
            }),
            checkpoint_bytes: 1 << 30,
            checkpoint_bytes_each: 1 << 30,
            tokens_in_days: Some(330_000_000_000),
            corpus_tokens: None,
            refused: vec![],
            warnings: vec![],
        };
        let text = render(&plan);
        for part in [
            "330.0 B tokens in the days at hand, if all 20 slots trained all the time",
            "shard not measured yet, seed 54 d",
            "does not fit  90 of 30 days, seed alone 54",
            "what would fit: all budgets times 0.33 (93.0 B); no number of slots helps",
            "42.0 B",
            "10.0 B parameters",
            "1 d",
            "10 000",
            "25 %",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
