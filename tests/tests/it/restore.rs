//! The drill: a backup, more checkpoints, everything lost but the store, and a restore that goes on from the newest of
//! them without giving a fence twice.

use anyhow::{Context, Result, bail, ensure};
use senmon_protocol::view::{AttemptView, CheckpointView, EventView, Page};
use senmon_tests::{
    World, WorldOptions,
    chaos::training::Training,
    process::{binary, signal},
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(240);
const STEPS: u64 = 2_000;
/// What an epoch adds to a fence.
const STRIDE: i64 = 1_000_000_000;

/// Runs the server's program; what it printed.
fn server(world: &World, action: &str, file: &Path) -> Result<String> {
    let config = world.server_config()?;
    let mut command = Command::new(binary("senmon-server")?);
    let output = command.arg("--config").arg(config).arg(action).arg(file).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{action}: {}", text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Kills the server and its Postgres, and removes the database.
fn lose(world: &mut World) -> Result<()> {
    let (pid, _) = world.postmaster()?;
    let pg = world.path("server/pg");
    world.kill_server();
    signal(pid, libc::SIGQUIT);
    let start = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        ensure!(start.elapsed() < LIMIT, "Postgres does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Ok(moved) = fs::read_to_string(pg.join("MOVED")) {
        fs::remove_dir_all(Path::new(moved.trim()).join("data"))?;
    }
    fs::remove_dir_all(pg).context("remove the database")
}

async fn checkpoints(world: &World) -> Result<Vec<CheckpointView>> {
    let page: Page<CheckpointView> = world.api.get("/api/v1/checkpoints?limit=200").await?;
    Ok(page.items)
}

async fn fences(world: &World, training: &Training) -> Result<Vec<i64>> {
    Ok(training.attempts(world).await?.iter().map(|attempt| attempt.fence.0).collect())
}

#[tokio::test]
async fn an_old_backup_goes_on_from_the_newest_checkpoints() -> Result<()> {
    let mut world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let training = Training::submit(&world, STEPS).await?;
    training.saves_committed_beyond(&world, 40).await?;
    let file = world.path("backup.senmon");
    server(&world, "backup", &file)?;
    let mode = fs::metadata(&file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "others may read the backup: {mode:o}");
    let secret = world.worker_token()?;
    ensure!(!fs::read(&file)?.windows(secret.len()).any(|part| part == secret.as_bytes()), "a token is in the backup");
    let known = checkpoints(&world).await?.len();

    // Two more attempts that the backup knows nothing of, each with checkpoints of its own.
    for _ in 0..2 {
        let fence = training.fence(&world).await?;
        world.kill_worker(0);
        world.start_worker(0)?;
        training.steps_again(&world, fence).await?;
        let step = training.branch(&world).await?.context("there is a branch")?.step;
        training.saves_committed_beyond(&world, step).await?;
    }
    // Frozen, so that what is committed stays as it is; it holds an attempt that the backup does not know.
    let freeze = |world: &World, number| world.workers[0].iter().for_each(|worker| worker.signal(number));
    freeze(&world, libc::SIGSTOP);
    let before = checkpoints(&world).await?;
    let given: BTreeSet<i64> = fences(&world, &training).await?.into_iter().collect();
    ensure!(before.len() > known + 2 && given.len() >= 3, "nothing happened after the backup: {given:?}");

    let error = server(&world, "restore", &file).err().context("a restore over a server that runs")?;
    ensure!(error.to_string().contains("is in use by the server"), "{error:#}");
    lose(&mut world)?;
    let said = server(&world, "restore", &file)?;
    ensure!(said.contains("epoch 1") && said.contains("are newer than the backup"), "{said}");
    let again = server(&world, "restore", &file).err().context("a restore over a database")?;
    ensure!(again.to_string().contains("holds a database"), "{again:#}");
    world.start_server().await?;
    // What was whole and not committed yet is found too.
    let found = checkpoints(&world).await?;
    let newest = found.iter().map(|checkpoint| (checkpoint.meta.fence.0, checkpoint.meta.step)).max();
    let newest = newest.context("there are checkpoints")?.1;
    freeze(&world, libc::SIGCONT);

    let resumed: AttemptView = training.steps_again(&world, STRIDE).await?;
    ensure!(resumed.step_start >= Some(newest), "{resumed:?} did not find the checkpoint of step {newest}");
    ensure!(resumed.resume_verified == Some(true), "it went on from something else: {resumed:?}");
    training.done(&world).await?;
    let after = fences(&world, &training).await?;
    let new: Vec<i64> = after.iter().copied().filter(|fence| *fence > STRIDE).collect();
    ensure!(!new.is_empty() && new.iter().all(|fence| !given.contains(fence)), "{after:?} after {given:?}");
    // Who held a fence of before committed nothing afterwards.
    let mine = checkpoints(&world).await?;
    let is_late = |checkpoint: &&CheckpointView| {
        checkpoint.meta.fence.0 < STRIDE && found.iter().all(|known| known.id != checkpoint.id)
    };
    let late: Vec<_> = mine.iter().filter(is_late).collect();
    ensure!(late.is_empty(), "an attempt of before the restore went on: {late:?}");
    let kept: BTreeSet<_> = mine.iter().map(|checkpoint| checkpoint.folder.to_string()).collect();
    let lost: Vec<_> = before.iter().filter(|checkpoint| !kept.contains(checkpoint.folder.as_str())).collect();
    ensure!(lost.is_empty(), "checkpoints that were committed are not known any more: {lost:?}");
    world
        .until(LIMIT, "all checkpoints are read back", async || {
            let all = checkpoints(&world).await?;
            ensure!(all.iter().all(|checkpoint| checkpoint.problem.is_none()), "a damaged one: {all:?}");
            Ok(all.iter().all(|checkpoint| checkpoint.verified_at.is_some()).then_some(()))
        })
        .await?;
    let events: Vec<EventView> = world.api.list("/api/v1/events?sort=oldest").await?;
    ensure!(events.iter().any(|event| event.kind == "restored"), "no event tells of the restore");
    Ok(())
}
