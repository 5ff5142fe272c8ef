//! What people edit of an experiment: priority, deadline and budget while it goes on, labels and note at any time.

use super::{DbError, Result, Stored, begin, kept};
use senmon_protocol::{ids::ExperimentId, said, spec::ExperimentSpec};
use sqlx::{PgConnection, PgPool};

/// All of an experiment that people edit.
#[derive(Debug, Clone, PartialEq)]
pub struct Editable {
    /// Its file.
    pub spec: ExperimentSpec,
    /// Its note.
    pub note: String,
}

/// Changes what may be changed. What steers an experiment is changed while it goes on, and its open jobs get the new
/// priority. The row is held meanwhile: of two edits at once the second sees the first.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Conflict`] when it is over and `steers`; what `edit` refuses.
pub async fn change<E: From<DbError>>(
    pool: &PgPool,
    id: ExperimentId,
    steers: bool,
    edit: impl FnOnce(Editable) -> std::result::Result<Editable, E>,
) -> std::result::Result<Editable, E> {
    let mut tx = begin(pool).await?;
    let edited = edit(held(&mut tx, id).await?)?;
    mark(&mut tx, id, &edited).await?;
    if steers {
        steer(&mut tx, id, &edited.spec).await?;
    }
    tx.commit().await.map_err(DbError::from)?;
    Ok(edited)
}

/// The note of an experiment.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn note(pool: &PgPool, id: ExperimentId) -> Result<String> {
    let note = sqlx::query_scalar!("SELECT note FROM experiments WHERE id = $1", id.0).fetch_optional(pool).await?;
    note.ok_or_else(|| DbError::NotFound { noun: "experiment", id: id.to_string() })
}

/// What there is, its row held.
async fn held(tx: &mut PgConnection, id: ExperimentId) -> Result<Editable> {
    let row = sqlx::query!(
        r#"SELECT spec AS "spec: Stored<ExperimentSpec>", note FROM experiments WHERE id = $1 AND archived_at IS NULL FOR NO KEY UPDATE"#,
        id.0
    )
    .fetch_optional(tx)
    .await?;
    let row = row.ok_or_else(|| DbError::NotFound { noun: "experiment", id: id.to_string() })?;
    Ok(Editable { spec: row.spec.read("spec")?, note: row.note })
}

async fn mark(tx: &mut PgConnection, id: ExperimentId, edited: &Editable) -> Result<()> {
    let spec = kept("body", &edited.spec)?;
    sqlx::query!("UPDATE experiments SET spec = $2, note = $3 WHERE id = $1", id.0, spec as _, edited.note)
        .execute(tx)
        .await?;
    Ok(())
}

async fn steer(tx: &mut PgConnection, id: ExperimentId, spec: &ExperimentSpec) -> Result<()> {
    let priority = i16::from(spec.priority);
    let done = sqlx::query!(
        "UPDATE experiments SET priority = $2, deadline_missed_at = CASE WHEN deadline = $3 THEN deadline_missed_at END, deadline = $3,
             budget_slot_hours = $4, budget_wall_hours = $5 WHERE id = $1 AND state IN ('running', 'paused')",
        id.0, priority, spec.deadline, spec.budget.slot_hours, spec.budget.wall_hours
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(DbError::Conflict(said!("experiment_over")));
    }
    super::open_jobs::lock_of(tx, id.into()).await?;
    sqlx::query!(
        "UPDATE jobs SET priority = $2 WHERE experiment_id = $1 AND state IN ('queued', 'running', 'paused')",
        id.0,
        priority
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
