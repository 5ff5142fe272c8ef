//! Branches.

use super::{
    DbError, Listed, Result, Stored, begin, count, each,
    experiments::{Life, holds},
    kept,
    lists::Wanted,
    signed, transaction, unword, word, worded,
};
use crate::domain::{expand::PlannedBranch, mlflow::Span};
use senmon_protocol::{
    ids::{BranchId, CheckpointId, ExperimentId},
    job::Mixture,
    said,
    said::{Said, expected::quoted},
    spec::TrainingSpec,
    view::{BranchState, BranchView},
};
use sqlx::PgPool;
use std::collections::HashMap;
use uuid::Uuid;

/// Stores the branches of a running experiment, all or none; nothing when they are there already.
///
/// # Errors
/// [`DbError::Unstorable`]; when Postgres refuses.
pub async fn insert_all(pool: &PgPool, experiment: ExperimentId, branches: &[PlannedBranch]) -> Result<()> {
    let mut tx = transaction(pool).await?;
    if !holds(&mut tx, experiment, Life::Running).await? {
        return Ok(());
    }
    let there = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM branches WHERE experiment_id = $1"#, experiment.0)
        .fetch_one(&mut *tx)
        .await?;
    if there > 0 {
        return Ok(());
    }
    let mut ids: HashMap<&str, BranchId> = HashMap::new();
    for (branch, ordinal) in branches.iter().zip(0_i32..) {
        let id = BranchId::new();
        let parent = branch.parent.as_deref().and_then(|name| ids.get(name)).map(|id| id.0);
        sqlx::query!(
            "INSERT INTO branches (id, experiment_id, ordinal, name, role, domain, parent_id, mixture, training, steps, batch_tokens, repeat, state, problem, problem_said)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, CASE WHEN $13::text IS NULL THEN 'waiting' ELSE 'cancelled' END, $13, $14)",
            id.0, experiment.0, ordinal, branch.name, word(&branch.role), branch.domain.and_then(|d| i32::try_from(d).ok()), parent,
            branch.mixture.as_ref().map(|mixture| kept("mixture", mixture)).transpose()? as _,
            branch.training.as_ref().map(|training| kept("training", training)).transpose()? as _, signed(branch.steps), signed(branch.batch_tokens), i32::try_from(branch.repeat).unwrap_or(i32::MAX), branch.left_out.as_ref().map(Said::text),
            branch.left_out.as_ref().map(|why| kept("problem", why)).transpose()? as _
        ).execute(&mut *tx).await?;
        ids.insert(&branch.name, id);
    }
    tx.commit().await?;
    Ok(())
}

/// Stores a fork: a new branch whose parent is another one, from a checkpoint that retention keeps from now on.
///
/// # Errors
/// [`DbError::Conflict`] when the name is taken, the checkpoint was removed or the experiment ended meanwhile.
pub async fn insert_fork(
    pool: &PgPool,
    from: &BranchView,
    checkpoint: CheckpointId,
    name: &str,
    mixture: &Mixture,
    steps: u64,
) -> Result<BranchId> {
    let id = BranchId::new();
    let mut tx = begin(pool).await?;
    // A report that is being written waits for this, and then sees the fork; or it was faster.
    if !holds(&mut tx, from.experiment_id, Life::Open).await? {
        return Err(DbError::Conflict(said!("fork_needs_open")));
    }
    // Retention decides over locked rows: it removes this one first, or sees the fork.
    let whole =
        sqlx::query_scalar!("SELECT id FROM checkpoints WHERE id = $1 AND state = 'committed' FOR SHARE", checkpoint.0)
            .fetch_optional(&mut *tx)
            .await?;
    if whole.is_none() {
        return Err(DbError::Conflict(said!("fork_checkpoint_removed", checkpoint = checkpoint.to_string())));
    }
    let done = sqlx::query!(
        "INSERT INTO branches (id, experiment_id, ordinal, name, role, domain, parent_id, start_id, state, mixture, training, steps, batch_tokens)
         SELECT $1, experiment_id, (SELECT max(ordinal) + 1 FROM branches WHERE experiment_id = b.experiment_id), $4, 'tree', domain, id, $3, 'waiting', $5,
             training, $6, batch_tokens FROM branches b WHERE id = $2 ON CONFLICT (experiment_id, name) DO NOTHING",
        id.0, from.id.0, checkpoint.0, name, kept("mixture", mixture)? as _, signed(steps)
    ).execute(&mut *tx).await?;
    if done.rows_affected() == 1 {
        tx.commit().await?;
        Ok(id)
    } else {
        Err(DbError::Conflict(said!("branch_name_taken", name = quoted(name))))
    }
}

/// Branches of an experiment, parents before children.
///
/// # Errors
/// When Postgres refuses.
pub async fn of_experiment(pool: &PgPool, experiment: ExperimentId) -> Result<Listed<BranchView>> {
    list(pool, Some(experiment), None, true, &EVERY).await
}

