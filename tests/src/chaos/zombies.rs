//! A worker that is frozen beyond its lease and wakes up when somebody else has its job.

use super::{
    Chaos, LIMIT,
    checks::check,
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use senmon_protocol::view::MetricsView;
use std::time::{Duration, Instant};

const LEASE: Duration = Duration::from_millis(1_500);
/// A renewal is due after a third of a lease; what is above it is the machine's own: a step, a request, a look.
const SLACK: Duration = Duration::from_secs(2);

/// Freezes the worker that trains until another one trains in its place, wakes it, and watches it stop itself.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| disturbed(chaos, steps).await).await
}

async fn disturbed(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let lease_ttl_ms = u64::try_from(LEASE.as_millis())?;
    let world = World::start(WorldOptions { workers: 2, slots: 1, lease_ttl_ms, ..WorldOptions::default() }).await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, steps / 4).await?;
    let zombie = training.attempts(&world).await?.pop().context("an attempt trains")?;
    let index: usize = zombie.worker.trim_start_matches("worker-").parse()?;
    let process = world.workers[index].as_ref().context("the worker runs")?;

    process.signal(libc::SIGSTOP);
    let frozen = Instant::now();
    let next = training.steps_again(&world, zombie.fence.0).await?;
    let replaced = frozen.elapsed();
    ensure!(next.worker != zombie.worker, "the job went to the frozen worker: {next:?}");
    let tail = superseded(&world, &training).await?;
    process.signal(libc::SIGCONT);
    let woken = Instant::now();
    let aside = world.path(&zombie.worker).join("fenced").join(zombie.id.to_string());
    world
        .until(LIMIT, "the zombie sets its spool aside", async || {
            Ok(aside.join("records.jsonl").exists().then_some(()))
        })
        .await?;
    let stopped = woken.elapsed();
    ensure!(stopped <= LEASE / 3 + SLACK, "the zombie went on for {stopped:?}");

    training.done(&world).await?;
    let verdict = check(&world, &training, calm.as_deref()).await?;
    ensure!(verdict.attempts == 2, "{verdict:?}");
    // What the frozen attempt had said before is all that it ever said.
    ensure!(verdict.points_superseded == tail, "{tail} points were superseded when it woke: {verdict:?}");
    Ok(vec![
        Figure::of("frozen to the first step of the next attempt", replaced),
        Figure::of("woken to stopped", stopped),
        Figure::zero("zombie's writes accepted"),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}

/// Points of attempts whose place was taken.
async fn superseded(world: &World, training: &Training) -> Result<usize> {
    let branch = training.branch(world).await?.context("there is a branch")?.id;
    let metrics: MetricsView = world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=10000")).await?;
    Ok(metrics.superseded.iter().map(|tail| tail.steps.len()).sum())
}
