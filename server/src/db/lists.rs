//! Lists for people and scripts: filtered, in pages, out of the columns that a list shows.

use super::{DbError, Listed, Result, Stored, count, each, unword, worded};
use senmon_protocol::{
    ids::{BranchId, CorpusId, ExperimentId, JobId},
    said::Said,
    spec::ExperimentSpec,
    view::{ExperimentState, ExperimentSummary, JobState, JobView, StageProgress, StageState},
};
use sqlx::{PgPool, types::Json};
use std::collections::HashMap;
use uuid::Uuid;

/// Which items of a list, in which order.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only what its name contains, in any case.
    pub q: Option<String>,
    /// Only in one of these states.
    pub states: Option<Vec<String>>,
    /// After this item in the list's order.
    pub cursor: Option<Uuid>,
    /// At most so many.
    pub limit: i64,
}

/// Which experiments.
#[derive(Debug, Clone, Default)]
pub struct Experiments {
    /// As of every list.
    pub of: Wanted,
    /// One of them.
    pub id: Option<ExperimentId>,
    /// Only with all of these labels.
    pub labels: Vec<String>,
    /// Only of this owner.
    pub owner: Option<String>,
    /// `newest`, `oldest` or `name`; empty for one.
    pub sort: &'static str,
    /// Those that were deleted, instead of the others.
    pub archived: bool,
}

/// Experiments as a list shows them.
///
/// # Errors
/// When Postgres refuses.
pub async fn experiments(pool: &PgPool, wanted: &Experiments) -> Result<Listed<ExperimentSummary>> {
    let rows = sqlx::query!(
        r#"SELECT e.id, e.name, COALESCE(e.spec->'labels', 'null') AS "labels!: Stored<Vec<String>>", e.state, COALESCE(e.problem, e.paused_why) AS problem,
           COALESCE(e.problem_said, e.paused_why_said) AS "problem_said: Stored<Said>",
           e.priority, e.owner, e.created_at, e.finished_at, e.ensemble_vs_dense_percent, b.done AS "done!", b.total AS "total!"
           FROM experiments e CROSS JOIN LATERAL
               (SELECT COALESCE(sum(step * batch_tokens), 0)::bigint AS done, COALESCE(sum(steps * batch_tokens), 0)::bigint AS total
                    FROM branches WHERE experiment_id = e.id) b
           WHERE ($1::uuid IS NULL OR e.id = $1) AND (e.archived_at IS NOT NULL) = $2
             AND ($3::text[] IS NULL OR e.state = ANY($3)) AND ($4::text IS NULL OR e.owner = $4)
             AND ($5::jsonb = '[]' OR e.spec->'labels' @> $5) AND ($6::text IS NULL OR strpos(lower(e.name), lower($6)) > 0)
             AND ($7::uuid IS NULL OR CASE $8::text WHEN 'oldest' THEN e.id > $7 WHEN 'newest' THEN e.id < $7
                  ELSE (e.name, e.id) > (SELECT c.name, c.id FROM experiments c WHERE c.id = $7) END)
           ORDER BY CASE $8 WHEN 'name' THEN e.name END, CASE WHEN $8 <> 'newest' THEN e.id END, e.id DESC LIMIT $9"#,
        wanted.id.map(|id| id.0), wanted.archived, wanted.of.states.as_deref(), wanted.owner, Json(&wanted.labels) as _, wanted.of.q,
        wanted.of.cursor, wanted.sort, wanted.of.limit
    ).fetch_all(pool).await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let stages = stages(pool, &ids).await?;
    let summary = |row: &_| stages.get(row).cloned().unwrap_or_default();
    Ok(each(
        "experiment",
        rows,
        |row| row.id,
        |row| {
            let state: ExperimentState = unword(&row.state)?;
            Ok(ExperimentSummary {
                id: ExperimentId(row.id),
                name: row.name,
                labels: row.labels.read("spec.labels")?,
                state,
                problem_said: worded(row.problem.as_deref(), row.problem_said),
                problem: row.problem,
                priority: u8::try_from(row.priority).unwrap_or(0),
                stages: summary(&row.id),
                tokens_done: count(row.done),
                tokens_total: count(row.total),
                ensemble_vs_dense_percent: row.ensemble_vs_dense_percent,
                // The forecast's to tell.
                seconds_left: None,
                owner: row.owner,
                created_at: row.created_at,
                finished_at: row.finished_at,
            })
        },
    ))
}

/// The findings of the reports of some experiments, of those that have one.
///
/// # Errors
/// When Postgres refuses.
pub async fn headlines(pool: &PgPool, experiments: &[Uuid]) -> Result<HashMap<Uuid, String>> {
    let rows = sqlx::query!(
        r#"SELECT id, report->>'headline' AS "headline!" FROM experiments WHERE id = ANY($1) AND report->>'headline' IS NOT NULL"#,
        experiments
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.headline)).collect())
}

