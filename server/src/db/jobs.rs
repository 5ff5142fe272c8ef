//! Jobs and their leases. The lease lives in the job's row.

use super::{DbError, Result, count, signed, unword};
use crate::domain::schedule::{Placement, Release, RunningJob, WaitingJob};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{AttemptId, BranchId, EvaluationId, ExperimentId, Fence, JobId, WorkerId},
    job::{Grant, JobKind, JobSpec},
    resources::Needs,
    view::{JobState, JobView},
};
use sqlx::{PgPool, types::Json};
use std::collections::HashMap;

/// A job to create.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The branch, for training and merging.
    pub branch_id: Option<BranchId>,
    /// The evaluation, for scoring.
    pub evaluation_id: Option<EvaluationId>,
    /// What it is in its experiment; asking twice creates it once.
    pub key: String,
    /// For people.
    pub title: String,
    /// What to do.
    pub spec: &'a JobSpec,
    /// Of the experiment.
    pub priority: u8,
    /// Slots.
    pub slots: u16,
    /// What each of them must offer.
    pub needs: Needs,
    /// Tokens left.
    pub remaining: u64,
}

/// Creates a job unless it is there already, or its experiment has ended meanwhile: nobody would ever take it. The
/// experiment's row is held, so that an end that comes at the same moment sees the job.
///
/// # Errors
/// When Postgres refuses.
pub async fn ensure(pool: &PgPool, job: &NewJob<'_>) -> Result<()> {
    let slots = i16::try_from(job.slots).unwrap_or(i16::MAX);
    sqlx::query!(
        "INSERT INTO jobs (id, experiment_id, branch_id, evaluation_id, key, kind, title, spec, priority, slots, remaining, needs)
         SELECT $1, e.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM experiments e WHERE e.id = $2 AND e.state IN ('running', 'paused') FOR SHARE
         ON CONFLICT (experiment_id, key) DO NOTHING",
        JobId::new().0, job.experiment_id.0, job.branch_id.map(|id| id.0), job.evaluation_id.map(|id| id.0), job.key, job.spec.kind().word(),
        job.title, Json(job.spec) as _, i16::from(job.priority), slots, signed(job.remaining), Json(&job.needs) as _
    ).execute(pool).await?;
    Ok(())
}

/// A job as the scheduler and the queue see it.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// Id.
    pub id: JobId,
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Its name.
    pub experiment: String,
    /// The branch.
    pub branch_id: Option<BranchId>,
    /// For people.
    pub title: String,
    /// Kind.
    pub kind: JobKind,
    /// State.
    pub state: JobState,
    /// Priority.
    pub priority: i16,
    /// Slots.
    pub slots: u16,
    /// What each of them must offer.
    pub needs: Needs,
    /// Tokens left.
    pub remaining: i64,
    /// Whether its back-off is over and its experiment runs.
    pub ready: bool,
    /// Whether its experiment is paused.
    pub experiment_paused: bool,
    /// Why the server paused its experiment.
    pub paused_why: Option<String>,
    /// Seconds to its experiment's deadline.
    pub deadline_seconds: Option<f64>,
    /// Seconds left of its back-off; negative when it is over.
    pub wait_seconds: f64,
    /// The worker that has it.
    pub worker_id: Option<WorkerId>,
    /// Name of the worker.
    pub worker: Option<String>,
    /// Slots it holds.
    pub slots_held: Vec<u16>,
    /// Seconds since it was granted.
    pub ran_seconds: f64,
    /// Whether it was asked to give them back.
    pub asked_back: bool,
    /// For the sake of which job.
    pub preempted_for: Option<JobId>,
    /// Attempts so far.
    pub attempts: i64,
    /// Progress.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Why it was given up.
    pub problem: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// Open jobs (queued, running, paused) in the order of creation.
