//! Tokens, browser sessions, one-time codes.

use super::{DbError, Result, begin, unword, word};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{TokenId, WorkerId},
    said,
    said::{Said, expected::quoted},
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
    /// The worker whose credential it is.
    pub worker: Option<WorkerId>,
    /// Not accepted from then on.
    pub expires_at: Option<DateTime<Utc>>,
    /// Taken back then.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl Identity {
    /// Why it is not accepted any more.
    #[must_use]
    pub fn over(&self, now: DateTime<Utc>) -> Option<Said> {
        let day = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M UTC").to_string();
        let name = quoted(&self.name);
        match (self.revoked_at, self.expires_at) {
            (Some(at), _) => Some(said!("token_revoked", name = name, when = day(at))),
            (None, Some(at)) if at <= now => Some(said!("token_expired", name = name, when = day(at))),
            _ => None,
        }
    }
}

struct Row {
    id: uuid::Uuid,
    name: String,
    role: String,
    prefix: String,
    created_at: DateTime<Utc>,
    used_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    uses_left: Option<i32>,
    worker_id: Option<uuid::Uuid>,
}

impl TryFrom<Row> for TokenView {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: TokenId(row.id),
            name: row.name,
            role: unword(&row.role)?,
            prefix: row.prefix,
            created_at: row.created_at,
            used_at: row.used_at,
            expires_at: row.expires_at,
            uses_left: row.uses_left.and_then(|left| u32::try_from(left).ok()),
            worker_id: row.worker_id.map(WorkerId),
        })
    }
}

/// What a token is made with.
#[derive(Debug, Clone)]
pub struct New<'a> {
    /// Name for people.
    pub name: &'a str,
    /// Role; not a worker's.
    pub role: Role,
    /// First characters of the secret.
    pub prefix: &'a str,
    /// SHA-256 of the secret.
    pub secret_sha256: &'a [u8],
    /// Days until it ends.
    pub days: Option<u16>,
    /// Workers that may enrol with it.
    pub uses: Option<u32>,
}

/// Stores a token.
///
/// # Errors
/// When Postgres refuses.
pub async fn insert(pool: &PgPool, new: &New<'_>) -> Result<TokenView> {
    let mut tx = begin(pool).await?;
    let row = sqlx::query_as!(
        Row,
        "INSERT INTO tokens (id, name, role, prefix, secret_sha256, expires_at, uses_left)
         VALUES ($1, $2, $3, $4, $5, now() + make_interval(days => $6), $7)
         RETURNING id, name, role, prefix, created_at, used_at, expires_at, uses_left, worker_id",
        TokenId::new().0,
        new.name,
        word(&new.role),
        new.prefix,
        new.secret_sha256,
        new.days.map(i32::from),
        new.uses.and_then(|uses| i32::try_from(uses).ok())
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    row.try_into()
}

/// Whether there is any token yet.
///
/// # Errors
/// When Postgres refuses.
pub async fn any(pool: &PgPool) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM tokens) AS "any!""#).fetch_one(pool).await?)
}

/// The owner of a bearer secret, also of one that is not accepted any more; notes the use once a minute, a worker's every
/// ten: of a thousand workers the last heartbeat says as much.
///
/// # Errors
/// When Postgres refuses.
pub async fn by_secret(pool: &PgPool, secret_sha256: &[u8]) -> Result<Option<Identity>> {
    let row = sqlx::query!(
        "SELECT id, name, role, worker_id, expires_at, revoked_at,
             used_at < now() - CASE WHEN role = 'worker' THEN interval '10 minutes' ELSE interval '1 minute' END AS stale
         FROM tokens WHERE secret_sha256 = $1",
        secret_sha256
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.stale.unwrap_or(true) {
        sqlx::query!("UPDATE tokens SET used_at = now() WHERE id = $1", row.id).execute(pool).await?;
    }
    Ok(Some(Identity {
        id: TokenId(row.id),
        name: row.name,
        role: unword(&row.role)?,
        worker: row.worker_id.map(WorkerId),
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
    }))
}

/// Whether a token is accepted now.
///
/// # Errors
/// When Postgres refuses.
pub async fn is_accepted(pool: &PgPool, id: TokenId) -> Result<bool> {
    let accepted = sqlx::query_scalar!(
        r#"SELECT revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS "accepted!" FROM tokens WHERE id = $1"#,
        id.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(accepted.unwrap_or(false))
}

/// All tokens that are not revoked.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(pool: &PgPool) -> Result<Vec<TokenView>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, name, role, prefix, created_at, used_at, expires_at, uses_left, worker_id FROM tokens
         WHERE revoked_at IS NULL ORDER BY created_at, id"
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Revokes a token and ends its sessions. The row stays for a while: its holder hears why it is refused.
///
/// # Errors
/// [`DbError::NotFound`]; [`DbError::Conflict`] for the last admin's: nobody could make another.
pub async fn revoke(pool: &PgPool, id: TokenId) -> Result<()> {
    let mut tx = begin(pool).await?;
    // Locked, so that of two admins' tokens that are revoked at once one stays.
    let admins = sqlx::query_scalar!(
        "SELECT id FROM tokens WHERE role = 'admin' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) ORDER BY id FOR UPDATE"
    )
    .fetch_all(&mut *tx)
    .await?;
    if admins == [id.0] {
        return Err(DbError::Conflict(said!("refused_last_admin")));
    }
    let done = sqlx::query!("UPDATE tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", id.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("DELETE FROM sessions WHERE token_id = $1", id.0).execute(&mut *tx).await?;
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
        "SELECT t.id, t.name, t.role, t.expires_at, t.revoked_at FROM sessions s JOIN tokens t ON t.id = s.token_id
         WHERE s.secret_sha256 = $1 AND NOT s.one_time AND s.expires_at > now()",
        secret_sha256
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let (expires_at, revoked_at) = (row.expires_at, row.revoked_at);
        Ok(Identity {
            id: TokenId(row.id),
            name: row.name,
            role: unword(&row.role)?,
            worker: None,
            expires_at,
            revoked_at,
        })
    })
    .transpose()
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
