//! Deadlines and budgets: says once that a deadline cannot be kept, and pauses an experiment whose budget is spent.

use crate::{
    app::App,
    db::{self, events::NewEvent, experiments::ExperimentRow},
    domain::deadline::{Ahead, budget_spent, seconds_needed},
};
use anyhow::Result;
use senmon_protocol::{
    resources::BudgetSpec,
    said,
    said::{Said, decimal},
    view::{BranchState, BranchView, StreamExperiment, StreamMessage, WorkerMode},
};

/// Looks at one running experiment.
///
/// # Errors
/// When Postgres refuses.
pub async fn check(app: &App, row: &ExperimentRow, branches: &[BranchView]) -> Result<()> {
    if row.spec.budget != BudgetSpec::default() {
        check_budget(app, row).await?;
    }
    if row.spec.deadline.is_some() && !row.deadline_missed {
        check_deadline(app, row, branches).await?;
    }
    Ok(())
}

async fn check_budget(app: &App, row: &ExperimentRow) -> Result<()> {
    let (slot_hours, wall_hours) = db::experiments::spent(&app.db, row.id).await?;
    let Some(why) = budget_spent(&row.spec.budget, slot_hours, wall_hours) else { return Ok(()) };
    if db::experiments::hold(&app.db, row.id, &why).await? {
        say(app, row, "budget_spent", said!("experiment_over_budget", why = why)).await;
    }
    Ok(())
}

async fn check_deadline(app: &App, row: &ExperimentRow, branches: &[BranchView]) -> Result<()> {
    let Some(deadline) = row.spec.deadline else { return Ok(()) };
    let rates = branches.iter().filter_map(|branch| {
        let slots = branch.training.as_ref().map_or(1, |training| training.slots);
        branch.tokens_per_second.map(|rate| rate / f64::from(slots.max(1)))
    });
    // The fastest: what is said here must be certain.
    let rate = rates.fold(0.0, f64::max);
    if rate <= 0.0 {
        return Ok(());
    }
    let is_over =
        |b: &&BranchView| matches!(b.state, BranchState::Completed | BranchState::Failed | BranchState::Cancelled);
    let open: Vec<&BranchView> = branches.iter().filter(|branch| !is_over(branch)).collect();
    let ahead: Vec<Ahead> = open
        .iter()
        .map(|branch| Ahead {
            tokens: branch.tokens_total.saturating_sub(branch.tokens),
            parent: branch.parent_id.and_then(|id| open.iter().position(|other| other.id == id)),
            slots: branch.training.as_ref().map_or(1, |training| training.slots),
        })
        .collect();
    let workers = db::workers::list(&app.db, None).await?.rows;
    let able = workers.iter().filter(|worker| !worker.lost && worker.mode == WorkerMode::Enabled);
    let slots = u32::try_from(able.map(|worker| worker.slots.len()).sum::<usize>()).unwrap_or(u32::MAX);
    let needed = seconds_needed(&ahead, rate, slots);
    let left = (deadline - db::workers::now(&app.db).await?).as_seconds_f64();
    if needed > left && db::experiments::miss_deadline(&app.db, row.id).await? {
        let (needed, left) = (decimal(needed / 3600.0, 1), decimal(left.max(0.0) / 3600.0, 1));
        say(app, row, "deadline_missed", said!("deadline_missed", needed = needed, left = left)).await;
    }
    Ok(())
}

async fn say(app: &App, row: &ExperimentRow, kind: &'static str, said: Said) {
    let event = NewEvent { kind, level: "warn", said, experiment_id: Some(row.id), ..NewEvent::default() };
    app.event(event).await;
    app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: row.id }));
}
