//! Corpora are read by workers: in parallel, past the death of one, cancelled with their corpus, failed with the reason.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::{
    corpus::{CorpusState, CorpusView},
    job::JobKind,
    view::{JobOwner, JobState, JobView},
};
use senmon_tests::{Pretended, World, WorldOptions, pretended::enrolment};
use serde_json::json;
use std::{fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(120);

/// A file of so many records, the first of them the same in each file.
fn write(world: &World, name: &str, records: usize) -> Result<()> {
    let text = |n: usize| if n == 0 { "the same everywhere".to_owned() } else { format!("{name} has document {n}") };
    let lines: String = (0..records).map(|n| json!({ "text": text(n) }).to_string() + "\n").collect();
    Ok(fs::write(world.path("corpus").join(name), lines)?)
}

async fn register(world: &World, name: &str) -> Result<CorpusView> {
    world.api.post("/api/v1/corpora", &json!({ "name": name, "paths": [world.path("corpus")] })).await
}

async fn corpus(world: &World, name: &str) -> Result<CorpusView> {
    world.api.get(&format!("/api/v1/corpora/{name}")).await
}

async fn over(world: &World, name: &str) -> Result<CorpusView> {
    world
        .until(LIMIT, "the scan is over", async || {
            Ok(Some(corpus(world, name).await?).filter(|corpus| corpus.state != CorpusState::Scanning))
        })
        .await
}

async fn jobs(world: &World, states: &str) -> Result<Vec<JobView>> {
    world.api.list(&format!("/api/v1/jobs?state={states}")).await
}

#[tokio::test]
async fn files_are_read_side_by_side_and_past_the_death_of_a_worker() -> Result<()> {
    let options = WorldOptions { workers: 1, slots: 1, documents: 0, lease_ttl_ms: 1_000, ..WorldOptions::default() };
    let mut world = World::start(options).await?;
    world.kill_worker(0);
    let token = world.api.with_token(&world.worker_token()?);
    let scanner = |name: &str| {
        let mut says = enrolment(name);
        says["capabilities"] = json!(["scan"]);
        says
    };
    let one = Pretended::enrol_by(&token, &scanner("one")).await?;
    let other = Pretended::enrol_by(&token, &scanner("other")).await?;
    for n in 0..6 {
        write(&world, &format!("{n}.jsonl"), 1_000)?;
    }
    let registered = register(&world, "large").await?;
    ensure!(registered.scan.context("it is scanned")?.files == 6);
    for worker in [&one, &other] {
        world
            .until(LIMIT, "each is given a file", async || Ok((!worker.poll().await?.grants.is_empty()).then_some(())))
            .await?;
    }
    let running = jobs(&world, "running").await?;
    let is_scan_of_it = |job: &JobView| {
        job.kind == JobKind::Scan
            && matches!(&job.owner, JobOwner::Corpus { id, name } if *id == registered.id && name == "large")
    };
    ensure!(running.len() == 2 && running.iter().all(is_scan_of_it), "{running:?}");
    // Both are silent from here on.
    world.start_worker(0)?;
    let large = over(&world, "large").await?;
    ensure!(large.state == CorpusState::Ready && large.scan.is_none(), "{:?}", large.problem);
    for (n, file) in large.files.iter().enumerate() {
        let (counts, first) = (file.counts, u64::from(n > 0));
        ensure!((counts.records, counts.documents, counts.duplicates) == (1_000, 1_000 - first, first), "{file:?}");
        let list =
            file.dropped.as_ref().map(|key| fs::read(world.path("server/storage").join(key.as_str()))).transpose()?;
        ensure!(list == (n > 0).then(|| vec![0; 8]), "{list:?} of file {n}");
    }
    let left = world.path(&format!("server/storage/corpora/{}/scan", large.id));
    world.until(LIMIT, "what its jobs left for each other goes", async || Ok((!left.exists()).then_some(()))).await?;
    let again = jobs(&world, "completed").await?.into_iter().filter(|job| job.attempts > 1).count();
    ensure!(again == 2, "{again} scans were done again");
    Ok(())
}

#[tokio::test]
async fn a_corpus_that_is_deleted_or_cannot_be_read_ends_its_jobs() -> Result<()> {
    let options = WorldOptions { workers: 2, slots: 1, documents: 0, ..WorldOptions::default() };
    let mut world = World::start(options).await?;
    for index in 0..2 {
        world.kill_worker(index);
    }
    write(&world, "a.jsonl", 3)?;
    write(&world, "b.jsonl", 3)?;
    register(&world, "waits").await?;
    let waits_for = world
        .until(LIMIT, "it says what it waits for", async || {
            Ok(corpus(&world, "waits").await?.scan.and_then(|scan| scan.waits_for))
        })
        .await?;
    ensure!(waits_for.starts_with("scan a.jsonl: "), "{waits_for}");
    world.api.send::<()>(Method::DELETE, "/api/v1/corpora/waits", None).await?;
    let cancelled = jobs(&world, "cancelled").await?;
    ensure!(cancelled.len() == 2 && jobs(&world, "queued,running").await?.is_empty(), "{cancelled:?}");

    // Its name is free; a file that nobody sees any more is tried by several workers, and named.
    register(&world, "waits").await?;
    fs::remove_file(world.path("corpus").join("b.jsonl"))?;
    for index in 0..2 {
        world.start_worker(index)?;
    }
    let failed = over(&world, "waits").await?;
    let problem = failed.problem.context("a reason")?;
    ensure!(
        failed.state == CorpusState::Failed && problem.contains("b.jsonl: Set aside: failed 4 times on 2 workers"),
        "{problem}"
    );
    ensure!(problem.contains("no such file below the folders that may be read"), "{problem}");
    ensure!(jobs(&world, "queued,running").await?.iter().all(|job| job.state != JobState::Queued));
    Ok(())
}
