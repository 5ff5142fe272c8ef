//! The control plane under the load of a thousand workers: a real server, real HTTP, a synthetic trainer. What
//! `make bench-control` measures and `make test` runs small, without judging times there.

mod drive;
mod figures;
pub mod hostile;
mod plan;
pub mod prepare;
pub mod text;
pub mod web;

pub use figures::Report;

use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use figures::{Goal, Usage};
use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Size {
    /// Simulated workers of one slot.
    pub workers: usize,
    /// Queued branches.
    pub branches: usize,
    /// Points stored before.
    pub points: i64,
    /// Points of the one long curve among them.
    pub curve_points: i64,
    /// Steps of a batch: with a thousand workers and one batch a second, as many thousand points a second.
    pub batch_steps: usize,
    /// Seconds of load; half of them again beside hostile requests.
    pub seconds: u64,
    /// Files that a hostile glob walks.
    pub files: usize,
}

impl Size {
    /// The size of the promise, or what `WORKERS`, `BRANCHES`, `POINTS`, `CURVE_POINTS`, `BATCH_STEPS` and `SECONDS` say.
    ///
    /// # Errors
    /// When one of them is no number.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            workers: number("WORKERS", 1_000)?,
            branches: number("BRANCHES", 10_000)?,
            points: number("POINTS", 100_000_000)?,
            curve_points: number("CURVE_POINTS", 1_000_000)?,
            batch_steps: number("BATCH_STEPS", 60)?,
            seconds: number("SECONDS", 60)?,
            files: number("FILES", 50_000)?,
        })
    }
}

fn number<T: TryFrom<i64>>(name: &str, default: T) -> Result<T> {
    let Ok(text) = env::var(name) else { return Ok(default) };
    // 1e6 is a number too.
    let value: f64 = text.parse().with_context(|| format!("{name}: found {text:?}, expected a number"))?;
    #[expect(clippy::cast_possible_truncation, reason = "a count that a person typed")]
    T::try_from(value as i64).ok().with_context(|| format!("{name}: found {text:?}, expected a smaller number"))
}

/// Prepares, loads and measures.
///
/// # Errors
/// When something refuses, or a point was lost or doubled.
pub async fn run(size: &Size) -> Result<Report> {
    let world =
        World::start(WorldOptions { workers: 0, documents: 0, lease_ttl_ms: 15_000, ..WorldOptions::default() })
            .await?;
    let start = Instant::now();
    let stored = prepare::prepare(&world, size).await?;
    let prepared_seconds = start.elapsed().as_secs_f64();
    let usage = Usage::of(&world)?;
    let driven = drive::drive(&world, size, stored.curve_branch).await?;
    let used = Usage::of(&world)?.since(&usage);
    let kept = prepare::points_since(&world).await?;
    ensure!(kept == driven.points, "{} points were acknowledged, {kept} are stored", driven.points);
    hostile::prepare(&world, size.files)?;
    let lasting = Duration::from_secs(size.seconds / 2);
    let hostile = hostile::beside(&world, Duration::from_millis(50), |_, start| start.elapsed() > lasting).await?;

    let mut report = Report::new(size, prepared_seconds, &stored.postgres)?;
    let batches = driven.batch.len();
    report.add("lease_grant_ms_p95", driven.grant.p95(), Goal::Below(100.0));
    report.add("metric_batch_ms_p95", driven.batch.p95(), Goal::Below(10.0));
    report.add("ingest_points_per_second", driven.points_per_second(), Goal::AtLeast(50_000.0));
    report.add("curve_query_ms_p95", driven.curve.p95(), Goal::Below(50.0));
    report.add("server_rss_mib_max", used.server_rss_mib_max, Goal::Below(500.0));
    report.add("plan_ms_p95", plan::milliseconds_p95(10_000, 500), Goal::Below(50.0));
    report.add("lease_grant_ms_p50", driven.grant.p50(), Goal::None);
    report.add("lease_grant_ms_p95_all_arrived", driven.grant_steady.p95(), Goal::None);
    report.add("lease_grant_ms_p50_all_arrived", driven.grant_steady.p50(), Goal::None);
    report.add("metric_batch_ms_p50", driven.batch.p50(), Goal::None);
    report.add("heartbeat_ms_p95_beside_hostile_requests", hostile.beat.p95(), Goal::Below(100.0));
    report.add("heartbeat_ms_p95", driven.beat.p95(), Goal::None);
    report.add("curve_query_ms_p50", driven.curve.p50(), Goal::None);
    report.count("grants", driven.grant.len());
    report.count("grants_all_arrived", driven.grant_steady.len());
    report.count("batches", batches);
    report.count("heartbeats", driven.beat.len());
    report.count("curve_queries", driven.curve.len());
    report.count("requests_repeated", driven.repeats);
    report.count("heartbeats_beside_hostile_requests", hostile.beat.len());
    report.count("hostile_requests_answered", hostile.answered);
    report.count("hostile_requests_told_to_wait", hostile.told_to_wait);
    report.count("lost_or_doubled_points", 0);
    report.add("server_cpu_seconds_per_1000_batches", used.server_cpu.per_thousand(batches), Goal::None);
    report.add("postgres_cpu_seconds_per_1000_batches", used.postgres_cpu.per_thousand(batches), Goal::None);
    Ok(report)
}

/// Runs for a while, then gives what the workers saw.
async fn after<T>(
    duration: Duration,
    stop: &Arc<std::sync::atomic::AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Result<T>>>,
) -> Result<Vec<T>> {
    tokio::time::sleep(duration).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut seen = Vec::with_capacity(tasks.len());
    for task in tasks {
        seen.push(task.await.context("a simulated worker panicked")??);
    }
    Ok(seen)
}
