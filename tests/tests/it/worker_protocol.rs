//! Two pretended workers and one lease: fences decide who may write.

use anyhow::{Context, Result};
use senmon_protocol::{
    WORKER_PROTOCOL_VERSION,
    job::{Grant, JobKind},
};
use senmon_tests::{Pretended, World, WorldOptions, client::Api, pretended::enrolment, spec};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_stale_fence_is_refused() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, lease_ttl_ms: 1_000, ..WorldOptions::default() }).await?;
    world.submit(&spec::small()).await?;

    let first = Pretended::enrol(&world, "first").await?;
    let old = grant(&world, &first).await?;
    assert_eq!(old.job.kind(), JobKind::Shard);
    // The first worker falls silent; the second one gets the same job with the next fence.
    let second = Pretended::enrol(&world, "second").await?;
    let new = world
        .until(LIMIT, "the job is granted again", async || {
            beat(&second, &[]).await?;
            let polled = second.poll().await?;
            Ok(polled.grants.into_iter().find(|grant| grant.job_id == old.job_id))
        })
        .await?;
    assert!(new.fence > old.fence, "{} then {}", old.fence, new.fence);

    for (path, body) in writes(&old) {
        let problem = first.api.refused(&format!("/api/v1/attempts/{}/{path}", old.attempt_id), &body).await?;
        assert_eq!((problem.status, problem.code.as_str()), (409, "stale_fence"), "{path}");
    }
    let answer = beat(&first, &[&old]).await?;
    assert_eq!(answer["attempts"][0]["command"], "fenced");
    let answer = beat(&second, &[&new]).await?;
    assert_eq!(answer["attempts"][0]["command"], "continue");
    Ok(())
}

#[tokio::test]
async fn a_repeated_write_is_the_same_write() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, lease_ttl_ms: 20_000, ..WorldOptions::default() }).await?;
    world.submit(&spec::small()).await?;
    let worker = Pretended::enrol(&world, "first").await?;
    let grant = grant(&world, &worker).await?;
    let lines = json!({ "fence": grant.fence, "line_first": 0,
        "lines": [{ "at_ms": 1, "level": "info", "text": "hello" }] });
    let end = json!({ "fence": grant.fence,
        "outcome": { "kind": "ended", "reason": "internal_error", "message": "planted" } });
    for _ in 0..3 {
        let _: Value = worker.api.post(&format!("/api/v1/attempts/{}/logs", grant.attempt_id), &lines).await?;
    }
    for _ in 0..3 {
        let _: Value = worker.api.post(&format!("/api/v1/attempts/{}/complete", grant.attempt_id), &end).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_of_another_protocol_is_refused_with_both_numbers() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let api = Api::new(world.api.base(), &world.worker_token()?);
    let mut body = enrolment("old");
    body["protocol_version"] = json!(WORKER_PROTOCOL_VERSION + 1);
    let problem = api.refused("/api/v1/workers", &body).await?;
    let text = format!("{problem:?}");
    assert!(text.contains(&WORKER_PROTOCOL_VERSION.to_string()), "{text}");
    assert!(text.contains(&(WORKER_PROTOCOL_VERSION + 1).to_string()), "{text}");
    Ok(())
}

pub(crate) async fn beat(worker: &Pretended, grants: &[&Grant]) -> Result<Value> {
    let attempts: Vec<_> = grants
        .iter()
        .map(|grant| {
            json!({ "attempt_id": grant.attempt_id, "fence": grant.fence, "done": 0, "total": 0,
                    "tokens_per_second": 0.0 })
        })
        .collect();
    let body = json!({ "session": worker.enrolled.session, "attempts": attempts });
    worker.api.post(&format!("/api/v1/workers/{}/heartbeat", worker.id()), &body).await
}

pub(crate) async fn grant(world: &World, worker: &Pretended) -> Result<Grant> {
    world
        .until(LIMIT, "a job is granted", async || {
            beat(worker, &[]).await?;
            Ok(worker.poll().await?.grants.into_iter().next())
        })
        .await
        .context("wait for a grant")
}

fn writes(grant: &Grant) -> [(&'static str, Value); 3] {
    [
        ("logs", json!({ "fence": grant.fence, "line_first": 0, "lines": [] })),
        (
            "metrics",
            json!({ "fence": grant.fence, "steps": [1], "tokens": [1], "at_ms": [1], "series": { "train/loss": [1.0] } }),
        ),
        (
            "complete",
            json!({ "fence": grant.fence,
                    "outcome": { "kind": "ended", "reason": "released", "message": "too late" } }),
        ),
    ]
}
