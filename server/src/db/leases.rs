//! Leases of jobs: what the scheduler reads, what it grants, what it takes back. A lease lives in its job's row.

use super::{Result, Stored, count, each, jobs::progress, signed, transaction, unword};
use crate::domain::schedule::{Placement, Release, RunningJob, WaitingJob};
use senmon_protocol::{
    ids::{AttemptId, BranchId, ExperimentId, Fence, JobId, OwnerId, WorkerId},
    job::{Grant, JobSpec},
    resources::Needs,
    view::BrokenRow,
};
use sqlx::{PgConnection, PgPool};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

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

/// What runs, on some workers or on all.
///
/// # Errors
/// When Postgres refuses.
pub async fn running(pool: &PgPool, workers: Option<&[Uuid]>) -> Result<Vec<RunningRow>> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.owner_id, j.branch_id, j.kind, j.priority, j.title, j.worker_id AS "worker_id!", a.slots AS "slots: Stored<Vec<u16>>",
           j.tokens_per_second, j.done, j.total, j.preempted_for,
           j.command <> 'continue' OR (SELECT o.state FROM owners o WHERE o.id = j.owner_id) <> 'running' AS "asked_back!",
           EXTRACT(EPOCH FROM now() - a.started_at)::bigint AS "ran_s!"
           FROM jobs j JOIN attempts a ON a.id = j.attempt_id WHERE j.state = 'running' AND ($1::uuid[] IS NULL OR j.worker_id = ANY($1))"#,
        workers
    ).fetch_all(pool).await?;
    let listed = each(
        "job",
        rows,
        |row| row.id,
        |row| {
            let release = match row.preempted_for {
                _ if row.asked_back => Release::Asked,
                Some(id) => Release::For(JobId(id)),
                None => Release::No,
            };
            let job = RunningJob {
                id: JobId(row.id),
                title: row.title,
                owner: OwnerId(row.owner_id),
                kind: unword(&row.kind)?,
                priority: row.priority,
                worker: WorkerId(row.worker_id),
                slots: row.slots.read("slots")?,
                ran_s: row.ran_s,
                release,
            };
            Ok(RunningRow {
                job,
                branch_id: row.branch_id.map(BranchId),
                tokens_per_second: row.tokens_per_second,
                progress: progress(count(row.done), count(row.total)),
            })
        },
    );
    Ok(listed.rows)
}

/// Workers that run a training which may have to give way to a job of this priority, or which was asked to give its
/// slots back: it holds them for whom it was asked.
///
/// # Errors
/// When Postgres refuses.
pub async fn giving_way(pool: &PgPool, priority: i16) -> Result<Vec<WorkerId>> {
    let rows = sqlx::query_scalar!(
        r#"SELECT DISTINCT j.worker_id AS "id!" FROM jobs j JOIN experiments e ON e.id = j.experiment_id WHERE j.state = 'running' AND j.kind = 'train'
           AND (j.priority < $1 OR j.preempted_for IS NOT NULL OR j.command <> 'continue' OR e.state <> 'running')"#,
        priority
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(WorkerId).collect())
}

/// Slots that owners have on other workers than these.
///
/// # Errors
/// When Postgres refuses.
pub async fn shares_elsewhere(pool: &PgPool, workers: &[Uuid]) -> Result<BTreeMap<OwnerId, u32>> {
    let rows = sqlx::query!(
        r#"SELECT owner_id, sum(slots) AS "slots!" FROM jobs WHERE state = 'running' AND worker_id <> ALL($1) GROUP BY owner_id"#,
        workers
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (OwnerId(row.owner_id), u32::try_from(row.slots).unwrap_or(u32::MAX))).collect())
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

/// The highest priority of a job that may be granted now.
///
/// # Errors
/// When Postgres refuses.
pub async fn priority_waiting_max(pool: &PgPool) -> Result<Option<i16>> {
    Ok(sqlx::query_scalar!(
        "SELECT max(first.priority) FROM queued_kinds k CROSS JOIN LATERAL (
             SELECT j.priority, j.owner_id FROM jobs j WHERE j.state = 'queued' AND j.alike = k.alike AND j.not_before <= now()
             ORDER BY j.priority DESC LIMIT 1) first
         JOIN owners o ON o.id = first.owner_id WHERE o.state = 'running'"
    )
    .fetch_one(pool)
    .await?)
}

