//! Experiments and their stages.

use super::{
    DbError, Listed, Result, Stored, begin, each, kept, signed, stored::said, transaction, unword, word, worded,
};
use crate::domain::{
    advance::experiment::StageFacts, held_out::Compared, rates::Shape, report::ensemble_vs_dense_percent,
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{ClusteringId, CorpusId, ExperimentId},
    job::{JobResult, ShardIndex, ShardResult},
    report::{HeldOutSummary, Report},
    said,
    said::{Said, SaidValue, of},
    spec::ExperimentSpec,
    view::{ExperimentState, Stage},
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// An experiment's row.
#[derive(Debug, Clone)]
pub struct ExperimentRow {
    /// Id.
    pub id: ExperimentId,
    /// The submission.
    pub spec: ExperimentSpec,
    /// State.
    pub state: ExperimentState,
    /// Why it failed, or why the server paused it.
    pub problem: Option<String>,
    /// Whether it was said that its deadline cannot be kept.
    pub deadline_missed: bool,
    /// Who submitted it.
    pub owner: String,
    /// The corpus.
    pub corpus_id: CorpusId,
    /// The clustering.
    pub clustering_id: Option<ClusteringId>,
    /// The tokenizer.
    pub tokenizer_id: Option<Uuid>,
    /// The model that it trains, as known when it was submitted.
    pub model: Option<Shape>,
    /// The shards.
    pub shard_index: Option<ShardIndex>,
    /// What became of the held-out documents, once they are listed.
    pub held_out: Option<HeldOutSummary>,
    /// The report.
    pub report: Option<Report>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Stores a submission.
///
/// # Errors
/// [`DbError::Conflict`] when its corpus was deleted meanwhile.
pub async fn insert(
    pool: &PgPool,
    spec: &ExperimentSpec,
    model: Option<&Shape>,
    corpus: CorpusId,
    owner: &str,
) -> Result<ExperimentId> {
    let id = ExperimentId::new();
    let mut tx = begin(pool).await?;
    let done = sqlx::query!(
        "INSERT INTO experiments (id, name, spec, state, priority, owner, corpus_id, deadline, budget_slot_hours, budget_wall_hours, model)
         SELECT $1, $2, $3, 'running', $4, $5, c.id, $7, $8, $9, $10 FROM corpora c WHERE c.id = $6 AND c.archived_at IS NULL FOR SHARE",
        id.0, spec.name, kept("body", spec)? as _, i16::from(spec.priority), owner, corpus.0, spec.deadline, spec.budget.slot_hours, spec.budget.wall_hours,
        model.map(|model| kept("model", model)).transpose()? as _
    ).execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Err(DbError::Conflict(said!("corpus_deleted_now", name = &spec.corpus)));
    }
    tx.commit().await?;
    Ok(id)
}

/// Which experiments to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// One of them.
    pub id: Option<ExperimentId>,
    /// Only those that are not over.
    pub open: bool,
}

/// Experiments that were not deleted, newest first: at most 1,000.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(pool: &PgPool, filter: Filter) -> Result<Listed<ExperimentRow>> {
    let rows = sqlx::query!(
        r#"SELECT id, spec AS "spec: Stored<ExperimentSpec>", state, COALESCE(problem, paused_why) AS problem, owner, corpus_id, clustering_id, tokenizer_id,
           deadline_missed_at IS NOT NULL AS "deadline_missed!", model AS "model: Stored<Shape>", shard_index AS "shard_index: Stored<ShardIndex>", held_out AS "held_out: Stored<HeldOutSummary>", report AS "report: Stored<Report>", created_at, finished_at FROM experiments
           WHERE ($1::uuid IS NULL OR id = $1) AND (NOT $2 OR state IN ('running', 'paused')) AND archived_at IS NULL ORDER BY id DESC LIMIT 1000"#,
        filter.id.map(|id| id.0), filter.open
    ).fetch_all(pool).await?;
    Ok(each(
        "experiment",
        rows,
        |row| row.id,
        |row| {
            Ok(ExperimentRow {
                id: ExperimentId(row.id),
                spec: row.spec.read("spec")?,
                state: unword(&row.state)?,
                problem: row.problem,
                deadline_missed: row.deadline_missed,
                owner: row.owner,
                corpus_id: CorpusId(row.corpus_id),
                clustering_id: row.clustering_id.map(ClusteringId),
                tokenizer_id: row.tokenizer_id,
                shard_index: row.shard_index.map(|index| index.read("shard_index")).transpose()?,
                // Told for its own sake alone: one that cannot be read spoils no experiment.
                model: row.model.and_then(|model| model.read("model").ok()),
                held_out: row.held_out.map(|summary| summary.read("held_out")).transpose()?,
                report: row.report.map(|report| report.read("report")).transpose()?,
                created_at: row.created_at,
                finished_at: row.finished_at,
            })
        },
    ))
}

