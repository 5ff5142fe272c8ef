//! Requests that cost a lot hold up nobody's heartbeat. Times are measured by `make bench-control`, not here.

use anyhow::{Result, ensure};
use senmon_protocol::plan::PlanView;
use senmon_tests::{
    World, WorldOptions,
    bench::hostile::{AT_ONCE, beside, prepare},
    spec,
};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn heartbeats_are_answered_beside_fifty_hostile_requests() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    prepare(&world, 2_000)?;
    let seen = beside(&world, Duration::from_millis(10), |beats, _| beats >= 100).await?;
    ensure!(seen.beat.len() >= 100 && seen.answered >= AT_ONCE, "{} of {}", seen.answered, seen.beat.len());

    // What was given up is not worked off before what is asked for.
    let (url, body) = (format!("{}/api/v1/corpora", world.api.base()), json!({ "name": "x", "paths": ["/**"] }));
    let http = reqwest::Client::new();
    for _ in 0..AT_ONCE {
        let given_up = http.post(&url).bearer_auth(world.api.token()).json(&body).send();
        let _ = tokio::time::timeout(Duration::from_millis(2), given_up).await;
    }
    let plan: PlanView = world.api.post("/api/v1/plan", &json!({ "experiment": spec::small_json() })).await?;
    ensure!(!plan.branches.is_empty());
    let (status, _): (u16, Value) = world.api.send::<()>(reqwest::Method::GET, "/readyz", None).await?;
    ensure!(status == 200);
    Ok(())
}
