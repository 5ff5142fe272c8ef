//! What the accounts of time are made of: attempts with their counters, histories of states, the skip ledger.

use super::{Result, Stored, count, kept, signed, unword, worded};
use crate::domain::goodput::{
    attempt::{Attempt, End},
    fleet::Supply,
    job::History,
    steps::{Segment, Skip, wasted},
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    goodput::SkipReason,
    ids::{AttemptId, BranchId, ExperimentId, Fence, WorkerId},
    job::TerminationReason,
    said::Said,
    view::{ExperimentState, JobState},
    worker::AttemptTime,
    worker::LogLine,
};
use sqlx::{PgConnection, PgPool};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Whose time.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// One branch.
    Branch(BranchId),
    /// All jobs of an experiment.
    Experiment(ExperimentId),
    /// Everything that ran since.
    Since(DateTime<Utc>),
}

/// What an account is made of, read at one moment.
#[derive(Debug, Clone)]
pub struct Records {
    /// The database's time.
    pub now: DateTime<Utc>,
    /// Jobs in the order of their creation.
    pub jobs: Vec<JobRecord>,
}

/// One job.
#[derive(Debug, Clone)]
pub struct JobRecord {
    /// Its branch, for training and merging.
    pub branch: Option<BranchId>,
    /// Slots that it takes.
    pub slots: u32,
    /// Its attempts, states and holds.
    pub history: History,
    /// The worker of each attempt.
    pub workers: Vec<WorkerId>,
    /// Steps of each attempt.
    pub segments: Vec<Segment>,
    /// Lines of the skip ledger.
    pub skips: Vec<Skip>,
}

/// Notes what a worker counted until the end of an attempt.
///
/// # Errors
/// When Postgres refuses.
pub async fn note_end(tx: &mut PgConnection, attempt: AttemptId, time: &AttemptTime) -> Result<()> {
    sqlx::query!(
        "UPDATE attempts SET starting_ms = GREATEST(starting_ms, $2), training_ms = GREATEST(training_ms, $3),
             checkpoint_stall_ms = GREATEST(checkpoint_stall_ms, $4), data_wait_ms = GREATEST(data_wait_ms, $5), step_last = GREATEST(step_last, $6)
         WHERE id = $1",
        attempt.0, signed(time.starting_ms), signed(time.training_ms), signed(time.checkpoint_stall_ms), signed(time.data_wait_ms),
        signed(time.step_last)
    ).execute(tx).await?;
    Ok(())
}

/// Reads what an account is made of.
///
/// # Errors
/// When Postgres refuses.
pub async fn records(pool: &PgPool, scope: Scope) -> Result<Records> {
    let (branch, experiment, since) = match scope {
        Scope::Branch(id) => (Some(id.0), None, None),
        Scope::Experiment(id) => (None, Some(id.0), None),
        Scope::Since(at) => (None, None, Some(at)),
    };
    let rows = sqlx::query!(
        r#"SELECT id, experiment_id, branch_id, slots, now() AS "now!" FROM jobs
           WHERE branch_id = $1 OR experiment_id = $2 OR id IN (SELECT job_id FROM attempts WHERE finished_at >= $3 OR ($3 IS NOT NULL AND finished_at IS NULL))
           ORDER BY created_at, id"#, branch, experiment, since
    ).fetch_all(pool).await?;
    let now = match rows.first() {
        Some(row) => row.now,
        None => super::workers::now(pool).await?,
    };
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let branches: Vec<Uuid> = rows.iter().filter_map(|row| row.branch_id).collect();
    let mut experiments: Vec<Uuid> = rows.iter().filter_map(|row| row.experiment_id).collect();
    experiments.dedup();
    let (states, holds) = (job_states(pool, &ids).await?, holds(pool, &experiments, now).await?);
    let (mut attempts, mut skips) = (attempts(pool, &ids, since).await?, ledger(pool, &branches).await?);
    let mut jobs = Vec::with_capacity(rows.len());
    for row in rows {
        let attempts = attempts.remove(&row.id).unwrap_or_default();
        let skips = row.branch_id.and_then(|id| skips.remove(&id)).unwrap_or_default();
        let segments: Vec<Segment> = attempts.iter().map(|attempt| attempt.segment).collect();
        let counted = attempts.iter().map(|found| {
            let (superseded, skipped) = wasted(&found.segment, &segments, &skips);
            Attempt { steps_wasted: superseded + skipped, ..found.attempt.clone() }
        });
        jobs.push(JobRecord {
            branch: row.branch_id.map(BranchId),
            slots: u32::try_from(row.slots).unwrap_or(1),
            history: History {
                attempts: counted.collect(),
                states: states.get(&row.id).cloned().unwrap_or_default(),
                holds: row.experiment_id.and_then(|id| holds.get(&id)).cloned().unwrap_or_default(),
            },
            workers: attempts.iter().map(|found| found.worker).collect(),
            segments,
            skips,
        });
    }
    Ok(Records { now, jobs })
}

