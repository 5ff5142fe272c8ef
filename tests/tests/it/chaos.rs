//! The short form of `make chaos`: each scenario once, on trainings of some seconds.

use anyhow::Result;
use senmon_tests::chaos::{
    Chaos, damage,
    disk::Disk,
    disks::{self, Trouble},
    kills,
    netns::{Lost, Namespace},
    network,
    outages::{self, Outage},
    partitions, trials, zombies,
};
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
async fn training_outlives_a_full_spool() -> Result<()> {
    if let Some(why) = Disk::missing() {
        println!("skipped: {why}");
        return Ok(());
    }
    disks::of_the_spool(&mut Chaos::uncompared(SEED), STEPS).await.map(drop)
}
