//! What workers send every second, many of them in one transaction. Each write is judged alone, by its fence, under the
//! lock of its job's row; what cannot be judged without waiting is left to the caller.

use super::{DbError, Result, signed, unword};
use crate::domain::lease::Wishes;
use senmon_protocol::{
    ids::{AttemptId, BranchId, ExperimentId, Fence, WorkerId},
    view::WorkerMode,
    worker::{AttemptCommand, Command, Heartbeat, Heartbeaten, RunningAttempt},
};
use sqlx::{Connection, PgConnection, PgPool};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// A batch of points, ready to be stored.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The attempt that reports it.
    pub attempt: AttemptId,
    /// The fence it says it has.
    pub fence: Fence,
    /// First step; with branch and fence the batch's identity.
    pub step_first: i64,
    /// Last step.
    pub step_last: i64,
    /// Number of points.
    pub points: i32,
    /// Training loss of the last point.
    pub loss: Option<f64>,
    /// The points.
    pub body: Vec<u8>,
}

/// Where a batch belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The experiment.
    pub experiment: ExperimentId,
    /// The branch; a job without one keeps no points.
    pub branch: Option<BranchId>,
}

/// A job whose row is locked.
#[derive(Debug, Clone, Copy)]
struct Held {
    job: Uuid,
    place: Place,
}

/// A heartbeat of a worker.
#[derive(Debug, Clone)]
pub struct Beat {
    /// The worker.
    pub worker: WorkerId,
    /// What it says.
    pub body: Heartbeat,
}

/// What to do about a job's row that another transaction holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Skip,
    Wait,
}

/// Stores batches in one transaction; a repeated batch is the same batch. None for those whose fence is old or whose
/// job is locked just now.
///
/// # Errors
/// When Postgres refuses; nothing is stored then.
pub async fn batches(connection: &mut PgConnection, batches: &[Batch]) -> Result<Vec<Option<Place>>> {
    let mut tx = connection.begin().await?;
    let held = hold(&mut tx, batches.iter().map(|batch| (batch.attempt, batch.fence)), Busy::Skip).await?;
    store(&mut tx, batches, &held).await?;
    tx.commit().await?;
    Ok(batches.iter().map(|batch| held.get(&(batch.attempt.0, batch.fence.0)).map(|held| held.place)).collect())
}

/// Stores one batch, however long its job is locked.
///
/// # Errors
/// [`DbError::StaleFence`].
pub async fn batch(pool: &PgPool, batch: &Batch) -> Result<Place> {
    let mut tx = pool.begin().await?;
    let held = hold(&mut tx, std::iter::once((batch.attempt, batch.fence)), Busy::Wait).await?;
    let place = held
        .get(&(batch.attempt.0, batch.fence.0))
        .ok_or_else(|| DbError::StaleFence(batch.attempt.to_string()))?
        .place;
    store(&mut tx, std::slice::from_ref(batch), &held).await?;
    tx.commit().await?;
    Ok(place)
}

/// Locks the jobs of attempts whose fences are the current ones. Always in the order of the jobs, so that two
/// transactions never wait for each other.
async fn hold(
    tx: &mut PgConnection,
    attempts: impl Iterator<Item = (AttemptId, Fence)>,
    busy: Busy,
) -> Result<HashMap<(Uuid, i64), Held>> {
    let (ids, fences): (Vec<Uuid>, Vec<i64>) = attempts.map(|(attempt, fence)| (attempt.0, fence.0)).unzip();
    struct Row {
        attempt_id: Option<Uuid>,
        fence: i64,
        id: Uuid,
        experiment_id: Uuid,
        branch_id: Option<Uuid>,
    }
    // An attempt is named by a job only while it runs. Saying so again would let Postgres walk all that run.
    let rows = match busy {
        Busy::Skip => {
            sqlx::query_as!(Row,
                "SELECT j.attempt_id, j.fence, j.id, j.experiment_id, j.branch_id FROM jobs j JOIN unnest($1::uuid[], $2::bigint[]) AS u(attempt_id, fence)
                 ON j.attempt_id = u.attempt_id AND j.fence = u.fence ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED",
                &ids, &fences
            ).fetch_all(tx).await?
        }
        Busy::Wait => {
            sqlx::query_as!(Row,
                "SELECT j.attempt_id, j.fence, j.id, j.experiment_id, j.branch_id FROM jobs j JOIN unnest($1::uuid[], $2::bigint[]) AS u(attempt_id, fence)
                 ON j.attempt_id = u.attempt_id AND j.fence = u.fence ORDER BY j.id FOR NO KEY UPDATE OF j",
                &ids, &fences
            ).fetch_all(tx).await?
        }
    };
    let held = |row: Row| {
        let place = Place { experiment: ExperimentId(row.experiment_id), branch: row.branch_id.map(BranchId) };
        Some(((row.attempt_id?, row.fence), Held { job: row.id, place }))
    };
    Ok(rows.into_iter().filter_map(held).collect())
}

