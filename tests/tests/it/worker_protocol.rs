//! Two pretended workers and one lease: fences decide who may write.

use anyhow::{Context, Result};
use senmon_protocol::{
    WORKER_PROTOCOL_VERSION,
    job::{Grant, JobKind},
    worker::{Enrolled, Polled},
};
use senmon_tests::{World, WorldOptions, client::Api, spec};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_stale_fence_is_refused() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, lease_ttl_ms: 1_000, ..WorldOptions::default() }).await?;
    let api = Api::new(world.api.base(), &world.worker_token()?);
    world.submit(&spec::small()).await?;

    let first = enrol(&api, "first").await?;
    let old = grant(&world, &api, &first).await?;
    assert_eq!(old.job.kind(), JobKind::Shard);
    // The first worker falls silent; the second one gets the same job with the next fence.
    let second = enrol(&api, "second").await?;
    let new = world
        .until(LIMIT, "the job is granted again", async || {
            beat(&api, &second, &[]).await?;
            let polled = poll(&api, &second).await?;
            Ok(polled.grants.into_iter().find(|grant| grant.job_id == old.job_id))
        })
        .await?;
    assert!(new.fence > old.fence, "{} then {}", old.fence, new.fence);

    for (path, body) in writes(&old) {
        let problem = api.refused(&format!("/api/v1/attempts/{}/{path}", old.attempt_id), &body).await?;
        assert_eq!((problem.status, problem.code.as_str()), (409, "stale_fence"), "{path}");
    }
    let answer = beat(&api, &first, &[&old]).await?;
    assert_eq!(answer["attempts"][0]["command"], "fenced");
    let answer = beat(&api, &second, &[&new]).await?;
    assert_eq!(answer["attempts"][0]["command"], "continue");
    Ok(())
}

#[tokio::test]
async fn a_repeated_write_is_the_same_write() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, lease_ttl_ms: 20_000, ..WorldOptions::default() }).await?;
    let api = Api::new(world.api.base(), &world.worker_token()?);
    world.submit(&spec::small()).await?;
    let worker = enrol(&api, "first").await?;
    let grant = grant(&world, &api, &worker).await?;
    let lines = json!({ "fence": grant.fence, "line_first": 0,
        "lines": [{ "at_ms": 1, "level": "info", "text": "hello" }] });
    let end = json!({ "fence": grant.fence,
        "outcome": { "kind": "ended", "reason": "internal_error", "message": "planted" } });
    for _ in 0..3 {
        let _: Value = api.post(&format!("/api/v1/attempts/{}/logs", grant.attempt_id), &lines).await?;
    }
    for _ in 0..3 {
        let _: Value = api.post(&format!("/api/v1/attempts/{}/complete", grant.attempt_id), &end).await?;
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

pub(crate) fn enrolment(name: &str) -> Value {
    json!({
        "name": name, "protocol_version": WORKER_PROTOCOL_VERSION, "version": "test", "host": "here",
        "slots": [{ "index": 0, "device": "cpu", "device_name": "pretended", "memory_bytes": 1 << 30, "threads": 1 }],
        "capabilities": ["shard", "train", "evaluate", "merge", "ensemble"]
    })
}

pub(crate) async fn enrol(api: &Api, name: &str) -> Result<Enrolled> {
    api.post("/api/v1/workers", &enrolment(name)).await
}

pub(crate) async fn poll(api: &Api, worker: &Enrolled) -> Result<Polled> {
    let body = json!({ "session": worker.session, "slots_free": [0], "wait_ms": 200 });
    api.post(&format!("/api/v1/workers/{}/poll", worker.worker_id), &body).await
}

pub(crate) async fn beat(api: &Api, worker: &Enrolled, grants: &[&Grant]) -> Result<Value> {
    let attempts: Vec<_> = grants
        .iter()
        .map(|grant| {
            json!({ "attempt_id": grant.attempt_id, "fence": grant.fence, "done": 0, "total": 0,
                    "tokens_per_second": 0.0 })
        })
        .collect();
    let body = json!({ "session": worker.session, "attempts": attempts });
    api.post(&format!("/api/v1/workers/{}/heartbeat", worker.worker_id), &body).await
}

pub(crate) async fn grant(world: &World, api: &Api, worker: &Enrolled) -> Result<Grant> {
    world
        .until(LIMIT, "a job is granted", async || {
            beat(api, worker, &[]).await?;
            Ok(poll(api, worker).await?.grants.into_iter().next())
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
