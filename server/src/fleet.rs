//! The fleet as it is now: for plans, for the sentence why something waits, for people.

use crate::{
    app::App,
    db::{self, DbError, jobs::JobRow, leases::RunningRow, workers::WorkerRow},
    domain::{
        deadline::slack_s,
        schedule::{FleetSlot, FleetWorker, SlotState, Snapshot, Standing, WaitingJob, why_waiting},
    },
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{OwnerId, WorkerId},
    resources::DeviceKind,
    said,
    said::{Said, decimal},
    view::{FleetView, SlotView, WorkerMode, WorkerState, WorkerView},
};
use std::collections::{HashMap, HashSet};

/// What people see who ask why something waits: all that is open, and the fleet.
#[derive(Debug)]
pub struct Scene {
    /// Open jobs, in the order of creation.
    pub jobs: Vec<JobRow>,
    fleet: Snapshot,
    slack: HashMap<OwnerId, i64>,
}

impl Scene {
    /// Why a queued job waits, in one sentence.
    #[must_use]
    pub fn why(&self, job: &JobRow) -> Said {
        if job.owner_paused {
            return job.paused_why.clone().unwrap_or_else(|| said!("job_experiment_paused"));
        }
        if job.wait_seconds > 0.0 {
            return said!("job_tried_again_in", seconds = decimal(job.wait_seconds.ceil(), 0));
        }
        let waiting = WaitingJob {
            id: job.id,
            owner: job.owner.id(),
            kind: job.kind,
            priority: job.priority,
            slots: job.slots,
            needs: job.needs.clone(),
            remaining: job.remaining,
            age: 0,
            slack_s: self.slack.get(&job.owner.id()).copied(),
            failed_on: None,
        };
        why_waiting(&waiting, &self.fleet)
    }
}

/// Open jobs, and the fleet.
///
/// # Errors
/// When Postgres refuses.
pub async fn scene(app: &App) -> Result<Scene, DbError> {
    let jobs = db::jobs::open(&app.db).await?.rows;
    let running = db::leases::running(&app.db, None).await?;
    let workers = fleet(app, db::workers::list(&app.db, None).await?.rows, &running).await?;
    Ok(Scene { jobs, slack: slacks(app).await?, fleet: snapshot(app, running, workers) })
}

/// Workers as they are now; which slots are taken is left out.
///
/// # Errors
/// When Postgres refuses.
pub async fn workers(app: &App, rows: Vec<WorkerRow>) -> Result<Vec<FleetWorker>, DbError> {
    fleet(app, rows, &[]).await
}

/// What a plan depends on but what waits.
pub(crate) fn snapshot(app: &App, running: Vec<RunningRow>, workers: Vec<FleetWorker>) -> Snapshot {
    let preempt_after_s = i64::try_from(app.config.preempt_after_ms / 1000).unwrap_or(i64::MAX);
    let running = running.into_iter().map(|row| row.job).collect();
    Snapshot { running, workers, preempt_after_s, ..Snapshot::default() }
}