/// An attempt as it was read.
struct Found {
    attempt: Attempt,
    segment: Segment,
    worker: WorkerId,
}

/// Attempts by job, by fence; of a window, those that reach into it.
async fn attempts(pool: &PgPool, jobs: &[Uuid], since: Option<DateTime<Utc>>) -> Result<HashMap<Uuid, Vec<Found>>> {
    let rows = sqlx::query!(
        r#"SELECT a.job_id, a.fence, a.worker_id, j.kind, jsonb_array_length(a.slots) AS "slots!", a.step_start, a.started_at, a.finished_at,
           a.outcome->>'reason' AS reason, a.starting_ms, a.training_ms, a.checkpoint_stall_ms, a.data_wait_ms, a.step_last,
           (a.finished_at IS NULL AND COALESCE(j.lease_expires_at < now(), true)) AS "is_silent!"
           FROM attempts a JOIN jobs j ON j.id = a.job_id
           WHERE a.job_id = ANY($1) AND ($2::timestamptz IS NULL OR a.finished_at IS NULL OR a.finished_at >= $2) ORDER BY a.job_id, a.fence"#,
        jobs, since
    ).fetch_all(pool).await?;
    let mut found: HashMap<Uuid, Vec<Found>> = HashMap::new();
    for row in rows {
        let reason = row.reason.as_deref().map(unword::<TerminationReason>).transpose()?;
        let segment =
            Segment { fence: row.fence, step_start: row.step_start.map(count), step_last: count(row.step_last) };
        let attempt = Attempt {
            kind: unword(&row.kind)?,
            slots: u32::try_from(row.slots).unwrap_or(1),
            started_at: row.started_at,
            ended: row.finished_at.map(|at| (at, reason.map_or(End::Completed, End::from))),
            is_silent: row.is_silent,
            time: AttemptTime {
                starting_ms: count(row.starting_ms),
                training_ms: count(row.training_ms),
                checkpoint_stall_ms: count(row.checkpoint_stall_ms),
                data_wait_ms: count(row.data_wait_ms),
                step_last: count(row.step_last),
            },
            steps: segment.steps(),
            steps_wasted: 0,
        };
        found.entry(row.job_id).or_default().push(Found { attempt, segment, worker: WorkerId(row.worker_id) });
    }
    Ok(found)
}

async fn job_states(pool: &PgPool, jobs: &[Uuid]) -> Result<HashMap<Uuid, Vec<(DateTime<Utc>, JobState)>>> {
    let rows = sqlx::query!("SELECT job_id, state, at FROM job_states WHERE job_id = ANY($1) ORDER BY id", jobs)
        .fetch_all(pool)
        .await?;
    let mut states: HashMap<Uuid, Vec<_>> = HashMap::new();
    for row in rows {
        states.entry(row.job_id).or_default().push((row.at, unword(&row.state)?));
    }
    Ok(states)
}