///
/// # Errors
/// When Postgres refuses.
pub async fn open(pool: &PgPool) -> Result<Vec<JobRow>> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.experiment_id, e.name AS experiment, j.branch_id, j.title, j.kind, j.state, j.priority, j.slots, j.remaining,
           (j.not_before <= now() AND e.state = 'running') AS "ready!", e.state = 'paused' AS "experiment_paused!",
           EXTRACT(EPOCH FROM j.not_before - now())::double precision AS "wait_seconds!", j.worker_id, w.name AS "worker?", a.slots AS "slots_held?: Json<Vec<u16>>",
           j.fence AS attempts, j.done, j.total, j.tokens_per_second, j.problem, j.created_at, j.needs AS "needs: Json<Needs>", j.preempted_for,
           j.command <> 'continue' AS "asked_back!", e.paused_why, EXTRACT(EPOCH FROM e.deadline - now())::double precision AS deadline_seconds,
           COALESCE(EXTRACT(EPOCH FROM now() - a.started_at), 0)::double precision AS "ran_seconds!"
           FROM jobs j JOIN experiments e ON e.id = j.experiment_id LEFT JOIN workers w ON w.id = j.worker_id LEFT JOIN attempts a ON a.id = j.attempt_id
           WHERE j.state IN ('queued', 'running', 'paused') ORDER BY j.created_at, j.id"#
    ).fetch_all(pool).await?;
    rows.into_iter()
        .map(|row| {
            Ok(JobRow {
                id: JobId(row.id),
                experiment_id: ExperimentId(row.experiment_id),
                experiment: row.experiment,
                branch_id: row.branch_id.map(BranchId),
                title: row.title,
                kind: unword(&row.kind)?,
                state: unword(&row.state)?,
                priority: row.priority,
                slots: u16::try_from(row.slots).unwrap_or(1),
                needs: row.needs.0,
                remaining: row.remaining,
                ready: row.ready,
                experiment_paused: row.experiment_paused,
                paused_why: row.paused_why,
                deadline_seconds: row.deadline_seconds,
                wait_seconds: row.wait_seconds,
                worker_id: row.worker_id.map(WorkerId),
                worker: row.worker,
                slots_held: row.slots_held.map(|slots| slots.0).unwrap_or_default(),
                ran_seconds: row.ran_seconds,
                asked_back: row.asked_back,
                preempted_for: row.preempted_for.map(JobId),
                attempts: row.attempts,
                done: count(row.done),
                total: count(row.total),
                tokens_per_second: row.tokens_per_second,
                problem: row.problem,
                created_at: row.created_at,
            })
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn progress(done: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| (done as f64 / total as f64).min(1.0))
}

impl JobRow {
    /// Progress, 0 to 1.
    #[must_use]
    pub fn progress(&self) -> Option<f64> {
        progress(self.done, self.total)
    }

    /// As the API shows it.
    #[must_use]
    pub fn view(&self, why: Option<String>) -> JobView {
        JobView {
            id: self.id,
            experiment_id: self.experiment_id,
            experiment: self.experiment.clone(),
            branch_id: self.branch_id,
            title: self.title.clone(),
            kind: self.kind,
            state: self.state,
            why,
            priority: u8::try_from(self.priority).unwrap_or(0),
            slots: self.slots,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            worker: self.worker.clone(),
            progress: self.progress().filter(|_| self.state == JobState::Running),
            created_at: self.created_at,
        }
    }
}

/// A job that runs.
#[derive(Debug, Clone)]
pub struct RunningRow {
    /// As the planner sees it.
    pub job: RunningJob,
    /// The branch.
    pub branch_id: Option<BranchId>,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Progress, 0 to 1.
    pub progress: Option<f64>,
}

/// What runs, without what waits.
///
/// # Errors
/// When Postgres refuses.
pub async fn running(pool: &PgPool) -> Result<Vec<RunningRow>> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.experiment_id, j.branch_id, j.kind, j.priority, j.title, j.worker_id AS "worker_id!", a.slots AS "slots: Json<Vec<u16>>",
           j.tokens_per_second, j.done, j.total, j.preempted_for, j.command <> 'continue' OR e.state <> 'running' AS "asked_back!",
           EXTRACT(EPOCH FROM now() - a.started_at)::bigint AS "ran_s!"
           FROM jobs j JOIN attempts a ON a.id = j.attempt_id JOIN experiments e ON e.id = j.experiment_id WHERE j.state = 'running'"#
    ).fetch_all(pool).await?;
    rows.into_iter()
        .map(|row| {
            let release = match row.preempted_for {
                _ if row.asked_back => Release::Asked,
                Some(id) => Release::For(JobId(id)),
                None => Release::No,
            };
            let job = RunningJob {
                id: JobId(row.id),
                title: row.title,
                experiment: ExperimentId(row.experiment_id),
                kind: unword(&row.kind)?,
                priority: row.priority,
                worker: WorkerId(row.worker_id),
                slots: row.slots.0,
                ran_s: row.ran_s,
                release,
            };
            Ok(RunningRow {
                job,
                branch_id: row.branch_id.map(BranchId),
                tokens_per_second: row.tokens_per_second,
                progress: progress(count(row.done), count(row.total)),
            })
        })
        .collect()
}