/// Jobs that may be granted now, in the order of creation; who is short of time is not known here. Of alike ones
/// (owner, kind, slots, needs) only the first `slots_max`: no more of them can be placed on so many slots,
/// whatever else waits.
///
/// # Errors
/// When Postgres refuses.
pub async fn waiting(pool: &PgPool, slots_max: usize) -> Result<Vec<WaitingJob>> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.owner_id, j.kind, j.priority, j.slots, j.remaining, j.failed_on, j.needs AS "needs: Stored<Needs>"
           FROM queued_kinds k CROSS JOIN LATERAL (
               SELECT q.* FROM jobs q WHERE q.state = 'queued' AND q.alike = k.alike AND q.not_before <= now()
               ORDER BY q.priority DESC, q.remaining DESC, q.created_at, q.id LIMIT $1) j
           JOIN owners o ON o.id = j.owner_id WHERE o.state = 'running' ORDER BY j.created_at, j.id"#,
        i64::try_from(slots_max).unwrap_or(i64::MAX)
    )
    .fetch_all(pool)
    .await?;
    let listed = each(
        "job",
        rows.into_iter().zip(0..).collect(),
        |(row, _)| row.id,
        |(row, age)| {
            Ok(WaitingJob {
                id: JobId(row.id),
                owner: OwnerId(row.owner_id),
                kind: unword(&row.kind)?,
                priority: row.priority,
                slots: u16::try_from(row.slots).unwrap_or(1),
                needs: row.needs.read("needs")?,
                remaining: row.remaining,
                age,
                slack_s: None,
                failed_on: row.failed_on.map(WorkerId),
            })
        },
    );
    Ok(listed.rows)
}

/// Grants queued jobs in one transaction: raises their fences, opens the attempts and the leases. A training job is told
/// the branch's last whole resumable checkpoint: earlier fences can commit no other any more. Those whose job somebody
/// else was faster with, or whose owner was paused meanwhile, are left out. The caller hands the grants over.
///
/// # Errors
/// When Postgres refuses; nothing is granted then.
pub async fn grant(pool: &PgPool, placements: &[Placement], ttl_ms: u64) -> Result<Vec<(WorkerId, Grant)>> {
    let jobs: Vec<Uuid> = placements.iter().map(|placement| placement.job.0).collect();
    let workers: Vec<Uuid> = placements.iter().map(|placement| placement.worker.0).collect();
    let attempts: Vec<Uuid> = placements.iter().map(|_| AttemptId::new().0).collect();
    let mut tx = transaction(pool).await?;
    super::open_jobs::lock(&mut tx, &jobs).await?;
    let rows = sqlx::query!(
        r#"UPDATE jobs SET state = 'running', fence = fence + 1, compacted_to = -1, attempt_id = u.attempt_id, worker_id = u.worker_id, command = 'continue', done = 0, tokens_per_second = 0,
             lease_expires_at = now() + make_interval(secs => $4::bigint / 1000.0),
             spec = CASE WHEN kind = 'train' THEN jsonb_set(spec, '{resume}', COALESCE(
                 (SELECT jsonb_build_object('id', c.id, 'folder', c.folder, 'manifest_sha256', c.manifest_sha256, 'step', c.step)
                  FROM checkpoints c WHERE c.branch_id = jobs.branch_id AND c.state = 'committed' AND c.meta->>'kind' = 'resumable' AND c.problem IS NULL ORDER BY c.created_at DESC, c.step DESC LIMIT 1),
                 'null'::jsonb)) ELSE spec END
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS u(job_id, worker_id, attempt_id)
         WHERE jobs.id = u.job_id AND jobs.state = 'queued' AND jobs.not_before <= now()
             AND EXISTS (SELECT 1 FROM owners o WHERE o.id = jobs.owner_id AND o.state = 'running')
             AND EXISTS (SELECT 1 FROM workers w WHERE w.id = u.worker_id AND w.mode = 'enabled' AND w.set_aside IS NULL AND NOT w.lost)
         RETURNING jobs.id, u.worker_id AS "worker_id!", u.attempt_id AS "attempt_id!", jobs.fence, jobs.branch_id, jobs.spec AS "spec: Stored<JobSpec>""#,
        &jobs, &workers, &attempts, signed(ttl_ms)
    ).fetch_all(&mut *tx).await?;
    let slots: HashMap<JobId, &Vec<u16>> =
        placements.iter().map(|placement| (placement.job, &placement.slots)).collect();
    let listed = each(
        "job",
        rows,
        |row| row.id,
        |row| {
            let grant = Grant {
                attempt_id: AttemptId(row.attempt_id),
                job_id: JobId(row.id),
                fence: Fence(row.fence),
                lease_ttl_ms: ttl_ms,
                slots: slots.get(&JobId(row.id)).map(|slots| (*slots).clone()).unwrap_or_default(),
                job: row.spec.read("spec")?,
            };
            Ok((WorkerId(row.worker_id), row.branch_id, grant))
        },
    );
    for broken in &listed.broken {
        fail_unreadable(&mut tx, broken).await?;
    }
    let grants: Vec<(WorkerId, Option<Uuid>, Grant)> = listed.rows;
    let (ids, jobs): (Vec<_>, Vec<_>) = grants.iter().map(|(_, _, grant)| (grant.attempt_id.0, grant.job_id.0)).unzip();
    let slots: Vec<_> = grants.iter().map(|(_, _, grant)| serde_json::json!(grant.slots)).collect();
    sqlx::query!(
        "INSERT INTO attempts (id, job_id, branch_id, fence, worker_id, slots, delivered, session, delivered_at)
         SELECT u.id, j.id, j.branch_id, j.fence, j.worker_id, u.slots, true, w.session, now()
         FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[]) AS u(id, job_id, slots) JOIN jobs j ON j.id = u.job_id JOIN workers w ON w.id = j.worker_id",
        &ids, &jobs, &slots
    ).execute(&mut *tx).await?;
    let branches: Vec<Uuid> = grants.iter().filter_map(|(_, branch, _)| *branch).collect();
    sqlx::query!(
        "UPDATE branches SET state = 'running' WHERE id = ANY($1) AND state IN ('waiting', 'queued')",
        &branches
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(grants.into_iter().map(|(worker, _, grant)| (worker, grant)).collect())
}

