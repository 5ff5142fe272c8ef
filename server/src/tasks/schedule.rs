//! Grants queued jobs to free slots, and takes back leases that ran out.

use crate::{
    app::App,
    db::{
        self,
        events::NewEvent,
        jobs::{JobRow, RunningJob},
        workers::WorkerRow,
    },
    domain::schedule::{FreeWorker, Placement, WaitingJob, plan, why_waiting},
};
use anyhow::Result;
use senmon_protocol::{
    ids::{ExperimentId, WorkerId},
    job::{EndedOutcome, Outcome, TerminationReason},
    view::{StreamMessage, WorkerMode},
    worker::CompleteAttempt,
};
use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

/// A job as the planner sees it.
#[must_use]
pub fn waiting(job: &JobRow, age: u64) -> WaitingJob {
    WaitingJob {
        id: job.id,
        experiment: job.experiment_id,
        kind: job.kind,
        priority: job.priority,
        slots: job.slots,
        remaining: job.remaining,
        age,
    }
}

/// Why a queued job waits, in one sentence.
#[must_use]
pub fn why(job: &JobRow, workers: &[FreeWorker]) -> String {
    if job.experiment_paused {
        return "Its experiment is paused.".to_owned();
    }
    if job.wait_seconds > 0.0 {
        return format!("Its last attempt failed; it is tried again in {:.0} s.", job.wait_seconds.ceil());
    }
    why_waiting(&waiting(job, 0), workers)
}

/// Open jobs, and the workers that may be given some: for people who ask why something waits.
///
/// # Errors
/// When Postgres refuses.
pub async fn snapshot(app: &App) -> Result<(Vec<JobRow>, Vec<FreeWorker>), db::DbError> {
    let jobs = db::jobs::open(&app.db).await?;
    let running = db::jobs::running(&app.db).await?;
    let workers = free_workers(app, db::workers::list(&app.db, None).await?, &running).await?;
    Ok((jobs, workers))
}

/// Those of the workers that are alive and enabled, with the slots that nothing runs on.
async fn free_workers(app: &App, rows: Vec<WorkerRow>, running: &[RunningJob]) -> Result<Vec<FreeWorker>, db::DbError> {
    let mut taken: HashMap<WorkerId, HashSet<u16>> = HashMap::new();
    for job in running {
        taken.entry(job.worker_id).or_default().extend(&job.slots_held);
    }
    let now = db::workers::now(&app.db).await?;
    let ttl = chrono::TimeDelta::milliseconds(i64::try_from(app.config.lease_ttl_ms).unwrap_or(i64::MAX));
    let able = rows.into_iter().filter(|row| !row.lost && row.mode == WorkerMode::Enabled && now - row.seen_at <= ttl);
    let workers = able
        .map(|row| {
            let waits = app.polls.slots_free(row.id);
            let is_taken = |index: &u16| taken.get(&row.id).is_some_and(|slots| slots.contains(index));
            let is_free = |index: &u16| waits.contains(index) && !is_taken(index);
            let free = row.slots.iter().map(|slot| slot.index).filter(is_free).collect();
            FreeWorker {
                id: row.id,
                name: row.name,
                capabilities: row.capabilities,
                slots: u16::try_from(row.slots.len()).unwrap_or(u16::MAX),
                free,
            }
        })
        .collect();
    Ok(workers)
}

/// Plans once and carries the plan out. Reads only what can matter: workers that wait with a free slot, and no more
/// jobs than these slots can take.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    let missed = app.polls.missed();
    if !missed.is_empty() {
        db::jobs::undelivered(&app.db, &missed).await?;
    }
    let waiting: Vec<_> = app.polls.workers_free().into_iter().map(|id| id.0).collect();
    if !waiting.is_empty() {
        let running = db::jobs::running(&app.db).await?;
        let workers = free_workers(&app, db::workers::list(&app.db, Some(&waiting)).await?, &running).await?;
        let slots_free = workers.iter().map(|worker| worker.free.len()).sum();
        if slots_free > 0 {
            let queued = db::jobs::waiting(&app.db, slots_free).await?;
            let mut busy: HashMap<ExperimentId, u32> = HashMap::new();
            for job in &running {
                *busy.entry(job.experiment_id).or_default() += u32::try_from(job.slots_held.len()).unwrap_or(u32::MAX);
            }
            grant(&app, &plan(&queued, &workers, &busy)).await?;
        }
    }
    static LAST_SECOND: AtomicU64 = AtomicU64::new(0);
    let second = chrono::Utc::now().timestamp().unsigned_abs();
    if app.stream.receiver_count() > 0
        && LAST_SECOND.swap(second, Ordering::Relaxed) != second
        && let Ok(fleet) = crate::api::workers::look(&app).await
    {
        app.hint(StreamMessage::Fleet(fleet));
    }
    Ok(())
}

/// Grants what was placed, and hands each grant to the poll that waits for it.
async fn grant(app: &App, placements: &[Placement]) -> Result<()> {
    if placements.is_empty() {
        return Ok(());
    }
    let grants = db::jobs::grant(&app.db, placements, app.config.lease_ttl_ms).await?;
    for (worker, grant) in &grants {
        tracing::info!(job.id = %grant.job_id, worker.id = %worker, "granted a job");
    }
    app.polls.hand(grants);
    Ok(())
}

/// Ends attempts whose lease ran out, and marks silent workers as lost. A server that is fresh, or whose database was
/// away, waits one full window first.
///
/// # Errors
/// When Postgres refuses.
pub async fn expire(app: App) -> Result<()> {
    let now = db::workers::now(&app.db).await?;
    let (ttl, lost) = (app.config.lease_ttl_ms, app.config.worker_lost_ms);
    let window = i64::try_from(ttl + lost).unwrap_or(i64::MAX);
    if (now - app.listened(now)).num_milliseconds() < window {
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
        let Some(fence) = db::attempts::fence(&app.db, attempt).await? else { continue };
        let outcome = Outcome::Ended(EndedOutcome {
            reason: TerminationReason::WorkerLost,
            message: "the lease ran out without a heartbeat.".into(),
        });
        if let Err(error) =
            crate::api::attempts::end(&app, attempt, CompleteAttempt { fence, outcome, time: None }).await
        {
            tracing::warn!(attempt.id = %attempt, %error, "could not end an expired attempt");
        }
    }
    // However long this took, the workers were heard meanwhile.
    app.listened(db::workers::now(&app.db).await?);
    Ok(())
}
