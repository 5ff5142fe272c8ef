//! Which store this database belongs to.

use super::{DbError, Result};
use senmon_protocol::ids::StorageKey;
use sqlx::PgPool;
use uuid::Uuid;

/// The store's id, and how often this database was restored; None until one was seen.
///
/// # Errors
/// When Postgres refuses.
pub async fn identity(pool: &PgPool) -> Result<Option<(Uuid, i64)>> {
    let row = sqlx::query!("SELECT id, epoch FROM store_identity").fetch_optional(pool).await?;
    Ok(row.map(|row| (row.id, row.epoch)))
}

/// Notes the id of the store and the epoch that it knows. The first id stays, and epochs only grow.
///
/// # Errors
/// When Postgres refuses.
pub async fn adopt(pool: &PgPool, id: Uuid, epoch: i64) -> Result<()> {
    sqlx::query!(
        "INSERT INTO store_identity (id, epoch) VALUES ($1, $2)
         ON CONFLICT (one) DO UPDATE SET epoch = $2 WHERE store_identity.id = $1 AND store_identity.epoch < $2",
        id,
        epoch
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Folder of the newest committed checkpoint: something that the right store has.
///
/// # Errors
/// When Postgres refuses.
pub async fn newest_folder(pool: &PgPool) -> Result<Option<StorageKey>> {
    let folder = sqlx::query_scalar!(
        "SELECT folder FROM checkpoints WHERE state = 'committed' AND problem IS NULL ORDER BY created_at DESC LIMIT 1"
    )
    .fetch_optional(pool)
    .await?;
    folder.map(|key| StorageKey::new(key).map_err(|error| DbError::Impossible(error.to_string()))).transpose()
}
