//! Processes are killed; nothing acknowledged is lost, and training ends with the same bits.

use anyhow::{Context, Result};
use reqwest::Method;
use senmon_protocol::{
    ids::{BranchId, ExperimentId},
    view::{AttemptView, BranchState, BranchView, CheckpointView, EventView, MetricsView, Page},
};
use senmon_tests::{
    World, WorldOptions,
    client::Api,
    process::{self, Process},
    spec,
};
use std::{fs, net::TcpListener, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);
const SEED_STEPS: u64 = 1_600;

#[tokio::test]
async fn a_killed_worker_resumes_bit_by_bit() -> Result<()> {
    let mut world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let calm = world.submit(&spec::long_seed(SEED_STEPS)).await?.summary.id;
    let calm_digest = seed_digest(&world, calm).await?;

    let stormy = world.submit(&spec::long_seed(SEED_STEPS)).await?.summary.id;
    for kill in 1..=2 {
        let step = kill * 200;
        world
            .until(LIMIT, "the seed trains", async || Ok((seed(&world, stormy).await?.step >= step).then_some(())))
            .await?;
        world.kill_worker(0);
        if kill == 2 {
            damage_last_checkpoints(&world, stormy).await?;
        }
        world.start_worker(0)?;
    }
    assert_eq!(seed_digest(&world, stormy).await?, calm_digest, "the killed training ended with other bits");

    let branch = seed(&world, stormy).await?;
    let attempts: Vec<AttemptView> = world.api.list(&format!("/api/v1/branches/{}/attempts", branch.id)).await?;
    assert!(attempts.len() >= 3, "{attempts:?}");
    assert!(attempts.windows(2).all(|pair| pair[0].fence.max(pair[1].fence) > pair[0].fence.min(pair[1].fence)));
    let resumed: Vec<_> = attempts.iter().filter(|a| a.step_start.is_some_and(|step| step > 0)).collect();
    assert!(!resumed.is_empty() && resumed.iter().all(|a| a.resume_verified == Some(true)), "{attempts:?}");
    // Retention may have removed the damaged ones since; the events stay.
    let events: Vec<EventView> = world.api.list("/api/v1/events").await?;
    let damaged: Vec<_> = events.iter().filter(|event| event.kind == "checkpoint_damaged").collect();
    assert!(!damaged.is_empty() && damaged.iter().all(|event| event.text.contains("model.safetensors")), "{damaged:?}");
    check_one_value_per_step(&world, branch.id).await
}

/// Flips a bit of the weights that the branch would resume from: those of the last committed checkpoint, and those of
/// a later folder, whose commit may still lie in the killed worker's spool.
async fn damage_last_checkpoints(world: &World, id: ExperimentId) -> Result<()> {
    let branch = seed(world, id).await?.id;
    let all: Page<CheckpointView> = world.api.get(&format!("/api/v1/checkpoints?branch_id={branch}&limit=1")).await?;
    let last = world.path("server/storage").join(all.items[0].folder.as_str());
    // Names begin with the step, so their order is that of the steps.
    for entry in fs::read_dir(last.parent().context("a checkpoint lies in its branch's folder")?)? {
        let path = entry?.path().join("model.safetensors");
        if path.parent() < Some(last.as_path()) || !path.exists() {
            continue;
        }
        let mut bytes = fs::read(&path)?;
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        fs::write(&path, bytes)?;
    }
    Ok(())
}

#[tokio::test]
async fn another_server_takes_over_when_the_leader_is_killed() -> Result<()> {
    let mut world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let (postgres, socket) = world.postmaster()?;
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let base = format!("http://127.0.0.1:{port}");
    let second = Api::new(&base, world.api.token());
    let args = [
        format!("--listen=127.0.0.1:{port}"),
        format!("--data-dir={}", world.path("second").display()),
        format!("--database-url=postgres://senmon@localhost/postgres?host={socket}"),
        format!("--storage-dir={}", world.path("server/storage").display()),
    ];
    let log = world.path("second.log");
    let _standby = Process::start("senmon-server", &args, &log)?;
    world
        .until(LIMIT, "the second waits", async || {
            Ok(fs::read_to_string(&log)?.contains("another server leads").then_some(()))
        })
        .await?;
    assert!(second.send::<()>(Method::GET, "/readyz", None).await.is_err(), "it serves beside the leader");
    world.kill_server();
    let ready =
        async || Ok(second.send::<()>(Method::GET, "/readyz", None).await.ok().filter(|(code, _)| *code == 200));
    world.until(LIMIT, "the second leads", ready).await?;
    // The first one's Postgres is nobody's child any more.
    process::signal(postgres, libc::SIGINT);
    Ok(())
}

