//! A database that was restored from a backup: fences above all that were ever given, and the checkpoints that the store
//! has beyond it.

use super::{Result, count, kept, signed, transaction};
use crate::domain::adoption::Branch;
use senmon_protocol::{
    checkpoint::Manifest,
    ids::{AttemptId, BranchId, ExperimentId, Fence, StorageKey},
};
use sqlx::{PgConnection, PgPool};
use std::collections::HashSet;

/// Whether there is nothing in the database yet.
///
/// # Errors
/// When Postgres refuses.
pub async fn is_empty(connection: &mut PgConnection) -> Result<bool> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace) AS "any!""#
    );
    Ok(!found.fetch_one(connection).await?)
}

/// Attempts that ran when the backup was made.
///
/// # Errors
/// When Postgres refuses.
pub async fn running(pool: &PgPool) -> Result<Vec<(AttemptId, Fence)>> {
    let rows = sqlx::query!(r#"SELECT attempt_id AS "id!", fence FROM jobs WHERE state = 'running'"#);
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (AttemptId(row.id), Fence(row.fence))).collect())
}

/// Raises every fence to the floor of the present epoch, and ends the sessions of workers: what they counted since the
/// backup would come again.
///
/// # Errors
/// When Postgres refuses.
pub async fn raise(pool: &PgPool) -> Result<()> {
    let mut tx = transaction(pool).await?;
    sqlx::query!("UPDATE jobs SET fence = fence_floor() WHERE fence < fence_floor()").execute(&mut *tx).await?;
    sqlx::query!("UPDATE workers SET session = session + 1000000").execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// All branches.
///
/// # Errors
/// When Postgres refuses.
pub async fn branches(pool: &PgPool) -> Result<Vec<Branch>> {
    let rows = sqlx::query!(
        r#"SELECT b.id, b.experiment_id, b.steps, b.batch_tokens, b.state = 'completed' AS "is_over!",
           COALESCE(jsonb_array_length(c.domains), 0) AS "domains!" FROM branches b
           JOIN experiments e ON e.id = b.experiment_id LEFT JOIN clusterings c ON c.id = e.clustering_id"#
    );
    let branch = rows.fetch_all(pool).await?.into_iter().map(|row| Branch {
        id: BranchId(row.id),
        experiment: ExperimentId(row.experiment_id),
        steps: count(row.steps),
        batch_tokens: count(row.batch_tokens),
        domains: u32::try_from(row.domains).unwrap_or(0),
        is_over: row.is_over,
    });
    Ok(branch.collect())
}

/// Folders of committed checkpoints, and of those that are being removed.
///
/// # Errors
/// When Postgres refuses.
pub async fn folders(pool: &PgPool) -> Result<HashSet<String>> {
    let folders = sqlx::query_scalar!("SELECT folder FROM checkpoints WHERE state IN ('committed', 'deleting')");
    Ok(folders.fetch_all(pool).await?.into_iter().collect())
}

/// Notes which committed checkpoints the store has no more: retention removed them after the backup was made.
///
/// # Errors
/// When Postgres refuses.
pub async fn gone(pool: &PgPool, folders: &[String]) -> Result<u64> {
    let done = sqlx::query!(
        "UPDATE checkpoints SET state = 'deleted' WHERE state = 'committed' AND folder = ANY($1)",
        folders
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Makes a checkpoint of the store a committed one, the newest of its branch. False when its id is taken.
///
/// # Errors
/// When Postgres refuses.
pub async fn adopt(pool: &PgPool, folder: &StorageKey, manifest: &Manifest, manifest_sha256: &str) -> Result<bool> {
    let meta = &manifest.meta;
    let mut tx = transaction(pool).await?;
    sqlx::query!("DELETE FROM checkpoints WHERE folder = $1 AND state = 'pending'", folder.as_str())
        .execute(&mut *tx)
        .await?;
    // Its commit counts from now, in the order in which they are adopted.
    let done = sqlx::query!(
        "INSERT INTO checkpoints (id, experiment_id, branch_id, fence, step, folder, manifest_sha256, meta, state, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'committed', clock_timestamp()) ON CONFLICT DO NOTHING",
        manifest.id.0, meta.experiment_id.0, meta.branch_id.0, meta.fence.0, signed(meta.step), folder.as_str(), manifest_sha256,
        kept("manifest.meta", meta)? as _
    );
    let is_new = done.execute(&mut *tx).await?.rows_affected() == 1;
    tx.commit().await?;
    Ok(is_new)
}
