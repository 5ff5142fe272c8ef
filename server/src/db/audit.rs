//! Who changed what, and whose it is.

use super::{DbError, Listed, Result, each, unword};
use crate::domain::access::Noun;
use senmon_protocol::{
    ids::{AttemptId, TokenId, WorkerId},
    view::AuditView,
};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::tokens::Identity;

/// The name of the token that made a thing, and so of everything that belongs to it. None where there is no such thing,
/// or nobody owns its kind.
///
/// # Errors
/// When Postgres refuses.
pub async fn owner(pool: &PgPool, noun: Noun, id: &str) -> Result<Option<String>> {
    let by_id = id.parse::<Uuid>().ok();
    let owner = match noun {
        Noun::Experiment => {
            sqlx::query_scalar!("SELECT owner FROM experiments WHERE id = $1", by_id).fetch_optional(pool).await?
        }
        Noun::Branch => {
            sqlx::query_scalar!(
                "SELECT e.owner FROM branches b JOIN experiments e ON e.id = b.experiment_id WHERE b.id = $1",
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Checkpoint => {
            sqlx::query_scalar!(
                "SELECT e.owner FROM checkpoints c JOIN experiments e ON e.id = c.experiment_id WHERE c.id = $1",
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Corpus => {
            sqlx::query_scalar!(
                "SELECT owner FROM corpora WHERE (id = $1 OR name = $2) AND archived_at IS NULL",
                by_id,
                id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Alert => {
            sqlx::query_scalar!("SELECT owner FROM alerts WHERE id = $1", by_id).fetch_optional(pool).await?
        }
        Noun::Nothing | Noun::Worker | Noun::Attempt | Noun::Token => None,
    };
    Ok(owner)
}

/// The worker that executes an attempt. It never changes.
///
/// # Errors
/// When Postgres refuses.
pub async fn worker_of(pool: &PgPool, attempt: AttemptId) -> Result<Option<WorkerId>> {
    let worker =
        sqlx::query_scalar!("SELECT worker_id FROM attempts WHERE id = $1", attempt.0).fetch_optional(pool).await?;
    Ok(worker.map(WorkerId))
}

/// What people may change of a thing, as it is now.
///
/// # Errors
/// When Postgres refuses.
pub async fn picture(pool: &PgPool, noun: Noun, id: &str) -> Result<Option<Value>> {
    let by_id = id.parse::<Uuid>().ok();
    let picture = match noun {
        Noun::Experiment => {
            sqlx::query_scalar!(
                r#"SELECT jsonb_build_object('name', name, 'state', state, 'priority', priority, 'deadline', deadline, 'owner', owner,
                       'labels', COALESCE(spec->'labels', '[]'), 'note', note,
                       'archived', archived_at IS NOT NULL, 'budget_slot_hours', budget_slot_hours, 'budget_wall_hours', budget_wall_hours,
                       'branches', (SELECT count(*) FROM branches WHERE experiment_id = e.id)) AS "picture!"
                   FROM experiments e WHERE id = $1"#,
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Branch => {
            sqlx::query_scalar!(
                r#"SELECT jsonb_build_object('name', name, 'state', state, 'steps', steps) AS "picture!" FROM branches WHERE id = $1"#,
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Corpus => {
            sqlx::query_scalar!(
                r#"SELECT jsonb_build_object('name', name, 'state', state, 'owner', owner) AS "picture!" FROM corpora WHERE (id = $1 OR name = $2) AND archived_at IS NULL"#,
                by_id,
                id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Checkpoint => {
            sqlx::query_scalar!(
                r#"SELECT jsonb_build_object('state', state, 'step', step) AS "picture!" FROM checkpoints WHERE id = $1"#,
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Worker => {
            sqlx::query_scalar!(
                r#"SELECT jsonb_build_object('name', name, 'mode', mode, 'set_aside', set_aside) AS "picture!" FROM workers WHERE id = $1"#,
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Token => {
            sqlx::query_scalar!(
                r#"SELECT jsonb_build_object('name', name, 'role', role, 'expires_at', expires_at, 'uses_left', uses_left,
                       'revoked', revoked_at IS NOT NULL) AS "picture!" FROM tokens WHERE id = $1"#,
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Alert => {
            sqlx::query_scalar!(
                r#"SELECT jsonb_build_object('name', name, 'on', occasions, 'experiment_id', experiment_id, 'kind', target_kind) AS "picture!"
                   FROM alerts WHERE id = $1"#,
                by_id
            )
            .fetch_optional(pool)
            .await?
        }
        Noun::Nothing | Noun::Attempt => None,
    };
    Ok(picture)
}

/// Writes down that somebody asks for a change, before it is done.
///
/// # Errors
/// When Postgres refuses: then nothing shall be done.
pub async fn asked(pool: &PgPool, who: &Identity, operation: &str, target: &str) -> Result<i64> {
    let id = sqlx::query_scalar!(
        "INSERT INTO audit (token_id, who, role, operation, target) VALUES ($1, $2, $3, $4, $5) RETURNING id",
        who.id.0,
        who.name,
        super::word(&who.role),
        operation,
        target
    )
    .fetch_one(pool)
    .await?;
    Ok(id)
}

/// Completes the entry with its outcome.
///
/// # Errors
/// When Postgres refuses.
pub async fn answered(pool: &PgPool, id: i64, target: &str, status: u16, changed: &(Value, Value)) -> Result<()> {
    sqlx::query!(
        "UPDATE audit SET target = $2, status = $3, before = $4, after = $5 WHERE id = $1",
        id,
        target,
        i16::try_from(status).unwrap_or(0),
        changed.0,
        changed.1
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Entries before an id, newest first: all, or those of one thing, or of one person.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(
    pool: &PgPool,
    before: Option<i64>,
    (target, who): (Option<&str>, Option<&str>),
    limit: i64,
) -> Result<Listed<AuditView>> {
    let rows = sqlx::query!(
        "SELECT id, at, token_id, who, role, operation, target, status, before, after FROM audit
         WHERE ($1::bigint IS NULL OR id < $1) AND ($2::text IS NULL OR target = $2) AND ($3::text IS NULL OR who = $3)
         ORDER BY id DESC LIMIT $4",
        before,
        target,
        who,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(each(
        "audit",
        rows,
        |row| row.token_id,
        |row| {
            Ok::<_, DbError>(AuditView {
                id: row.id,
                at: row.at,
                token_id: TokenId(row.token_id),
                who: row.who,
                role: unword(&row.role)?,
                operation: row.operation,
                target: row.target,
                status: row.status.and_then(|status| u16::try_from(status).ok()),
                before: row.before,
                after: row.after,
            })
        },
    ))
}
