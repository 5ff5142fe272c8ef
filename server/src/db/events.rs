//! Events and logs.

use super::{DbError, Result, Stored, count, kept, signed};
use crate::domain::alerts::occasion;
use chrono::{DateTime, Utc};
use senmon_protocol::{
    event::is_known,
    ids::{AttemptId, BranchId, ExperimentId, JobId, WorkerId},
    said::Said,
    view::{EventView, LogsView},
    worker::{LogBatch, LogLine},
};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use std::collections::HashSet;

/// Something that happened.
#[derive(Debug, Clone, Default)]
pub struct NewEvent {
    /// Word for scripts.
    pub kind: &'static str,
    /// `info`, `warn` or `error`.
    pub level: &'static str,
    /// The sentence.
    pub said: Said,
    /// The experiment concerned.
    pub experiment_id: Option<ExperimentId>,
    /// The branch concerned.
    pub branch_id: Option<BranchId>,
    /// The worker concerned.
    pub worker_id: Option<WorkerId>,
    /// The step concerned.
    pub step: Option<u64>,
}

/// Writes an event down.
///
/// # Errors
/// When Postgres refuses.
pub async fn insert(executor: impl PgExecutor<'_>, event: &NewEvent) -> Result<EventView> {
    debug_assert!(is_known(event.kind), "{} is not in the list of protocol::event", event.kind);
    let view = EventView {
        id: 0,
        at: DateTime::UNIX_EPOCH,
        kind: event.kind.to_owned(),
        level: event.level.to_owned(),
        text: event.said.text(),
        said: Some(event.said.clone()),
        experiment_id: event.experiment_id,
        branch_id: event.branch_id,
        worker_id: event.worker_id,
        step: event.step,
    };
    store(executor, view).await
}

/// Stores an event, and with it what alerts tell of it; its number and time come from the database.
async fn store(executor: impl PgExecutor<'_>, event: EventView) -> Result<EventView> {
    let row = sqlx::query!(
        r#"WITH event AS (INSERT INTO events (kind, level, text, experiment_id, branch_id, worker_id, step, said) VALUES ($1, $2, $3, $4, $5, $6, $7, $9) RETURNING id, at),
         told AS (INSERT INTO deliveries (alert_id, event_id) SELECT a.id, e.id FROM event e, alerts a
             WHERE $8::text = ANY(a.occasions) AND (a.experiment_id IS NULL OR a.experiment_id = $4))
         SELECT id AS "id!", at AS "at!" FROM event"#,
        event.kind, event.level, event.text, event.experiment_id.map(|id| id.0), event.branch_id.map(|id| id.0), event.worker_id.map(|id| id.0),
        event.step.map(signed), occasion(&event.kind, &event.level).map(|occasion| super::word(&occasion)),
        event.said.as_ref().map(|said| kept("said", said)).transpose()? as _
    ).fetch_one(executor).await?;
    Ok(EventView { id: row.id, at: row.at, ..event })
}

/// A row of the table.
struct Row {
    id: i64,
    at: DateTime<Utc>,
    kind: String,
    level: String,
    text: String,
    said: Option<Stored<Said>>,
    experiment_id: Option<uuid::Uuid>,
    branch_id: Option<uuid::Uuid>,
    worker_id: Option<uuid::Uuid>,
    step: Option<i64>,
}

impl Row {
    fn view(self) -> EventView {
        EventView {
            id: self.id,
            at: self.at,
            kind: self.kind,
            level: self.level,
            text: self.text,
            // One that this version cannot read has its sentence still.
            said: self.said.and_then(|said| said.read("said").ok()),
            experiment_id: self.experiment_id.map(ExperimentId),
            branch_id: self.branch_id.map(BranchId),
            worker_id: self.worker_id.map(WorkerId),
            step: self.step.map(count),
        }
    }
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only of this experiment.
    pub experiment: Option<ExperimentId>,
    /// Only of this branch.
    pub branch: Option<BranchId>,
    /// Only of these levels.
    pub levels: Vec<String>,
    /// Only from then on.
    pub since: Option<DateTime<Utc>>,
    /// Whether the newest come first.
    pub newest: bool,
    /// After this event in that order.
    pub cursor: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// Events.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(pool: &PgPool, wanted: &Wanted) -> Result<Vec<EventView>> {
    let Wanted { levels, since, cursor, limit, .. } = wanted;
    let (experiment, branch) = (wanted.experiment.map(|id| id.0), wanted.branch.map(|id| id.0));
    let rows = if wanted.newest {
        sqlx::query_as!(
            Row,
            r#"SELECT id, at, kind, level, text, said AS "said: _", experiment_id, branch_id, worker_id, step FROM events
             WHERE ($1::uuid IS NULL OR experiment_id = $1) AND ($2::uuid IS NULL OR branch_id = $2) AND level = ANY($3)
               AND ($4::timestamptz IS NULL OR at >= $4) AND ($5::bigint IS NULL OR id < $5) ORDER BY id DESC LIMIT $6"#,
            experiment,
            branch,
            levels,
            *since,
            *cursor,
            limit
        )
        .fetch_all(pool)
        .await?
    } else {
        sqlx::query_as!(
            Row,
            r#"SELECT id, at, kind, level, text, said AS "said: _", experiment_id, branch_id, worker_id, step FROM events
             WHERE ($1::uuid IS NULL OR experiment_id = $1) AND ($2::uuid IS NULL OR branch_id = $2) AND level = ANY($3)
               AND ($4::timestamptz IS NULL OR at >= $4) AND ($5::bigint IS NULL OR id > $5) ORDER BY id LIMIT $6"#,
            experiment,
            branch,
            levels,
            *since,
            *cursor,
            limit
        )
        .fetch_all(pool)
        .await?
    };
    Ok(rows.into_iter().map(Row::view).collect())
}

