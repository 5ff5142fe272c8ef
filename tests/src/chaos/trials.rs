//! A thousand zombies over real HTTP: an old fence tries every write after its job was granted again.

use super::{
    Chaos, LIMIT,
    report::{Figure, Figures},
    training::{Over, Training},
};
use crate::{Pretended, World, WorldOptions, spec::STEP_TOKENS};
use anyhow::{Context, Result, ensure};
use senmon_corpus::hex;
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ids::{CheckpointId, Fence, StorageKey},
    job::Grant,
    view::{AttemptView, BranchState, CheckpointView, MetricsView, Page},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

/// A loss that no training has: where it is found, a zombie was heard.
const ZOMBIE_LOSS: f64 = 666.0;
/// Every so many trials the lease runs out; in the others the holder gives the job back, which takes no time.
const EXPIRED_EVERY: usize = 100;

/// Grants one training job again and again, and lets each holder but the last try every write.
///
/// # Errors
/// When a write is accepted.
pub async fn run(trials: usize) -> Result<Figures> {
    // Of its training only the beginning is needed.
    Chaos::uncompared(0).long_enough(4_000, async |_, steps| tried(trials, steps).await).await
}

async fn tried(trials: usize, steps: u64) -> Result<Figures> {
    let lease_ttl_ms = 500;
    let mut world =
        World::start(WorldOptions { slots: 1, lease_ttl_ms, worker_lost_ms: Some(0), ..WorldOptions::default() })
            .await?;
    // A real worker brings the job to a committed checkpoint, so that there is something to forge.
    let training = Training::submit(&world, steps).await?;
    let branch = training.reaches(&world, 50).await?.id;
    world.kill_worker(0);
    if training.branch(&world).await?.is_some_and(|branch| branch.state == BranchState::Completed) {
        return Err(anyhow::Error::new(Over).context("it is over before its worker is killed"));
    }
    let page: Page<CheckpointView> = world.api.get(&format!("/api/v1/checkpoints?branch_id={branch}&limit=1")).await?;
    let real = page.items.into_iter().next().context("there is a checkpoint")?;

    let worker = Pretended::enrol(&world, "pretended").await?;
    let mut holder = granted(&world, &worker, 0).await?;
    let fence_first = holder.fence;
    let mut refused = 0;
    for trial in 1..=trials {
        let zombie = holder;
        if trial % EXPIRED_EVERY != 0 {
            let _: Value = worker
                .api
                .post(&format!("/api/v1/attempts/{}/complete", zombie.attempt_id), &given_back(&zombie))
                .await?;
        }
        holder = granted(&world, &worker, zombie.fence.0).await?;
        ensure!(
            holder.job_id == zombie.job_id && holder.fence > zombie.fence,
            "{} then {}",
            zombie.fence,
            holder.fence
        );
        let forged = forge(&world.path("server/storage"), &real, zombie.fence)?;
        for (verb, body) in writes(zombie.fence, &forged, steps) {
            let problem = worker.api.refused(&format!("/api/v1/attempts/{}/{verb}", zombie.attempt_id), &body).await;
            let problem = problem.with_context(|| format!("trial {trial}: a zombie was heard"))?;
            ensure!(
                (problem.status, problem.code.as_str()) == (409, "stale_fence"),
                "trial {trial}, {verb}: {problem:?}"
            );
            refused += 1;
        }
    }
    let fences = holder.fence.0 - fence_first.0;
    ensure!(usize::try_from(fences)? >= trials, "{trials} grants, but the fence grew by {fences}");
    let traces = traces(&world, &training, &branch.to_string(), &real).await?;
    ensure!(traces == 0, "{traces} traces of zombies were found");
    Ok(vec![
        Figure::count("trials", trials),
        Figure::count("zombie writes tried", refused),
        Figure::zero("zombie writes accepted"),
        Figure::count("leases that ran out for it", trials / EXPIRED_EVERY),
    ])
}

/// The next grant beyond a fence.
async fn granted(world: &World, worker: &Pretended, fence: i64) -> Result<Grant> {
    world
        .until(LIMIT, "the job is granted again", async || {
            Ok(worker.poll().await?.grants.into_iter().find(|grant| grant.fence.0 > fence))
        })
        .await
}

fn given_back(grant: &Grant) -> Value {
    json!({ "fence": grant.fence, "outcome": { "kind": "ended", "reason": "released", "message": "given back" } })
}

/// A folder with a manifest that would be committed if the fence were not old; its id, hash and what it says.
fn forge(storage: &Path, real: &CheckpointView, fence: Fence) -> Result<Value> {
    let text = fs::read(storage.join(real.folder.as_str()).join(MANIFEST_FILE))?;
    let mut manifest: Manifest = serde_json::from_slice(&text)?;
    (manifest.id, manifest.meta.fence) = (CheckpointId::new(), fence);
    let folder = StorageKey::new(format!("{}-zombie-f{fence}", real.folder.as_str()))?;
    fs::create_dir_all(storage.join(folder.as_str()))?;
    let bytes = serde_json::to_vec(&manifest)?;
    fs::write(storage.join(folder.as_str()).join(MANIFEST_FILE), &bytes)?;
    Ok(
        json!({ "id": manifest.id, "folder": folder, "manifest_sha256": hex(&Sha256::digest(&bytes)), "meta": manifest.meta }),
    )
}

fn writes(fence: Fence, forged: &Value, steps: u64) -> [(&'static str, Value); 5] {
    let completed = json!({ "kind": "train", "steps": steps, "tokens": steps * STEP_TOKENS, "loss_last": ZOMBIE_LOSS });
    [
        ("started", json!({ "fence": fence, "step_start": 0, "resume_verified": null })),
        (
            "metrics",
            json!({ "fence": fence, "steps": [55], "tokens": [1], "at_ms": [1], "series": { "train/loss": [ZOMBIE_LOSS] } }),
        ),
        (
            "logs",
            json!({ "fence": fence, "line_first": 1_000,
                    "lines": [{ "at_ms": 1, "level": "info", "text": "a zombie spoke" }] }),
        ),
        ("checkpoints", json!({ "fence": fence, "checkpoint": forged })),
        ("complete", json!({ "fence": fence, "outcome": { "kind": "completed", "result": completed } })),
    ]
}

/// What zombies left in the branch's history.
async fn traces(world: &World, training: &Training, branch: &str, real: &CheckpointView) -> Result<usize> {
    let metrics: MetricsView = world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=10000")).await?;
    let losses = metrics.series.get("train/loss").map(|curve| curve.mean.clone()).unwrap_or_default();
    let tails = metrics.superseded.iter().flat_map(|tail| tail.loss.iter().copied());
    let points = losses.into_iter().chain(tails).filter(|loss| *loss == Some(ZOMBIE_LOSS)).count();
    let logs: Value = world.api.get(&format!("/api/v1/branches/{branch}/logs")).await?;
    let lines = logs.to_string().matches("a zombie spoke").count();
    let page: Page<CheckpointView> =
        world.api.get(&format!("/api/v1/checkpoints?branch_id={branch}&limit=200")).await?;
    let checkpoints = page.items.iter().filter(|checkpoint| checkpoint.meta.fence != real.meta.fence).count();
    let attempts: Vec<AttemptView> = training.attempts(world).await?;
    let begun = attempts.iter().filter(|a| a.fence != real.meta.fence && a.step_start.is_some()).count();
    Ok(points + lines + checkpoints + begun)
}
