//! Keys of requests that may come twice: reserved in the transaction that does what was asked, so that of many at once
//! one makes something, and the others are told what it made.

use super::{DbError, Result};
use senmon_protocol::ids::TokenId;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// A key of a token, and which request it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Who asks.
    pub token: TokenId,
    /// The key.
    pub key: String,
    /// SHA-256 of the operation and the body.
    pub request_sha256: Vec<u8>,
}

/// What the same request made before.
///
/// # Errors
/// [`DbError::Conflict`] when the key came with another request.
pub async fn made(executor: impl PgExecutor<'_>, key: Option<&Key>) -> Result<Option<Uuid>> {
    let Some(Key { token, key, request_sha256 }) = key else { return Ok(None) };
    let row = sqlx::query!(
        r#"SELECT request_sha256, (response->>'id')::uuid AS "made!" FROM idempotency_keys WHERE token_id = $1 AND key = $2"#,
        token.0,
        key
    )
    .fetch_optional(executor)
    .await?;
    match row {
        Some(row) if row.request_sha256 != *request_sha256 => {
            Err(DbError::Conflict("Idempotency-Key: this key came with another request; choose a new one".into()))
        }
        row => Ok(row.map(|row| row.made)),
    }
}

/// Reserves a key for what this transaction makes. Some: the same request made that before, and nothing is to be done.
/// One that comes while another is under way waits for it.
///
/// # Errors
/// [`DbError::Conflict`] when the key came with another request.
pub async fn reserve(tx: &mut PgConnection, key: Option<&Key>, id: Uuid) -> Result<Option<Uuid>> {
    let Some(Key { token, key: text, request_sha256 }) = key else { return Ok(None) };
    let done = sqlx::query!(
        "INSERT INTO idempotency_keys (token_id, key, request_sha256, status, response) VALUES ($1, $2, $3, 201, jsonb_build_object('id', $4::uuid))
         ON CONFLICT DO NOTHING",
        token.0, text, request_sha256, id
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(None);
    }
    made(tx, key).await
}