/// A job that no worker could be told: it and its branch fail with the reason.
async fn fail_unreadable(tx: &mut PgConnection, job: &BrokenRow) -> Result<()> {
    sqlx::query!(
        "WITH failed AS (UPDATE jobs SET state = 'failed', problem = $2, attempt_id = NULL, worker_id = NULL, lease_expires_at = NULL
             WHERE id = $1::text::uuid RETURNING branch_id)
         UPDATE branches SET state = 'failed', problem = $2 WHERE id = (SELECT branch_id FROM failed)",
        job.id,
        job.problem
    )
    .execute(tx)
    .await?;
    Ok(())
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
    pub experiment_id: Option<ExperimentId>,
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
    /// The owner of that one.
    pub for_owner: String,
    /// The priority of that one.
    pub for_priority: i16,
}

/// Asks a running job to give its slots up for another one. None when it is over, or was asked before.
///
/// # Errors
/// When Postgres refuses.
pub async fn preempt(pool: &PgPool, victim: JobId, job: JobId) -> Result<Option<Preempted>> {
    let row = sqlx::query!(
        r#"UPDATE jobs v SET preempted_for = j.id FROM jobs j JOIN owners o ON o.id = j.owner_id, workers w
         WHERE v.id = $1 AND j.id = $2 AND w.id = v.worker_id AND v.state = 'running' AND v.command = 'continue' AND v.preempted_for IS NULL
         RETURNING v.title, v.priority, v.experiment_id, v.branch_id, v.worker_id, v.done, w.name AS worker,
             j.title AS for_title, j.priority AS for_priority, o.name AS "for_owner!""#,
        victim.0,
        job.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Preempted {
        title: row.title,
        priority: row.priority,
        experiment_id: row.experiment_id.map(ExperimentId),
        branch_id: row.branch_id.map(BranchId),
        worker_id: row.worker_id.map(WorkerId),
        worker: row.worker,
        done: count(row.done),
        for_title: row.for_title,
        for_owner: row.for_owner,
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
           WHERE a.id = j.attempt_id AND w.id = a.worker_id AND a.worker_id = $1 AND NOT a.delivered
           RETURNING a.id, a.job_id, a.fence, a.slots AS "slots: Stored<Vec<u16>>", j.spec AS "spec: Stored<JobSpec>""#,
        worker.0
    )
    .fetch_all(pool)
    .await?;
    // One that cannot be read runs out of its lease, and fails when it is granted again.
    let listed = each(
        "job",
        rows,
        |row| row.job_id,
        |row| {
            Ok(Grant {
                attempt_id: AttemptId(row.id),
                job_id: JobId(row.job_id),
                fence: Fence(row.fence),
                lease_ttl_ms: ttl_ms,
                slots: row.slots.read("slots")?,
                job: row.spec.read("spec")?,
            })
        },
    );
    Ok(listed.rows)
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
