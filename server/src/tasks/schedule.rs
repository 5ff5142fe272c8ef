//! Grants queued jobs to free slots, asks running ones to give theirs up, and takes back leases that ran out.

use crate::{
    app::App,
    db::{self, events::NewEvent, jobs::JobRow, workers::WorkerRow},
    domain::{
        deadline::slack_s,
        lease::worker_state,
        schedule::{
            FleetSlot, FleetWorker, Preemption, Release, RunningJob, SlotState, Snapshot, Standing, WaitingJob, plan,
            why_waiting,
        },
    },
};
use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use senmon_protocol::{
    ids::{AttemptId, ExperimentId},
    job::{EndedOutcome, Outcome, TerminationReason},
    resources::DeviceKind,
    view::{JobState, StreamMessage, WorkerMode, WorkerState},
    worker::CompleteAttempt,
};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// What the planner sees, and the rows that it comes from.
#[derive(Debug)]
pub struct Scene {
    /// Open jobs, in the order of creation.
    pub jobs: Vec<JobRow>,
    /// Workers; running jobs; and as waiting ones those that may be granted now.
    pub fleet: Snapshot,
    slack: HashMap<ExperimentId, i64>,
}

impl Scene {
    fn waiting(&self, job: &JobRow, age: u64) -> WaitingJob {
        WaitingJob {
            id: job.id,
            experiment: job.experiment_id,
            kind: job.kind,
            priority: job.priority,
            slots: job.slots,
            needs: job.needs.clone(),
            remaining: job.remaining,
            age,
            slack_s: self.slack.get(&job.experiment_id).copied(),
        }
    }

    /// Why a queued job waits, in one sentence.
    #[must_use]
    pub fn why(&self, job: &JobRow) -> String {
        if job.experiment_paused {
            return job.paused_why.clone().unwrap_or_else(|| "Its experiment is paused.".to_owned());
        }
        if job.wait_seconds > 0.0 {
            return format!("Its last attempt failed; it is tried again in {:.0} s.", job.wait_seconds.ceil());
        }
        why_waiting(&self.waiting(job, 0), &self.fleet)
    }
}

/// State of a worker now.
#[must_use]
pub fn state_of(app: &App, row: &WorkerRow, now: DateTime<Utc>) -> WorkerState {
    if row.lost {
        return WorkerState::Lost;
    }
    let ms = |value: u64| TimeDelta::milliseconds(i64::try_from(value).unwrap_or(i64::MAX));
    worker_state(row.seen_at, app.since, now, ms(app.config.lease_ttl_ms), ms(app.config.worker_lost_ms))
}

fn standing(app: &App, row: &WorkerRow, now: DateTime<Utc>) -> Standing {
    match (state_of(app, row, now), row.mode) {
        (WorkerState::Lost, _) => Standing::Lost,
        (WorkerState::Suspect, _) => Standing::Silent,
        (_, WorkerMode::Draining) => Standing::Draining,
        (_, WorkerMode::Disabled) => Standing::Disabled,
        _ if row.set_aside.is_some() => Standing::SetAside,
        _ => Standing::Open,
    }
}

fn fleet_worker(app: &App, row: WorkerRow, now: DateTime<Utc>) -> FleetWorker {
    let (asks, freed_lately) = (app.polls.slots_free(row.id), app.polls.freed_lately(row.id));
    let state = |index: u16| match (asks.contains(&index), freed_lately) {
        (true, _) => SlotState::Free,
        (false, true) => SlotState::Coming,
        (false, false) => SlotState::Taken,
    };
    let slots = row.slots.iter().map(|slot| FleetSlot {
        index: slot.index,
        device: DeviceKind::of(slot),
        memory_bytes: slot.memory_bytes,
        state: state(slot.index),
    });
    FleetWorker {
        id: row.id,
        standing: standing(app, &row, now),
        slots: slots.collect(),
        name: row.name,
        capabilities: row.capabilities,
        labels: row.labels,
    }
}

fn running(job: &JobRow) -> Option<RunningJob> {
    let asked = job.asked_back || job.experiment_paused;
    #[expect(clippy::cast_possible_truncation, reason = "seconds")]
    let ran_s = job.ran_seconds as i64;
    Some(RunningJob {
        id: job.id,
        title: job.title.clone(),
        experiment: job.experiment_id,
        kind: job.kind,
        priority: job.priority,
        worker: job.worker_id?,
        slots: job.slots_held.clone(),
        ran_s,
        release: match job.preempted_for {
            _ if asked => Release::Asked,
            Some(id) => Release::For(id),
            None => Release::No,
        },
    })
}

/// Seconds to spare of the experiments whose deadline is close, from what their open jobs have left.
fn slacks(jobs: &[JobRow]) -> HashMap<ExperimentId, i64> {
    let mut by: HashMap<ExperimentId, Vec<&JobRow>> = HashMap::new();
    for job in jobs.iter().filter(|job| job.deadline_seconds.is_some()) {
        by.entry(job.experiment_id).or_default().push(job);
    }
    by.into_iter()
        .filter_map(|(id, jobs)| {
            let rates = jobs.iter().map(|job| job.tokens_per_second).filter(|rate| *rate > 0.0);
            let rate = rates.fold(0.0, f64::max);
            let longest = jobs.iter().map(|job| job.remaining).max().unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let needed = (rate > 0.0).then(|| longest as f64 / rate);
            Some((id, slack_s(jobs[0].deadline_seconds?, needed)?))
        })
        .collect()
}

