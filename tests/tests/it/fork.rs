//! A fork from a checkpoint that somebody chose, of a branch that is still under way.

use anyhow::{Context, Result};
use senmon_protocol::{
    ids::{BranchId, CheckpointId, ExperimentId},
    view::{BranchState, BranchView, CheckpointView, Page},
};
use senmon_tests::{World, WorldOptions, spec};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SEED_STEPS: u64 = 3_200;

#[tokio::test]
async fn a_fork_starts_from_the_checkpoint_that_was_chosen() -> Result<()> {
    let world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::long_seed(SEED_STEPS)).await?.summary.id;
    let saved = async || {
        let Some(seed) = branch(&world, id, "seed").await? else { return Ok(None) };
        let all = checkpoints(&world, seed.id).await?;
        Ok((all.len() >= 3).then_some((seed, all)))
    };
    let (seed, all) = world.until(LIMIT, "three checkpoints of the seed", saved).await?;
    let chosen = all.iter().min_by_key(|checkpoint| checkpoint.meta.step).context("a checkpoint")?;
    let _: Value = world.api.post(&format!("/api/v1/branches/{}/pause", seed.id), &()).await?;

    let path = format!("/api/v1/branches/{}/fork", seed.id);
    let unknown = CheckpointId::new();
    let problem = world.api.refused(&path, &json!({ "name": "x", "tokens": "5K", "checkpoint_id": unknown })).await?;
    let fault = problem.faults.first().context("a fault")?;
    assert_eq!(fault.path, "checkpoint_id");
    assert!(fault.message.contains(&unknown.to_string()), "{fault:?}");

    let tokens = 40 * spec::STEP_TOKENS;
    let body = json!({ "name": "again", "tokens": tokens, "mixture": { "1": 1.0 }, "checkpoint_id": chosen.id });
    let fork: BranchView = world.api.post(&path, &body).await?;
    assert_eq!((fork.parent_id, fork.start_checkpoint_id), (Some(seed.id), Some(chosen.id)));
    let done = async || {
        let fork = branch(&world, id, "again").await?.context("the fork")?;
        anyhow::ensure!(fork.state != BranchState::Failed, "{fork:?}");
        Ok((fork.state == BranchState::Completed).then_some(fork))
    };
    let fork = world.until(LIMIT, "the fork trains while its parent is paused", done).await?;
    assert_eq!(fork.step, 40);
    let written = checkpoints(&world, fork.id).await?;
    let first = written.iter().min_by_key(|checkpoint| checkpoint.meta.step).context("a checkpoint of the fork")?;
    assert_eq!(first.meta.parent_id, Some(chosen.id));
    // It reads on where the chosen checkpoint stood, in its own domain.
    let drawn = |checkpoint: &CheckpointView| [0, 1, 2].map(|domain| checkpoint.meta.lineage.drawn_of(domain));
    let ([a, b, c], own) = (drawn(chosen), first.meta.step * 8);
    assert_eq!(drawn(first), [a, b + own, c]);
    assert_eq!(branch(&world, id, "seed").await?.context("the seed")?.state, BranchState::Paused);
    Ok(())
}

async fn branch(world: &World, id: ExperimentId, name: &str) -> Result<Option<BranchView>> {
    Ok(world.experiment(id).await?.branches.into_iter().find(|branch| branch.name == name))
}

async fn checkpoints(world: &World, id: BranchId) -> Result<Vec<CheckpointView>> {
    let page: Page<CheckpointView> = world.api.get(&format!("/api/v1/checkpoints?branch_id={id}&limit=200")).await?;
    Ok(page.items)
}
