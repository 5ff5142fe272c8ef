//! How workers' machines and devices were: told once a minute, drawn, thinned, gone.

use anyhow::{Result, ensure};
use senmon_protocol::readings::WorkerMetrics;
use senmon_tests::{World, WorldOptions, pretended::Pretended};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_minute_is_stored_once_and_an_old_session_tells_nothing() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let (one, other) = (Pretended::enrol(&world, "one").await?, Pretended::enrol(&world, "other").await?);
    let path = format!("/api/v1/workers/{}/readings", one.id());
    let device = json!({ "device": "cuda:1", "utilisation": 0.5, "celsius": 61, "watts": 300 });
    let tell = |share: f64, session: i64| json!({ "session": session, "cpu_share": share, "memory_used_bytes": 1024, "devices": [device] });
    let session = one.enrolled.session;
    let tell_it = async |body: &Value| -> Result<u16> {
        Ok(one.api.send::<Value>(reqwest::Method::POST, &path, Some(body)).await?.0)
    };
    ensure!(tell_it(&tell(0.25, session)).await? == 204);
    ensure!(tell_it(&tell(0.75, session)).await? == 204, "a second one is no fault");
    let view: WorkerMetrics = world.api.get(&format!("/api/v1/workers/{}/metrics", one.id())).await?;
    let sources: Vec<&str> = view.sources.iter().map(|source| source.source.as_str()).collect();
    ensure!(sources == ["machine", "cuda:1"], "{sources:?}");
    let machine = &view.sources[0];
    // The second one may have come in the next minute.
    ensure!(machine.series["cpu/share"][0] == Some(0.25), "{machine:?}");
    ensure!(machine.at_ms.len() <= 2 && !machine.series.contains_key("device/celsius"), "{machine:?}");
    ensure!(view.sources[1].series["device/celsius"][0] == Some(61.0), "{view:?}");

    let problem = one.api.refused(&path, &tell(0.5, session - 1)).await?;
    ensure!(problem.status == 409, "{problem:?}");
    let problem = one.api.refused(&path, &tell(1.5, session)).await?;
    ensure!(problem.status == 422 && problem.faults[0].path == "cpu_share", "{problem:?}");
    let problem = other.api.refused(&path, &tell(0.5, session)).await?;
    ensure!(problem.status == 403, "{problem:?}");
    let (status, _): (u16, Value) = world
        .api
        .send::<()>(reqwest::Method::GET, &format!("/api/v1/workers/{}/metrics", uuid::Uuid::now_v7()), None)
        .await?;
    ensure!(status == 404);
    Ok(())
}

#[tokio::test]
async fn old_minutes_become_quarters_with_the_same_mean_and_older_ones_go() -> Result<()> {
    let mut world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let one = Pretended::enrol(&world, "one").await?;
    let db = world.database().await?;
    // Most of a day three days ago; one that is older than anything is kept, and one that is fine.
    sqlx::query(
        "INSERT INTO readings (worker_id, source, minutes, at, share)
         SELECT $1, 'machine', 1, date_bin('15 minutes', now() - interval '3 days', 'epoch') + make_interval(mins => n), (n % 15) / 100.0 FROM generate_series(0, 23 * 60 - 1) AS s(n)",
    ).bind(one.id().0).execute(&db).await?;
    sqlx::query("INSERT INTO readings (worker_id, source, minutes, at, share) VALUES ($1, 'machine', 15, now() - interval '31 days', 1), ($1, 'machine', 1, now() - interval '1 day', 0.5)")
        .bind(one.id().0).execute(&db).await?;
    // Each loop makes its first pass at once.
    world.kill_server();
    world.start_server().await?;
    let db = world.database().await?;
    let is_done = async || -> Result<Option<()>> {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM readings WHERE (minutes = 1 AND at < now() - interval '2 days 1 hour') OR at < now() - interval '30 days'")
            .fetch_one(&db).await?;
        Ok((left == 0).then_some(()))
    };
    world.until(LIMIT, "old readings are thinned", is_done).await?;
    let (quarters, low, high): (i64, f32, f32) =
        sqlx::query_as("SELECT count(*), min(share), max(share) FROM readings WHERE minutes = 15")
            .fetch_one(&db)
            .await?;
    ensure!(quarters == 92, "{quarters} quarters of 23 hours");
    ensure!((low - 0.07).abs() < 1e-6 && (high - 0.07).abs() < 1e-6, "{low} to {high}, expected the mean");
    let view: WorkerMetrics = world.api.get(&format!("/api/v1/workers/{}/metrics?points_max=10", one.id())).await?;
    ensure!(view.sources[0].at_ms.len() <= 10, "{view:?}");
    Ok(())
}