/// An experiment with a deadline, and what its open jobs have before them.
#[derive(Debug, Clone)]
pub struct DeadlineRow {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Seconds to its deadline.
    pub left_s: f64,
    /// Tokens left of the job that has most.
    pub remaining_max: i64,
    /// Tokens per second of the fastest; 0 where none runs.
    pub rate_max: f64,
}

/// Running experiments with a deadline and an open job.
///
/// # Errors
/// When Postgres refuses.
pub async fn deadlines(pool: &PgPool) -> Result<Vec<DeadlineRow>> {
    let rows = sqlx::query!(
        r#"SELECT e.id, EXTRACT(EPOCH FROM e.deadline - now())::double precision AS "left_s!",
           max(COALESCE(GREATEST(0, (b.steps - b.step) * b.batch_tokens), j.remaining)) AS "remaining_max!", max(j.tokens_per_second) AS "rate_max!"
           FROM experiments e JOIN jobs j ON j.experiment_id = e.id LEFT JOIN branches b ON b.id = j.branch_id
           WHERE e.state = 'running' AND e.deadline IS NOT NULL AND j.state IN ('queued', 'running', 'paused') GROUP BY e.id"#
    ).fetch_all(pool).await?;
    let row = rows.into_iter().map(|row| DeadlineRow {
        experiment_id: ExperimentId(row.id),
        left_s: row.left_s,
        remaining_max: row.remaining_max,
        rate_max: row.rate_max,
    });
    Ok(row.collect())
}

/// Number of jobs that wait.
///
/// # Errors
/// When Postgres refuses.
pub async fn queued(pool: &PgPool) -> Result<u32> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM jobs WHERE state = 'queued'"#).fetch_one(pool).await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The highest priority of a job that may be granted now.
///
/// # Errors
/// When Postgres refuses.
pub async fn priority_waiting_max(pool: &PgPool) -> Result<Option<i16>> {
    Ok(sqlx::query_scalar!(
        "SELECT max(j.priority) FROM jobs j JOIN experiments e ON e.id = j.experiment_id
         WHERE j.state = 'queued' AND j.not_before <= now() AND e.state = 'running'"
    )
    .fetch_one(pool)
    .await?)
}

/// Jobs that may be granted now, in the order of creation; who is short of time is not known here. Of alike ones
/// (experiment, kind, slots, needs) only the first `slots_max`: no more of them can be placed on so many slots,
/// whatever else waits.
///
/// # Errors
/// When Postgres refuses.
pub async fn waiting(pool: &PgPool, slots_max: usize) -> Result<Vec<WaitingJob>> {
    let rows = sqlx::query!(
        r#"SELECT id, experiment_id, kind, priority, slots, remaining, needs AS "needs: Json<Needs>" FROM (
               SELECT j.id, j.experiment_id, j.kind, j.priority, j.slots, j.remaining, j.needs, j.created_at, row_number() OVER (
                   PARTITION BY j.experiment_id, j.kind, j.slots, j.needs ORDER BY j.priority DESC, j.remaining DESC, j.created_at, j.id) AS place
               FROM jobs j JOIN experiments e ON e.id = j.experiment_id WHERE j.state = 'queued' AND j.not_before <= now() AND e.state = 'running') q
           WHERE place <= $1 ORDER BY created_at, id"#,
        i64::try_from(slots_max).unwrap_or(i64::MAX)
    ).fetch_all(pool).await?;
    rows.into_iter()
        .zip(0..)
        .map(|(row, age)| {
            Ok(WaitingJob {
                id: JobId(row.id),
                experiment: ExperimentId(row.experiment_id),
                kind: unword(&row.kind)?,
                priority: row.priority,
                slots: u16::try_from(row.slots).unwrap_or(1),
                needs: row.needs.0,
                remaining: row.remaining,
                age,
                slack_s: None,
            })
        })
        .collect()
}