/// Some of the branches of an experiment, parents before children.
///
/// # Errors
/// When Postgres refuses.
pub async fn page(pool: &PgPool, experiment: ExperimentId, wanted: &Wanted) -> Result<Listed<BranchView>> {
    list(pool, Some(experiment), None, true, wanted).await
}

/// The same without sparklines and what was spent, for the loops: all of them, or none.
///
/// # Errors
/// When Postgres refuses, or one of them cannot be read.
pub async fn plain(pool: &PgPool, experiment: ExperimentId) -> Result<Vec<BranchView>> {
    list(pool, Some(experiment), None, false, &EVERY).await?.all()
}

/// One branch.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn get(pool: &PgPool, id: BranchId) -> Result<BranchView> {
    list(pool, None, Some(id), true, &EVERY)
        .await?
        .one()?
        .ok_or_else(|| DbError::NotFound { noun: "branch", id: id.to_string() })
}

/// Whether there is such a branch.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn ensure(pool: &PgPool, id: BranchId) -> Result<()> {
    let found = sqlx::query_scalar!("SELECT id FROM branches WHERE id = $1", id.0).fetch_optional(pool).await?;
    found.map(|_| ()).ok_or_else(|| DbError::NotFound { noun: "branch", id: id.to_string() })
}

/// No list is longer: an experiment is refused with more branches.
const EVERY: Wanted = Wanted { q: None, states: None, cursor: None, limit: i64::MAX };

// A job has a lease exactly while it runs; asking for the state, Postgres would walk all that run for each branch.
async fn list(
    pool: &PgPool,
    experiment: Option<ExperimentId>,
    branch: Option<BranchId>,
    details: bool,
    wanted: &Wanted,
) -> Result<Listed<BranchView>> {
    let rows = sqlx::query!(
        r#"SELECT b.id, b.experiment_id, b.name, b.role, b.domain, b.parent_id, b.state, b.problem, b.problem_said AS "problem_said: Stored<Said>", b.mixture AS "mixture: Stored<Mixture>",
           b.training AS "training: Stored<TrainingSpec>", b.steps, b.batch_tokens, b.step, b.loss, b.start_id, b.repeat,
           COALESCE(j.tokens_per_second, 0) AS "tokens_per_second!", w.name AS "worker?",
           CASE WHEN $3 THEN (SELECT count(*) FROM attempts a WHERE a.branch_id = b.id) ELSE 0 END AS "attempts!",
           CASE WHEN $3 THEN (SELECT COALESCE(EXTRACT(EPOCH FROM sum(COALESCE(a.finished_at, now()) - a.started_at)), 0)::double precision
               FROM attempts a WHERE a.branch_id = b.id) ELSE 0 END AS "wall!",
           (SELECT c.id FROM checkpoints c WHERE c.branch_id = b.id AND c.state = 'committed' ORDER BY c.created_at DESC, c.step DESC LIMIT 1) AS checkpoint_id,
           ARRAY(SELECT p.loss FROM (
                     SELECT DISTINCT ON ((q.step * 32 - 1) / GREATEST(b.step, 1)) q.step, q.loss FROM (
                         SELECT m.step_last AS step, m.fence, m.loss FROM metric_batches m WHERE $3 AND m.branch_id = b.id AND m.loss IS NOT NULL
                         UNION ALL SELECT u.step, c.fence, u.loss FROM metric_chunks c, unnest(c.spark_steps, c.spark_losses) AS u(step, loss)
                             WHERE $3 AND c.branch_id = b.id) q
                     WHERE q.step <= b.step AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.branch_id = b.id AND a.fence > q.fence AND a.step_start < q.step)
                     ORDER BY (q.step * 32 - 1) / GREATEST(b.step, 1), q.step DESC) p
                 ORDER BY p.step) AS "losses!: Vec<f64>"
           FROM branches b LEFT JOIN LATERAL (SELECT tokens_per_second, worker_id FROM jobs WHERE branch_id = b.id AND lease_expires_at IS NOT NULL LIMIT 1) j ON true
               LEFT JOIN workers w ON w.id = j.worker_id
           WHERE (b.experiment_id = $1 OR b.id = $2) AND ($4::text IS NULL OR strpos(lower(b.name), lower($4)) > 0)
             AND ($5::text[] IS NULL OR b.state = ANY($5)) AND ($6::uuid IS NULL OR b.ordinal > (SELECT ordinal FROM branches WHERE id = $6))
           ORDER BY b.ordinal LIMIT $7"#,
        experiment.map(|id| id.0), branch.map(|id| id.0), details, wanted.q, wanted.states.as_deref(), wanted.cursor, wanted.limit
    ).fetch_all(pool).await?;
    Ok(each(
        "branch",
        rows,
        |row| row.id,
        |row| {
            let (step, steps, batch) = (count(row.step), count(row.steps), count(row.batch_tokens));
            let state: BranchState = unword(&row.state)?;
            let rate = Some(row.tokens_per_second).filter(|rate| *rate > 0.0);
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let seconds_left = rate
                .filter(|_| state == BranchState::Running)
                .map(|rate| (steps.saturating_sub(step) * batch) as f64 / rate);
            Ok(BranchView {
                id: BranchId(row.id),
                experiment_id: ExperimentId(row.experiment_id),
                name: row.name,
                role: unword(&row.role)?,
                domain: row.domain.and_then(|domain| u32::try_from(domain).ok()),
                repeat: u32::try_from(row.repeat).unwrap_or(0),
                parent_id: row.parent_id.map(BranchId),
                state,
                why_said: worded(row.problem.as_deref(), row.problem_said),
                why: row.problem,
                mixture: row.mixture.map(|mixture| mixture.read("mixture")).transpose()?,
                training: row.training.map(|training| training.read("training")).transpose()?,
                step,
                steps,
                tokens: step * batch,
                tokens_total: steps * batch,
                loss: row.loss,
                sparkline: row.losses,
                tokens_per_second: rate,
                wall_seconds: row.wall,
                seconds_left,
                worker: row.worker,
                attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
                checkpoint_id: row.checkpoint_id.map(CheckpointId),
                start_checkpoint_id: row.start_id.map(CheckpointId),
            })
        },
    ))
}

