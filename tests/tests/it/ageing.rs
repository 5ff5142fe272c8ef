//! What has grown old goes, and a curve is still a curve.

use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    ids::BranchId,
    view::{BranchView, MetricsView},
};
use senmon_tests::{World, WorldOptions, bench::prepare::long_curve};
use sqlx::PgPool;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Three chunks of level 2 and a rest of every level.
const POINTS: i64 = 210_000;
/// Step through which a later attempt's start cuts.
const CUT: i64 = 100_003;

async fn count(db: &PgPool, sql: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(sql).fetch_one(db).await?)
}

async fn run(db: &PgPool, sql: &'static str) -> Result<()> {
    sqlx::query(sql).execute(db).await?;
    Ok(())
}

/// The curve drawn as fine as it goes: buckets, and the lowest and highest loss of all.
async fn drawn(world: &World, branch: BranchId) -> Result<(MetricsView, f64, f64)> {
    let view: MetricsView = world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=10000")).await?;
    let loss = view.series.get("train/loss").context("there is a loss")?;
    let of = |values: &Option<Vec<Option<f64>>>| values.clone().unwrap_or_else(|| loss.mean.clone());
    let low = of(&loss.min).into_iter().flatten().fold(f64::INFINITY, f64::min);
    let high = of(&loss.max).into_iter().flatten().fold(f64::NEG_INFINITY, f64::max);
    Ok((view, low, high))
}

/// Points or buckets of the first chunk, looked at closely.
async fn zoomed(world: &World, branch: BranchId) -> Result<usize> {
    let path = format!("/api/v1/branches/{branch}/metrics?points_max=10000&step_from=1&step_to=4096");
    Ok(world.api.get::<MetricsView>(&path).await?.steps.len())
}

/// Starts the server anew: each loop makes its first pass at once.
async fn pruned(world: &mut World, db: &PgPool, sql: &'static str) -> Result<()> {
    world.kill_server();
    world.start_server().await?;
    let db = world.database().await.unwrap_or_else(|_| db.clone());
    world.outlast(LIMIT, sql, async || Ok((count(&db, sql).await? == 0).then_some(()))).await
}

#[tokio::test]
async fn old_points_become_summaries_and_nothing_of_the_curve_is_lost() -> Result<()> {
    let mut world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let db = world.database().await?;
    let branch = long_curve(&db, POINTS).await?;
    // A later attempt went back into the middle of the curve: what it took the place of stays exact.
    run(&db, "INSERT INTO workers (id, name, session, host, version, slots, capabilities, labels) VALUES (gen_random_uuid(), 'w', 1, '', '', '[]', '[]', '{}')").await?;
    sqlx::query("INSERT INTO jobs (id, experiment_id, branch_id, key, kind, title, spec, state, priority, slots, problem) SELECT gen_random_uuid(), experiment_id, id, 'train/curve', 'train', 'train curve', '{}', 'failed', 50, 1, 'test' FROM branches WHERE id = $1")
        .bind(branch.0).execute(&db).await?;
    sqlx::query("INSERT INTO attempts (id, job_id, branch_id, fence, worker_id, slots, step_start, finished_at) SELECT gen_random_uuid(), j.id, j.branch_id, 2, w.id, '[]', $2, now() FROM jobs j, workers w WHERE j.branch_id = $1")
        .bind(branch.0).bind(CUT).execute(&db).await?;
    let (before, low, high) = drawn(&world, branch).await?;
    ensure!(zoomed(&world, branch).await? == 4096, "the first chunk is not shown point by point");

    run(&db, "UPDATE metric_chunks SET at = now() - interval '40 days'").await?;
    let thick =
        "SELECT count(*) FROM metric_chunks c WHERE level = 0 AND NOT (step_first <= 100003 AND step_last > 100003)";
    pruned(&mut world, &db, thick).await?;
    let db = world.database().await?;
    ensure!(count(&db, "SELECT count(*) FROM metric_chunks WHERE level = 0").await? == 1, "the cut's chunk went");
    let (thinned, low_now, high_now) = drawn(&world, branch).await?;
    ensure!(thinned.steps.last() == Some(&u64::try_from(CUT)?), "the cut is not exact: {:?}", thinned.steps.last());
    ensure!((low, high) == (low_now, high_now), "an extreme went: {low} {high} became {low_now} {high_now}");
    ensure!(thinned.steps.first() <= before.steps.first().map(|first| first + 16).as_ref(), "its begin went");
    ensure!(zoomed(&world, branch).await? == 256, "a chunk is not buckets of sixteen");
    let view: BranchView = world.api.get(&format!("/api/v1/branches/{branch}")).await?;
    ensure!(view.sparkline.len() > 10, "its sparkline went: {:?}", view.sparkline);

    run(&db, "UPDATE metric_chunks SET at = now() - interval '400 days'").await?;
    let fine = "SELECT count(*) FROM metric_chunks p WHERE level = 2 AND NOT thinned AND NOT (step_first <= 100003 AND step_last > 100003)";
    pruned(&mut world, &db, fine).await?;
    let (coarse, low_now, high_now) = drawn(&world, branch).await?;
    ensure!((low, high) == (low_now, high_now), "an extreme went after a year");
    ensure!(coarse.steps.last() == Some(&u64::try_from(CUT)?), "the cut is not exact after a year");
    ensure!(zoomed(&world, branch).await? == 16, "after a year a chunk is not sixteen buckets");
    let view: BranchView = world.api.get(&format!("/api/v1/branches/{branch}")).await?;
    ensure!(view.sparkline.len() > 5, "its sparkline went after a year: {:?}", view.sparkline);
    Ok(())
}

