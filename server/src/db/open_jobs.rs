//! Open jobs, several at once: locked in one order, and ended with their owner.

use super::Result;
use senmon_protocol::ids::OwnerId;
use sqlx::PgConnection;

/// Ends the open jobs of an owner; one that runs hears it with its next heartbeat.
///
/// # Errors
/// When Postgres refuses.
pub(super) async fn end_of(tx: &mut PgConnection, owner: OwnerId) -> Result<()> {
    lock_of(&mut *tx, owner).await?;
    // One statement for both: an attempt that ends at this moment makes a running job a queued one, and whichever this
    // finds when it has waited for it, it ends.
    sqlx::query!(
        "UPDATE jobs SET state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
             command = CASE WHEN state = 'running' THEN 'cancel' ELSE command END
         WHERE (experiment_id = $1 OR corpus_id = $1) AND state IN ('queued', 'paused', 'running')",
        owner.0
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Locks the open jobs of an owner. Whatever locks several jobs does so in the order of their ids, so that two never
/// wait for each other; an UPDATE of several would take them as it finds them.
///
/// # Errors
/// When Postgres refuses.
pub(super) async fn lock_of(tx: &mut PgConnection, owner: OwnerId) -> Result<()> {
    sqlx::query!(
        "SELECT id FROM jobs WHERE (experiment_id = $1 OR corpus_id = $1) AND state IN ('queued', 'paused', 'running') ORDER BY id FOR NO KEY UPDATE",
        owner.0
    )
    .fetch_all(tx)
    .await?;
    Ok(())
}

/// Locks jobs, in the order of [`lock_of`].
///
/// # Errors
/// When Postgres refuses.
pub(super) async fn lock(tx: &mut PgConnection, jobs: &[uuid::Uuid]) -> Result<()> {
    sqlx::query!("SELECT id FROM jobs WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", jobs).fetch_all(tx).await?;
    Ok(())
}
