//! The short form of `make chaos`: each scenario once, on trainings of some seconds.

use anyhow::{Result, ensure};
use rand::Rng;
use senmon_tests::chaos::{
    Chaos, damage,
    disk::Disk,
    disks::{self, Trouble},
    kills,
    netns::{Lost, Namespace},
    network,
    outages::{self, Outage},
    partitions,
    training::{Over, Training},
    trials, unmounted, zombies,
};
use senmon_tests::{World, WorldOptions};
use std::time::Duration;

const SEED: u64 = 4;
const STEPS: u64 = 800;
/// Ten times as long as a lease, five times as long as it takes to be declared lost.
const OUTAGE: Outage = Outage { steps: 1_600, lease: Duration::from_millis(600), away: Duration::from_secs(6) };

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_comes_back_with_the_same_bits() -> Result<()> {
    kills::run(&mut Chaos::new(SEED), &kills::SHORT).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_woken_zombie_stops_itself_and_keeps_its_files() -> Result<()> {
    zombies::run(&mut Chaos::new(SEED), STEPS).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_zombies_none_is_heard() -> Result<()> {
    trials::run(200).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn wires_that_lie_lose_and_double_nothing() -> Result<()> {
    network::run(&mut Chaos::uncompared(SEED), 2 * STEPS, Duration::from_secs(2)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_connections_to_postgres_are_given_up() -> Result<()> {
    network::dead_wires(&mut Chaos::uncompared(SEED), 2 * STEPS).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_outlives_an_outage_of_the_server() -> Result<()> {
    outages::of_the_server(&mut Chaos::uncompared(SEED), OUTAGE).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_outlives_an_outage_of_postgres() -> Result<()> {
    outages::of_the_database(&mut Chaos::uncompared(SEED), OUTAGE).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_to_a_checkpoint_is_found() -> Result<()> {
    damage::run(&mut Chaos::uncompared(SEED), 2).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_worker_comes_back() -> Result<()> {
    if let Some(why) = Namespace::missing() {
        println!("skipped: {why}");
        return Ok(());
    }
    partitions::run(&mut Chaos::uncompared(SEED), 5 * STEPS, &[Lost::ToWorker]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn training_outlives_a_full_store() -> Result<()> {
    a_store_in_trouble(Trouble::Full).await
}

#[tokio::test(flavor = "multi_thread")]
async fn training_outlives_a_store_that_is_read_only() -> Result<()> {
    a_store_in_trouble(Trouble::ReadOnly).await
}

#[tokio::test(flavor = "multi_thread")]
async fn training_outlives_a_store_that_answers_with_errors() -> Result<()> {
    a_store_in_trouble(Trouble::Errors).await
}

async fn a_store_in_trouble(trouble: Trouble) -> Result<()> {
    if let Some(why) = trouble.missing() {
        println!("skipped: {why}");
        return Ok(());
    }
    disks::of_the_store(&mut Chaos::uncompared(SEED), 2 * STEPS, trouble).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn training_outlives_a_store_that_is_not_mounted() -> Result<()> {
    unmounted::run(&mut Chaos::new(SEED), 2 * STEPS).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disturbance_does_not_race_the_end_of_what_it_disturbs() -> Result<()> {
    let world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let training = Training::submit(&world, 40).await?;
    training.done(&world).await?;
    // None of this will ever come: it is said at once.
    let over = |error: Option<anyhow::Error>| error.is_some_and(|error| error.is::<Over>());
    ensure!(over(training.saves(&world).await.err()) && over(training.reaches(&world, 10).await.err()));
    ensure!(over(training.steps_again(&world, 1).await.err()));
    ensure!(over(training.saves_committed_beyond(&world, 40).await.err()));
    // Then it is done again with more steps, and the same choices.
    let mut chaos = Chaos::new(SEED);
    let mut tried = Vec::new();
    let steps = chaos
        .long_enough(40, async |chaos, steps| {
            tried.push(chaos.random.random::<u64>());
            if steps < 160 { Err(anyhow::Error::new(Over)) } else { Ok(steps) }
        })
        .await?;
    ensure!(steps == 160 && tried.len() == 3 && tried.iter().all(|chance| *chance == tried[0]), "{tried:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn training_outlives_a_full_spool() -> Result<()> {
    if let Some(why) = Disk::missing() {
        println!("skipped: {why}");
        return Ok(());
    }
    disks::of_the_spool(&mut Chaos::uncompared(SEED), STEPS).await.map(drop)
}
