//! The dashboard in real Chromium: sign-in, a live curve that grows, the report; no console error.

use anyhow::{Context, Result, ensure};
use senmon_tests::{World, WorldOptions, process::repository, spec};
use std::{process::Command, time::Duration};

#[tokio::test]
async fn the_dashboard_shows_a_living_experiment() -> Result<()> {
    let world = World::start(WorldOptions::default()).await?;
    let mut experiment = spec::small();
    // The seed lasts long enough for the page to see it grow.
    experiment.seed = serde_json::from_value(serde_json::json!({ "kind": "train", "tokens": 1_228_800 }))?;
    experiment.data.epochs_max = 1000.0;
    let id = world.submit(&experiment).await?.summary.id;
    let (base, token) = (world.api.base().to_owned(), world.api.token().to_owned());
    let browser = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .arg("e2e/dashboard.e2e.mjs")
            .current_dir(repository().join("web"))
            .env("SENMON_URL", base)
            .env("SENMON_TOKEN", token)
            .env("SENMON_EXPERIMENT", id.to_string())
            .output()
    });
    let output = browser.await?.context("start node")?;
    // An answer of 500 says nothing to the browser; the log does.
    let log = std::fs::read_to_string(world.path("server.log"))?;
    let refused: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let text = format!("{}\n{}\n{}", said(&output.stdout), said(&output.stderr), refused.join("\n"));
    ensure!(output.status.success(), "{text}");
    ensure!(text.contains(" passed, 0 failed"), "{text}");
    world.completed(id, Duration::from_secs(240)).await?;
    Ok(())
}
