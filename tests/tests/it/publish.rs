//! A store that refuses at first: every checkpoint that is committed can be read back, on a folder and on a bucket; and
//! the server commits nothing that is not there.

use anyhow::{Context, Result, ensure};
use senmon_corpus::hex;
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ids::{CheckpointId, ExperimentId, StorageKey},
    view::{AttemptView, BranchState, BranchView, CheckpointVerdict, CheckpointView, Page},
};
use senmon_tests::{World, WorldOptions, chaos::disk::Disk, client::Api, refusing::Refusing, s3, spec};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fs, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);
/// What the bucket refuses the first time.
const REFUSED: [&str; 4] = [MANIFEST_FILE, "model.safetensors", "shard.bin", "logprobs.safetensors"];

#[tokio::test]
async fn a_bucket_that_refuses_each_first_try_keeps_checkpoints_that_can_be_read_back() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (_moto, store) = s3::moto(home.path()).await?;
    // Two files of each checkpoint, and what the other kinds of jobs write: with every file it would take an hour.
    let refusing = Refusing::before(store.port()?, |path| REFUSED.iter().any(|name| path.ends_with(name))).await?;
    let options = WorldOptions { s3: Some(store.through(refusing.url())), ..WorldOptions::default() };
    let world = World::start(options).await?;
    let id = world.submit(&spec::small()).await?.summary.id;
    let done = world.completed(id, LIMIT).await?;
    assert!(done.branches.iter().all(|branch| branch.state == BranchState::Completed), "{:?}", done.branches);
    for name in REFUSED {
        assert!(refusing.refused().iter().any(|path| path.ends_with(name)), "{name} was never refused");
    }
    each_can_be_read_back(&world, done.branches.len()).await
}

/// Every committed checkpoint, at least one for each branch.
async fn each_can_be_read_back(world: &World, branches: usize) -> Result<()> {
    let page: Page<CheckpointView> = world.api.get("/api/v1/checkpoints?limit=200").await?;
    assert!(page.items.len() >= branches, "{} checkpoints of {branches} branches", page.items.len());
    for checkpoint in page.items {
        let verdict: CheckpointVerdict =
            world.api.post(&format!("/api/v1/checkpoints/{}/verify", checkpoint.id), &()).await?;
        assert_eq!(verdict.problem, None, "{checkpoint:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_full_folder_that_has_room_again_keeps_checkpoints_that_can_be_read_back() -> Result<()> {
    let home = tempfile::tempdir()?;
    if let Some(why) = Disk::missing() {
        println!("skipped: {why}");
        return Ok(());
    }
    let folder = home.path().join("disk");
    let disk = Disk::in_memory(&folder, 64)?;
    let settings = format!("storage_dir = {folder:?}\n");
    let world = World::start(WorldOptions { slots: 1, server_settings: settings, ..WorldOptions::default() }).await?;
    let mut experiment = spec::long_seed(1_600);
    experiment.training.checkpoint_every_steps = Some(200);
    let id = world.submit(&experiment).await?.summary.id;
    world
        .until(LIMIT, "the seed has a checkpoint", async || {
            Ok(seed(&world, id).await?.filter(|branch| branch.checkpoint_id.is_some()))
        })
        .await?;
    // The last one must be written, and meets a full disk at first.
    disk.fill()?;
    world
        .until(LIMIT, "the seed is at its end", async || {
            Ok(seed(&world, id).await?.filter(|branch| branch.step == branch.steps))
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_ne!(seed(&world, id).await?.context("the seed")?.state, BranchState::Completed, "the disk was not full");
    disk.free()?;
    world
        .until(LIMIT, "the seed is done", async || {
            Ok(seed(&world, id).await?.filter(|branch| branch.state == BranchState::Completed))
        })
        .await?;
    each_can_be_read_back(&world, 1).await
}

async fn seed(world: &World, id: ExperimentId) -> Result<Option<BranchView>> {
    Ok(world.experiment(id).await?.branches.into_iter().find(|branch| branch.name == "seed"))
}

#[tokio::test]
async fn the_server_commits_no_checkpoint_that_is_not_there() -> Result<()> {
    let world = World::start(WorldOptions { slots: 1, lease_ttl_ms: 60_000, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::long_seed(4_000)).await?.summary.id;
    let branch = world
        .until(LIMIT, "the seed has a checkpoint", async || {
            Ok(seed(&world, id).await?.filter(|branch| branch.checkpoint_id.is_some()))
        })
        .await?;
    // Stopped, it holds its lease and says nothing.
    world.workers[0].as_ref().context("the worker runs")?.signal(libc::SIGSTOP);
    let attempts: Vec<AttemptView> = world.api.list(&format!("/api/v1/branches/{}/attempts", branch.id)).await?;
    let attempt = attempts.iter().find(|attempt| attempt.finished_at.is_none()).context("an attempt runs")?;
    let page: Page<CheckpointView> =
        world.api.get(&format!("/api/v1/checkpoints?branch_id={}&limit=1", branch.id)).await?;
    let (storage, api) = (world.path("server/storage"), Api::new(world.api.base(), &world.credential(0)?));
    let path = format!("/api/v1/attempts/{}/checkpoints", attempt.id);
    let commit = |name: &str, change: &dyn Fn(&Path, &mut Manifest) -> Result<()>| -> Result<Value> {
        let written = copy(&storage, &page.items[0], name, change)?;
        Ok(json!({ "fence": attempt.fence, "checkpoint": written }))
    };
    let missing = commit("s1", &|folder, _| Ok(fs::remove_file(folder.join("model.safetensors"))?))?;
    let short = commit("s2", &|folder, _| Ok(fs::write(folder.join("trainer.safetensors"), b"half")?))?;
    let itself = commit("s3", &|_, manifest| {
        let entry = manifest.files["config.json"].clone();
        manifest.files.insert(MANIFEST_FILE.to_owned(), entry);
        Ok(())
    })?;
    for (body, words) in [(missing, "found no model.safetensors"), (short, "found 4 bytes"), (itself, "lists itself")] {
        let problem = api.refused(&path, &body).await?;
        ensure!(problem.status == 422 && format!("{problem:?}").contains(words), "{words:?}: {problem:?}");
    }
    let whole = commit("s4", &|_, _| Ok(()))?;
    let _: Value = api.post(&path, &whole).await?;
    Ok(())
}

/// A copy of a committed checkpoint under another name (that of a state after so many rollbacks), changed, with a manifest of its own.
fn copy(
    storage: &Path,
    real: &CheckpointView,
    name: &str,
    change: &dyn Fn(&Path, &mut Manifest) -> Result<()>,
) -> Result<Value> {
    let key = StorageKey::new(format!("{}-{name}", real.folder))?;
    let (from, to) = (storage.join(real.folder.as_str()), storage.join(key.as_str()));
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(from.join(MANIFEST_FILE))?)?;
    manifest.id = CheckpointId::new();
    change(&to, &mut manifest)?;
    let bytes = serde_json::to_vec(&manifest)?;
    fs::write(to.join(MANIFEST_FILE), &bytes)?;
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok(json!({ "id": manifest.id, "folder": key, "manifest_sha256": sha256, "meta": manifest.meta }))
}
