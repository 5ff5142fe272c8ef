//! What people delete: what is in use stays, and the refusal says by what; the rest is archived, because attempts,
//! curves and accounts refer to it. Rows are held so that what only refers to them (an event, a job) does not wait.

use super::{DbError, Result, begin};
use senmon_protocol::{
    ids::{CorpusId, ExperimentId, WorkerId},
    said,
    said::{SaidValue, decimal, of},
};
use sqlx::PgPool;

/// Users of a thing that a refusal names.
const NAMED: usize = 5;

/// `a, b and 3 more`.
fn some(names: &[String]) -> SaidValue {
    let first: Vec<&String> = names.iter().take(NAMED).collect();
    match names.len().saturating_sub(NAMED) {
        0 => first.into(),
        more => said!("names_and_more", names = first, more = more).into(),
    }
}

/// Archives an experiment that is over; the bytes of its checkpoints, shards and scores go.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Conflict`] while it is not over, or a worker holds a job of it.
pub async fn experiment(pool: &PgPool, id: ExperimentId) -> Result<()> {
    let mut tx = begin(pool).await?;
    let state = sqlx::query_scalar!(
        "SELECT state FROM experiments WHERE id = $1 AND archived_at IS NULL FOR NO KEY UPDATE",
        id.0
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| DbError::NotFound { noun: "experiment", id: id.to_string() })?;
    if ["running", "paused"].contains(&state.as_str()) {
        return Err(DbError::Conflict(said!("delete_needs_end", state = of::state(&state))));
    }
    let held = sqlx::query_scalar!(
        r#"SELECT j.title || ' on ' || w.name AS "held!" FROM jobs j JOIN workers w ON w.id = j.worker_id
           WHERE j.experiment_id = $1 AND j.state = 'running' ORDER BY 1"#,
        id.0
    )
    .fetch_all(&mut *tx)
    .await?;
    if !held.is_empty() {
        return Err(DbError::Conflict(said!("experiment_in_use", jobs = some(&held))));
    }
    sqlx::query!("UPDATE experiments SET archived_at = now() WHERE id = $1", id.0).execute(&mut *tx).await?;
    sqlx::query!("DELETE FROM troubles WHERE id = $1", id.0).execute(&mut *tx).await?;
    sqlx::query!("UPDATE checkpoints SET state = 'deleting' WHERE experiment_id = $1 AND state = 'committed'", id.0)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Archives a corpus that no experiment uses, and ends its scan; its files are not ours.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Conflict`] with the experiments that use it.
pub async fn corpus(pool: &PgPool, id: CorpusId) -> Result<()> {
    let mut tx = begin(pool).await?;
    // An experiment that is submitted at the same time holds the row too.
    sqlx::query_scalar!("SELECT id FROM corpora WHERE id = $1 AND archived_at IS NULL FOR NO KEY UPDATE", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| DbError::NotFound { noun: "corpus", id: id.to_string() })?;
    let users = sqlx::query_scalar!(
        r#"SELECT name || ' (' || state || ')' AS "name!" FROM experiments WHERE corpus_id = $1 AND archived_at IS NULL ORDER BY id DESC"#,
        id.0
    )
    .fetch_all(&mut *tx)
    .await?;
    if !users.is_empty() {
        return Err(DbError::Conflict(said!("corpus_in_use", count = users.len(), names = some(&users))));
    }
    sqlx::query!("UPDATE corpora SET archived_at = now() WHERE id = $1", id.0).execute(&mut *tx).await?;
    super::open_jobs::end_of(&mut tx, id.into()).await?;
    sqlx::query!("DELETE FROM troubles WHERE id = $1", id.0).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Archives a worker that is lost and holds nothing, and revokes its credential: only an enrolment token brings it back.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Conflict`] while it is heard of, or holds jobs.
pub async fn worker(pool: &PgPool, id: WorkerId) -> Result<()> {
    let mut tx = begin(pool).await?;
    let row = sqlx::query!(
        r#"SELECT name, lost, EXTRACT(EPOCH FROM now() - seen_at)::double precision AS "silent!" FROM workers
           WHERE id = $1 AND (archived_at IS NULL OR seen_at > archived_at) FOR NO KEY UPDATE"#,
        id.0
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| DbError::NotFound { noun: "worker", id: id.to_string() })?;
    let held =
        sqlx::query_scalar!("SELECT title FROM jobs WHERE worker_id = $1 AND state = 'running' ORDER BY 1", id.0)
            .fetch_all(&mut *tx)
            .await?;
    if !held.is_empty() {
        return Err(DbError::Conflict(said!("worker_in_use", name = row.name, jobs = some(&held))));
    }
    if !row.lost {
        let seconds = decimal(row.silent, 0);
        return Err(DbError::Conflict(said!("worker_heard_of", name = row.name, seconds = seconds)));
    }
    sqlx::query!("UPDATE workers SET archived_at = now() WHERE id = $1", id.0).execute(&mut *tx).await?;
    sqlx::query!("UPDATE tokens SET revoked_at = now() WHERE worker_id = $1 AND revoked_at IS NULL", id.0)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}
