//! The dashboard in Chromium on stored curves: a finished demo beside TensorBoard and MLflow, and a hundred long branches.
//! What `make bench-web` measures and `make test` runs small, without judging times there.

use super::{number, prepare};
use crate::{World, WorldOptions, process::repository};
use anyhow::{Context, Result, ensure};
use senmon_protocol::ids::{BranchId, ExperimentId};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::{env, fs, process::Command};

/// How much is drawn.
#[derive(Debug, Clone)]
pub struct Size {
    /// Branches with a long curve.
    pub branches: i32,
    /// Points of each.
    pub points: i64,
    /// Seconds of panning, each time.
    pub seconds: u64,
    /// How often everything is measured; the median is told.
    pub times: u64,
}

impl Size {
    /// The size of the promise, or what `BRANCHES`, `POINTS`, `SECONDS` and `TIMES` say.
    ///
    /// # Errors
    /// When one of them is no number.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            branches: number("BRANCHES", 100)?,
            points: number("POINTS", 1_000_000)?,
            seconds: number("SECONDS", 5)?,
            times: number("TIMES", 3)?,
        })
    }
}

/// The branches of the demo: role, how many, optimiser steps of each. 22 curves of 851 points.
const DEMO: [(&str, i32, i64); 5] =
    [("seed", 1, 150), ("dense", 1, 101), ("expert", 8, 30), ("random", 8, 30), ("chain", 4, 30)];

/// Fills a real server, and lets the browser look at it. `BENCH_PYTHON` is a Python with TensorBoard and MLflow; without
/// one they are left out.
///
/// # Errors
/// When something refuses, or a page does not show what it should.
pub async fn run(size: &Size) -> Result<Value> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let db = world.database().await?;
    sqlx::query("INSERT INTO workers (id, name, session, host, version, slots, capabilities, labels) VALUES (gen_random_uuid(), 'bench', 1, '', '', '[]', '[]', '{}')")
        .execute(&db).await?;
    let demo = prepare::experiment(&db, 0, 0).await?;
    let mut ordinal = 0;
    for (role, count, points) in DEMO {
        for n in 0..count {
            branch(&db, demo, (role, n), ordinal, points).await?;
            ordinal += 1;
        }
    }
    let wide = prepare::experiment(&db, 1, 0).await?;
    for n in 0..size.branches {
        branch(&db, wide, ("expert", n), n, size.points).await?;
    }
    for experiment in [demo, wide] {
        sqlx::query("UPDATE experiments SET state = 'cancelled', problem = NULL, finished_at = now() WHERE id = $1")
            .bind(experiment.0)
            .execute(&db)
            .await?;
    }
    sqlx::query("VACUUM ANALYZE experiments, branches, metric_chunks").execute(&db).await?;
    let out = world.path("web.json");
    let mut node = Command::new("node");
    node.arg("e2e/bench.e2e.mjs")
        .current_dir(repository().join("web"))
        .env("SENMON_URL", world.api.base())
        .env("SENMON_TOKEN", world.api.token())
        .env("BENCH_DEMO", demo.to_string())
        .env("BENCH_WIDE", wide.to_string())
        .env("BENCH_SECONDS", size.seconds.to_string())
        .env("BENCH_TIMES", size.times.to_string())
        .env("BENCH_FOLDER", world.path("others"))
        .env("BENCH_OUT", &out);
    if let Ok(python) = env::var("BENCH_PYTHON") {
        node.env("BENCH_PYTHON", repository().join(python));
    }
    let output = tokio::task::spawn_blocking(move || node.output()).await?.context("start node")?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
    let mut report: Value = serde_json::from_slice(&fs::read(&out).context("read what node measured")?)?;
    report["branches"] = json!(size.branches);
    report["points_of_each"] = json!(size.points);
    report["cores"] = json!(std::thread::available_parallelism()?.get());
    Ok(report)
}

/// A branch that is over, with its curve.
async fn branch(db: &PgPool, of: ExperimentId, (role, n): (&str, i32), ordinal: i32, points: i64) -> Result<BranchId> {
    let id = BranchId::new();
    let name = if matches!(role, "seed" | "dense") { role.to_owned() } else { format!("{role}-{n}") };
    let domain = matches!(role, "expert" | "chain").then_some(n);
    sqlx::query(
        "INSERT INTO branches (id, experiment_id, ordinal, name, role, domain, state, steps, batch_tokens, step, loss)
         VALUES ($1, $2, $3, $4, $5, $6, 'completed', $7, 512, $7, 2.0)",
    )
    .bind(id.0)
    .bind(of.0)
    .bind(ordinal)
    .bind(name)
    .bind(role)
    .bind(domain)
    .bind(points)
    .execute(db)
    .await?;
    // What was never begun has no curve.
    sqlx::query("INSERT INTO jobs (id, experiment_id, branch_id, key, kind, title, spec, state, priority, slots, problem) SELECT gen_random_uuid(), experiment_id, id, 'train/' || name, 'train', 'train ' || name, '{}', 'failed', 50, 1, 'bench' FROM branches WHERE id = $1")
        .bind(id.0).execute(db).await?;
    sqlx::query("INSERT INTO attempts (id, job_id, branch_id, fence, worker_id, slots, step_start, finished_at) SELECT gen_random_uuid(), j.id, j.branch_id, 1, w.id, '[]', 0, now() FROM jobs j, workers w WHERE j.branch_id = $1")
        .bind(id.0).execute(db).await?;
    prepare::store(db, &prepare::rows(points, i64::from(ordinal)), Some(id)).await?;
    Ok(id)
}
