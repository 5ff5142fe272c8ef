//! Grants queued jobs to free slots, asks running ones to give theirs up, and takes back leases that ran out.

use crate::{
    app::App,
    db::{self, events::NewEvent},
    domain::{
        lease::may_declare_lost,
        schedule::{Placement, Preemption, Snapshot, plan},
    },
    ending,
    fleet::{self, fleet, slacks, snapshot},
};
use anyhow::Result;
use chrono::{TimeDelta, Utc};
use senmon_protocol::{
    ids::{AttemptId, WorkerId},
    job::{EndedOutcome, Outcome, TerminationReason},
    said,
    said::{Said, decimal, of},
    view::StreamMessage,
    worker::CompleteAttempt,
};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

/// Plans once and carries the plan out.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    let missed = app.polls.missed();
    if !missed.is_empty() {
        db::leases::undelivered(&app.db, &missed).await?;
    }
    if let Some(snapshot) = look(&app).await? {
        let plan = plan(&snapshot);
        grant(&app, &plan.placements).await?;
        for preemption in plan.preemptions {
            preempt(&app, preemption).await?;
        }
    }
    static LAST_SECOND: AtomicU64 = AtomicU64::new(0);
    let second = Utc::now().timestamp().unsigned_abs();
    if app.stream.receiver_count() > 0
        && LAST_SECOND.swap(second, Ordering::Relaxed) != second
        && let Ok(fleet) = fleet::look(&app).await
    {
        app.hint(StreamMessage::Fleet(fleet));
    }
    Ok(())
}

/// What a plan depends on, and no more: workers that wait with a free slot or run something that may have to give way,
/// and no more jobs of a kind than these slots can take. None where nothing can be granted.
async fn look(app: &App) -> Result<Option<Snapshot>, db::DbError> {
    let Some(priority) = db::leases::priority_waiting_max(&app.db).await? else { return Ok(None) };
    let mut workers: BTreeSet<WorkerId> = app.polls.workers_free().into_iter().collect();
    workers.extend(db::leases::giving_way(&app.db, priority).await?);
    if workers.is_empty() {
        return Ok(None);
    }
    let ids: Vec<_> = workers.iter().map(|id| id.0).collect();
    let running = db::leases::running(&app.db, Some(&ids)).await?;
    let elsewhere = db::leases::shares_elsewhere(&app.db, &ids).await?;
    let workers = fleet(app, db::workers::list(&app.db, Some(&ids)).await?.rows, &running).await?;
    let slots_max = workers.iter().map(|worker| worker.slots.len()).sum();
    let mut waiting = db::leases::waiting(&app.db, slots_max).await?;
    let slack = slacks(app).await?;
    waiting.iter_mut().for_each(|job| job.slack_s = slack.get(&job.owner).copied());
    Ok(Some(Snapshot { waiting, elsewhere, ..snapshot(app, running, workers) }))
}

/// Grants what was placed, and hands each grant to the poll that waits for it.
async fn grant(app: &App, placements: &[Placement]) -> Result<()> {
    if placements.is_empty() {
        return Ok(());
    }
    let grants = db::leases::grant(&app.db, placements, app.config.lease_ttl_ms).await?;
    for (worker, grant) in &grants {
        tracing::info!(job.id = %grant.job_id, worker.id = %worker, "granted a job");
    }
    app.polls.hand(grants);
    Ok(())
}

async fn preempt(app: &App, preemption: Preemption) -> Result<()> {
    let Some(asked) = db::leases::preempt(&app.db, preemption.victim, preemption.job).await? else { return Ok(()) };
    let said = said!(
        "job_preempted",
        job = of::title(&asked.title),
        priority = asked.priority.to_string(),
        worker = asked.worker,
        other = of::title(&asked.for_title),
        owner = asked.for_owner,
        other_priority = asked.for_priority.to_string(),
    );
    app.event(NewEvent {
        kind: "job_preempted",
        level: "info",
        said,
        experiment_id: asked.experiment_id,
        branch_id: asked.branch_id,
        worker_id: asked.worker_id,
        step: Some(asked.done),
    })
    .await;
    Ok(())
}

/// Ends attempts that nobody runs: those that a worker does not name any more, and those whose lease ran out; marks
/// silent workers as lost. A server that is fresh, or whose database was away, waits one full window before it calls
/// anything silent.
///
/// # Errors
/// When Postgres refuses.
pub async fn expire(app: App) -> Result<()> {
    let now = db::workers::now(&app.db).await?;
    let ms = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let (ttl, lost) = (ms(app.config.lease_ttl_ms), ms(app.config.worker_lost_ms));
    // Two heartbeats that say nothing of an attempt are no accident.
    for attempt in db::leases::unreported(&app.db, ttl, ttl * 2 / 3).await? {
        give_up_on(&app, attempt, said!("ended_unreported")).await?;
    }
    let window = ttl.saturating_add(lost);
    if !may_declare_lost(app.listened(now), now, TimeDelta::milliseconds(ttl), TimeDelta::milliseconds(lost)) {
        return Ok(());
    }
    for (worker_id, name) in db::workers::mark_lost(&app.db, window).await? {
        let seconds = decimal(TimeDelta::milliseconds(window).as_seconds_f64(), 0);
        let said = said!("worker_lost", name = name, seconds = seconds);
        app.event(NewEvent {
            kind: "worker_lost",
            level: "warn",
            said,
            worker_id: Some(worker_id),
            ..NewEvent::default()
        })
        .await;
    }
    for attempt in db::leases::expired(&app.db, lost).await? {
        give_up_on(&app, attempt, said!("ended_lease_ran_out")).await?;
    }
    // However long this took, the workers were heard meanwhile.
    app.listened(db::workers::now(&app.db).await?);
    Ok(())
}

/// Ends an attempt that nobody runs any more.
async fn give_up_on(app: &App, attempt: AttemptId, said: Said) -> Result<(), db::DbError> {
    let Some(fence) = db::attempts::fence(&app.db, attempt).await? else { return Ok(()) };
    let outcome = Outcome::Ended(EndedOutcome::said(TerminationReason::WorkerLost, said));
    if let Err(error) = ending::end(app, attempt, CompleteAttempt { fence, outcome, time: None }).await {
        tracing::warn!(attempt.id = %attempt, %error, "could not end an attempt that nobody runs");
    }
    Ok(())
}
