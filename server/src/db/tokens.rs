//! Tokens, browser sessions, one-time codes, idempotency keys.

use super::{DbError, Result, begin, unword, word};
use senmon_protocol::{
    ids::TokenId,
    view::{Role, TokenView},
};
use sqlx::PgPool;

/// Who is asking.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The token's row.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
}

/// Stores a token.
///
/// # Errors
/// When Postgres refuses.
pub async fn insert(pool: &PgPool, name: &str, role: Role, prefix: &str, secret_sha256: &[u8]) -> Result<TokenView> {
    let id = TokenId::new();
    let mut tx = begin(pool).await?;
    let row = sqlx::query!(
        "INSERT INTO tokens (id, name, role, prefix, secret_sha256) VALUES ($1, $2, $3, $4, $5) RETURNING created_at",
        id.0,
        name,
        word(&role),
        prefix,
        secret_sha256
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(TokenView {
        id,
        name: name.to_owned(),
        role,
        prefix: prefix.to_owned(),
        created_at: row.created_at,
        used_at: None,
    })
}

/// Whether there is any token yet.
///
/// # Errors
/// When Postgres refuses.
pub async fn any(pool: &PgPool) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM tokens) AS "any!""#).fetch_one(pool).await?)
}

/// The owner of a bearer secret; notes the use once a minute.
///
/// # Errors
/// When Postgres refuses.
pub async fn by_secret(pool: &PgPool, secret_sha256: &[u8]) -> Result<Option<Identity>> {
    let row = sqlx::query!(
        "SELECT id, name, role, used_at < now() - interval '1 minute' AS stale FROM tokens WHERE secret_sha256 = $1",
        secret_sha256
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.stale.unwrap_or(true) {
        sqlx::query!("UPDATE tokens SET used_at = now() WHERE id = $1", row.id).execute(pool).await?;
    }
    Ok(Some(Identity { id: TokenId(row.id), name: row.name, role: unword(&row.role)? }))
}

/// All tokens.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(pool: &PgPool) -> Result<Vec<TokenView>> {
    let rows = sqlx::query!("SELECT id, name, role, prefix, created_at, used_at FROM tokens ORDER BY created_at")
        .fetch_all(pool)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(TokenView {
                id: TokenId(row.id),
                name: row.name,
                role: unword(&row.role)?,
                prefix: row.prefix,
                created_at: row.created_at,
                used_at: row.used_at,
            })
        })
        .collect()
}

/// Deletes a token and its sessions.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Conflict`] for the last admin's: nobody could make another.
pub async fn delete(pool: &PgPool, id: TokenId) -> Result<()> {
    let mut tx = begin(pool).await?;
    // Locked, so that of two admins' tokens that are deleted at once one stays.
    let admins = sqlx::query_scalar!("SELECT id FROM tokens WHERE role = 'admin' ORDER BY id FOR UPDATE")
        .fetch_all(&mut *tx)
        .await?;
    if admins == [id.0] {
        let message = "this is the last admin's token: create another one before it is revoked";
        return Err(DbError::Conflict(message.into()));
    }
    let done = sqlx::query!("DELETE FROM tokens WHERE id = $1", id.0).execute(&mut *tx).await?;
    tx.commit().await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(DbError::NotFound { noun: "token", id: id.to_string() }) }
}

/// Opens a session, or stores a one-time code.
///
/// # Errors
/// When Postgres refuses.
pub async fn insert_session(
    pool: &PgPool,
    secret_sha256: &[u8],
    token: TokenId,
    hours: i32,
    one_time: bool,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO sessions (secret_sha256, token_id, expires_at, one_time) VALUES ($1, $2, now() + make_interval(hours => $3), $4)",
        secret_sha256, token.0, hours, one_time
    ).execute(pool).await?;
    Ok(())
}

/// The owner of a session's cookie.
///
/// # Errors
/// When Postgres refuses.
pub async fn by_session(pool: &PgPool, secret_sha256: &[u8]) -> Result<Option<Identity>> {
    let row = sqlx::query!(
        "SELECT t.id, t.name, t.role FROM sessions s JOIN tokens t ON t.id = s.token_id
         WHERE s.secret_sha256 = $1 AND NOT s.one_time AND s.expires_at > now()",
        secret_sha256
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| Ok(Identity { id: TokenId(row.id), name: row.name, role: unword(&row.role)? })).transpose()
}

/// Uses a one-time code up.
///
/// # Errors
/// When Postgres refuses.
pub async fn take_code(pool: &PgPool, secret_sha256: &[u8]) -> Result<Option<TokenId>> {
    let row = sqlx::query!(
        "DELETE FROM sessions WHERE secret_sha256 = $1 AND one_time AND expires_at > now() RETURNING token_id",
        secret_sha256
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| TokenId(row.token_id)))
}

/// Closes a session.
///
/// # Errors
/// When Postgres refuses.
pub async fn delete_session(pool: &PgPool, secret_sha256: &[u8]) -> Result<()> {
    sqlx::query!("DELETE FROM sessions WHERE secret_sha256 = $1", secret_sha256).execute(pool).await?;
    Ok(())
}

/// Deletes what has expired: sessions, and idempotency keys older than a day.
///
/// # Errors
/// When Postgres refuses.
pub async fn prune(pool: &PgPool) -> Result<()> {
    sqlx::query!("DELETE FROM sessions WHERE expires_at < now()").execute(pool).await?;
    sqlx::query!("DELETE FROM idempotency_keys WHERE created_at < now() - interval '1 day'").execute(pool).await?;
    Ok(())
}