/// When a person held each experiment, until `now` where it is held still.
async fn holds(
    pool: &PgPool,
    experiments: &[Uuid],
    now: DateTime<Utc>,
) -> Result<HashMap<Uuid, Vec<(DateTime<Utc>, DateTime<Utc>)>>> {
    let rows = sqlx::query!(
        r#"SELECT experiment_id, state, at, lead(at) OVER (PARTITION BY experiment_id ORDER BY id) AS until
           FROM experiment_states WHERE experiment_id = ANY($1) ORDER BY id"#,
        experiments
    )
    .fetch_all(pool)
    .await?;
    let mut holds: HashMap<Uuid, Vec<_>> = HashMap::new();
    for row in rows {
        if unword::<ExperimentState>(&row.state)? == ExperimentState::Paused {
            holds.entry(row.experiment_id).or_default().push((row.at, row.until.unwrap_or(now)));
        }
    }
    Ok(holds)
}

async fn ledger(pool: &PgPool, branches: &[Uuid]) -> Result<HashMap<Uuid, Vec<Skip>>> {
    let mut found: HashMap<Uuid, Vec<Skip>> = HashMap::new();
    for (branch, row) in skip_rows(pool, branches).await? {
        found.entry(branch).or_default().push(row.skip);
    }
    Ok(found)
}

/// A line of the skip ledger with what people read of it.
#[derive(Debug, Clone)]
pub struct SkipRow {
    /// What counts.
    pub skip: Skip,
    /// For people.
    pub text: String,
    /// The same as a kind and values.
    pub said: Option<Said>,
    /// When.
    pub at: DateTime<Utc>,
}

async fn skip_rows(pool: &PgPool, branches: &[Uuid]) -> Result<Vec<(Uuid, SkipRow)>> {
    let rows = sqlx::query!(
        r#"SELECT branch_id, fence, step, batch, reason, text, said AS "said: Stored<Said>", at FROM skips WHERE branch_id = ANY($1) ORDER BY at, batch"#,
        branches
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let skip =
                Skip { fence: row.fence, step: count(row.step), batch: count(row.batch), reason: unword(&row.reason)? };
            Ok((row.branch_id, SkipRow { skip, said: worded(Some(&row.text), row.said), text: row.text, at: row.at }))
        })
        .collect()
}

/// The skip ledger of a branch, oldest line first.
///
/// # Errors
/// When Postgres refuses.
pub async fn skips(pool: &PgPool, branch: BranchId) -> Result<Vec<SkipRow>> {
    Ok(skip_rows(pool, &[branch.0]).await?.into_iter().map(|(_, row)| row).collect())
}

/// Writes a line of the skip ledger; a repeated one is the same line.
///
/// # Errors
/// When Postgres refuses.
pub async fn note_skip(
    tx: &mut PgConnection,
    branch: BranchId,
    fence: Fence,
    (step, batch, reason): (u64, u64, SkipReason),
    line: &LogLine,
) -> Result<()> {
    let said = line.said.clone().and_then(|said| said.that_says(&line.text));
    sqlx::query!(
        "INSERT INTO skips (branch_id, fence, batch, step, reason, text, said) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        branch.0, fence.0, signed(batch), signed(step), super::word(&reason), line.text,
        said.as_ref().map(|said| kept("said", said)).transpose()? as _
    ).execute(tx).await?;
    Ok(())
}

/// What each worker brought to the fleet, and the attempts on it.
///
/// # Errors
/// When Postgres refuses.
pub async fn supplies(pool: &PgPool, records: &Records) -> Result<Vec<Supply>> {
    let rows = sqlx::query!("SELECT worker_id, slots, at FROM worker_states ORDER BY id").fetch_all(pool).await?;
    let mut workers: BTreeMap<Uuid, Supply> = BTreeMap::new();
    for row in rows {
        workers.entry(row.worker_id).or_default().slots.push((row.at, u32::try_from(row.slots).unwrap_or(0)));
    }
    for job in &records.jobs {
        for (attempt, worker) in job.history.attempts.iter().zip(&job.workers) {
            workers.entry(worker.0).or_default().attempts.push(attempt.clone());
        }
    }
    Ok(workers.into_values().collect())
}
