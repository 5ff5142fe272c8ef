//! Grants queued jobs to free slots, and takes back leases that ran out.

use crate::{
    app::App,
    db::{self, events::NewEvent, jobs::JobRow},
    domain::{
        lease::may_declare_lost,
        schedule::{FreeWorker, WaitingJob, plan, why_waiting},
    },
};
use anyhow::Result;
use senmon_protocol::{
    ids::ExperimentId,
    job::{EndedOutcome, Outcome, TerminationReason},
    view::{JobState, StreamMessage, WorkerMode},
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

/// Open jobs, and the workers that may be given some.
///
/// # Errors
/// When Postgres refuses.
pub async fn snapshot(app: &App) -> Result<(Vec<JobRow>, Vec<FreeWorker>), db::DbError> {
    let jobs = db::jobs::open(&app.db).await?;
    let now = db::workers::now(&app.db).await?;
    let ttl = chrono::TimeDelta::milliseconds(i64::try_from(app.config.lease_ttl_ms).unwrap_or(i64::MAX));
    let rows = db::workers::list(&app.db).await?;
    let able = rows.into_iter().filter(|row| !row.lost && row.mode == WorkerMode::Enabled && now - row.seen_at <= ttl);
    let workers = able
        .map(|row| {
            let taken: HashSet<u16> = jobs
                .iter()
                .filter(|job| job.worker_id == Some(row.id))
                .flat_map(|job| job.slots_held.iter().copied())
                .collect();
            let waits = app.polls.slots_free(row.id);
            let is_free = |index: &u16| waits.contains(index) && !taken.contains(index);
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
    Ok((jobs, workers))
}

/// Plans once and carries the plan out.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    let (jobs, workers) = snapshot(&app).await?;
    let queued = jobs.iter().zip(0..).filter(|(job, _)| job.state == JobState::Queued && job.ready);
    let queued: Vec<WaitingJob> = queued.map(|(job, age)| waiting(job, age)).collect();
    let ttl = i64::try_from(app.config.lease_ttl_ms).unwrap_or(i64::MAX);
    let mut busy: HashMap<ExperimentId, u32> = HashMap::new();
    for job in jobs.iter().filter(|job| job.state == JobState::Running) {
        *busy.entry(job.experiment_id).or_default() += u32::from(job.slots);
    }
    let mut granted = false;
    for placement in plan(&queued, &workers, &busy) {
        if db::jobs::grant(&app.db, placement.job, placement.worker, &placement.slots, ttl).await? {
            tracing::info!(job.id = %placement.job, worker.id = %placement.worker, "granted a job");
            granted = true;
        }
    }
    if granted {
        app.wake.granted.notify_waiters();
    }
    static LAST_SECOND: AtomicU64 = AtomicU64::new(0);
    let second = chrono::Utc::now().timestamp().unsigned_abs();
    if LAST_SECOND.swap(second, Ordering::Relaxed) != second
        && let Ok(fleet) = crate::api::workers::look(&app).await
    {
        app.hint(StreamMessage::Fleet(fleet));
    }
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
    let ms = |value: u64| chrono::TimeDelta::milliseconds(i64::try_from(value).unwrap_or(i64::MAX));
    if !may_declare_lost(app.listened(now), now, ms(ttl), ms(lost)) {
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
        if let Err(error) = crate::api::attempts::end(&app, attempt, CompleteAttempt { fence, outcome }).await {
            tracing::warn!(attempt.id = %attempt, %error, "could not end an expired attempt");
        }
    }
    // However long this took, the workers were heard meanwhile.
    app.listened(db::workers::now(&app.db).await?);
    Ok(())
}