#[tokio::test]
async fn a_killed_server_loses_nothing() -> Result<()> {
    let mut world = World::start(WorldOptions { slots: 1, lease_ttl_ms: 10_000, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::long_seed(SEED_STEPS)).await?.summary.id;
    world.until(LIMIT, "the seed trains", async || Ok((seed(&world, id).await?.step >= 100).then_some(()))).await?;
    world.kill_server();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.start_server().await?;
    seed_digest(&world, id).await?;
    let branch = seed(&world, id).await?;
    assert_eq!(branch.attempts, 1, "the worker trained on through the outage: {branch:?}");
    check_one_value_per_step(&world, branch.id).await
}

#[tokio::test]
async fn a_branch_is_paused_and_goes_on() -> Result<()> {
    let world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::long_seed(SEED_STEPS)).await?.summary.id;
    world.until(LIMIT, "the seed trains", async || Ok((seed(&world, id).await?.step >= 50).then_some(()))).await?;
    let branch = seed(&world, id).await?;
    let _: serde_json::Value = world.api.post(&format!("/api/v1/branches/{}/pause", branch.id), &()).await?;
    let paused = world
        .until(LIMIT, "the branch is paused", async || {
            let branch = seed(&world, id).await?;
            Ok((branch.state == BranchState::Paused && branch.worker.is_none()).then_some(branch))
        })
        .await?;
    assert!(paused.checkpoint_id.is_some() && paused.step < paused.steps, "{paused:?}");
    let _: serde_json::Value = world.api.post(&format!("/api/v1/branches/{}/resume", branch.id), &()).await?;
    seed_digest(&world, id).await?;
    check_one_value_per_step(&world, branch.id).await
}

async fn seed(world: &World, id: ExperimentId) -> Result<BranchView> {
    let experiment = world.experiment(id).await?;
    Ok(experiment.branches.into_iter().find(|b| b.name == "seed").unwrap_or_else(|| waiting(id)))
}

/// Before discovery is done there is no branch yet.
fn waiting(id: ExperimentId) -> BranchView {
    serde_json::from_value(serde_json::json!({
        "id": BranchId::new(), "experiment_id": id, "name": "seed", "role": "seed", "state": "waiting", "step": 0,
        "steps": 0, "tokens": 0, "tokens_total": 0, "sparkline": [], "wall_seconds": 0.0, "attempts": 0
    }))
    .expect("a branch")
}

/// Waits for the seed's last step; the digest of its final state.
async fn seed_digest(world: &World, id: ExperimentId) -> Result<String> {
    let branch = world
        .until(LIMIT, "the seed is done", async || {
            let branch = seed(world, id).await?;
            anyhow::ensure!(branch.state != BranchState::Failed, "the seed failed: {branch:?}");
            Ok((branch.state == BranchState::Completed).then_some(branch))
        })
        .await?;
    let id = branch.checkpoint_id.context("a finished branch has a checkpoint")?;
    let checkpoint: CheckpointView = world.api.get(&format!("/api/v1/checkpoints/{id}")).await?;
    assert_eq!(checkpoint.meta.step, branch.steps);
    let page: Page<CheckpointView> =
        world.api.get(&format!("/api/v1/checkpoints?branch_id={}&limit=200", branch.id)).await?;
    assert!(page.items.iter().any(|c| c.id == id));
    Ok(checkpoint.meta.state_sha256)
}

async fn check_one_value_per_step(world: &World, branch: BranchId) -> Result<()> {
    let metrics: MetricsView = world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=5000")).await?;
    let expected: Vec<u64> = (5..=SEED_STEPS).step_by(5).collect();
    assert_eq!(metrics.steps, expected, "one current value per reported step");
    assert!(metrics.tokens.iter().zip(&metrics.steps).all(|(tokens, step)| *tokens == step * spec::STEP_TOKENS));
    Ok(())
}