/// What belongs on the axis of a branch's curve, oldest first: of very many the latest, and what was done to the
/// branch before its checkpoints.
///
/// # Errors
/// When Postgres refuses.
pub async fn on_axis(pool: &PgPool, branch: BranchId, limit: i64) -> Result<Vec<EventView>> {
    let mut rows = sqlx::query_as!(
        Row,
        r#"SELECT id, at, kind, level, text, said AS "said: _", experiment_id, branch_id, worker_id, step FROM events
         WHERE branch_id = $1 AND step IS NOT NULL ORDER BY kind = 'checkpoint_committed', id DESC LIMIT $2"#,
        branch.0,
        limit
    )
    .fetch_all(pool)
    .await?;
    rows.sort_by_key(|row| row.id);
    Ok(rows.into_iter().map(Row::view).collect())
}

/// The branches of an experiment of which this was said.
///
/// # Errors
/// When Postgres refuses.
pub async fn branches_with(pool: &PgPool, experiment: ExperimentId, kind: &str) -> Result<HashSet<BranchId>> {
    let found = sqlx::query_scalar!(
        r#"SELECT DISTINCT branch_id AS "branch_id!" FROM events WHERE experiment_id = $1 AND kind = $2 AND branch_id IS NOT NULL"#,
        experiment.0,
        kind
    )
    .fetch_all(pool)
    .await?;
    Ok(found.into_iter().map(BranchId).collect())
}

/// The kind of the last event of these kinds.
///
/// # Errors
/// When Postgres refuses.
pub async fn last_of(pool: &PgPool, kinds: &[&str]) -> Result<Option<String>> {
    let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    // Each kind by its own index: together, Postgres would walk all events backwards.
    Ok(sqlx::query_scalar!(
        r#"SELECT last.kind AS "kind!" FROM unnest($1::text[]) AS wanted(kind)
           CROSS JOIN LATERAL (SELECT e.kind, e.id FROM events e WHERE e.kind = wanted.kind ORDER BY e.id DESC LIMIT 1) last
           ORDER BY last.id DESC LIMIT 1"#,
        &kinds
    )
    .fetch_optional(pool)
    .await?)
}

/// Stores log lines; a repeated batch is the same batch. Lines that are events become events; they are given back.
///
/// # Errors
/// When Postgres refuses.
pub async fn insert_logs(
    tx: &mut PgConnection,
    attempt: AttemptId,
    (experiment, branch): (Option<ExperimentId>, Option<BranchId>),
    batch: &LogBatch,
) -> Result<Vec<EventView>> {
    if batch.lines.is_empty() {
        return Ok(Vec::new());
    }
    let stored = sqlx::query!(
        "INSERT INTO log_batches (attempt_id, branch_id, line_first, lines) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        attempt.0, branch.map(|id| id.0), signed(batch.line_first), Json(&batch.lines) as _
    ).execute(&mut *tx).await?;
    let mut events = Vec::new();
    for line in batch.lines.iter().filter(|_| stored.rows_affected() == 1) {
        let Some(event) = &line.event else { continue };
        let new = EventView {
            id: 0,
            at: DateTime::UNIX_EPOCH,
            kind: event.kind.clone(),
            level: if line.level == "info" { "info" } else { "warn" }.to_owned(),
            text: line.text.clone(),
            said: line.said.clone().and_then(|said| said.that_says(&line.text)),
            experiment_id: experiment,
            branch_id: branch,
            worker_id: None,
            step: Some(event.step),
        };
        events.push(store(&mut *tx, new).await?);
        if let (Some(branch), Some(skip)) = (branch, event.skip()) {
            super::goodput::note_skip(&mut *tx, branch, batch.fence, skip, line).await?;
        }
    }
    Ok(events)
}

/// Log of a branch or of a job after a cursor.
///
/// # Errors
/// When Postgres refuses.
pub async fn logs(pool: &PgPool, branch: Option<BranchId>, job: Option<JobId>, after: i64) -> Result<LogsView> {
    let rows = sqlx::query!(
        r#"SELECT id, lines AS "lines: Stored<Vec<LogLine>>" FROM log_batches
           WHERE (branch_id = $1 OR attempt_id IN (SELECT a.id FROM attempts a WHERE a.job_id = $2)) AND id > $3 ORDER BY id LIMIT 200"#,
        branch.map(|id| id.0),
        job.map(|id| id.0),
        after
    )
    .fetch_all(pool)
    .await?;
    let next_after = rows.last().map_or(after, |row| row.id);
    let lines =
        rows.into_iter().flat_map(|row| row.lines.read("lines").unwrap_or_else(|error| vec![unreadable(&error)]));
    Ok(LogsView { lines: lines.collect(), next_after })
}

/// Stands for lines that cannot be read.
fn unreadable(error: &DbError) -> LogLine {
    LogLine {
        at_ms: 0,
        level: "warn".into(),
        text: format!("lines that cannot be read: {error}"),
        said: None,
        event: None,
    }
}
