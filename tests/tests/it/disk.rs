//! The disk of the database fills up to the last byte, and is freed: everything says so, and nothing acknowledged is lost.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::{storage::StorageView, view::EventView};
use senmon_tests::{
    World, WorldOptions,
    chaos::{checks::check, disk::Disk, training::Training},
    process::signal,
    spec,
};
use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(240);
const STEPS: u64 = 1_500;
const MIB: u64 = 1 << 20;

async fn free(world: &World) -> Result<u64> {
    let view: StorageView = world.api.get("/api/v1/storage").await?;
    let disk = view.disks.iter().find(|disk| disk.name == "database");
    Ok(disk.context("the disk of the database is shown")?.free_bytes)
}

async fn says(world: &World, kind: &str) -> Result<()> {
    world
        .outlast(LIMIT, &format!("an event {kind}"), async || {
            let events: Vec<EventView> = world.api.list("/api/v1/events?sort=oldest").await?;
            Ok(events.iter().any(|event| event.kind == kind).then_some(()))
        })
        .await
}

fn take(path: &Path, bytes: u64) -> Result<()> {
    let zeros = vec![0; usize::try_from(bytes)?];
    fs::write(path, zeros).with_context(|| format!("write {}", path.display()))
}

#[tokio::test]
async fn a_full_disk_heals() -> Result<()> {
    if let Some(why) = Disk::missing() {
        eprintln!("not tried: {why}");
        return Ok(());
    }
    let mut options = WorldOptions { slots: 1, ..WorldOptions::default() };
    options.server_settings = "disk_reserve = \"32MiB\"\n".into();
    let mut world = World::empty(options)?;
    world.options.server_settings.push_str(&format!("storage_dir = {:?}\n", world.path("store")));
    let disk = Disk::in_memory(&world.path("server"), 400)?;
    world.begin().await?;
    let reserve = world.path("server/pg/reserve");
    ensure!(fs::metadata(&reserve).context("the reserve")?.len() == 32 * MIB, "the reserve has another size");
    let training = Training::submit(&world, STEPS).await?;
    training.reaches(&world, 60).await?;

    // Nearly full: what grows is refused, what runs goes on.
    let ballast = world.path("server/.some");
    take(&ballast, free(&world).await?.saturating_sub(40 * MIB))?;
    says(&world, "disk_low").await?;
    let (status, answer) = world.api.send(Method::POST, "/api/v1/experiments", Some(&spec::small_json())).await?;
    ensure!(status == 507 && answer["code"] == "no_room", "{status} {answer}");
    let text = answer["detail"].as_str().unwrap_or_default();
    ensure!(text.contains("pg") && text.contains("MiB free"), "the refusal does not say which disk: {text}");
    ensure!(reserve.exists(), "the reserve went while there was room");
    let step = training.branch(&world).await?.context("there is a branch")?.step;
    training.reaches(&world, step + 20).await?;

    // Full to the last byte, the reserve included; and Postgres is killed, so that it has to recover without room.
    for _ in 0..40 {
        disk.fill()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.outlast(LIMIT, "the reserve is given up", async || Ok((!reserve.exists()).then_some(()))).await?;
    disk.fill()?;
    // It may have ended by itself.
    if let Ok((pid, _)) = world.postmaster() {
        signal(pid, libc::SIGKILL);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (status, _) = world.api.send::<()>(Method::GET, "/healthz", None).await?;
    ensure!(status == 200, "the server died: {status}");

    // Room again: the reserve comes back, Postgres too, and what the worker kept is delivered.
    disk.free()?;
    fs::remove_file(&ballast)?;
    says(&world, "disk_has_room").await?;
    world.outlast(LIMIT, "the reserve stands again", async || Ok(reserve.exists().then_some(()))).await?;
    training.done(&world).await?;
    let verdict = check(&world, &training, None).await?;
    println!("{verdict:?}");
    let log = File::open(world.path("server/pg/postgres.log"))?.metadata()?.len();
    ensure!(log < 32 * MIB, "postgres.log has {log} bytes");
    world.submit(&spec::small()).await.context("an experiment is accepted again")?;
    // Before its file system goes.
    world.server.take().context("the server runs")?.stop(Duration::from_secs(30))
}
