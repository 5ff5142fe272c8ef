//! Simulated workers: each speaks the real protocol over HTTP with a trainer that only counts.

use super::{Size, after, figures::Times};
use crate::{
    World,
    client::Api,
    pretended::{credential, enrolment},
};
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::{
    ids::BranchId,
    job::{Grant, JobSpec},
    view::MetricsView,
    worker::{Enrolled, MetricBatch, Polled},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Seconds over which the workers arrive.
const ARRIVAL_SECONDS: f64 = 5.0;
/// Seconds that an attempt lasts, at least: then its worker lets it go and asks for another.
const ATTEMPT_SECONDS: u64 = 15;

/// A server that does not answer for so long is gone.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// What the workers saw.
#[derive(Debug, Default)]
pub struct Driven {
    /// From a poll with a free slot to the grant.
    pub grant: Times,
    /// Those whose poll began when all workers had arrived: enrolment is over.
    pub grant_steady: Times,
    /// Metric batches.
    pub batch: Times,
    /// Heartbeats.
    pub beat: Times,
    /// Curve queries.
    pub curve: Times,
    /// Points acknowledged.
    pub points: i64,
    /// Requests that got no answer and were sent again.
    pub repeats: usize,
    /// Seconds from the first batch to the last, all workers at work.
    seconds: f64,
    /// Points acknowledged in them.
    points_steady: i64,
}

impl Driven {
    /// Points per second once all workers had arrived.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn points_per_second(&self) -> f64 {
        self.points_steady as f64 / self.seconds
    }
}

/// Drives the load for as long as the size says.
///
/// # Errors
/// When the server refuses anything.
pub async fn drive(world: &World, size: &Size, curve_branch: BranchId) -> Result<Driven> {
    // The token of the first start lets in as many as a fleet of people has.
    let token = json!({ "name": "bench", "role": "enrol", "uses": size.workers });
    let token: Value = world.api.post("/api/v1/tokens", &token).await?;
    let api = world.api.with_token(token["secret"].as_str().context("a secret")?);
    let stop = Arc::new(AtomicBool::new(false));
    let repeats = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    #[expect(clippy::cast_precision_loss, reason = "a moment")]
    let arrival = |i: usize| Duration::from_secs_f64(ARRIVAL_SECONDS * i as f64 / size.workers as f64);
    let mut tasks = Vec::new();
    for i in 0..size.workers {
        let worker = Worker {
            api: api.clone(),
            number: i,
            batch_steps: size.batch_steps,
            start,
            stop: stop.clone(),
            repeats: repeats.clone(),
        };
        let arrival = arrival(i);
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(arrival).await;
            worker.work().await
        }));
    }
    let admin = world.api.clone();
    let reader = tokio::spawn(read_curves(admin, curve_branch, size.curve_points, stop.clone()));
    let mut driven = Driven::default();
    for seen in after(Duration::from_secs(size.seconds), &stop, tasks).await? {
        driven.grant.extend(seen.grant);
        driven.grant_steady.extend(seen.grant_steady);
        driven.batch.extend(seen.batch);
        driven.beat.extend(seen.beat);
        driven.points += seen.points;
        driven.points_steady += seen.points_steady;
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let seconds = size.seconds as f64;
    driven.seconds = seconds - steady_from().as_secs_f64();
    driven.repeats = repeats.load(Ordering::Relaxed);
    driven.curve = reader.await.context("the reader panicked")??;
    Ok(driven)
}

/// When all workers have arrived and hold a lease.
fn steady_from() -> Duration {
    Duration::from_secs_f64(ARRIVAL_SECONDS + 2.0)
}

/// Asks for the long curve over and over, and looks that it is one.
async fn read_curves(api: Api, branch: BranchId, points: i64, stop: Arc<AtomicBool>) -> Result<Times> {
    let mut times = Times::default();
    let path = format!("/api/v1/branches/{branch}/metrics?keys=train/loss&points_max=2000");
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let view: MetricsView = api.get(&path).await?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        let curve = &view.series["train/loss"];
        ensure!(view.steps.len() <= 2000 && view.steps.last().copied() == u64::try_from(points).ok());
        ensure!(points <= 2000 || (curve.min.is_some() && curve.max.is_some()), "minimum and maximum are kept");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(times)
}

