//! How long it takes with the settings that are shipped: from a dead worker to the first new step elsewhere, and from
//! the server's death to its readiness.

use super::{
    Chaos,
    checks::check,
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use senmon_server::config::Config;
use std::time::{Duration, Instant};

/// The goals; the second one is beside loading the model.
const LOST_MAX: Duration = Duration::from_secs(30);
const STEP_MAX: Duration = Duration::from_secs(60);

/// Kills the worker for good while another one is idle.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| disturbed(chaos, steps).await).await
}

async fn disturbed(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let Config { lease_ttl_ms, worker_lost_ms, .. } = Config::default();
    let options = WorldOptions {
        workers: 2,
        slots: 1,
        lease_ttl_ms,
        worker_lost_ms: Some(worker_lost_ms),
        ..WorldOptions::default()
    };
    let mut world = World::start(options).await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, steps / 4).await?;
    let first = training.attempts(&world).await?.pop().context("an attempt trains")?;
    world.kill_worker(first.worker.trim_start_matches("worker-").parse()?);
    let killed = Instant::now();
    world
        .outlast(super::LIMIT, "the worker is declared lost", async || {
            let last = training.attempts(&world).await?.into_iter().find(|attempt| attempt.fence == first.fence);
            Ok(last.filter(|attempt| attempt.finished_at.is_some()))
        })
        .await?;
    let lost = killed.elapsed();
    training.steps_again(&world, first.fence.0).await?;
    let step = killed.elapsed();
    ensure!(lost <= LOST_MAX && step <= STEP_MAX, "lost after {lost:?}, a new step after {step:?}");
    world.kill_server();
    let killed = Instant::now();
    world.start_server().await?;
    let ready = killed.elapsed();
    training.done(&world).await?;
    let verdict = check(&world, &training, calm.as_deref()).await?;
    ensure!(verdict.attempts == 2, "{verdict:?}");
    Ok(vec![
        Figure::of("kill to declared lost", lost),
        Figure::of("kill to the first new step", step),
        Figure::of("server's restart to ready", ready),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}
