//! The store: a bucket does what a folder does, and one that refuses costs no training.

use anyhow::{Context, Result};
use senmon_protocol::{
    checkpoint::MANIFEST_FILE,
    ids::{ExperimentId, StorageKey},
    storage::{RetentionSpec, StorageView},
    view::{AttemptView, BranchState, BranchView, CheckpointVerdict, CheckpointView, EventView, Page},
};
use senmon_store::{Bucket, is_missing};
use senmon_tests::{World, WorldOptions, chaos::disk::Disk, s3, spec};
use std::{collections::BTreeSet, fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);

fn key(text: &str) -> StorageKey {
    StorageKey::new(text).expect("a key")
}

#[tokio::test]
async fn a_bucket_keeps_what_was_sent() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (_server, store) = s3::moto(home.path()).await?;
    keeps_what_was_sent(&store.open()?).await
}

async fn keeps_what_was_sent(bucket: &Bucket) -> Result<()> {
    let home = tempfile::tempdir()?;
    // Two parts and a bit: 32 MiB each.
    let (large, back) = (home.path().join("large"), home.path().join("back"));
    let bytes: Vec<u8> = (0..70_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs::write(&large, &bytes)?;
    let sent = bucket.put_file(&key("c/1/large"), &large).await?;
    assert_eq!(bucket.hash(&key("c/1/large")).await?, (bytes.len() as u64, sent.clone()));
    assert_eq!(bucket.get_file(&key("c/1/large"), &back).await?, (bytes.len() as u64, sent));
    assert!(fs::read(&back)? == bytes, "the copy differs");

    let manifest = key("c/1/manifest.json");
    bucket.put_new(&manifest, b"one".to_vec()).await?;
    bucket.put_new(&manifest, b"one".to_vec()).await.context("the same again is the same")?;
    let error = bucket.put_new(&manifest, b"two".to_vec()).await.expect_err("a manifest was overwritten");
    assert!(error.to_string().contains("somebody else"), "{error:#}");
    assert_eq!(bucket.get(&manifest).await?, b"one");

    bucket.put(&key("d/empty"), Vec::new()).await?;
    assert_eq!(bucket.hash(&key("d/empty")).await?.0, 0);
    let listed = bucket.list(Some(&key("c/1"))).await?;
    let names: BTreeSet<_> = listed.iter().map(|object| (object.key.as_str(), object.bytes)).collect();
    assert_eq!(names, BTreeSet::from([("c/1/large", bytes.len() as u64), ("c/1/manifest.json", 3)]));
    for _ in 0..2 {
        bucket.delete(&key("c/1/large")).await?;
    }
    for missing in [bucket.get(&key("c/1/large")).await.err(), bucket.hash(&key("c/1/large")).await.err()] {
        assert!(missing.as_ref().is_some_and(is_missing), "{missing:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_experiment_lives_in_a_bucket() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (_weed, store) = s3::seaweed(home.path()).await?;
    let bucket = store.open()?;
    keeps_what_was_sent(&bucket).await?;
    let options = WorldOptions {
        slots: 1,
        server_settings: "orphan_grace_ms = 6000\nstorage_budget = \"1G\"".into(),
        s3: Some(store),
        ..WorldOptions::default()
    };
    let mut world = World::start(options).await?;
    let mut experiment = spec::long_seed(1_600);
    experiment.evaluation.documents_per_domain = 4;
    experiment.retention = RetentionSpec::default();
    let id = world.submit(&experiment).await?.summary.id;

    // Killed in the middle of an upload: files of a checkpoint lie in the bucket, its manifest does not.
    let worker = world.workers[0].as_ref().context("the worker runs")?;
    let torn = world.until(LIMIT, "an upload is under way", async || {
        let branch = seed(&world, id).await?.filter(|branch| branch.step >= 100);
        let Some(branch) = branch else { return Ok(None) };
        anyhow::ensure!(branch.state != BranchState::Completed, "no upload was caught in time: {branch:?}");
        // Stopped, so that what is seen now is what the kill leaves behind.
        worker.signal(libc::SIGSTOP);
        let torn = half_uploaded(&bucket).await?;
        if torn.is_none() {
            worker.signal(libc::SIGCONT);
        }
        Ok(torn)
    });
    let torn = torn.await?;
    world.kill_worker(0);
    let branch = seed(&world, id).await?.context("the seed")?;

    // A flipped bit in the newest committed one, and no good copy left on the worker.
    let committed = committed(&world, &branch).await?;
    let newest = &committed[0];
    let damaged = newest.folder.join("model.safetensors")?;
    let mut bytes = bucket.get(&damaged).await?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bucket.put(&damaged, bytes).await?;
    let verdict: CheckpointVerdict = world.api.post(&format!("/api/v1/checkpoints/{}/verify", newest.id), &()).await?;
    assert!(verdict.problem.as_ref().is_some_and(|problem| problem.contains("model.safetensors")), "{verdict:?}");
    fs::remove_dir_all(world.path("worker-0/cache"))?;
    // What the killed worker still had to say comes with an old fence then: no later checkpoint turns up.
    world
        .until(LIMIT, "the killed worker's lease is over", async || {
            let all = attempts(&world, &branch).await?;
            Ok(all.iter().all(|attempt| attempt.finished_at.is_some()).then_some(()))
        })
        .await?;
    world.start_worker(0)?;

    let done = world.completed(id, LIMIT).await?;
    assert!(done.branches.iter().all(|branch| branch.state == BranchState::Completed), "{:?}", done.branches);
    let attempts = attempts(&world, &branch).await?;
    let resumed = attempts.iter().find(|attempt| attempt.step_start.is_some_and(|step| step > 0));
    let resumed = resumed.with_context(|| format!("no attempt went on: {attempts:?}"))?;
    assert!(resumed.step_start < Some(newest.meta.step) && resumed.resume_verified == Some(true), "{attempts:?}");

    // Retention and the sweep leave what rows speak for, and nothing else.
    world
        .until(LIMIT, "the bucket holds the committed checkpoints alone", async || {
            let rows: Page<CheckpointView> = world.api.get("/api/v1/checkpoints?limit=200").await?;
            let rows: BTreeSet<String> = rows.items.iter().map(|row| row.folder.to_string()).collect();
            Ok((folders(&bucket).await? == rows).then_some(()))
        })
        .await?;
    let left = world
        .until(LIMIT, "retention leaves two, and the last verified one", async || {
            let left = committed_now(&world, &branch).await?;
            Ok((left.len() <= 3).then_some(left))
        })
        .await?;
    let events: Vec<EventView> = world.api.list("/api/v1/events").await?;
    for kind in ["checkpoints_removed", "checkpoint_damaged"] {
        assert!(events.iter().any(|event| event.kind == kind), "no event {kind}");
    }
    assert!(!folders(&bucket).await?.contains(&torn), "{torn} was not swept");

    let view = world
        .until(LIMIT, "the store is counted again", async || {
            let view: StorageView = world.api.get("/api/v1/storage").await?;
            Ok((view.checkpoint_bytes > 0 && view.shard_bytes > 0).then_some(view))
        })
        .await?;
    assert_eq!(view.url, "s3://models/team");
    assert_eq!(view.budget_bytes, Some(1_000_000_000));
    let last = &left[0];
    let (status, manifest) = world
        .api
        .send::<()>(reqwest::Method::GET, &format!("/api/v1/checkpoints/{}/files/{MANIFEST_FILE}", last.id), None)
        .await?;
    assert!(status == 200 && manifest["id"] == last.id.to_string(), "{status} {manifest}");
    Ok(())
}

async fn seed(world: &World, id: ExperimentId) -> Result<Option<BranchView>> {
    Ok(world.experiment(id).await?.branches.into_iter().find(|branch| branch.name == "seed"))
}

/// Committed checkpoints of a branch, newest first, once there are two.
async fn committed(world: &World, branch: &BranchView) -> Result<Vec<CheckpointView>> {
    world
        .until(LIMIT, "two checkpoints are committed", async || {
            let all = committed_now(world, branch).await?;
            Ok((all.len() >= 2).then_some(all))
        })
        .await
}

async fn committed_now(world: &World, branch: &BranchView) -> Result<Vec<CheckpointView>> {
    world.api.list(&format!("/api/v1/checkpoints?branch_id={}", branch.id)).await
}

async fn attempts(world: &World, branch: &BranchView) -> Result<Vec<AttemptView>> {
    world.api.list(&format!("/api/v1/branches/{}/attempts", branch.id)).await
}

/// Folders of checkpoints in the bucket.
async fn folders(bucket: &Bucket) -> Result<BTreeSet<String>> {
    let objects = bucket.list(Some(&key("checkpoints"))).await?;
    Ok(objects.iter().filter_map(|object| Some(object.key.as_str().rsplit_once('/')?.0.to_owned())).collect())
}

/// A checkpoint whose files have begun to arrive.
async fn half_uploaded(bucket: &Bucket) -> Result<Option<String>> {
    let objects = bucket.list(Some(&key("checkpoints"))).await?;
    let whole: BTreeSet<_> =
        objects.iter().filter_map(|object| object.key.as_str().strip_suffix(&format!("/{MANIFEST_FILE}"))).collect();
    let folders = objects.iter().filter_map(|object| Some(object.key.as_str().rsplit_once('/')?.0));
    Ok(folders.filter(|folder| !whole.contains(folder)).map(str::to_owned).next())
}

#[tokio::test]
async fn a_full_disk_ends_no_training() -> Result<()> {
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
    experiment.retention.keep_latest = 1000; // what retention removes would make room
    let id = world.submit(&experiment).await?.summary.id;
    let branch = world
        .until(LIMIT, "the seed has a checkpoint", async || {
            Ok(seed(&world, id).await?.filter(|branch| branch.checkpoint_id.is_some()))
        })
        .await?;
    disk.fill()?;
    let failed = world
        .until(LIMIT, "a checkpoint fails", async || {
            let events: Vec<EventView> = world.api.list("/api/v1/events").await?;
            Ok(events.into_iter().find(|event| event.kind == "checkpoint_failed"))
        })
        .await?;
    for part in ["No space left on device", "training goes on", "the last good one is step"] {
        assert!(failed.text.contains(part), "{part:?} is not in {:?}", failed.text);
    }
    let at = seed(&world, id).await?.context("the seed")?.step;
    world
        .until(LIMIT, "training goes on", async || {
            Ok(seed(&world, id).await?.filter(|branch| branch.step > at).map(drop))
        })
        .await?;
    disk.free()?;
    world
        .until(LIMIT, "the seed is done", async || {
            Ok(seed(&world, id).await?.filter(|branch| branch.state == BranchState::Completed).map(drop))
        })
        .await?;
    let attempts = attempts(&world, &branch).await?;
    assert_eq!(attempts.len(), 1, "the full disk ended an attempt: {attempts:?}");
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_not_mounted_is_no_store_of_lost_checkpoints() -> Result<()> {
    let settings = "orphan_grace_ms = 3000".to_owned();
    let world = World::start(WorldOptions { server_settings: settings, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::long_seed(40)).await?.summary.id;
    let branch = world.until(LIMIT, "the seed is there", async || seed(&world, id).await).await?;
    let one = world
        .until(LIMIT, "a checkpoint is committed", async || {
            Ok(committed_now(&world, &branch).await?.into_iter().next())
        })
        .await?;
    let (mounted, away) = (world.path("server/storage"), world.path("away"));
    fs::rename(&mounted, &away)?;
    fs::create_dir(&mounted)?;
    let verify = format!("/api/v1/checkpoints/{}/verify", one.id);
    let problem = world.api.refused(&verify, &serde_json::Value::Null).await?;
    assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
    let kinds = async || -> Result<Vec<String>> {
        let events: Vec<EventView> = world.api.list("/api/v1/events").await?;
        Ok(events.into_iter().map(|event| event.kind).filter(|kind| kind.starts_with("store_")).collect())
    };
    assert_eq!(kinds().await?, ["store_unknown"], "it is said once");
    // Time for scrub, retention and the sweep.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let there = committed_now(&world, &branch).await?;
    assert!(there.iter().any(|c| c.id == one.id) && there.iter().all(|c| c.problem.is_none()), "{there:?}");

    fs::remove_dir_all(&mounted)?;
    fs::rename(&away, &mounted)?;
    let verdict: CheckpointVerdict = world.api.post(&verify, &serde_json::Value::Null).await?;
    assert!(verdict.problem.is_none(), "{verdict:?}");
    assert_eq!(kinds().await?.len(), 2, "and said when it is back");
    Ok(())
}
