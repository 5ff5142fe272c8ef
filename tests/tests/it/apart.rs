//! Fits are processes of their own: what becomes of them is nothing to the control plane.

use anyhow::{Context, Result, ensure};
use senmon_protocol::view::ExperimentState;
use senmon_tests::{World, WorldOptions, spec};
use std::{
    fs,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(240);

/// The fit that the server has done now.
fn fit_of(server: u32) -> Option<u32> {
    let children = fs::read_dir(format!("/proc/{server}/task")).ok()?.flatten().flat_map(|thread| {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    });
    children.into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"apart")
    })
}

#[tokio::test]
async fn a_fit_that_is_killed_is_done_again_and_the_server_goes_on() -> Result<()> {
    let world = World::start(WorldOptions { documents: 400, ..WorldOptions::default() }).await?;
    let server = world.server.as_ref().context("the server runs")?.id();
    let mut small = spec::small();
    small.clustering.sample_documents = 1_600;
    let id = world.submit(&small).await?.summary.id;
    let start = Instant::now();
    let killed = loop {
        match fit_of(server) {
            Some(pid) => break pid,
            None => ensure!(start.elapsed() < LIMIT, "no fit was seen\n{}", world.logs()),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    senmon_tests::process::signal(killed, libc::SIGKILL);
    world
        .until(LIMIT, "the branches are laid out", async || {
            Ok((!world.experiment(id).await?.branches.is_empty()).then_some(()))
        })
        .await?;
    let same = world.server.as_ref().context("the server runs")?.id();
    ensure!(same == server && world.experiment(id).await?.summary.state == ExperimentState::Running);
    Ok(())
}

#[tokio::test]
async fn a_fit_that_takes_too_much_memory_fails_with_the_reason() -> Result<()> {
    let server_settings = "text_memory_max = \"1M\"".to_owned();
    let options = WorldOptions { server_settings, workers: 0, documents: 400, ..WorldOptions::default() };
    let world = World::start(options).await?;
    let id = world.submit(&spec::small()).await?.summary.id;
    let failed = world
        .until(LIMIT, "the experiment fails", async || {
            let experiment = world.experiment(id).await?;
            Ok((experiment.summary.state == ExperimentState::Failed).then_some(experiment))
        })
        .await?;
    let problem = failed.summary.problem.context("a reason")?;
    ensure!(problem.contains("3 tries") && problem.contains("text_memory_max"), "{problem}");
    Ok(())
}

#[tokio::test]
async fn a_fit_ends_with_its_server() -> Result<()> {
    let mut world = World::start(WorldOptions { documents: 400, ..WorldOptions::default() }).await?;
    let server = world.server.as_ref().context("the server runs")?.id();
    let mut small = spec::small();
    small.clustering.sample_documents = 1_600;
    world.submit(&small).await?;
    let start = Instant::now();
    let fit = loop {
        match fit_of(server) {
            Some(pid) => break pid,
            None => ensure!(start.elapsed() < LIMIT, "no fit was seen\n{}", world.logs()),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    world.kill_server();
    while fs::read(format!("/proc/{fit}/cmdline")).is_ok_and(|line| line.ends_with(b"apart\0")) {
        ensure!(start.elapsed() < LIMIT, "it still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
