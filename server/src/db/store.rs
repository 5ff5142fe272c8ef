//! Which store this database belongs to.

use super::{DbError, Result};
use senmon_protocol::ids::StorageKey;
use sqlx::PgPool;
use uuid::Uuid;

/// Id of the store; None until one was seen.
///
/// # Errors
/// When Postgres refuses.
pub async fn identity(pool: &PgPool) -> Result<Option<Uuid>> {
    Ok(sqlx::query_scalar!("SELECT id FROM store_identity").fetch_optional(pool).await?)
}

/// Notes the id of the store. The first one stays.
///
/// # Errors
/// When Postgres refuses.
pub async fn adopt(pool: &PgPool, id: Uuid) -> Result<()> {
    sqlx::query!("INSERT INTO store_identity (id) VALUES ($1) ON CONFLICT DO NOTHING", id).execute(pool).await?;
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