struct Worker {
    api: Api,
    number: usize,
    batch_steps: usize,
    start: Instant,
    stop: Arc<AtomicBool>,
    repeats: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Seen {
    grant: Times,
    grant_steady: Times,
    batch: Times,
    beat: Times,
    points: i64,
    points_steady: i64,
}

impl Worker {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn work(mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let name = format!("load-{}", self.number);
        let mut enrolment = enrolment(&name);
        enrolment["capabilities"] = json!(["train"]);
        let me: Enrolled = self.send("/api/v1/workers", &enrolment).await?;
        self.api = self.api.with_token(&credential(&name));
        while !self.is_over() {
            let start = Instant::now();
            let poll = json!({ "session": me.session, "slots_free": [0], "wait_ms": 2000 });
            let polled: Polled = self.send(&format!("/api/v1/workers/{}/poll", me.worker_id), &poll).await?;
            if let Some(grant) = polled.grants.first() {
                let ms = start.elapsed().as_secs_f64() * 1000.0;
                seen.grant.push(ms);
                if start.duration_since(self.start) >= steady_from() {
                    seen.grant_steady.push(ms);
                }
                self.attempt(&me, grant, &mut seen).await?;
            }
        }
        Ok(seen)
    }

    async fn attempt(&self, me: &Enrolled, grant: &Grant, seen: &mut Seen) -> Result<()> {
        let JobSpec::Train(job) = &grant.job else { anyhow::bail!("only training was queued") };
        let path = |verb: &str| format!("/api/v1/attempts/{}/{verb}", grant.attempt_id);
        // Each fence starts far beyond the one before, so that its points are new ones.
        let mut step = grant.fence.0.unsigned_abs() * 1_000_000;
        let _: Value = self
            .send(&path("started"), &json!({ "fence": grant.fence, "step_start": step, "resume_verified": true }))
            .await?;
        let seconds = ATTEMPT_SECONDS + self.number as u64 % 15;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for _ in 0..seconds {
            tick.tick().await;
            if self.is_over() {
                break;
            }
            let beat = json!({ "session": me.session, "memory_used_bytes": 1 << 30, "cpu_share": 0.5, "attempts": [{
                "attempt_id": grant.attempt_id, "fence": grant.fence, "done": step, "total": job.steps, "tokens_per_second": 512.0 }] });
            let start = Instant::now();
            let answer: Value = self.send(&format!("/api/v1/workers/{}/heartbeat", me.worker_id), &beat).await?;
            seen.beat.push(start.elapsed().as_secs_f64() * 1000.0);
            ensure!(answer["attempts"][0]["command"] == "continue", "{answer}");
            let batch = self.batch(grant, step);
            let start = Instant::now();
            let _: Value = self.send(&path("metrics"), &batch).await?;
            seen.batch.push(start.elapsed().as_secs_f64() * 1000.0);
            let points = i64::try_from(self.batch_steps)?;
            seen.points += points;
            seen.points_steady += if self.start.elapsed() >= steady_from() { points } else { 0 };
            step += self.batch_steps as u64;
        }
        let outcome = json!({ "kind": "ended", "reason": "released", "message": "let go" });
        let _: Value = self.send(&path("complete"), &json!({ "fence": grant.fence, "outcome": outcome })).await?;
        Ok(())
    }

    async fn send<T: serde::de::DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T> {
        // As a worker does: what was not answered is sent again, the wait counts, and so does the repeat.
        let (status, value) = loop {
            match self.api.send(Method::POST, path, Some(body)).await {
                Ok(answer) => break answer,
                Err(error) if self.start.elapsed() > GIVE_UP_AFTER => return Err(error),
                Err(_) => self.repeats.fetch_add(1, Ordering::Relaxed),
            };
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        ensure!(status < 400, "{path}: {status} {value}");
        Ok(serde_json::from_value(value)?)
    }

    #[expect(clippy::cast_precision_loss, reason = "synthetic numbers")]
    fn batch(&self, grant: &Grant, step: u64) -> MetricBatch {
        let steps: Vec<u64> = (step + 1..=step + self.batch_steps as u64).collect();
        let series = |f: fn(f32) -> f32| steps.iter().map(|&step| Some(f64::from(f((step % 9973) as f32)))).collect();
        MetricBatch {
            fence: grant.fence,
            tokens: steps.iter().map(|step| step * 512).collect(),
            at_ms: steps.iter().map(|step| 1_700_000_000_000 + step.cast_signed() * 16).collect(),
            series: [
                ("train/loss".to_owned(), series(|x| 2.0 + 0.1 * x.sin())),
                ("train/grad_norm".to_owned(), series(|x| 1.0 + 0.5 * x.cos())),
            ]
            .into(),
            steps,
        }
    }
}