/// The file of an experiment, deleted or not.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Impossible`] when it cannot be read.
pub async fn file(pool: &PgPool, id: ExperimentId) -> Result<ExperimentSpec> {
    let found = sqlx::query!(r#"SELECT spec AS "spec: Stored<ExperimentSpec>" FROM experiments WHERE id = $1"#, id.0)
        .fetch_optional(pool)
        .await?;
    found.ok_or_else(|| DbError::NotFound { noun: "experiment", id: id.to_string() })?.spec.read("spec")
}

/// The stages of some experiments, in order.
///
/// # Errors
/// When Postgres refuses.
pub async fn stages(pool: &PgPool, experiments: &[Uuid]) -> Result<HashMap<Uuid, Vec<StageProgress>>> {
    let rows = sqlx::query!(
        r#"SELECT experiment_id, stage, state, done, total, unit, started_at, finished_at,
           EXTRACT(EPOCH FROM now() - started_at)::double precision AS elapsed FROM stages WHERE experiment_id = ANY($1)"#,
        experiments
    )
    .fetch_all(pool)
    .await?;
    let mut found: HashMap<Uuid, Vec<StageProgress>> = HashMap::new();
    for row in rows {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let left = row
            .elapsed
            .filter(|_| row.state == "running" && row.done > 0 && row.total > row.done)
            .map(|s| s / row.done as f64 * (row.total - row.done) as f64);
        found.entry(row.experiment_id).or_default().push(StageProgress {
            stage: unword(&row.stage)?,
            state: unword(&row.state)?,
            done: count(row.done),
            total: count(row.total),
            unit: row.unit,
            started_at: row.started_at,
            finished_at: row.finished_at,
            seconds_left: left,
        });
    }
    for stages in found.values_mut() {
        stages.sort_by_key(|stage| stage.stage);
        // While an earlier stage goes on, a later one waits for it: its rate so far says nothing of its end.
        if let Some(first) = stages.iter().position(|stage| stage.state == StageState::Running) {
            stages[first + 1..].iter_mut().for_each(|stage| stage.seconds_left = None);
        }
    }
    Ok(found)
}

/// Which jobs.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    /// As of every list; the name is the title.
    pub of: Wanted,
    /// One of them.
    pub id: Option<JobId>,
    /// Only of this experiment.
    pub experiment: Option<ExperimentId>,
    /// Only of this corpus.
    pub corpus: Option<CorpusId>,
    /// Only of this branch.
    pub branch: Option<BranchId>,
    /// Only of this kind.
    pub kind: Option<String>,
}

/// Jobs in the order of creation. Of a queued one is not said why it waits: that is the scheduler's.
///
/// # Errors
/// When Postgres refuses.
pub async fn jobs(pool: &PgPool, wanted: &Jobs) -> Result<Listed<JobView>> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.experiment_id, j.corpus_id, o.name AS "owner!", j.branch_id, j.title, j.kind, j.state, j.priority, j.slots, j.fence, j.done, j.total,
           j.problem, j.problem_said AS "problem_said: Stored<Said>", j.created_at, w.name AS "worker?" FROM jobs j JOIN owners o ON o.id = j.owner_id LEFT JOIN workers w ON w.id = j.worker_id
           WHERE ($1::uuid IS NULL OR j.id = $1) AND ($2::uuid IS NULL OR j.experiment_id = $2) AND ($3::uuid IS NULL OR j.branch_id = $3)
             AND ($4::text IS NULL OR j.kind = $4) AND ($5::text[] IS NULL OR j.state = ANY($5))
             AND ($6::text IS NULL OR strpos(lower(j.title), lower($6)) > 0) AND ($7::uuid IS NULL OR j.id > $7)
             AND ($9::uuid IS NULL OR j.corpus_id = $9) ORDER BY j.id LIMIT $8"#,
        wanted.id.map(|id| id.0), wanted.experiment.map(|id| id.0), wanted.branch.map(|id| id.0), wanted.kind, wanted.of.states.as_deref(),
        wanted.of.q, wanted.of.cursor, wanted.of.limit, wanted.corpus.map(|id| id.0)
    ).fetch_all(pool).await?;
    Ok(each(
        "job",
        rows,
        |row| row.id,
        |row| {
            let state: JobState = unword(&row.state)?;
            let progress = super::jobs::progress(count(row.done), count(row.total));
            Ok(JobView {
                id: JobId(row.id),
                owner: super::jobs::owner(row.experiment_id, row.corpus_id, row.owner)?,
                branch_id: row.branch_id.map(BranchId),
                title: row.title,
                kind: unword(&row.kind)?,
                state,
                why_said: worded(row.problem.as_deref(), row.problem_said),
                why: row.problem,
                priority: u8::try_from(row.priority).unwrap_or(0),
                slots: u16::try_from(row.slots).unwrap_or(1),
                attempts: u32::try_from(row.fence).unwrap_or(u32::MAX),
                worker: row.worker,
                progress: progress.filter(|_| state == JobState::Running),
                created_at: row.created_at,
            })
        },
    ))
}
