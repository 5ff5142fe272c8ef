//! Keys of requests that may come twice: reserved in the transaction that does what was asked, so that nothing is done
//! twice whoever dies when; the answer is kept beside the key for a day, so that repeats are answered alike.

use super::{
    error::{DbError, Result},
    stored::Stored,
};
use chrono::{DateTime, Utc};
use senmon_protocol::{ids::TokenId, said};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool, types::Json};
use std::{cell::RefCell, collections::BTreeMap};

/// A key of a token, and which request it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Who asks.
    pub token: TokenId,
    /// The key.
    pub key: String,
    /// SHA-256 of method, path and body.
    pub request_sha256: Vec<u8>,
}

/// An answer that is given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers that describe the body.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: do it.
    Nothing,
    /// It was done and answered so.
    Answered(Answer),
    /// It was done then, and the answer is not known (any more).
    Done(DateTime<Utc>),
    /// It came with another request.
    Another,
}

/// Looks a key up.
///
/// # Errors
/// When Postgres refuses.
pub async fn find(pool: &PgPool, key: &Key) -> Result<Found> {
    let row = sqlx::query!(
        r#"SELECT request_sha256, response AS "response: Stored<Answer>", created_at FROM idempotency_keys WHERE token_id = $1 AND key = $2"#,
        key.token.0,
        key.key
    )
    .fetch_optional(pool)
    .await?;
    Ok(match row {
        None => Found::Nothing,
        Some(row) if row.request_sha256 != key.request_sha256 => Found::Another,
        // Reserved, and the server ended before it had answered.
        Some(row) => row.response.read("response").map_or(Found::Done(row.created_at), Found::Answered),
    })
}

tokio::task_local! {
    /// The key of the request that this task answers, until a transaction has reserved it.
    static ASKED: RefCell<Option<Key>>;
}

/// Answers a request whose first transaction reserves this key.
pub async fn within<F: Future>(key: Key, work: F) -> F::Output {
    ASKED.scope(RefCell::new(Some(key)), work).await
}

/// Reserves the key of the request that is being answered, if it has one that is not reserved yet.
///
/// # Errors
/// [`DbError::Conflict`] when another server does what it asks.
pub(super) async fn reserve(tx: &mut PgConnection) -> Result<()> {
    let asked = ASKED.try_with(|asked| asked.borrow_mut().take());
    let Some(Key { token, key, request_sha256 }) = asked.ok().flatten() else { return Ok(()) };
    let done = sqlx::query!(
        "INSERT INTO idempotency_keys (token_id, key, request_sha256, status, response) VALUES ($1, $2, $3, 0, 'null') ON CONFLICT DO NOTHING",
        token.0,
        key,
        request_sha256
    )
    .execute(tx)
    .await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(DbError::Conflict(said!("refused_key_busy"))),
    }
}

/// Keeps the answer to what a key was reserved for; nothing where it was not.
///
/// # Errors
/// When Postgres refuses.
pub async fn answered(pool: &PgPool, key: &Key, answer: &Answer) -> Result<()> {
    sqlx::query!(
        "UPDATE idempotency_keys SET status = $3, response = $4 WHERE token_id = $1 AND key = $2 AND status = 0",
        key.token.0,
        key.key,
        i16::try_from(answer.status).unwrap_or(i16::MAX),
        Json(answer) as _
    )
    .execute(pool)
    .await?;
    Ok(())
}