/// Open jobs, and the fleet.
///
/// # Errors
/// When Postgres refuses.
pub async fn scene(app: &App) -> Result<Scene, db::DbError> {
    let jobs = db::jobs::open(&app.db).await?;
    let now = db::workers::now(&app.db).await?;
    let workers = db::workers::list(&app.db).await?.into_iter().map(|row| fleet_worker(app, row, now)).collect();
    let preempt_after_s = i64::try_from(app.config.preempt_after_ms / 1000).unwrap_or(i64::MAX);
    let running = jobs.iter().filter_map(running).collect();
    let fleet = Snapshot { waiting: Vec::new(), running, workers, preempt_after_s };
    let mut scene = Scene { slack: slacks(&jobs), jobs, fleet };
    let queued = scene.jobs.iter().zip(0..).filter(|(job, _)| job.state == JobState::Queued && job.ready);
    scene.fleet.waiting = queued.map(|(job, age)| scene.waiting(job, age)).collect();
    Ok(scene)
}

/// Plans once and carries the plan out.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    let scene = scene(&app).await?;
    let ttl = i64::try_from(app.config.lease_ttl_ms).unwrap_or(i64::MAX);
    let plan = plan(&scene.fleet);
    let mut granted = false;
    for placement in plan.placements {
        if db::jobs::grant(&app.db, placement.job, placement.worker, &placement.slots, ttl).await? {
            tracing::info!(job.id = %placement.job, worker.id = %placement.worker, "granted a job");
            granted = true;
        }
    }
    if granted {
        app.wake.granted.notify_waiters();
    }
    for preemption in plan.preemptions {
        preempt(&app, &scene.jobs, preemption).await?;
    }
    static LAST_SECOND: AtomicU64 = AtomicU64::new(0);
    let second =
        app.since.timestamp().unsigned_abs() + u64::try_from((Utc::now() - app.since).num_seconds()).unwrap_or(0);
    if LAST_SECOND.swap(second, Ordering::Relaxed) != second
        && let Ok(fleet) = crate::api::workers::look(&app).await
    {
        app.hint(StreamMessage::Fleet(fleet));
    }
    Ok(())
}

async fn preempt(app: &App, jobs: &[JobRow], preemption: Preemption) -> Result<()> {
    if !db::jobs::preempt(&app.db, preemption.victim, preemption.job).await? {
        return Ok(());
    }
    let find = |id| jobs.iter().find(|job| job.id == id);
    let (Some(victim), Some(job)) = (find(preemption.victim), find(preemption.job)) else { return Ok(()) };
    let text = format!(
        "{} (priority {}) writes a checkpoint and gives its slots on {} to {} of {} (priority {}).",
        victim.title,
        victim.priority,
        victim.worker.as_deref().unwrap_or_default(),
        job.title,
        job.experiment,
        job.priority
    );
    app.event(NewEvent {
        kind: "job_preempted",
        level: "info",
        text,
        experiment_id: Some(victim.experiment_id),
        branch_id: victim.branch_id,
        worker_id: victim.worker_id,
        step: Some(victim.done),
    })
    .await;
    Ok(())
}

/// Ends attempts whose lease ran out, and marks silent workers as lost. A fresh server waits one full window first.
///
/// # Errors
/// When Postgres refuses.
pub async fn expire(app: App) -> Result<()> {
    let now = db::workers::now(&app.db).await?;
    let (ttl, lost) = (app.config.lease_ttl_ms, app.config.worker_lost_ms);
    let window = i64::try_from(ttl + lost).unwrap_or(i64::MAX);
    if (now - app.since).num_milliseconds() < window {
        return Ok(());
    }
    for (worker_id, name) in db::workers::mark_lost(&app.db, window).await? {
        let text = format!(
            "Worker {name} has not been heard of for {:.0} s; its jobs go elsewhere.",
            f64::from(u32::try_from(window).unwrap_or(u32::MAX)) / 1000.0
        );
        app.event(NewEvent {
            kind: "worker_lost",
            level: "warn",
            text,
            worker_id: Some(worker_id),
            ..NewEvent::default()
        })
        .await;
    }
    for attempt in db::jobs::expired(&app.db, i64::try_from(lost).unwrap_or(i64::MAX)).await? {
        give_up_on(&app, attempt, "the lease ran out without a heartbeat.").await?;
    }
    Ok(())
}

/// Ends an attempt that nobody runs any more.
///
/// # Errors
/// When Postgres refuses.
pub async fn give_up_on(app: &App, attempt: AttemptId, message: &str) -> Result<(), db::DbError> {
    let Some(fence) = db::attempts::fence(&app.db, attempt).await? else { return Ok(()) };
    let outcome = Outcome::Ended(EndedOutcome { reason: TerminationReason::WorkerLost, message: message.into() });
    if let Err(error) = crate::api::attempts::end(app, attempt, CompleteAttempt { fence, outcome }).await {
        tracing::warn!(attempt.id = %attempt, %error, "could not end an attempt that nobody runs");
    }
    Ok(())
}
