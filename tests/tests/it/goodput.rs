//! Where the time went: after a kill, a pause and a resume, every second of a branch has one cause.

use anyhow::{Context, Result};
use senmon_protocol::{
    goodput::{GoodputView, TimeCause},
    ids::{BranchId, ExperimentId},
    view::{AttemptView, BranchState, BranchView, CheckpointView, EventView, MetricsView, Page},
};
use senmon_tests::{World, WorldOptions, spec};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
const SEED_STEPS: u64 = 4_000;
/// Steps between two checkpoints: several heartbeats.
const SAVE_STEPS: u64 = 1_200;

#[tokio::test]
async fn goodput_and_badput_add_up_to_wall_time() -> Result<()> {
    let mut world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let mut experiment = spec::long_seed(SEED_STEPS);
    // Far apart, so that a kill takes steps back.
    experiment.training.checkpoint_every_steps = Some(SAVE_STEPS);
    let id = world.submit(&experiment).await?.summary.id;

    // The kill: steps beyond the last checkpoint were told, by a heartbeat and as points, and are lost; the next save is far.
    let branch = until_step(&world, id, SAVE_STEPS).await?.id;
    let saved = world
        .until(LIMIT, "a checkpoint with steps beyond it that were told", async || {
            let saved = last_saved(&world, branch).await?;
            let counted = attempts(&world, branch).await?.last().context("an attempt")?.time.step_last;
            let reported = points(&world, branch).await?.steps.pop().unwrap_or(0);
            let is_between = |step: u64| step > saved + 20 && step < saved + SAVE_STEPS * 3 / 4;
            Ok((saved >= SAVE_STEPS && is_between(counted) && is_between(reported)).then_some(saved))
        })
        .await?;
    world.kill_worker(0);
    world.start_worker(0)?;
    // Not the branch's step, which the killed attempt may have brought further.
    let goes_on = async || {
        let resumed = |attempt: &AttemptView| attempt.step_start.is_some_and(|step| step >= saved);
        let moved = |attempt: &AttemptView| Some(attempt.time.step_last) > attempt.step_start;
        let found = attempts(&world, branch).await?;
        Ok(found
            .iter()
            .any(|attempt| attempt.finished_at.is_none() && resumed(attempt) && moved(attempt))
            .then_some(()))
    };
    world.until(LIMIT, "an attempt goes on after the kill", goes_on).await?;

    // The pause.
    let _: serde_json::Value = world.api.post(&format!("/api/v1/branches/{branch}/pause"), &()).await?;
    let paused = async || {
        let branch = seed(&world, id).await?.context("the seed")?;
        Ok((branch.state == BranchState::Paused && branch.worker.is_none()).then_some(()))
    };
    world.until(LIMIT, "the branch is paused", paused).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _: serde_json::Value = world.api.post(&format!("/api/v1/branches/{branch}/resume"), &()).await?;
    let done = async || Ok(seed(&world, id).await?.filter(|branch| branch.state == BranchState::Completed));
    world.until(LIMIT, "the seed is done", done).await?;

    let goodput: GoodputView = world.api.get(&format!("/api/v1/branches/{branch}/goodput")).await?;
    println!("{}", serde_json::to_string(&goodput)?);
    let attempts = attempts(&world, branch).await?;
    let began = attempts.iter().map(|attempt| attempt.started_at).min().context("an attempt")?;
    let ended = attempts.iter().filter_map(|attempt| attempt.finished_at).max().context("an end")?;
    let wall = (ended - began).as_seconds_f64();
    let parts: f64 = goodput.causes.iter().map(|time| time.seconds).sum();
    assert!((parts / wall - 1.0).abs() < 0.01, "{parts} s by cause, {wall} s of wall time: {goodput:?}");
    assert!((goodput.goodput_seconds + goodput.badput_seconds - goodput.seconds).abs() < 1e-3);
    let seconds = |cause| goodput.causes.iter().find(|time| time.cause == cause).map_or(0.0, |time| time.seconds);
    for cause in [TimeCause::Productive, TimeCause::Wasted, TimeCause::Starting, TimeCause::CheckpointStall] {
        assert!(seconds(cause) > 0.0, "no time {cause:?}: {goodput:?}");
    }
    assert!(seconds(TimeCause::Paused) > 1.9, "{goodput:?}");
    assert!(goodput.faults >= 1 && goodput.attempts >= 3, "{goodput:?}");
    let tokens = goodput.tokens.context("an account of tokens")?;
    assert!(tokens.steps_superseded > 0, "{tokens:?}");
    let seed_tokens = SEED_STEPS * spec::STEP_TOKENS;
    assert_eq!((tokens.trained, tokens.drawn - tokens.skipped), (seed_tokens, seed_tokens));
    check_curve(&world, branch).await?;

    let whole: GoodputView = world.api.get(&format!("/api/v1/experiments/{id}/goodput")).await?;
    assert!(whole.seconds >= goodput.seconds && whole.causes.iter().any(|time| time.cause == TimeCause::Sharding));
    let fleet: GoodputView = world.api.get("/api/v1/goodput?hours=1").await?;
    let shares: f64 = fleet.causes.iter().map(|time| time.share).sum();
    assert!((shares - 1.0).abs() < 0.01 && fleet.causes.iter().any(|time| time.cause == TimeCause::Idle), "{fleet:?}");
    let elapsed = (fleet.until - fleet.from.context("a begin")?).as_seconds_f64();
    assert!((fleet.seconds / elapsed - 1.0).abs() < 0.01, "one slot, {elapsed} s: {fleet:?}");
    Ok(())
}

/// The steps that the kill took back are kept and marked, and every change of hands has a place on the axis.
async fn check_curve(world: &World, branch: BranchId) -> Result<()> {
    let metrics = points(world, branch).await?;
    assert!(metrics.superseded.iter().any(|tail| !tail.steps.is_empty()), "no superseded tail is kept");
    assert!(metrics.steps.windows(2).all(|pair| pair[0] < pair[1]), "two current values of one step");
    let on_axis = |kind: &str| metrics.events.iter().filter(|event| event.kind == kind && event.step.is_some()).count();
    let expected = [("attempt_started", 1), ("attempt_resumed", 2), ("attempt_ended", 3), ("branch_changed", 2)];
    for (kind, least) in expected {
        let events: Vec<&EventView> = metrics.events.iter().collect();
        assert!(on_axis(kind) >= least, "{kind}: {events:?}");
    }
    Ok(())
}

async fn last_saved(world: &World, branch: BranchId) -> Result<u64> {
    let path = format!("/api/v1/checkpoints?branch_id={branch}&limit=200");
    let page: Page<CheckpointView> = world.api.get(&path).await?;
    Ok(page.items.iter().map(|checkpoint| checkpoint.meta.step).max().unwrap_or(0))
}

async fn points(world: &World, branch: BranchId) -> Result<MetricsView> {
    world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=9999")).await
}

async fn attempts(world: &World, branch: BranchId) -> Result<Vec<AttemptView>> {
    world.api.list(&format!("/api/v1/branches/{branch}/attempts")).await
}

async fn until_step(world: &World, id: ExperimentId, step: u64) -> Result<BranchView> {
    let there = async || Ok(seed(world, id).await?.filter(|branch| branch.step >= step));
    world.until(LIMIT, "the seed trains", there).await
}

async fn seed(world: &World, id: ExperimentId) -> Result<Option<BranchView>> {
    Ok(world.experiment(id).await?.branches.into_iter().find(|branch| branch.name == "seed"))
}
