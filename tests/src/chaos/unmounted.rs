//! A store that is not mounted for a while: an empty folder lies in its place, as when a disk has not come up. Nothing is
//! condemned or removed, commits wait, and what is there afterwards goes on with the same bits.

use super::{
    Chaos, LIMIT,
    checks::check,
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use senmon_protocol::view::{CheckpointView, EventView, Page};
use std::{fs, time::Duration};
use tokio::time::sleep;

/// How long: the scrub looks every five seconds, the sweep every two of these worlds.
const AWAY: Duration = Duration::from_secs(8);

/// Trains, takes the store away and puts it back, and checks.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| disturbed(chaos, steps).await).await
}

async fn disturbed(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let server_settings = "orphan_grace_ms = 3000".to_owned();
    let world = World::start(WorldOptions { slots: 1, server_settings, ..WorldOptions::default() }).await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 60).await?;
    training.saves_committed_beyond(&world, 0).await?;
    let (store, away, hidden) = (world.path("server/storage"), world.path("away"), world.path("hidden"));
    fs::rename(&store, &away)?;
    fs::create_dir(&store)?;
    world
        .until(LIMIT, "an event says that the store is not there", async || {
            Ok((told(&world).await?.last().map(String::as_str) == Some("store_unknown")).then_some(()))
        })
        .await?;
    let before = committed(&world, &training).await?;
    sleep(AWAY).await;
    let after = committed(&world, &training).await?;
    ensure!(after.len() == before.len(), "{} were committed before, {} are now", before.len(), after.len());
    ensure!(after.iter().all(|checkpoint| checkpoint.problem.is_none()), "condemned: {after:?}");
    // What was written meanwhile is hidden again by the mount.
    fs::rename(&store, &hidden)?;
    fs::rename(&away, &store)?;
    training.done(&world).await?;
    let verdict = check(&world, &training, calm.as_deref()).await?;
    let told = told(&world).await?;
    ensure!(told == ["store_unknown", "store_known"], "said so: {told:?}");
    // A checkpoint that was written to the wrong place is refused; its attempt is repeated from the one before.
    ensure!(verdict.attempts <= 2, "{verdict:?}");
    Ok(vec![
        Figure::of("store away", AWAY),
        Figure::zero("checkpoints condemned or removed"),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
        Figure::count("checkpoints committed, all verified", verdict.checkpoints),
    ])
}

async fn told(world: &World) -> Result<Vec<String>> {
    let events: Vec<EventView> = world.api.list("/api/v1/events?sort=oldest").await?;
    Ok(events.into_iter().map(|event| event.kind).filter(|kind| kind.starts_with("store_")).collect())
}

async fn committed(world: &World, training: &Training) -> Result<Vec<CheckpointView>> {
    let branch = training.branch(world).await?.context("there is a branch")?.id;
    let page: Page<CheckpointView> =
        world.api.get(&format!("/api/v1/checkpoints?branch_id={branch}&limit=500")).await?;
    Ok(page.items)
}
