//! Partitions by real packets: the worker lives in a network of its own, and either direction is lost.

use super::{
    Chaos,
    checks::check,
    netns::{Lost, Namespace},
    proxy::Proxy,
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Result, ensure};
use std::time::Duration;
use tokio::time::sleep;

/// Life of a lease; a worker is lost after two.
const LEASE: Duration = Duration::from_millis(2_000);

/// Loses each direction and both, shorter than a lease and longer than it takes to be declared lost.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, steps: u64, long: &[Lost]) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| disturbed(chaos, steps, long).await).await
}

async fn disturbed(chaos: &mut Chaos, steps: u64, long: &[Lost]) -> Result<Figures> {
    let lease_ttl_ms = u64::try_from(LEASE.as_millis())?;
    let mut world = World::empty(WorldOptions { slots: 1, lease_ttl_ms, ..WorldOptions::default() })?;
    let space = Namespace::new()?;
    let door = Proxy::tcp(&space.server(), world.port()).await?;
    world.options.server_url = Some(door.url().to_owned());
    world.options.worker_by = space.by();
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 40).await?;
    for lost in [Lost::ToServer, Lost::ToWorker, Lost::Both] {
        space.lose(lost)?;
        sleep(LEASE / 4).await;
        space.lose(Lost::None)?;
        sleep(LEASE / 2).await;
    }
    ensure!(training.fence(&world).await? == 1, "an interruption shorter than a lease cost the attempt");
    for lost in long {
        let fence = training.fence(&world).await?;
        space.lose(*lost)?;
        // The server gives the job up; nobody else is there to take it.
        world
            .outlast(super::LIMIT, &format!("the attempt is given up ({lost:?})"), async || {
                let last = training.attempts(&world).await?.pop();
                Ok(last.filter(|last| last.finished_at.is_some()))
            })
            .await?;
        space.lose(Lost::None)?;
        training.steps_again(&world, fence).await?;
    }
    training.done(&world).await?;
    let aside = std::fs::read_dir(world.path("worker-0/fenced")).map_or(0, Iterator::count);
    ensure!(aside == long.len(), "{aside} spools were set aside after {} long partitions", long.len());
    let verdict = check(&world, &training, calm.as_deref()).await?;
    Ok(vec![
        Figure::count("partitions shorter than a lease", 3),
        Figure::count("partitions in which the job was given up", long.len()),
        Figure::count("spools kept in `fenced`", aside),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}
