//! What workers send every second, many of them by one statement. Each write is judged alone, by its fence, under the
//! lock of its job's row; what cannot be judged without waiting is left to the caller.

use super::{DbError, Result, signed, transaction, unword};
use crate::domain::lease::Wishes;
use senmon_protocol::{
    ids::{AttemptId, BranchId, ExperimentId, Fence, WorkerId},
    view::WorkerMode,
    worker::{AttemptCommand, Command, Heartbeat, Heartbeaten, RunningAttempt},
};
use sqlx::{PgConnection, PgPool};
use std::collections::HashMap;
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
    /// The experiment; None where it is another owner's job.
    pub experiment: Option<ExperimentId>,
    /// The branch; a job without one keeps no points.
    pub branch: Option<BranchId>,
    /// Steps of the branch: points beyond them are not kept.
    pub steps: Option<i64>,
}

/// A heartbeat of a worker.
#[derive(Debug, Clone)]
pub struct Beat {
    /// The worker.
    pub worker: WorkerId,
    /// What it says.
    pub body: Heartbeat,
}

/// Stores batches by one statement; a repeated batch is the same batch. None for those whose fence is old or whose job
/// is locked just now.
///
/// # Errors
/// When Postgres refuses; nothing is stored then.
pub async fn batches(connection: &mut PgConnection, batches: &[Batch]) -> Result<Vec<Option<Place>>> {
    let ids: Vec<Uuid> = batches.iter().map(|batch| batch.attempt.0).collect();
    let fences: Vec<i64> = batches.iter().map(|batch| batch.fence.0).collect();
    let firsts: Vec<i64> = batches.iter().map(|batch| batch.step_first).collect();
    let lasts: Vec<i64> = batches.iter().map(|batch| batch.step_last).collect();
    let points: Vec<i32> = batches.iter().map(|batch| batch.points).collect();
    let losses: Vec<Option<f64>> = batches.iter().map(|batch| batch.loss).collect();
    let bodies: Vec<&[u8]> = batches.iter().map(|batch| batch.body.as_slice()).collect();
    // An attempt is named by a job only while it runs. Saying so again would let Postgres walk all that run.
    // Batches of a fence come in the order of their steps: one that begins inside the last chunk was compacted. That is
    // read from the locked row, which is the newest; what lies in other tables is seen as it was when this began.
    let rows = sqlx::query!(
        r#"WITH held AS (
             SELECT u.*, j.experiment_id, j.branch_id, j.compacted_to, (SELECT b.steps FROM branches b WHERE b.id = j.branch_id) AS steps
             FROM jobs j JOIN unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::double precision[], $7::bytea[])
                 WITH ORDINALITY AS u(attempt_id, fence, step_first, step_last, points, loss, body, place)
             ON j.attempt_id = u.attempt_id AND j.fence = u.fence ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED),
         stored AS (
             INSERT INTO metric_batches (branch_id, fence, step_first, step_last, points, loss, body)
             SELECT branch_id, fence, step_first, step_last, points, loss, body FROM held WHERE branch_id IS NOT NULL AND step_first > compacted_to AND step_last <= steps
             ON CONFLICT DO NOTHING RETURNING branch_id, step_last, loss),
         newest AS (SELECT DISTINCT ON (branch_id) branch_id, step_last, loss FROM stored ORDER BY branch_id, step_last DESC),
         moved AS (UPDATE branches b SET step = GREATEST(b.step, n.step_last), loss = COALESCE(n.loss, b.loss) FROM newest n WHERE b.id = n.branch_id)
         SELECT place AS "place!", experiment_id, branch_id, steps FROM held"#,
        &ids, &fences, &firsts, &lasts, &points, &losses as &[Option<f64>], &bodies as &[&[u8]]
    ).fetch_all(connection).await?;
    let mut places = vec![None; batches.len()];
    for row in rows {
        let (experiment, branch) = (row.experiment_id.map(ExperimentId), row.branch_id.map(BranchId));
        let place = Place { experiment, branch, steps: row.steps };
        if let Some(found) = usize::try_from(row.place - 1).ok().and_then(|at| places.get_mut(at)) {
            *found = Some(place);
        }
    }
    Ok(places)
}

