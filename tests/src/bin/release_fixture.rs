//! `scripts/release-fixture`: the database of this release, dumped, for the test that starts newer servers on it. In it
//! are an experiment that is over, one in the middle of its training and one that was cancelled.

use anyhow::{Context, Result, ensure};
use senmon_tests::{World, WorldOptions, spec};
use serde_json::json;
use std::{path::PathBuf, process::Command, time::Duration};

const LIMIT: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> Result<()> {
    let path = PathBuf::from(std::env::args().nth(1).context("expected the file to write")?);
    let mut world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let done = world.submit(&spec::small()).await?.summary.id;
    world.completed(done, LIMIT).await?;
    let cancelled = world.submit(&spec::long_seed(400)).await?.summary.id;
    let _: serde_json::Value = world.api.post(&format!("/api/v1/experiments/{cancelled}/cancel"), &json!({})).await?;
    let trains = world.submit(&spec::long_seed(4_000)).await?.summary.id;
    world
        .until(LIMIT, "it trains", async || {
            let steps = world.experiment(trains).await?.branches.first().map_or(0, |branch| branch.step);
            Ok((steps > 100).then_some(()))
        })
        .await?;
    world.kill_worker(0);
    let (_, socket) = world.postmaster()?;
    let mut dump = Command::new("pg_dump");
    dump.args(["-U", "senmon", "-d", "postgres", "--no-owner", "--no-privileges", "-h", &socket]);
    let output = dump.output().context("start pg_dump")?;
    ensure!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr).trim());
    std::fs::write(&path, zstd::encode_all(output.stdout.as_slice(), 19)?)?;
    println!("{}", path.display());
    Ok(())
}
