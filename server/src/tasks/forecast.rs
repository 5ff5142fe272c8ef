//! When experiments end: counts what attempts measured, and lays out what is left of every experiment that runs on the
//! fleet that there is.

use crate::{
    app::App,
    db::{self, evaluations::EvaluationRow, experiments::ExperimentRow, workers::WorkerRow},
    domain::{
        advance::experiment::Facts,
        forecast::{BranchLeft, Left, comparisons, held_out_tokens},
        rates::{Rate, together},
        timetable::Slots,
    },
};
use anyhow::Result;
use chrono::DateTime;
use senmon_protocol::{
    ids::BranchId,
    job::{JobResult, Split},
    resources::DeviceKind,
    view::{BranchState, BranchView, WorkerMode},
};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Time between two forecasts.
pub const PERIOD_MS: u64 = 5_000;
/// Attempts counted in one step.
const ATTEMPTS: i64 = 500;

/// How far an experiment has got.
pub(super) struct Progress<'a> {
    pub row: &'a ExperimentRow,
    /// Bytes of text of each file.
    pub files: &'a [u64],
    pub branches: &'a [BranchView],
    pub evaluations: &'a [EvaluationRow],
    pub facts: &'a Facts,
}

/// What is left of an experiment that runs.
pub(super) fn left(progress: &Progress<'_>) -> Left {
    let Progress { row, files, branches, evaluations, facts } = progress;
    let spec = &row.spec;
    let last = |n: usize| files[files.len() - n.min(files.len())..].to_vec();
    let comparison = &facts.comparison;
    let compares = comparison.wanted && !comparison.listed;
    let over = evaluations.iter().filter(|e| e.result.is_some() || e.failed);
    let scored: HashSet<BranchId> = over.clone().filter_map(|e| e.branch_id).collect();
    let places: HashMap<BranchId, usize> = branches.iter().map(|branch| branch.id).zip(0..).collect();
    let found: Vec<BranchLeft> = branches
        .iter()
        .map(|branch| {
            let given_up = matches!(branch.state, BranchState::Failed | BranchState::Cancelled);
            BranchLeft {
                role: branch.role,
                repeat: branch.repeat,
                parent: branch
                    .parent_id
                    .filter(|_| branch.start_checkpoint_id.is_none())
                    .and_then(|id| places.get(&id).copied()),
                tokens: branch.tokens_total.saturating_sub(branch.tokens),
                slots: branch.training.as_ref().map_or(1, |training| training.slots),
                rate: branch.tokens_per_second.filter(|_| branch.state == BranchState::Running),
                is_over: given_up || branch.state == BranchState::Completed,
                is_scored_later: !given_up && !scored.contains(&branch.id),
            }
        })
        .collect();
    let compared = over.filter(|e| e.repeat.is_some()).count();
    Left {
        priority: spec.priority,
        device: spec.resources.device,
        discovers: false,
        shard: last(files.len().saturating_sub(facts.shards_done)),
        compare: if compares { last(files.len().saturating_sub(comparison.over)) } else { Vec::new() },
        held_out_tokens: progress.held_out_tokens(),
        comparisons: comparisons(&found).into_iter().skip(compared).collect(),
        branches: found,
    }
}

impl Progress<'_> {
    /// Tokens that one evaluation scores: as one that is done did, or as the shards hold.
    fn held_out_tokens(&self) -> u64 {
        let scored = self.evaluations.iter().find_map(|e| match &e.result {
            Some(JobResult::Evaluate(found)) => Some(found.tokens()),
            _ => None,
        });
        if let Some(tokens) = scored {
            return tokens;
        }
        let mut held = HashMap::<u32, (u64, u64)>::new();
        let shards = self.row.shard_index.iter().flat_map(|index| &index.shards);
        for range in shards.flat_map(|shard| &shard.ranges).filter(|range| range.split == Split::HeldOut) {
            let (documents, tokens) = held.entry(range.domain).or_default();
            *documents += range.documents;
            *tokens += range.tokens;
        }
        held_out_tokens(&self.row.spec.evaluation, held.into_values())
    }
}

/// Counts what ended, and looks ahead.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    count(&app).await?;
    let (slots, devices) = fleet(&db::workers::list(&app.db, None).await?.rows);
    app.forecasts.look(slots, &devices);
    Ok(())
}

/// Adds what ended since the last look to what was measured.
async fn count(app: &App) -> Result<()> {
    let mut counted = match app.forecasts.counted() {
        Some(counted) => counted,
        None => (db::rates::counted_to(&app.db).await?.unwrap_or(DateTime::UNIX_EPOCH), Uuid::max()),
    };
    loop {
        let ended = db::rates::ended(&app.db, counted, ATTEMPTS).await?;
        let Some(last) = ended.last().map(|attempt| attempt.at) else { break };
        let rates: Vec<Rate> = ended.into_iter().filter_map(|attempt| attempt.measured.rate()).collect();
        db::rates::add(&app.db, &together(rates), last.0).await?;
        counted = last;
        app.forecasts.has_counted(counted);
    }
    app.forecasts.knows(db::rates::all(&app.db).await?);
    Ok(())
}

/// Slots of the workers that are given jobs, and their devices by name.
#[must_use]
pub fn fleet(workers: &[WorkerRow]) -> (Slots, Vec<(String, u32)>) {
    let mut slots = Slots::default();
    let mut devices: HashMap<String, u32> = HashMap::new();
    let is_given_jobs = |w: &&WorkerRow| !w.lost && w.mode == WorkerMode::Enabled && w.set_aside.is_none();
    for worker in workers.iter().filter(is_given_jobs) {
        for slot in worker.slots.iter().filter(|slot| slot.set_aside.is_none()) {
            match DeviceKind::of(slot) {
                DeviceKind::Cpu => slots.cpu += 1,
                DeviceKind::Cuda => slots.cuda += 1,
            }
            *devices.entry(slot.device_name.clone()).or_default() += 1;
        }
    }
    let mut devices: Vec<(String, u32)> = devices.into_iter().collect();
    devices.sort_unstable();
    (slots, devices)
}