/// Stores one batch, however long its job is locked.
///
/// # Errors
/// [`DbError::StaleFence`].
pub async fn batch(pool: &PgPool, batch: &Batch) -> Result<Place> {
    let mut tx = transaction(pool).await?;
    wait_for(&mut tx, &[batch.attempt.0]).await?;
    let place = batches(&mut tx, std::slice::from_ref(batch)).await?;
    let place = place.into_iter().flatten().next().ok_or_else(|| DbError::StaleFence(batch.attempt.to_string()))?;
    tx.commit().await?;
    Ok(place)
}

/// Locks the jobs of attempts, in the order of the jobs, so that two transactions never wait for each other.
async fn wait_for(tx: &mut PgConnection, attempts: &[Uuid]) -> Result<()> {
    sqlx::query!("SELECT id FROM jobs WHERE attempt_id = ANY($1) ORDER BY id FOR NO KEY UPDATE", attempts)
        .fetch_all(tx)
        .await?;
    Ok(())
}

/// Notes heartbeats by one statement: that workers were heard of, their leases, and what they counted. Commands are
/// derived at each renewal from what people decided (owner paused or over, worker draining, branch paused or
/// cancelled), so that no decision is missed. Counters only grow, so a late or repeated heartbeat does no harm. None for
/// those whose session is old, whose fence is old, or whose job is locked just now.
///
/// # Errors
/// When Postgres refuses; nothing is noted then.
pub async fn beats(connection: &mut PgConnection, beats: &[Beat], ttl_ms: i64) -> Result<Vec<Option<Heartbeaten>>> {
    let told = note(connection, beats, ttl_ms).await?;
    let answer = |beat: &Beat| {
        let commands = told.get(&(beat.worker.0, beat.body.session))?;
        let command = |running: &RunningAttempt| {
            let command = *commands.get(&(running.attempt_id.0, running.fence.0))?;
            Some(AttemptCommand { attempt_id: running.attempt_id, command })
        };
        Some(Heartbeaten { attempts: beat.body.attempts.iter().map(command).collect::<Option<_>>()? })
    };
    Ok(beats.iter().map(answer).collect())
}

/// Notes one heartbeat, however long its jobs are locked.
///
/// # Errors
/// [`DbError::Conflict`] for an old session.
pub async fn beat(pool: &PgPool, beat: &Beat, ttl_ms: i64) -> Result<Heartbeaten> {
    let mut tx = transaction(pool).await?;
    let attempts: Vec<Uuid> = beat.body.attempts.iter().map(|running| running.attempt_id.0).collect();
    wait_for(&mut tx, &attempts).await?;
    let mut told = note(&mut tx, std::slice::from_ref(beat), ttl_ms).await?;
    let session = told.remove(&(beat.worker.0, beat.body.session));
    let commands = session.ok_or_else(|| super::workers::session_over(beat.worker))?;
    tx.commit().await?;
    let command = |running: &RunningAttempt| {
        let command = commands.get(&(running.attempt_id.0, running.fence.0)).copied();
        AttemptCommand { attempt_id: running.attempt_id, command: command.unwrap_or(Command::Fenced) }
    };
    Ok(Heartbeaten { attempts: beat.body.attempts.iter().map(command).collect() })
}

/// What each attempt shall do, by its id and fence, of the workers whose session is not old. Attempts that do not hold
/// their job, or whose job is locked just now, are missing.
type Told = HashMap<(Uuid, i64), HashMap<(Uuid, i64), Command>>;