/// State of a worker now.
#[must_use]
pub fn state_of(app: &App, row: &WorkerRow, now: DateTime<Utc>) -> WorkerState {
    if row.lost {
        return WorkerState::Lost;
    }
    app.patience().state(row.seen_at, now)
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

/// Workers as a plan sees them, with what runs on them.
pub(crate) async fn fleet(
    app: &App,
    rows: Vec<WorkerRow>,
    running: &[RunningRow],
) -> Result<Vec<FleetWorker>, DbError> {
    let mut taken: HashMap<WorkerId, HashSet<u16>> = HashMap::new();
    for row in running {
        taken.entry(row.job.worker).or_default().extend(&row.job.slots);
    }
    let now = db::workers::now(&app.db).await?;
    Ok(rows.into_iter().map(|row| fleet_worker(app, row, &taken, now)).collect())
}

fn fleet_worker(app: &App, row: WorkerRow, taken: &HashMap<WorkerId, HashSet<u16>>, now: DateTime<Utc>) -> FleetWorker {
    let (asks, freed_lately) = (app.polls.slots_free(row.id), app.polls.freed_lately(row.id));
    let state = |index: u16| match (asks.contains(&index), freed_lately) {
        _ if taken.get(&row.id).is_some_and(|slots| slots.contains(&index)) => SlotState::Taken,
        (true, _) => SlotState::Free,
        (false, true) => SlotState::Coming,
        (false, false) => SlotState::Taken,
    };
    let able = row.slots.iter().filter(|slot| slot.set_aside.is_none());
    let slots = able.map(|slot| FleetSlot {
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

/// Seconds to spare of the experiments whose deadline is close, from what their open jobs have left.
pub(crate) async fn slacks(app: &App) -> Result<HashMap<OwnerId, i64>, DbError> {
    let rows = db::leases::deadlines(&app.db).await?;
    let slack = rows.into_iter().filter_map(|row| {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let needed = (row.rate_max > 0.0).then(|| row.remaining_max as f64 / row.rate_max);
        Some((row.experiment_id.into(), slack_s(row.left_s, needed)?))
    });
    Ok(slack.collect())
}

fn view(app: &App, row: WorkerRow, jobs: &[&RunningRow], now: DateTime<Utc>) -> WorkerView {
    let state = state_of(app, &row, now);
    let slots = row
        .slots
        .iter()
        .map(|slot| {
            let row = jobs.iter().find(|row| row.job.slots.contains(&slot.index));
            SlotView {
                slot: slot.clone(),
                job_id: row.map(|row| row.job.id),
                title: row.map(|row| row.job.title.clone()),
                branch_id: row.and_then(|row| row.branch_id),
                tokens_per_second: row.map(|row| row.tokens_per_second),
                progress: row.and_then(|row| row.progress),
            }
        })
        .collect();
    WorkerView {
        id: row.id,
        name: row.name,
        host: row.host,
        version: row.version,
        state,
        mode: row.mode,
        set_aside: row.set_aside.as_ref().map(Said::text),
        set_aside_said: row.set_aside,
        slower_percent: app.paces.slower_percent(row.id),
        slots,
        labels: row.labels,
        memory_used_bytes: u64::try_from(row.memory_used_bytes).unwrap_or(0),
        cpu_share: row.cpu_share,
        seen_at: row.seen_at,
    }
}

/// All workers as people see them, by name.
///
/// # Errors
/// When Postgres refuses.
pub async fn views(app: &App) -> Result<Vec<WorkerView>, DbError> {
    let now = db::workers::now(&app.db).await?;
    let jobs = db::leases::running(&app.db, None).await?;
    let mut by_worker: HashMap<WorkerId, Vec<&RunningRow>> = HashMap::new();
    jobs.iter().for_each(|row| by_worker.entry(row.job.worker).or_default().push(row));
    let rows = db::workers::list(&app.db, None).await?.rows;
    Ok(rows
        .into_iter()
        .map(|row| {
            let jobs = by_worker.remove(&row.id).unwrap_or_default();
            view(app, row, &jobs, now)
        })
        .collect())
}

/// The fleet in one look.
///
/// # Errors
/// When Postgres refuses.
pub async fn look(app: &App) -> Result<FleetView, DbError> {
    let workers = views(app).await?;
    let jobs_queued = db::jobs::queued(&app.db).await?;
    let count = |test: &dyn Fn(&WorkerView) -> bool| {
        u32::try_from(workers.iter().filter(|worker| test(worker)).count()).unwrap_or(u32::MAX)
    };
    let slots = workers.iter().filter(|worker| worker.state == WorkerState::Alive).flat_map(|worker| &worker.slots);
    let rates = workers.iter().flat_map(|worker| &worker.slots).filter_map(|slot| slot.tokens_per_second);
    Ok(FleetView {
        workers_alive: count(&|worker| worker.state == WorkerState::Alive),
        workers_suspect: count(&|worker| worker.state == WorkerState::Suspect),
        workers_lost: count(&|worker| worker.state == WorkerState::Lost),
        workers_draining: count(&|worker| worker.mode == WorkerMode::Draining && worker.state != WorkerState::Lost),
        slots: u32::try_from(slots.clone().count()).unwrap_or(u32::MAX),
        slots_busy: u32::try_from(slots.filter(|slot| slot.job_id.is_some()).count()).unwrap_or(u32::MAX),
        jobs_queued,
        // The sum of nothing is −0.
        tokens_per_second: rates.sum::<f64>() + 0.0,
    })
}