#[tokio::test]
async fn what_is_old_goes_in_every_table_that_grows() -> Result<()> {
    let mut world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let db = world.database().await?;
    long_curve(&db, 10).await?;
    for sql in [
        "INSERT INTO workers (id, name, session, host, version, slots, capabilities, labels) VALUES (gen_random_uuid(), 'w', 1, '', '', '[]', '[]', '{}')",
        "INSERT INTO worker_states (worker_id, slots, at) SELECT id, n, now() - interval '500 days' FROM workers, generate_series(1, 1500) n",
        "INSERT INTO jobs (id, experiment_id, key, kind, title, spec, priority, slots) SELECT gen_random_uuid(), id, 'shard/0', 'shard', 'shard', '{}', 50, 1 FROM experiments",
        "INSERT INTO job_states (job_id, state, at) SELECT id, CASE WHEN n % 2 = 0 THEN 'queued' ELSE 'running' END, now() FROM jobs, generate_series(1, 1500) n",
        "UPDATE jobs SET state = 'failed', problem = 'test'",
        "INSERT INTO attempts (id, job_id, fence, worker_id, slots, finished_at) SELECT gen_random_uuid(), j.id, n, w.id, '[]', now() FROM jobs j, workers w, generate_series(1, 1500) n",
        "INSERT INTO log_batches (attempt_id, line_first, lines, at) SELECT id, 1, '[]', now() - interval '31 days' FROM attempts",
        "UPDATE experiments SET state = 'failed', problem = 'test', finished_at = now() - interval '400 days'",
        "INSERT INTO events (kind, level, text, at) SELECT 'old', 'info', '', now() - interval '366 days' FROM generate_series(1, 1500)",
        "INSERT INTO events (kind, level, text) VALUES ('young', 'info', '')",
        "INSERT INTO sessions (secret_sha256, token_id, expires_at) SELECT sha256('a'), id, now() - interval '1 hour' FROM tokens LIMIT 1",
        "INSERT INTO idempotency_keys (token_id, key, request_sha256, status, response, created_at) SELECT id, 'a', '', 201, '{}', now() - interval '2 days' FROM tokens LIMIT 1",
    ] {
        run(&db, sql).await.context(sql)?;
    }
    let left = "SELECT (SELECT count(*) FROM log_batches) + (SELECT count(*) FROM events WHERE kind = 'old') + (SELECT count(*) FROM attempts)
        + (SELECT count(*) FROM sessions WHERE expires_at < now()) + (SELECT count(*) FROM idempotency_keys WHERE key = 'a')
        + (SELECT count(*) FROM experiments WHERE NOT history_pruned)";
    pruned(&mut world, &db, left).await?;
    let db = world.database().await?;
    // The first and the last stay; of a worker's states the last old one, from which later ones go on.
    ensure!(count(&db, "SELECT count(*) FROM job_states").await? == 2, "states of jobs");
    ensure!(
        count(&db, "SELECT count(*) FROM worker_states WHERE at < now() - interval '365 days'").await? == 1,
        "states of workers"
    );
    ensure!(count(&db, "SELECT count(*) FROM events WHERE kind = 'young'").await? == 1, "a young event went");
    Ok(())
}
