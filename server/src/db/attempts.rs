//! Fenced writes of attempts. Each first locks the job's row and compares the fence, in the write's own transaction.

use super::{DbError, Result, Stored, each, kept, signed, transaction, unword};
use crate::domain::{
    lease::{Budgets, Charge, Next, after_failure, charge},
    strikes::{Ending, bad_worker, poison},
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    checkpoint::Manifest,
    ids::{AttemptId, BranchId, ExperimentId, Fence, JobId, WorkerId},
    job::{EndedOutcome, JobKind, JobResult, JobSpec, Outcome, TerminationReason, WrittenCheckpoint},
    said,
    said::{Said, of},
    view::{AttemptView, EventView},
    worker::{AnnounceCheckpoint, AttemptStarted, AttemptTime, CompleteAttempt, LogBatch},
};
use sqlx::{PgConnection, PgPool};

/// The attempt that a write belongs to, its lease held.
#[derive(Debug, Clone)]
pub struct Held {
    /// The attempt.
    pub attempt: AttemptId,
    /// The job.
    pub job: JobId,
    /// Its experiment; None where it is another owner's.
    pub experiment: Option<ExperimentId>,
    /// The branch.
    pub branch: Option<BranchId>,
    /// The worker.
    pub worker: WorkerId,
    /// Kind of the job.
    pub kind: JobKind,
    /// For people.
    pub title: String,
}

/// Locks the job of an attempt and checks the fence; a job names an attempt only while it runs.
async fn hold(tx: &mut PgConnection, attempt: AttemptId, fence: Fence) -> Result<Held> {
    let row = sqlx::query!(
        r#"SELECT j.id, j.experiment_id, j.branch_id, j.worker_id AS "worker_id!", j.kind, j.title FROM jobs j
           WHERE j.attempt_id = $1 AND j.fence = $2 FOR UPDATE"#,
        attempt.0,
        fence.0
    )
    .fetch_optional(tx)
    .await?
    .ok_or_else(|| DbError::StaleFence(attempt.to_string()))?;
    Ok(Held {
        attempt,
        job: JobId(row.id),
        experiment: row.experiment_id.map(ExperimentId),
        branch: row.branch_id.map(BranchId),
        worker: WorkerId(row.worker_id),
        kind: unword(&row.kind)?,
        title: row.title,
    })
}

/// The job that an attempt holds, and the domains of its clustering: what its claims are held against. None where it
/// does not hold it (any more).
///
/// # Errors
/// [`DbError::Impossible`] when the job cannot be read.
pub async fn job(pool: &PgPool, attempt: AttemptId, fence: Fence) -> Result<Option<(JobSpec, u32)>> {
    let row = sqlx::query!(
        r#"SELECT j.spec AS "spec: Stored<JobSpec>", COALESCE(jsonb_array_length(c.domains), 0) AS "domains!" FROM jobs j
           LEFT JOIN experiments e ON e.id = j.experiment_id LEFT JOIN clusterings c ON c.id = e.clustering_id
           WHERE j.attempt_id = $1 AND j.fence = $2"#,
        attempt.0,
        fence.0
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| Ok((row.spec.read("spec")?, u32::try_from(row.domains).unwrap_or(0)))).transpose()
}

