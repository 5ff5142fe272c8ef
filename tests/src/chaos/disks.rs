//! Disks that are full: the store's, and the one on which a worker keeps what it has to say.

use super::{
    Chaos, LIMIT,
    checks::check,
    report::{Figure, Figures},
    tmpfs::Tmpfs,
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    ids::BranchId,
    view::{EventView, MetricsView},
};
use std::fs;

/// Saves are 20 steps apart ([`crate::spec::small`]): so many steps without room hold several of them.
const STEPS_WITHOUT_ROOM: u64 = 100;

/// The store has no room for several saves: training goes on, the cause is an event, and saves succeed again once there
/// is room.
///
/// # Errors
/// What does not hold.
pub async fn of_the_store(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let mut world = World::empty(WorldOptions { slots: 1, ..WorldOptions::default() })?;
    let disk = Tmpfs::mount(&world.path("server/storage"), 96)?;
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 60).await?;
    disk.fill()?;
    let full = training.branch(&world).await?.context("there is a branch")?;
    let step = full.step + STEPS_WITHOUT_ROOM;
    training.reaches(&world, step).await?;
    ensure!(training.attempts(&world).await?.len() == 1, "the attempt ended: {:?}", training.attempts(&world).await?);
    disk.free()?;
    let again = training.saves_committed_beyond(&world, step).await?;
    training.done(&world).await?;
    let events = events(&world, full.id).await?;
    let told = events.iter().filter(|event| event.kind == "checkpoint_failed").count();
    ensure!(told > 0, "no event names the cause: {events:?}");
    let verdict = check(&world, &training, calm.as_deref()).await?;
    ensure!(verdict.attempts == 1, "{verdict:?}");
    Ok(vec![
        Figure::count("steps trained without room", usize::try_from(step - full.step)?),
        Figure::count("events that name the cause", told),
        Figure::count("step of the first save after it", usize::try_from(again)?),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}

/// The worker's own disk is full: what it has to say waits in memory and is delivered once there is room.
///
/// # Errors
/// What does not hold.
pub async fn of_the_spool(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let mut world = World::empty(WorldOptions { slots: 1, ..WorldOptions::default() })?;
    let disk = Tmpfs::mount(&world.path("worker-0"), 1)?;
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 60).await?;
    disk.fill()?;
    let full = training.branch(&world).await?.context("there is a branch")?;
    // Nothing is delivered now; that training goes on is seen where checkpoints are written.
    let folder = Training::checkpoints(&world, full.id);
    let saves = || fs::read_dir(&folder).map_or(0, Iterator::count);
    let before = saves();
    world
        .until(LIMIT, "checkpoints are written while the spool is full", async || {
            Ok((saves() >= before + 3).then_some(()))
        })
        .await?;
    disk.free()?;
    training.done(&world).await?;
    let told = events(&world, full.id).await?.iter().filter(|event| event.kind == "spool_refused").count();
    ensure!(told > 0, "no event names the cause");
    let verdict = check(&world, &training, calm.as_deref()).await?;
    ensure!(verdict.attempts == 1, "{verdict:?}");
    Ok(vec![
        Figure::count("checkpoints written meanwhile", 3),
        Figure::count("events that name the cause", told),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}

async fn events(world: &World, branch: BranchId) -> Result<Vec<EventView>> {
    let metrics: MetricsView = world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=1")).await?;
    Ok(metrics.events)
}