async fn store(tx: &mut PgConnection, batches: &[Batch], held: &HashMap<(Uuid, i64), Held>) -> Result<()> {
    let place = |batch: &Batch| held.get(&(batch.attempt.0, batch.fence.0)).and_then(|held| held.place.branch);
    let kept: Vec<(BranchId, &Batch)> =
        batches.iter().filter_map(|batch| place(batch).map(|branch| (branch, batch))).collect();
    if kept.is_empty() {
        return Ok(());
    }
    let branches: Vec<Uuid> = kept.iter().map(|(branch, _)| branch.0).collect();
    let fences: Vec<i64> = kept.iter().map(|(_, batch)| batch.fence.0).collect();
    let firsts: Vec<i64> = kept.iter().map(|(_, batch)| batch.step_first).collect();
    let lasts: Vec<i64> = kept.iter().map(|(_, batch)| batch.step_last).collect();
    let points: Vec<i32> = kept.iter().map(|(_, batch)| batch.points).collect();
    let losses: Vec<Option<f64>> = kept.iter().map(|(_, batch)| batch.loss).collect();
    let bodies: Vec<&[u8]> = kept.iter().map(|(_, batch)| batch.body.as_slice()).collect();
    // Batches of a fence come in the order of their steps: one that begins inside the last chunk was compacted.
    sqlx::query!(
        "WITH stored AS (
             INSERT INTO metric_batches (branch_id, fence, step_first, step_last, points, loss, body)
             SELECT u.* FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::double precision[], $7::bytea[])
                 AS u(branch_id, fence, step_first, step_last, points, loss, body)
             WHERE u.step_first > COALESCE((SELECT c.step_last FROM metric_chunks c WHERE c.branch_id = u.branch_id AND c.fence = u.fence AND c.level = 0
                                            ORDER BY c.step_first DESC LIMIT 1), -1)
             ON CONFLICT DO NOTHING RETURNING branch_id, step_last, loss),
         newest AS (SELECT DISTINCT ON (branch_id) branch_id, step_last, loss FROM stored ORDER BY branch_id, step_last DESC)
         UPDATE branches b SET step = GREATEST(b.step, n.step_last), loss = COALESCE(n.loss, b.loss) FROM newest n WHERE b.id = n.branch_id",
        &branches, &fences, &firsts, &lasts, &points, &losses as &[Option<f64>], &bodies as &[&[u8]]
    ).execute(tx).await?;
    Ok(())
}

/// Notes heartbeats in one transaction. Commands are derived at each renewal from what people decided (experiment
/// paused or over, worker draining, branch paused or cancelled), so that no decision is missed. None for those whose
/// session is old, whose fence is old, or whose job is locked just now.
///
/// # Errors
/// When Postgres refuses; nothing is noted then.
pub async fn beats(connection: &mut PgConnection, beats: &[Beat], ttl_ms: i64) -> Result<Vec<Option<Heartbeaten>>> {
    let mut tx = connection.begin().await?;
    let listed = || beats.iter().flat_map(|beat| &beat.body.attempts);
    let held = hold(&mut tx, listed().map(|running| (running.attempt_id, running.fence)), Busy::Skip).await?;
    let seen = see(&mut tx, beats).await?;
    let listened = beats.iter().filter(|beat| seen.contains(&(beat.worker.0, beat.body.session)));
    let commands = renew(&mut tx, listened, &held, ttl_ms).await?;
    tx.commit().await?;
    let answer = |beat: &Beat| {
        let command = |running: &RunningAttempt| {
            let command = *commands.get(&(beat.worker.0, running.attempt_id.0, running.fence.0))?;
            Some(AttemptCommand { attempt_id: running.attempt_id, command })
        };
        seen.get(&(beat.worker.0, beat.body.session))?;
        Some(Heartbeaten { attempts: beat.body.attempts.iter().map(command).collect::<Option<_>>()? })
    };
    Ok(beats.iter().map(answer).collect())
}