/// Grants queued jobs in one transaction: raises their fences, opens the attempts and the leases. A training job is told
/// the branch's last whole resumable checkpoint: earlier fences can commit no other any more. Those whose job somebody
/// else was faster with, or whose experiment was paused meanwhile, are left out. The caller hands the grants over.
///
/// # Errors
/// When Postgres refuses; nothing is granted then.
pub async fn grant(pool: &PgPool, placements: &[Placement], ttl_ms: u64) -> Result<Vec<(WorkerId, Grant)>> {
    let jobs: Vec<uuid::Uuid> = placements.iter().map(|placement| placement.job.0).collect();
    let workers: Vec<uuid::Uuid> = placements.iter().map(|placement| placement.worker.0).collect();
    let attempts: Vec<uuid::Uuid> = placements.iter().map(|_| AttemptId::new().0).collect();
    let mut tx = pool.begin().await?;
    let rows = sqlx::query!(
        r#"UPDATE jobs SET state = 'running', fence = fence + 1, attempt_id = u.attempt_id, worker_id = u.worker_id, command = 'continue', done = 0, tokens_per_second = 0,
             lease_expires_at = now() + make_interval(secs => $4::bigint / 1000.0),
             spec = CASE WHEN kind = 'train' THEN jsonb_set(spec, '{resume}', COALESCE(
                 (SELECT jsonb_build_object('id', c.id, 'folder', c.folder, 'manifest_sha256', c.manifest_sha256, 'step', c.step)
                  FROM checkpoints c WHERE c.branch_id = jobs.branch_id AND c.state = 'committed' AND c.meta->>'kind' = 'resumable' AND c.problem IS NULL ORDER BY c.created_at DESC, c.step DESC LIMIT 1),
                 'null'::jsonb)) ELSE spec END
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS u(job_id, worker_id, attempt_id)
         WHERE jobs.id = u.job_id AND jobs.state = 'queued' AND jobs.not_before <= now()
             AND EXISTS (SELECT 1 FROM experiments e WHERE e.id = jobs.experiment_id AND e.state = 'running')
             AND EXISTS (SELECT 1 FROM workers w WHERE w.id = u.worker_id AND w.mode = 'enabled' AND w.set_aside IS NULL AND NOT w.lost)
         RETURNING jobs.id, u.worker_id AS "worker_id!", u.attempt_id AS "attempt_id!", jobs.fence, jobs.branch_id, jobs.spec AS "spec: Json<JobSpec>""#,
        &jobs, &workers, &attempts, signed(ttl_ms)
    ).fetch_all(&mut *tx).await?;
    let slots: HashMap<JobId, &Vec<u16>> =
        placements.iter().map(|placement| (placement.job, &placement.slots)).collect();
    let grants: Vec<(WorkerId, Option<uuid::Uuid>, Grant)> = rows
        .into_iter()
        .map(|row| {
            let grant = Grant {
                attempt_id: AttemptId(row.attempt_id),
                job_id: JobId(row.id),
                fence: Fence(row.fence),
                lease_ttl_ms: ttl_ms,
                slots: slots.get(&JobId(row.id)).map(|slots| (*slots).clone()).unwrap_or_default(),
                job: row.spec.0,
            };
            (WorkerId(row.worker_id), row.branch_id, grant)
        })
        .collect();
    let (ids, jobs): (Vec<_>, Vec<_>) = grants.iter().map(|(_, _, grant)| (grant.attempt_id.0, grant.job_id.0)).unzip();
    let slots: Vec<_> = grants.iter().map(|(_, _, grant)| serde_json::json!(grant.slots)).collect();
    sqlx::query!(
        "INSERT INTO attempts (id, job_id, branch_id, fence, worker_id, slots, delivered, session, delivered_at)
         SELECT u.id, j.id, j.branch_id, j.fence, j.worker_id, u.slots, true, w.session, now()
         FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[]) AS u(id, job_id, slots) JOIN jobs j ON j.id = u.job_id JOIN workers w ON w.id = j.worker_id",
        &ids, &jobs, &slots
    ).execute(&mut *tx).await?;
    let branches: Vec<uuid::Uuid> = grants.iter().filter_map(|(_, branch, _)| *branch).collect();
    sqlx::query!(
        "UPDATE branches SET state = 'running' WHERE id = ANY($1) AND state IN ('waiting', 'queued')",
        &branches
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(grants.into_iter().map(|(worker, _, grant)| (worker, grant)).collect())
}