/// Notes where a training attempt starts: points of earlier fences beyond it are superseded from now on. True when it
/// was not said before: a request that comes twice, the second time late, takes nothing back.
///
/// # Errors
/// [`DbError::StaleFence`].
pub async fn started(pool: &PgPool, attempt: AttemptId, body: &AttemptStarted) -> Result<(Held, bool)> {
    let mut tx = transaction(pool).await?;
    let held = hold(&mut tx, attempt, body.fence).await?;
    let noted = sqlx::query!(
        "UPDATE attempts SET step_start = $2, resume_verified = $3 WHERE id = $1 AND step_start IS NULL",
        attempt.0,
        signed(body.step_start),
        body.resume_verified
    )
    .execute(&mut *tx)
    .await?;
    let is_new = noted.rows_affected() == 1;
    if let Some(branch) = held.branch.filter(|_| is_new) {
        sqlx::query!("UPDATE branches SET step = $2 WHERE id = $1", branch.0, signed(body.step_start))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok((held, is_new))
}

/// Stores log lines; gives back the events among them that are new.
///
/// # Errors
/// [`DbError::StaleFence`].
pub async fn logs(pool: &PgPool, attempt: AttemptId, batch: &LogBatch) -> Result<Vec<EventView>> {
    let mut tx = transaction(pool).await?;
    let held = hold(&mut tx, attempt, batch.fence).await?;
    let events = super::events::insert_logs(&mut tx, attempt, (held.experiment, held.branch), batch).await?;
    tx.commit().await?;
    Ok(events)
}

/// What a worker is told, and no person.
fn unsaid(words: String) -> DbError {
    DbError::Conflict(Said::verbatim(words))
}

impl Held {
    /// The branch and its experiment.
    fn branch(&self) -> Result<(ExperimentId, BranchId)> {
        self.experiment
            .zip(self.branch)
            .ok_or_else(|| unsaid(format!("{}: a job without a branch writes no checkpoint", self.title)))
    }
}

/// Commits a checkpoint whose manifest was read from the store. True when it is new.
///
/// # Errors
/// [`DbError::StaleFence`]; [`DbError::Conflict`] when it says it belongs to another branch or attempt.
pub async fn checkpoint(
    pool: &PgPool,
    attempt: AttemptId,
    fence: Fence,
    written: &WrittenCheckpoint,
    manifest: &Manifest,
) -> Result<(Held, bool)> {
    let mut tx = transaction(pool).await?;
    let held = hold(&mut tx, attempt, fence).await?;
    let (experiment, branch) = held.branch()?;
    let meta = &manifest.meta;
    if meta.branch_id != branch || meta.fence != fence || *meta != written.meta || manifest.id != written.id {
        return Err(unsaid(format!("checkpoint {}: its manifest does not belong to this attempt", written.folder)));
    }
    let done = sqlx::query!(
        "INSERT INTO checkpoints (id, experiment_id, branch_id, fence, step, folder, manifest_sha256, meta, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'committed')
         ON CONFLICT (id) DO UPDATE SET state = 'committed', manifest_sha256 = $7, meta = $8, created_at = now()
             WHERE checkpoints.state = 'pending' AND checkpoints.folder = $6",
        written.id.0, experiment.0, branch.0, fence.0, signed(meta.step), written.folder.as_str(), written.manifest_sha256,
        kept("checkpoint.meta", meta)? as _
    ).execute(&mut *tx).await?;
    let is_new = done.rows_affected() == 1;
    if is_new {
        // Progress was made: faults before it say nothing about the job any more. Otherwise a branch of a month would
        // be given up for an ordinary fault a day.
        sqlx::query!("UPDATE jobs SET retries_infra = 0 WHERE id = $1", held.job.0).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok((held, is_new))
}

/// Notes that the bytes of a checkpoint are on their way. Another one announced for the same folder takes its place:
/// the attempt gave that one up.
///
/// # Errors
/// [`DbError::StaleFence`].
pub async fn announce(pool: &PgPool, attempt: AttemptId, body: &AnnounceCheckpoint) -> Result<()> {
    let mut tx = transaction(pool).await?;
    let held = hold(&mut tx, attempt, body.fence).await?;
    let (experiment, branch) = held.branch()?;
    sqlx::query!(
        "INSERT INTO checkpoints (id, experiment_id, branch_id, fence, step, folder, state) VALUES ($1, $2, $3, $4, $5, $6, 'pending')
         ON CONFLICT (folder) DO UPDATE SET id = $1 WHERE checkpoints.state = 'pending'",
        body.id.0,
        experiment.0,
        branch.0,
        body.fence.0,
        signed(body.step),
        body.folder.as_str()
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// How an attempt was ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The attempt.
    pub held: Held,
    /// Slots that it took.
    pub slots: Vec<u16>,
    /// The last step that it finished, for training.
    pub step: Option<u64>,
    /// What becomes of the job; None when it is completed.
    pub next: Option<Next>,
}

/// Ends an attempt. None when it had ended with the same outcome before.
///
/// # Errors
/// [`DbError::StaleFence`].
pub async fn complete(pool: &PgPool, attempt: AttemptId, body: &CompleteAttempt) -> Result<Option<Ended>> {
    let CompleteAttempt { fence, outcome, time } = body;
    let mut tx = transaction(pool).await?;
    let before = sqlx::query_scalar!(
        r#"SELECT outcome AS "outcome: Stored<Outcome>" FROM attempts WHERE id = $1 AND fence = $2"#,
        attempt.0,
        fence.0
    )
    .fetch_optional(&mut *tx)
    .await?
    .flatten();
    if before.is_some_and(|before| before.read("outcome").is_ok_and(|before| before == *outcome)) {
        return Ok(None);
    }
    let held = hold(&mut tx, attempt, *fence).await?;
    if let Some(time) = time {
        super::goodput::note_end(&mut tx, attempt, time).await?;
    }
    let row = sqlx::query!(
        r#"UPDATE attempts a SET finished_at = now(), outcome = $2,
             progress_last = COALESCE((SELECT step FROM branches b WHERE b.id = a.branch_id), (SELECT done FROM jobs j WHERE j.id = a.job_id))
           WHERE id = $1 RETURNING slots AS "slots: Stored<Vec<u16>>", GREATEST(step_last, step_start) AS step"#,
        attempt.0,
        kept("outcome", outcome)? as _
    )
    .fetch_one(&mut *tx)
    .await?;
    let next = match outcome {
        Outcome::Completed(completed) => {
            finish(&mut tx, &held, &completed.result).await?;
            None
        }
        Outcome::Ended(ended) => Some(end(&mut tx, &held, ended).await?),
    };
    tx.commit().await?;
    let step = row.step.map(super::count).filter(|_| held.kind == JobKind::Train);
    Ok(Some(Ended { held, slots: row.slots.read("slots").unwrap_or_default(), step, next }))
}

async fn finish(tx: &mut PgConnection, held: &Held, result: &JobResult) -> Result<()> {
    if result.kind() != held.kind {
        let (found, expected) = (result.kind().word(), held.kind.word());
        return Err(unsaid(format!("{}: found the result of a job of kind {found}, expected {expected}", held.title)));
    }
    if let Some(branch) = held.branch {
        let steps = match result {
            JobResult::Train(trained) => signed(trained.steps),
            _ => 0,
        };
        let there = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM checkpoints c JOIN branches b ON b.id = c.branch_id
               WHERE b.id = $1 AND b.steps = $2 AND c.step = $2 AND c.state IN ('committed', 'deleting', 'deleted')) AS "there!""#,
            branch.0,
            steps
        )
        .fetch_one(&mut *tx)
        .await?;
        if !there {
            return Err(unsaid(format!(
                "{}: no checkpoint of its last step was committed, and step {steps} was reported as the last",
                held.title
            )));
        }
    }
    sqlx::query!(
        "UPDATE jobs SET state = 'completed', result = $2, attempt_id = NULL, worker_id = NULL, lease_expires_at = NULL, preempted_for = NULL, remaining = 0, done = total,
             tokens_per_second = 0 WHERE id = $1",
        held.job.0, kept("outcome.result", result)? as _
    ).execute(&mut *tx).await?;
    sqlx::query!(
        "UPDATE evaluations SET result = $2 WHERE id = (SELECT evaluation_id FROM jobs WHERE id = $1)",
        held.job.0,
        kept("outcome.result", result)? as _
    )
    .execute(&mut *tx)
    .await?;
    if let Some(branch) = held.branch {
        // One that somebody cancelled meanwhile, alone or with its experiment, stays so.
        sqlx::query!(
            "UPDATE branches SET state = 'completed', step = steps, problem = NULL WHERE id = $1 AND state NOT IN ('cancelled', 'failed')",
            branch.0
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn end(tx: &mut PgConnection, held: &Held, ended: &EndedOutcome) -> Result<Next> {
    let Charge { user, infra } = charge(ended.reason);
    let row = sqlx::query!(
        r#"UPDATE jobs SET retries_user = retries_user + $2, retries_infra = retries_infra + $3 WHERE id = $1
           RETURNING retries_user, retries_infra,
               command = 'cancel' OR EXISTS (SELECT 1 FROM owners o WHERE o.id = owner_id AND o.state NOT IN ('running', 'paused')) AS "cancelled!",
               (SELECT spec->'max_restarts' FROM experiments WHERE id = experiment_id) AS max_restarts"#,
        held.job.0, user, infra
    ).fetch_one(&mut *tx).await?;
    let user_max =
        row.max_restarts.and_then(|value| value.as_i64()).and_then(|value| i32::try_from(value).ok()).unwrap_or(2);
    let branch_state = match held.branch {
        Some(branch) => {
            sqlx::query_scalar!("SELECT state FROM branches WHERE id = $1", branch.0).fetch_optional(&mut *tx).await?
        }
        None => None,
    };
    let budgets = Budgets { user: row.retries_user, user_max, infra: row.retries_infra };
    let next = match branch_state.as_deref() {
        Some("cancelled") => Next::Cancelled,
        _ if row.cancelled => Next::Cancelled,
        state => after_failure(ended.reason, budgets, state == Some("paused")),
    };
    let set_aside = match next {
        Next::Retry(_) if !ended.reason.is_planned() => poison(&endings(tx, Of::Job(held.job)).await?),
        _ => None,
    };
    let next = if set_aside.is_some() { Next::GiveUp } else { next };
    let mut problem = said!("problem_with_advice", problem = of::end(ended), advice = of::advice(ended.reason));
    if let Some(poison) = set_aside {
        let (times, workers, step) = (poison.times, poison.workers, poison.step.unsigned_abs());
        problem = said!("job_set_aside", times = times, workers = workers, step = step, problem = problem);
    }
    let (state, branch_state, wait_ms, problem) = match next {
        Next::Retry(pause) => ("queued", "queued", pause.num_milliseconds(), None),
        Next::Hold => ("paused", "paused", 0, (ended.reason == TerminationReason::LossSpike).then_some(problem)),
        Next::Cancelled => ("cancelled", "cancelled", 0, None),
        Next::GiveUp => ("failed", "failed", 0, Some(problem)),
    };
    let text = problem.as_ref().map(Said::text);
    let problem = problem.as_ref().map(|said| kept("outcome.said", said)).transpose()?;
    sqlx::query!(
        "UPDATE jobs SET state = $2, problem = $3, problem_said = $6, failed_on = CASE WHEN $5 THEN failed_on ELSE worker_id END,
             attempt_id = NULL, worker_id = NULL, lease_expires_at = NULL, command = 'continue', preempted_for = NULL,
             tokens_per_second = 0, not_before = now() + make_interval(secs => $4::bigint / 1000.0),
             remaining = COALESCE((SELECT GREATEST(0, (b.steps - b.step) * b.batch_tokens) FROM branches b WHERE b.id = jobs.branch_id), remaining) WHERE id = $1",
        held.job.0, state, text, wait_ms, ended.reason.is_planned(), problem.as_ref() as _
    ).execute(&mut *tx).await?;
    if let Some(branch) = held.branch {
        sqlx::query!(
            "UPDATE branches SET state = $2, problem = COALESCE($3, problem), problem_said = COALESCE($4, problem_said) WHERE id = $1",
            branch.0,
            branch_state,
            text,
            problem as _
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(next)
}

/// Whose attempts.
enum Of {
    Job(JobId),
    /// Those that ended since somebody enabled the worker, within the hour.
    Worker(WorkerId),
}

/// Attempts looked at when a job or a worker is judged: more than either needs.
const ENDINGS_MAX: i64 = 16;

/// How the last attempts of a job, or on a worker, ended; the latest first.
async fn endings(tx: &mut PgConnection, of: Of) -> Result<Vec<Ending>> {
    let (job, worker) = match of {
        Of::Job(job) => (Some(job.0), None),
        Of::Worker(worker) => (None, Some(worker.0)),
    };
    let rows = sqlx::query!(
        r#"SELECT a.job_id, a.worker_id, a.outcome->>'reason' AS reason, COALESCE(a.step_start, 0) AS "step_start!", COALESCE(a.progress_last, 0) AS "step_last!"
           FROM attempts a JOIN workers w ON w.id = a.worker_id
           WHERE a.outcome IS NOT NULL AND (a.job_id = $1 OR (a.worker_id = $2 AND a.finished_at > GREATEST(w.judged_from, now() - interval '1 hour')))
           ORDER BY a.finished_at DESC, a.fence DESC LIMIT $3"#,
        job, worker, ENDINGS_MAX
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Ending {
                job: JobId(row.job_id),
                worker: WorkerId(row.worker_id),
                reason: row.reason.as_deref().map(unword).transpose()?,
                step_start: row.step_start,
                step_last: row.step_last,
            })
        })
        .collect()
}

/// Sets a worker aside where job after job failed while attempts elsewhere succeeded; why, when it is set aside now.
///
/// # Errors
/// When Postgres refuses.
pub async fn judge_worker(pool: &PgPool, worker: WorkerId) -> Result<Option<Said>> {
    let mut tx = transaction(pool).await?;
    let recent = endings(&mut tx, Of::Worker(worker)).await?;
    let elsewhere = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM attempts WHERE worker_id <> $1 AND finished_at > now() - interval '1 hour'
               AND (outcome->>'kind' = 'completed' OR progress_last > step_start))
           OR EXISTS (SELECT 1 FROM jobs j JOIN attempts a ON a.id = j.attempt_id
               WHERE j.state = 'running' AND a.worker_id <> $1 AND j.done > COALESCE(a.step_start, 0)) AS "there!""#,
        worker.0
    )
    .fetch_one(&mut *tx)
    .await?;
    let Some(failures) = bad_worker(&recent, elsewhere) else { return Ok(None) };
    let why = said!("worker_fails", failures = failures);
    let done = sqlx::query!(
        "UPDATE workers SET set_aside = $2, set_aside_said = $3 WHERE id = $1 AND set_aside IS NULL",
        worker.0,
        why.text(),
        kept("set_aside", &why)? as _
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((done.rows_affected() == 1).then_some(why))
}

/// Fence of an attempt that runs, to end it from here.
///
/// # Errors
/// When Postgres refuses.
pub async fn fence(pool: &PgPool, attempt: AttemptId) -> Result<Option<Fence>> {
    Ok(sqlx::query_scalar!("SELECT fence FROM attempts WHERE id = $1", attempt.0)
        .fetch_optional(pool)
        .await?
        .map(Fence))
}

/// Attempts of a branch or a job, oldest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn of(pool: &PgPool, branch: Option<BranchId>, job: Option<JobId>) -> Result<Vec<AttemptView>> {
    struct Row {
        id: uuid::Uuid,
        job_id: uuid::Uuid,
        fence: i64,
        worker: String,
        slots: Stored<Vec<u16>>,
        step_start: Option<i64>,
        resume_verified: Option<bool>,
        started_at: DateTime<Utc>,
        finished_at: Option<DateTime<Utc>>,
        outcome: Option<Stored<Outcome>>,
        starting_ms: i64,
        training_ms: i64,
        checkpoint_stall_ms: i64,
        data_wait_ms: i64,
        step_last: i64,
    }
    let rows = sqlx::query_as!(Row,
        r#"SELECT a.id, a.job_id, a.fence, w.name AS worker, a.slots AS "slots: _", a.step_start, a.resume_verified, a.started_at, a.finished_at,
           a.outcome AS "outcome: _", a.starting_ms, a.training_ms, a.checkpoint_stall_ms, a.data_wait_ms, a.step_last FROM attempts a JOIN workers w ON w.id = a.worker_id WHERE a.branch_id = $1 OR a.job_id = $2 ORDER BY a.fence"#,
        branch.map(|id| id.0), job.map(|id| id.0)
    ).fetch_all(pool).await?;
    let listed = each(
        "attempt",
        rows,
        |row| row.id,
        |row| {
            let ended = match row.outcome.map(|outcome| outcome.read("outcome")).transpose()? {
                Some(Outcome::Ended(ended)) => Some(ended),
                _ => None,
            };
            Ok(AttemptView {
                id: AttemptId(row.id),
                job_id: JobId(row.job_id),
                fence: Fence(row.fence),
                worker: row.worker,
                slots: row.slots.read("slots")?,
                step_start: row.step_start.map(super::count),
                resume_verified: row.resume_verified,
                started_at: row.started_at,
                finished_at: row.finished_at,
                time: AttemptTime {
                    starting_ms: super::count(row.starting_ms),
                    training_ms: super::count(row.training_ms),
                    checkpoint_stall_ms: super::count(row.checkpoint_stall_ms),
                    data_wait_ms: super::count(row.data_wait_ms),
                    step_last: super::count(row.step_last),
                },
                reason: ended.as_ref().map(|ended| ended.reason),
                advice: ended.as_ref().map(|ended| ended.reason.advice()),
                said: ended.as_ref().map(of::end),
                message: ended.map(|ended| ended.message),
            })
        },
    );
    Ok(listed.rows)
}