async fn note(connection: &mut PgConnection, beats: &[Beat], ttl_ms: i64) -> Result<Told> {
    let workers: Vec<Uuid> = beats.iter().map(|beat| beat.worker.0).collect();
    let sessions: Vec<i64> = beats.iter().map(|beat| beat.body.session).collect();
    let memory: Vec<i64> = beats.iter().map(|beat| signed(beat.body.memory_used_bytes)).collect();
    let cpu: Vec<f64> = beats.iter().map(|beat| beat.body.cpu_share).collect();
    let running: Vec<(&Beat, &RunningAttempt)> =
        beats.iter().flat_map(|beat| beat.body.attempts.iter().map(move |attempt| (beat, attempt))).collect();
    let counts =
        |value: fn(&RunningAttempt) -> u64| running.iter().map(|(_, a)| signed(value(a))).collect::<Vec<i64>>();
    let of_workers: Vec<Uuid> = running.iter().map(|(beat, _)| beat.worker.0).collect();
    let of_sessions: Vec<i64> = running.iter().map(|(beat, _)| beat.body.session).collect();
    let ids: Vec<Uuid> = running.iter().map(|(_, attempt)| attempt.attempt_id.0).collect();
    let fences: Vec<i64> = running.iter().map(|(_, attempt)| attempt.fence.0).collect();
    let rates: Vec<f64> = running.iter().map(|(_, attempt)| attempt.tokens_per_second).collect();
    let rows = sqlx::query!(
        r#"WITH held AS (
             SELECT r.*, j.id AS job_id FROM jobs j JOIN unnest($6::uuid[], $7::bigint[], $8::uuid[], $9::bigint[], $10::bigint[], $11::bigint[], $12::double precision[],
                     $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[])
                 AS r(worker_id, session, attempt_id, fence, done, total, rate, starting, training, stall, wait, step)
             ON j.attempt_id = r.attempt_id AND j.fence = r.fence ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED),
         seen AS (
             UPDATE workers w SET seen_at = now(), beat_at = now(), lost = false, memory_used_bytes = u.memory, cpu_share = u.cpu
             FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::double precision[]) AS u(id, session, memory, cpu)
             WHERE w.id = u.id AND w.session = u.session RETURNING w.id, w.session, w.mode),
         renewed AS (
             UPDATE jobs j SET lease_expires_at = now() + make_interval(secs => $5::bigint / 1000.0), done = h.done, total = h.total, tokens_per_second = h.rate
             FROM held h JOIN seen s ON s.id = h.worker_id AND s.session = h.session WHERE j.id = h.job_id AND j.worker_id = h.worker_id
             RETURNING j.attempt_id, j.worker_id, j.fence, j.command, j.preempted_for IS NOT NULL AS gives_way,
                 (SELECT o.state FROM owners o WHERE o.id = j.owner_id) AS owner),
         counted AS (
             UPDATE attempts a SET starting_ms = GREATEST(a.starting_ms, h.starting), training_ms = GREATEST(a.training_ms, h.training),
                 checkpoint_stall_ms = GREATEST(a.checkpoint_stall_ms, h.stall), data_wait_ms = GREATEST(a.data_wait_ms, h.wait),
                 step_last = GREATEST(a.step_last, h.step)
             FROM held h JOIN seen s ON s.id = h.worker_id AND s.session = h.session WHERE a.id = h.attempt_id AND a.worker_id = h.worker_id)
         SELECT s.id, s.session, s.mode, r.attempt_id AS "attempt_id?", r.fence AS "fence?", r.command AS "command?", r.gives_way AS "gives_way?",
             r.owner AS "owner?" FROM seen s LEFT JOIN renewed r ON r.worker_id = s.id"#,
        &workers, &sessions, &memory, &cpu, ttl_ms, &of_workers, &of_sessions, &ids, &fences, &counts(|a| a.done), &counts(|a| a.total), &rates,
        &counts(|a| a.time.starting_ms), &counts(|a| a.time.training_ms), &counts(|a| a.time.checkpoint_stall_ms),
        &counts(|a| a.time.data_wait_ms), &counts(|a| a.time.step_last)
    ).fetch_all(connection).await?;
    let mut told = Told::new();
    for row in rows {
        let commands = told.entry((row.id, row.session)).or_default();
        let renewed = (row.attempt_id, row.fence, row.command, row.gives_way, row.owner);
        let (Some(attempt), Some(fence), Some(command), Some(gives_way), Some(owner)) = renewed else { continue };
        let wishes = Wishes {
            asked: unword(&command)?,
            owner: unword(&owner)?,
            drains: unword::<WorkerMode>(&row.mode)? == WorkerMode::Draining,
            gives_way,
        };
        commands.insert((attempt, fence), wishes.command());
    }
    Ok(told)
}