/// Notes that grants did not reach their workers: the next polls fetch them.
///
/// # Errors
/// When Postgres refuses.
pub async fn undelivered(pool: &PgPool, attempts: &[AttemptId]) -> Result<()> {
    let attempts: Vec<_> = attempts.iter().map(|attempt| attempt.0).collect();
    sqlx::query!(
        "UPDATE attempts SET delivered = false, session = NULL, delivered_at = NULL WHERE id = ANY($1)",
        &attempts
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A job that was asked to give its slots up, and for which one.
#[derive(Debug, Clone)]
pub struct Preempted {
    /// What gives its slots up.
    pub title: String,
    /// Its priority.
    pub priority: i16,
    /// Its experiment.
    pub experiment_id: ExperimentId,
    /// Its branch.
    pub branch_id: Option<BranchId>,
    /// Its worker.
    pub worker_id: Option<WorkerId>,
    /// Name of the worker.
    pub worker: String,
    /// How far it is.
    pub done: u64,
    /// What gets them.
    pub for_title: String,
    /// The experiment of that one.
    pub for_experiment: String,
    /// The priority of that one.
    pub for_priority: i16,
}

/// Asks a running job to give its slots up for another one. None when it is over, or was asked before.
///
/// # Errors
/// When Postgres refuses.
pub async fn preempt(pool: &PgPool, victim: JobId, job: JobId) -> Result<Option<Preempted>> {
    let row = sqlx::query!(
        "UPDATE jobs v SET preempted_for = j.id FROM jobs j JOIN experiments e ON e.id = j.experiment_id, workers w
         WHERE v.id = $1 AND j.id = $2 AND w.id = v.worker_id AND v.state = 'running' AND v.command = 'continue' AND v.preempted_for IS NULL
         RETURNING v.title, v.priority, v.experiment_id, v.branch_id, v.worker_id, v.done, w.name AS worker,
             j.title AS for_title, j.priority AS for_priority, e.name AS for_experiment",
        victim.0,
        job.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Preempted {
        title: row.title,
        priority: row.priority,
        experiment_id: ExperimentId(row.experiment_id),
        branch_id: row.branch_id.map(BranchId),
        worker_id: row.worker_id.map(WorkerId),
        worker: row.worker,
        done: count(row.done),
        for_title: row.for_title,
        for_experiment: row.for_experiment,
        for_priority: row.for_priority,
    }))
}

/// Grants that a worker has not fetched yet; marks them as fetched in its present session.
///
/// # Errors
/// When Postgres refuses.
pub async fn fetch_grants(pool: &PgPool, worker: WorkerId, ttl_ms: u64) -> Result<Vec<Grant>> {
    let rows = sqlx::query!(
        r#"UPDATE attempts a SET delivered = true, delivered_at = now(), session = w.session FROM jobs j, workers w
           WHERE a.id = j.attempt_id AND w.id = a.worker_id AND a.worker_id = $1 AND NOT a.delivered AND j.state = 'running'
           RETURNING a.id, a.job_id, a.fence, a.slots AS "slots: Json<Vec<u16>>", j.spec AS "spec: Json<JobSpec>""#,
        worker.0
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Grant {
            attempt_id: AttemptId(row.id),
            job_id: JobId(row.job_id),
            fence: Fence(row.fence),
            lease_ttl_ms: ttl_ms,
            slots: row.slots.0,
            job: row.spec.0,
        })
        .collect())
}