/// One experiment.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn get(pool: &PgPool, id: ExperimentId) -> Result<ExperimentRow> {
    list(pool, Filter { id: Some(id), ..Filter::default() })
        .await?
        .one()?
        .ok_or_else(|| DbError::NotFound { noun: "experiment", id: id.to_string() })
}

/// In which states something may still be made for an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// By the server: while it runs.
    Running,
    /// By people: while it is not over.
    Open,
}

/// Holds an experiment's row to the end of the transaction, so that what ends or pauses it comes before or after. False
/// where it is over or paused already: what a snapshot said of it is old.
pub(super) async fn holds(tx: &mut PgConnection, id: ExperimentId, life: Life) -> Result<bool> {
    let held = sqlx::query_scalar!(
        "SELECT id FROM experiments WHERE id = $1 AND (state = 'running' OR $2 AND state = 'paused') FOR SHARE",
        id.0,
        life == Life::Open
    )
    .fetch_optional(tx)
    .await?;
    Ok(held.is_some())
}

/// Notes which clustering and tokenizer an experiment uses, while it runs.
///
/// # Errors
/// When Postgres refuses.
pub async fn set_fits(pool: &PgPool, id: ExperimentId, clustering: ClusteringId, tokenizer: Uuid) -> Result<()> {
    sqlx::query!(
        "UPDATE experiments SET clustering_id = $2, tokenizer_id = $3 WHERE id = $1 AND state = 'running'",
        id.0,
        clustering.0,
        tokenizer
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Shard jobs of an experiment: asked for, results by file, and why one was given up, or why what it found cannot be
/// read.
///
/// # Errors
/// When Postgres refuses.
pub async fn shards(pool: &PgPool, id: ExperimentId) -> Result<(usize, Vec<ShardResult>, Option<Said>)> {
    let rows = sqlx::query!(r#"SELECT id, state, title, problem, problem_said AS "problem_said: Stored<Said>", result AS "result: Stored<JobResult>" FROM jobs WHERE experiment_id = $1 AND kind = 'shard' ORDER BY key"#, id.0)
        .fetch_all(pool).await?;
    let (asked, mut results, mut problem) = (rows.len(), Vec::new(), None);
    for row in rows {
        let problem_said = worded(row.problem.as_deref(), row.problem_said).map(SaidValue::from);
        let why = problem_said.unwrap_or_else(|| row.problem.unwrap_or_default().into());
        let failed = (row.state == "failed").then_some(why);
        let of_job = |why: SaidValue| said!("job_and_why", job = of::title(&row.title), why = why);
        match row.result.map(|result| said("job", row.id, result.read("result"))).transpose() {
            Ok(Some(JobResult::Shard(shard))) => results.push(shard),
            Ok(_) => problem = problem.or_else(|| failed.map(of_job)),
            Err(why) => problem = problem.or_else(|| Some(of_job(why.into()))),
        }
    }
    Ok((asked, results, problem))
}

/// Stores the shard index of a running experiment.
///
/// # Errors
/// [`DbError::Unstorable`]; when Postgres refuses.
pub async fn set_shard_index(pool: &PgPool, id: ExperimentId, index: &ShardIndex) -> Result<()> {
    let index = kept("shard_index", index)?;
    sqlx::query!("UPDATE experiments SET shard_index = $2 WHERE id = $1 AND state = 'running'", id.0, index as _)
        .execute(pool)
        .await?;
    Ok(())
}

/// The comparisons of an experiment's held-out documents, by file: None while one goes on, the reason where it was given
/// up or cannot be read.
///
/// # Errors
/// When Postgres refuses.
pub async fn comparisons(pool: &PgPool, id: ExperimentId) -> Result<Vec<Option<Compared>>> {
    let rows = sqlx::query!(r#"SELECT id, state, title, problem, result AS "result: Stored<JobResult>" FROM jobs WHERE experiment_id = $1 AND kind = 'decontaminate' ORDER BY key"#, id.0)
        .fetch_all(pool).await?;
    let compared =
        rows.into_iter().map(|row| match row.result.map(|result| said("job", row.id, result.read("result"))) {
            Some(Ok(JobResult::Decontaminate(found))) => Some(Ok(found)),
            Some(Err(why)) => Some(Err(format!("{}: {why}", row.title))),
            _ if row.state == "failed" => Some(Err(format!("{}: {}", row.title, row.problem.unwrap_or_default()))),
            _ => None,
        });
    Ok(compared.collect())
}

/// Notes that the held-out documents of a running experiment are listed, and what was left out.
///
/// # Errors
/// [`DbError::Unstorable`]; when Postgres refuses.
pub async fn set_held_out(pool: &PgPool, id: ExperimentId, summary: &HeldOutSummary) -> Result<()> {
    let summary = kept("held_out", summary)?;
    sqlx::query!("UPDATE experiments SET held_out = $2 WHERE id = $1 AND state = 'running'", id.0, summary as _)
        .execute(pool)
        .await?;
    Ok(())
}

/// Completes an experiment with its report, which covers so many branches. False where it does not run any more, or
/// somebody forked or continued a branch while the report was written: the experiment goes on with that.
///
/// # Errors
/// [`DbError::Unstorable`]; when Postgres refuses.
pub async fn complete(
    pool: &PgPool,
    id: ExperimentId,
    report: &Report,
    branches: usize,
    stages: &[StageFacts],
) -> Result<bool> {
    let percent = ensemble_vs_dense_percent(report);
    let report = kept("report", report)?;
    let mut tx = transaction(pool).await?;
    // Forks and continues hold the row: this waits for them and, in the next statement, sees their branch.
    let held =
        sqlx::query_scalar!("SELECT id FROM experiments WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE", id.0)
            .fetch_optional(&mut *tx)
            .await?;
    let now = sqlx::query!(
        r#"SELECT count(*) AS "all!", count(*) FILTER (WHERE state IN ('waiting', 'queued', 'running', 'paused')) AS "open!"
           FROM branches WHERE experiment_id = $1"#,
        id.0
    )
    .fetch_one(&mut *tx)
    .await?;
    if held.is_none() || now.open > 0 || now.all != i64::try_from(branches).unwrap_or(i64::MAX) {
        return Ok(false);
    }
    sqlx::query!(
        "UPDATE experiments SET state = 'completed', report = $2, ensemble_vs_dense_percent = $3, finished_at = now() WHERE id = $1",
        id.0,
        report as _,
        percent
    )
    .execute(&mut *tx)
    .await?;
    write_stages(&mut tx, id, stages).await?;
    tx.commit().await?;
    Ok(true)
}

/// Ends an experiment that cannot go on; what runs is cancelled.
///
/// # Errors
/// [`DbError::Conflict`] when it is over already.
pub async fn fail(pool: &PgPool, id: ExperimentId, problem: &Said, stages: &[StageFacts]) -> Result<()> {
    let mut tx = transaction(pool).await?;
    end(&mut tx, id, ExperimentState::Failed, Some(problem)).await?;
    write_stages(&mut tx, id, stages).await?;
    tx.commit().await?;
    Ok(())
}

async fn end(tx: &mut PgConnection, id: ExperimentId, state: ExperimentState, problem: Option<&Said>) -> Result<()> {
    let said = problem.map(|said| kept("problem", said)).transpose()?;
    let done = sqlx::query!(
        "UPDATE experiments SET state = $2, problem = $3, problem_said = $4, paused_why = NULL, finished_at = now()
         WHERE id = $1 AND state IN ('running', 'paused')",
        id.0,
        word(&state),
        problem.map(Said::text),
        said as _
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(DbError::Conflict(said!("experiment_over")));
    }
    super::open_jobs::end_of(tx, id.into()).await?;
    let ended = said!("experiment_ended");
    sqlx::query!(
        "UPDATE branches SET state = 'cancelled', problem = $2, problem_said = $3
         WHERE experiment_id = $1 AND state IN ('waiting', 'queued', 'running', 'paused')",
        id.0,
        ended.text(),
        kept("problem", &ended)? as _
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Pauses, resumes or cancels an experiment.
///
/// # Errors
/// [`DbError::Conflict`] when its state does not allow it.
pub async fn set_state(pool: &PgPool, id: ExperimentId, to: ExperimentState) -> Result<()> {
    if to == ExperimentState::Cancelled {
        let mut tx = begin(pool).await?;
        end(&mut tx, id, to, None).await?;
        return Ok(tx.commit().await?);
    }
    let from = if to == ExperimentState::Paused { ExperimentState::Running } else { ExperimentState::Paused };
    let mut tx = begin(pool).await?;
    let done = sqlx::query!(
        "UPDATE experiments SET state = $2, paused_why = NULL WHERE id = $1 AND state = $3",
        id.0,
        word(&to),
        word(&from)
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(DbError::Conflict(said!("needs_experiment", state = of::state(&word(&from)))));
    }
    tx.commit().await?;
    if to == ExperimentState::Running {
        super::progress::begin(pool, id).await?;
    }
    Ok(())
}

/// Notes that it was said that the deadline cannot be kept. True the first time.
///
/// # Errors
/// When Postgres refuses.
pub async fn miss_deadline(pool: &PgPool, id: ExperimentId) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE experiments SET deadline_missed_at = now() WHERE id = $1 AND deadline_missed_at IS NULL",
        id.0
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Pauses an experiment for a reason of the server's own. True when it ran.
///
/// # Errors
/// When Postgres refuses.
pub async fn hold(pool: &PgPool, id: ExperimentId, why: &Said) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE experiments SET state = 'paused', paused_why = $2, paused_why_said = $3 WHERE id = $1 AND state = 'running'",
        id.0,
        why.text(),
        kept("paused_why", why)? as _
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Hours of slots that an experiment took, and hours since its first attempt began.
///
/// # Errors
/// When Postgres refuses.
pub async fn spent(pool: &PgPool, id: ExperimentId) -> Result<(f64, f64)> {
    let row = sqlx::query!(
        r#"SELECT COALESCE(sum(EXTRACT(EPOCH FROM COALESCE(a.finished_at, now()) - a.started_at) * jsonb_array_length(a.slots)) / 3600, 0)::double precision AS "slot_hours!",
           COALESCE(EXTRACT(EPOCH FROM now() - min(a.started_at)) / 3600, 0)::double precision AS "wall_hours!"
           FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.experiment_id = $1"#,
        id.0
    )
    .fetch_one(pool)
    .await?;
    Ok((row.slot_hours, row.wall_hours))
}

/// What [`set_stages`] changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageChanges {
    /// Whether anything did.
    pub any: bool,
    /// Stages that are done from now on.
    pub done: Vec<Stage>,
}

/// Keeps the stages; times are noted when a stage begins and ends.
///
/// # Errors
/// When Postgres refuses.
pub async fn set_stages(pool: &PgPool, id: ExperimentId, stages: &[StageFacts]) -> Result<StageChanges> {
    write_stages(&mut *pool.acquire().await?, id, stages).await
}

async fn write_stages(tx: &mut PgConnection, id: ExperimentId, stages: &[StageFacts]) -> Result<StageChanges> {
    let mut changes = StageChanges::default();
    for stage in stages {
        let row = sqlx::query_scalar!(
            r#"INSERT INTO stages (experiment_id, stage, state, done, total, unit, started_at, finished_at)
             VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $3 IN ('running', 'done') THEN now() END, CASE WHEN $3 IN ('done', 'skipped', 'failed') THEN now() END)
             ON CONFLICT (experiment_id, stage) DO UPDATE SET state = $3, done = $4, total = $5,
                 started_at = COALESCE(stages.started_at, excluded.started_at), finished_at = COALESCE(stages.finished_at, excluded.finished_at)
             WHERE (stages.state, stages.done, stages.total) IS DISTINCT FROM ($3, $4, $5)
             RETURNING (state = 'done' AND finished_at = now()) AS "done!""#,
            id.0, word(&stage.stage), word(&stage.state), signed(stage.done), signed(stage.total), stage.unit
        ).fetch_optional(&mut *tx).await?;
        changes.any |= row.is_some();
        changes.done.extend(row.filter(|done| *done).map(|_| stage.stage));
    }
    Ok(changes)
}