/// What a branch's attempts took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spent {
    /// Of time.
    pub wall: f64,
    /// Of accelerators.
    pub gpu: f64,
    /// Of CPU slots.
    pub cpu: f64,
}

/// What a branch's attempts took. A slot is what it is with its worker now.
///
/// # Errors
/// When Postgres refuses.
pub async fn spent(pool: &PgPool, id: BranchId) -> Result<Spent> {
    let row = sqlx::query!(
        r#"SELECT COALESCE(sum(t.seconds), 0)::double precision AS "wall!", COALESCE(sum(t.seconds * t.gpus), 0)::double precision AS "gpu!", COALESCE(sum(t.seconds * (t.slots - t.gpus)), 0)::double precision AS "cpu!"
           FROM (SELECT EXTRACT(EPOCH FROM COALESCE(a.finished_at, now()) - a.started_at) AS seconds, jsonb_array_length(a.slots) AS slots,
                        (SELECT count(*) FROM jsonb_array_elements(w.slots) s WHERE a.slots @> (s->'index') AND s->>'device' LIKE 'cuda%') AS gpus
                 FROM attempts a JOIN workers w ON w.id = a.worker_id WHERE a.branch_id = $1) t"#,
        id.0
    )
    .fetch_one(pool)
    .await?;
    Ok(Spent { wall: row.wall, gpu: row.gpu, cpu: row.cpu })
}

/// First beginning and last end of the attempts of some branches, of those that had one.
///
/// # Errors
/// When Postgres refuses.
pub async fn spans(pool: &PgPool, branches: &[Uuid]) -> Result<HashMap<BranchId, Span>> {
    let rows = sqlx::query!(
        r#"SELECT branch_id AS "branch_id!", min(started_at) AS started_at, max(finished_at) AS finished_at FROM attempts
           WHERE branch_id = ANY($1) GROUP BY branch_id"#,
        branches
    )
    .fetch_all(pool)
    .await?;
    let span = |started_at, finished_at| Span { started_at, finished_at };
    Ok(rows.into_iter().map(|row| (BranchId(row.branch_id), span(row.started_at, row.finished_at))).collect())
}

/// Gives a waiting branch up.
///
/// # Errors
/// When Postgres refuses.
pub async fn give_up(pool: &PgPool, id: BranchId, why: &Said) -> Result<()> {
    sqlx::query!(
        "UPDATE branches SET state = 'cancelled', problem = $2, problem_said = $3 WHERE id = $1 AND state = 'waiting'",
        id.0,
        why.text(),
        kept("problem", why)? as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Lets a failed or cancelled branch go on from its last checkpoint, with fresh budgets; one that never had a job
/// waits for its parent again.
///
/// # Errors
/// [`DbError::Conflict`] when it is neither, or its experiment is over.
pub async fn go_on(pool: &PgPool, id: BranchId) -> Result<()> {
    let mut tx = begin(pool).await?;
    let experiment =
        sqlx::query_scalar!("SELECT experiment_id FROM branches WHERE id = $1", id.0).fetch_optional(&mut *tx).await?;
    if let Some(experiment) = experiment {
        holds(&mut tx, ExperimentId(experiment), Life::Open).await?;
    }
    let done = sqlx::query!(
        "UPDATE branches b SET problem = NULL,
             state = CASE WHEN EXISTS (SELECT 1 FROM jobs j WHERE j.branch_id = b.id) THEN 'queued' ELSE 'waiting' END FROM experiments e
         WHERE b.id = $1 AND e.id = b.experiment_id AND e.state IN ('running', 'paused') AND b.state IN ('failed', 'cancelled')
           AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.branch_id = b.id AND j.state = 'running')", id.0
    ).execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Err(DbError::Conflict(said!("continue_needs")));
    }
    sqlx::query!("UPDATE jobs SET state = 'queued', problem = NULL, retries_user = 0, retries_infra = 0, not_before = now(), command = 'continue' WHERE branch_id = $1", id.0)
        .execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}