/// Attempts that their worker's present session fetched and has not reported for so long, although it was heard of:
/// no thread runs them any more, or the grant was lost on its way. What an earlier session left is delivered from its
/// spool, and ends by its lease.
///
/// # Errors
/// When Postgres refuses.
pub async fn unreported(pool: &PgPool, ttl_ms: i64, silent_ms: i64) -> Result<Vec<AttemptId>> {
    let rows = sqlx::query_scalar!(
        r#"SELECT a.id FROM jobs j JOIN attempts a ON a.id = j.attempt_id JOIN workers w ON w.id = j.worker_id
           WHERE j.state = 'running' AND a.session = w.session
             AND w.beat_at > a.delivered_at + make_interval(secs => $2::bigint / 1000.0)
             AND w.beat_at > j.lease_expires_at + make_interval(secs => ($2::bigint - $1::bigint) / 1000.0)"#,
        ttl_ms,
        silent_ms
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(AttemptId).collect())
}

/// Attempts whose lease is over.
///
/// # Errors
/// When Postgres refuses.
pub async fn expired(pool: &PgPool, grace_ms: i64) -> Result<Vec<AttemptId>> {
    let rows = sqlx::query_scalar!(
        r#"SELECT attempt_id AS "id!" FROM jobs WHERE state = 'running' AND lease_expires_at < now() - make_interval(secs => $1::bigint / 1000.0)"#, grace_ms
    ).fetch_all(pool).await?;
    Ok(rows.into_iter().map(AttemptId).collect())
}

/// What a person wants of a branch's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Hold it; a running attempt is released.
    Pause,
    /// Let it go on.
    Resume,
    /// End it; a running attempt is cancelled.
    Cancel,
}

/// Carries a wish out on the job and the branch.
///
/// # Errors
/// [`DbError::Conflict`] when the branch's state does not allow it.
pub async fn wish(pool: &PgPool, branch: BranchId, wish: Wish) -> Result<()> {
    let mut tx = pool.begin().await?;
    let (from, job_from, to, command): (&[&str], &[&str], &str, &str) = match wish {
        Wish::Pause => (&["waiting", "queued", "running"], &["queued"], "paused", "release"),
        Wish::Resume => (&["paused"], &["paused"], "queued", "continue"),
        Wish::Cancel => (&["waiting", "queued", "running", "paused"], &["queued", "paused"], "cancelled", "cancel"),
    };
    let (from, job_from): (Vec<String>, Vec<String>) =
        (from.iter().map(|s| (*s).to_owned()).collect(), job_from.iter().map(|s| (*s).to_owned()).collect());
    let job = sqlx::query_scalar!("SELECT state FROM jobs WHERE branch_id = $1 FOR UPDATE", branch.0)
        .fetch_optional(&mut *tx)
        .await?;
    let to_branch = match (wish, job.as_deref()) {
        (Wish::Resume, None) => "waiting",
        // Resumed before the attempt had let go: it simply goes on.
        (Wish::Resume, Some("running")) => "running",
        _ => to,
    };
    let problem = (wish == Wish::Cancel).then_some("a person cancelled it");
    let done = sqlx::query!(
        "UPDATE branches SET state = $2, problem = $4 WHERE id = $1 AND state = ANY($3)",
        branch.0,
        to_branch,
        &from,
        problem
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        let state =
            sqlx::query_scalar!("SELECT state FROM branches WHERE id = $1", branch.0).fetch_optional(&mut *tx).await?;
        return Err(match state {
            Some(state) => DbError::Conflict(format!(
                "the branch is {state}; {} needs it {}",
                format!("{wish:?}").to_lowercase(),
                from.join(" or ")
            )),
            None => DbError::NotFound { noun: "branch", id: branch.to_string() },
        });
    }
    sqlx::query!("UPDATE jobs SET state = $2 WHERE branch_id = $1 AND state = ANY($3)", branch.0, to, &job_from)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("UPDATE jobs SET command = $2 WHERE branch_id = $1 AND state = 'running'", branch.0, command)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}