/// Notes one heartbeat, however long its jobs are locked.
///
/// # Errors
/// [`DbError::Conflict`] for an old session.
pub async fn beat(pool: &PgPool, beat: &Beat, ttl_ms: i64) -> Result<Heartbeaten> {
    let mut tx = pool.begin().await?;
    let attempts = beat.body.attempts.iter().map(|running| (running.attempt_id, running.fence));
    let held = hold(&mut tx, attempts, Busy::Wait).await?;
    if see(&mut tx, std::slice::from_ref(beat)).await?.is_empty() {
        return Err(super::workers::session_over(beat.worker));
    }
    let commands = renew(&mut tx, std::iter::once(beat), &held, ttl_ms).await?;
    tx.commit().await?;
    let command = |running: &RunningAttempt| {
        let command = commands.get(&(beat.worker.0, running.attempt_id.0, running.fence.0));
        AttemptCommand { attempt_id: running.attempt_id, command: command.copied().unwrap_or(Command::Fenced) }
    };
    Ok(Heartbeaten { attempts: beat.body.attempts.iter().map(command).collect() })
}

/// Notes that workers were heard of; the sessions that are not old.
async fn see(tx: &mut PgConnection, beats: &[Beat]) -> Result<HashSet<(Uuid, i64)>> {
    let workers: Vec<Uuid> = beats.iter().map(|beat| beat.worker.0).collect();
    let sessions: Vec<i64> = beats.iter().map(|beat| beat.body.session).collect();
    let memory: Vec<i64> = beats.iter().map(|beat| signed(beat.body.memory_used_bytes)).collect();
    let cpu: Vec<f64> = beats.iter().map(|beat| beat.body.cpu_share).collect();
    let rows = sqlx::query!(
        "UPDATE workers w SET seen_at = now(), beat_at = now(), lost = false, memory_used_bytes = u.memory, cpu_share = u.cpu
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::double precision[]) AS u(id, session, memory, cpu)
         WHERE w.id = u.id AND w.session = u.session RETURNING w.id, w.session",
        &workers,
        &sessions,
        &memory,
        &cpu
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.session)).collect())
}

/// Renews leases and notes progress; what each attempt shall do, by worker, attempt and fence. Attempts that are not
/// held get no answer.
async fn renew(
    tx: &mut PgConnection,
    beats: impl Iterator<Item = &Beat>,
    held: &HashMap<(Uuid, i64), Held>,
    ttl_ms: i64,
) -> Result<HashMap<(Uuid, Uuid, i64), Command>> {
    let (mut jobs, mut running) = (Vec::new(), Vec::new());
    for (worker, attempt) in beats.flat_map(|beat| beat.body.attempts.iter().map(|attempt| (beat.worker, attempt))) {
        if let Some(held) = held.get(&(attempt.attempt_id.0, attempt.fence.0)) {
            jobs.push(held.job);
            running.push((worker, attempt));
        }
    }
    if running.is_empty() {
        return Ok(HashMap::new());
    }
    let workers: Vec<Uuid> = running.iter().map(|(worker, _)| worker.0).collect();
    let done: Vec<i64> = running.iter().map(|(_, attempt)| signed(attempt.done)).collect();
    let total: Vec<i64> = running.iter().map(|(_, attempt)| signed(attempt.total)).collect();
    let rates: Vec<f64> = running.iter().map(|(_, attempt)| attempt.tokens_per_second).collect();
    let rows = sqlx::query!(
        r#"UPDATE jobs j SET lease_expires_at = now() + make_interval(secs => $6::bigint / 1000.0), done = u.done, total = u.total, tokens_per_second = u.rate
           FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::double precision[]) AS u(job_id, worker_id, done, total, rate)
           WHERE j.id = u.job_id AND j.worker_id = u.worker_id
           RETURNING j.attempt_id AS "attempt_id!", j.worker_id AS "worker_id!", j.fence, j.command, j.preempted_for IS NOT NULL AS "gives_way!",
               (SELECT e.state FROM experiments e WHERE e.id = j.experiment_id) AS "experiment!",
               (SELECT w.mode FROM workers w WHERE w.id = j.worker_id) AS "mode!""#,
        &jobs, &workers, &done, &total, &rates, ttl_ms
    ).fetch_all(&mut *tx).await?;
    super::goodput::note_times(tx, &running).await?;
    let commands = rows.into_iter().map(|row| {
        let wishes = Wishes {
            asked: unword(&row.command)?,
            experiment: unword(&row.experiment)?,
            drains: unword::<WorkerMode>(&row.mode)? == WorkerMode::Draining,
            gives_way: row.gives_way,
        };
        Ok(((row.worker_id, row.attempt_id, row.fence), wishes.command()))
    });
    commands.collect()
}
