//! Checkpoints.

use super::{DbError, Listed, Result, Stored, each};
use senmon_protocol::{
    checkpoint::CheckpointMeta,
    ids::{BranchId, CheckpointId, ExperimentId, StorageKey},
    job::CheckpointRef,
    view::CheckpointView,
};
use sqlx::PgPool;
use uuid::Uuid;

/// Committed checkpoints of an experiment or branch, newest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(
    pool: &PgPool,
    experiment: Option<ExperimentId>,
    branch: Option<BranchId>,
    id: Option<CheckpointId>,
    before: Option<CheckpointId>,
    limit: i64,
) -> Result<Listed<CheckpointView>> {
    let rows = sqlx::query!(
        r#"SELECT c.id, c.folder, c.manifest_sha256 AS "manifest_sha256!", c.meta AS "meta!: Stored<CheckpointMeta>", c.created_at, c.verified_at, c.problem, b.name AS branch, e.name AS experiment
           FROM checkpoints c JOIN branches b ON b.id = c.branch_id JOIN experiments e ON e.id = c.experiment_id
           WHERE c.state = 'committed' AND ($1::uuid IS NULL OR c.experiment_id = $1) AND ($2::uuid IS NULL OR c.branch_id = $2) AND ($3::uuid IS NULL OR c.id = $3)
             AND ($4::uuid IS NULL OR c.id < $4)
           ORDER BY c.id DESC LIMIT $5"#,
        experiment.map(|id| id.0), branch.map(|id| id.0), id.map(|id| id.0), before.map(|id| id.0), limit
    ).fetch_all(pool).await?;
    Ok(each(
        "checkpoint",
        rows,
        |row| row.id,
        |row| {
            let meta = row.meta.read("meta")?;
            Ok(CheckpointView {
                id: CheckpointId(row.id),
                branch: row.branch,
                experiment: row.experiment,
                kind: meta.kind,
                meta,
                folder: StorageKey::new(row.folder).map_err(|error| DbError::Impossible(error.to_string()))?,
                manifest_sha256: row.manifest_sha256,
                created_at: row.created_at,
                verified_at: row.verified_at,
                problem: row.problem,
            })
        },
    ))
}

/// One committed checkpoint.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn get(pool: &PgPool, id: CheckpointId) -> Result<CheckpointView> {
    let found = list(pool, None, None, Some(id), None, 1).await?.one()?;
    found.ok_or_else(|| DbError::NotFound { noun: "checkpoint", id: id.to_string() })
}

/// The latest checkpoint of a branch: the highest step of the newest fence.
///
/// # Errors
/// When Postgres refuses.
pub async fn latest(pool: &PgPool, branch: BranchId) -> Result<Option<CheckpointRef>> {
    let row = sqlx::query!(r#"SELECT id, folder, manifest_sha256 AS "manifest_sha256!", step FROM checkpoints WHERE branch_id = $1 AND state = 'committed' ORDER BY created_at DESC, step DESC LIMIT 1"#, branch.0)
        .fetch_optional(pool).await?;
    row.map(|row| {
        Ok(CheckpointRef {
            id: CheckpointId(row.id),
            folder: StorageKey::new(row.folder).map_err(|error| DbError::Impossible(error.to_string()))?,
            manifest_sha256: row.manifest_sha256,
            step: super::count(row.step),
        })
    })
    .transpose()
}

/// The checkpoint to read next: one in doubt or never read, else the one read longest ago, more than `days` (0: none).
/// Those that rest are left out.
///
/// # Errors
/// When Postgres refuses.
pub async fn next_to_verify(pool: &PgPool, days: u16, rest: &[Uuid]) -> Result<Option<CheckpointId>> {
    let due = sqlx::query_scalar!(
        "SELECT id FROM checkpoints WHERE problem IS NULL AND state = 'committed'
             AND (verified_at IS NULL OR $1::integer > 0 AND verified_at < now() - make_interval(days => $1)) AND id <> ALL($2)
         ORDER BY verified_at NULLS FIRST, created_at LIMIT 1",
        i32::from(days),
        rest
    )
    .fetch_optional(pool)
    .await?;
    Ok(due.map(CheckpointId))
}

/// Keeps what reading a checkpoint found: None for all as committed. False where it was removed meanwhile: then what
/// was found is no damage.
///
/// # Errors
/// When Postgres refuses.
pub async fn set_verified(pool: &PgPool, id: CheckpointId, problem: Option<&str>) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE checkpoints SET verified_at = now(), problem = $2 WHERE id = $1 AND state = 'committed'",
        id.0,
        problem
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A branch's last resumable checkpoint is to be read next: an attempt could not go on from it.
///
/// # Errors
/// When Postgres refuses.
pub async fn doubt(pool: &PgPool, branch: BranchId) -> Result<()> {
    sqlx::query!(
        "UPDATE checkpoints SET verified_at = NULL WHERE id =
             (SELECT id FROM checkpoints WHERE branch_id = $1 AND state = 'committed' AND meta->>'kind' = 'resumable' AND problem IS NULL
              ORDER BY created_at DESC, step DESC LIMIT 1)",
        branch.0
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Bytes of all checkpoints of a branch.
///
/// # Errors
/// When Postgres refuses.
pub async fn bytes(pool: &PgPool, branch: BranchId) -> Result<u64> {
    let sum = sqlx::query_scalar!(
        r#"SELECT COALESCE(sum((meta->>'bytes')::bigint), 0)::bigint AS "sum!" FROM checkpoints WHERE branch_id = $1 AND state = 'committed'"#,
        branch.0
    )
    .fetch_one(pool)
    .await?;
    Ok(super::count(sum))
}
