//! What must hold after every scenario, whatever happened in it.

use super::{LIMIT, training::Training};
use crate::{World, spec::STEP_TOKENS};
use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    ids::BranchId,
    job::TerminationReason,
    view::{AttemptView, BranchView, CheckpointVerdict, CheckpointView, JobView, LogsView, MetricsView, Page},
};
use serde::Serialize;
use std::collections::BTreeSet;

/// Every fifth step is reported ([`crate::spec::small`]).
const REPORTED_EVERY: u64 = 5;

/// What was found; everything that must be zero was zero, or there is an error instead.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Reported steps, each with one current value.
    pub points: usize,
    /// Points that later attempts took the place of.
    pub points_superseded: usize,
    /// Committed checkpoints, all verified.
    pub checkpoints: usize,
    /// Attempts.
    pub attempts: usize,
    /// Digest of the final state.
    pub state_sha256: String,
}

/// Checks a finished training, then ends its experiment and waits until no job of it is left. `calm` is what an
/// undisturbed training of as many steps ends with.
///
/// # Errors
/// The first thing that does not hold.
pub async fn check(world: &World, training: &Training, calm: Option<&str>) -> Result<Verdict> {
    let branch = training.branch(world).await?.context("there is a branch")?;
    let (points, points_superseded) = one_value_per_step(world, training, branch.id).await?;
    let checkpoints = checkpoints_verify(world, branch.id).await?;
    let attempts = training.attempts(world).await?;
    attempts_make_sense(&attempts, &checkpoints)?;
    log_is_told_once(world, &branch, &checkpoints, &attempts).await?;
    let last = checkpoints.iter().find(|checkpoint| Some(checkpoint.id) == branch.checkpoint_id);
    let last = last.context("the last checkpoint is among the committed ones")?;
    ensure!(last.meta.step == training.steps, "the last checkpoint is of step {}", last.meta.step);
    let newest = attempts.last().map(|attempt| attempt.fence);
    ensure!(newest == Some(last.meta.fence), "the last checkpoint has fence {}, {newest:?} was last", last.meta.fence);
    let state_sha256 = last.meta.state_sha256.clone();
    if let Some(calm) = calm {
        ensure!(state_sha256 == calm, "it ended with other bits: {state_sha256}, undisturbed {calm}");
    }
    training.cancel(world).await?;
    no_job_is_stuck(world, training).await?;
    Ok(Verdict { points, points_superseded, checkpoints: checkpoints.len(), attempts: attempts.len(), state_sha256 })
}

/// None lost, none doubled, none of a step that was not reported; the numbers of current and superseded points.
async fn one_value_per_step(world: &World, training: &Training, branch: BranchId) -> Result<(usize, usize)> {
    let metrics: MetricsView = world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=10000")).await?;
    let expected: Vec<u64> =
        (1..=training.steps).filter(|step| step.is_multiple_of(REPORTED_EVERY) || *step == training.steps).collect();
    let found: BTreeSet<u64> = metrics.steps.iter().copied().collect();
    let lost: Vec<_> = expected.iter().filter(|step| !found.contains(step)).collect();
    ensure!(lost.is_empty(), "points of the steps {lost:?} are lost");
    ensure!(metrics.steps == expected, "points are doubled or invented: {:?}", metrics.steps);
    ensure!(metrics.tokens.iter().zip(&metrics.steps).all(|(tokens, step)| *tokens == step * STEP_TOKENS));
    let losses = &metrics.series.get("train/loss").context("a loss is reported")?.mean;
    ensure!(losses.len() == expected.len() && losses.iter().all(Option::is_some), "a loss is missing");
    Ok((expected.len(), metrics.superseded.iter().map(|tail| tail.steps.len()).sum()))
}

/// Every committed checkpoint is what was committed.
async fn checkpoints_verify(world: &World, branch: BranchId) -> Result<Vec<CheckpointView>> {
    let mut checkpoints = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/v1/checkpoints?branch_id={branch}&limit=200{after}");
        let page: Page<CheckpointView> = world.api.get(&path).await?;
        checkpoints.extend(page.items);
        let Some(cursor) = page.next_cursor else { break };
        after = format!("&cursor={cursor}");
    }
    for checkpoint in &checkpoints {
        let verdict: CheckpointVerdict =
            world.api.post(&format!("/api/v1/checkpoints/{}/verify", checkpoint.id), &()).await?;
        ensure!(verdict.problem.is_none(), "checkpoint of step {}: {verdict:?}", checkpoint.meta.step);
    }
    Ok(checkpoints)
}

/// Fences grow by one; attempts follow each other without overlap; each starts at a committed checkpoint and found its
/// state as recorded; the last one has the result.
fn attempts_make_sense(attempts: &[AttemptView], checkpoints: &[CheckpointView]) -> Result<()> {
    let starts: BTreeSet<u64> = checkpoints.iter().map(|checkpoint| checkpoint.meta.step).chain([0]).collect();
    for (attempt, fence) in attempts.iter().zip(1..) {
        ensure!(attempt.fence.0 == fence, "fences do not grow by one: {attempts:?}");
        let finished = attempt.finished_at.with_context(|| format!("attempt {fence} never ended: {attempt:?}"))?;
        ensure!(attempt.started_at <= finished, "attempt {fence} ended before it began: {attempt:?}");
        if let Some(start) = attempt.step_start {
            ensure!(starts.contains(&start), "attempt {fence} starts at step {start}, where no checkpoint is");
            ensure!(start == 0 || attempt.resume_verified == Some(true), "attempt {fence}: {attempt:?}");
        }
    }
    ensure!(attempts.windows(2).all(|pair| pair[0].finished_at <= Some(pair[1].started_at)), "overlap: {attempts:?}");
    let (last, before) = attempts.split_last().context("there is an attempt")?;
    ensure!(last.reason.is_none(), "the last attempt has no result: {last:?}");
    let of_the_chaos = |reason| matches!(reason, Some(TerminationReason::WorkerLost | TerminationReason::Released));
    ensure!(before.iter().all(|attempt| of_the_chaos(attempt.reason)), "another end: {before:?}");
    Ok(())
}

/// The log tells each checkpoint of a current attempt once, in order.
async fn log_is_told_once(
    world: &World,
    branch: &BranchView,
    checkpoints: &[CheckpointView],
    attempts: &[AttemptView],
) -> Result<()> {
    let mut lines = Vec::new();
    let mut after = 0;
    loop {
        let page: LogsView = world.api.get(&format!("/api/v1/branches/{}/logs?after={after}", branch.id)).await?;
        if page.lines.is_empty() {
            break;
        }
        after = page.next_after;
        lines.extend(page.lines.into_iter().map(|line| line.text));
    }
    let told: Vec<u64> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("checkpoint of step ")?.split(' ').next()?.parse().ok())
        .collect();
    let last = attempts.last().map(|attempt| attempt.fence);
    let written: Vec<u64> =
        checkpoints.iter().rev().filter(|c| Some(c.meta.fence) == last).map(|c| c.meta.step).collect();
    ensure!(told.ends_with(&written), "the log tells {told:?}, the last attempt wrote {written:?}");
    Ok(())
}

async fn no_job_is_stuck(world: &World, training: &Training) -> Result<()> {
    world
        .outlast(LIMIT, "no job of the experiment is open", async || {
            let jobs: Vec<JobView> = world.api.list("/api/v1/jobs").await?;
            Ok((!jobs.iter().any(|job| job.owner.id() == training.id.into())).then_some(()))
        })
        .await
}
