//! Workers.

use super::{
    DbError, Listed, Result, Stored, begin, each, kept, sentence, tokens::Identity, transaction, unword, word,
};
use crate::domain::{
    access::{Entry, Holder, Refusal, may_enrol},
    lease::Patience,
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{ExperimentId, TokenId, WorkerId},
    job::JobKind,
    said,
    said::{Said, expected::quoted},
    view::{Role, WorkerMode, WorkerState},
    worker::{EnrolWorker, SlotInfo},
};
use sqlx::{PgExecutor, PgPool};
use std::collections::BTreeMap;

/// A worker's row.
#[derive(Debug, Clone)]
pub struct WorkerRow {
    /// Id.
    pub id: WorkerId,
    /// Name.
    pub name: String,
    /// Host name.
    pub host: String,
    /// Version of the program.
    pub version: String,
    /// Slots.
    pub slots: Vec<SlotInfo>,
    /// Kinds it can run.
    pub capabilities: Vec<JobKind>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is given new jobs.
    pub mode: WorkerMode,
    /// Why the server set it aside.
    pub set_aside: Option<Said>,
    /// Declared lost.
    pub lost: bool,
    /// Memory in use.
    pub memory_used_bytes: i64,
    /// CPU in use.
    pub cpu_share: f64,
    /// Last heard of.
    pub seen_at: DateTime<Utc>,
}

/// Enrols a worker under its name; its session grows. By an enrolment token it gets the credential that it made, and what
/// it had before is revoked. `patience` is asked, with the database's clock, only where the name is known: a fleet that
/// arrives should not wait for more than it must.
///
/// # Errors
/// [`DbError::NameTaken`] while another machine has the name and is not lost; [`DbError::Conflict`] when the credential is
/// another worker's, or the token is used up.
pub async fn enrol(
    pool: &PgPool,
    by: &Asked<'_>,
    request: &EnrolWorker,
    patience: impl FnOnce(DateTime<Utc>) -> Patience,
) -> Result<Seated> {
    let mut tx = transaction(pool).await?;
    let entry = match by {
        Asked::Token { .. } => Entry::Token,
        Asked::Credential(worker) => Entry::Credential(*worker),
    };
    let holder = sqlx::query!(
        r#"SELECT id, host, lost, seen_at, now() AS "now!" FROM workers WHERE name = $1 FOR UPDATE"#,
        request.name
    )
    .fetch_optional(&mut *tx)
    .await?
    .map(|row| {
        let lives = !row.lost && patience(row.now).state(row.seen_at, row.now) != WorkerState::Lost;
        Holder { id: WorkerId(row.id), host: row.host, lives }
    });
    match (may_enrol(&entry, &request.host, holder.as_ref()), &holder) {
        (Err(Refusal::NotItsName), _) => {
            return Err(DbError::Conflict(said!("worker_other_name", name = quoted(&request.name))));
        }
        (Err(Refusal::NameTaken), Some(holder)) => {
            return Err(DbError::NameTaken(said!(
                "worker_name_taken",
                name = quoted(&request.name),
                host = &holder.host
            )));
        }
        _ => {}
    }
    let credential_id = TokenId::new();
    let (token, credential_sha256) = match by {
        Asked::Token { token, credential_sha256 } => (Some(token.0), Some(*credential_sha256)),
        Asked::Credential(_) => (None, None),
    };
    // One statement: a fleet that arrives waits for the row of its enrolment token, and that no longer than this takes.
    let row = sqlx::query!(
        r#"WITH enrolled AS (
             INSERT INTO workers (id, name, session, host, version, slots, capabilities, labels) VALUES ($1, $2, 1, $3, $4, $5, $6, $7)
             ON CONFLICT (name) DO UPDATE SET session = workers.session + 1, host = $3, version = $4, slots = $5, capabilities = $6, labels = $7,
                 seen_at = now(), lost = false
             RETURNING id, session),
         revoked AS (UPDATE tokens SET revoked_at = now() WHERE $8::uuid IS NOT NULL AND worker_id = (SELECT id FROM enrolled) AND revoked_at IS NULL),
         made AS (
             INSERT INTO tokens (id, name, role, prefix, secret_sha256, worker_id, used_at)
             SELECT $10::uuid, $2::text, 'worker', 'smn_w_', $9::bytea, id, now() FROM enrolled WHERE $8::uuid IS NOT NULL ON CONFLICT (secret_sha256) DO NOTHING RETURNING id),
         used AS (UPDATE tokens SET uses_left = uses_left - 1 WHERE id = $8 AND (uses_left IS NULL OR uses_left > 0) RETURNING id)
         SELECT id, session, EXISTS (SELECT 1 FROM made) AS "made!", EXISTS (SELECT 1 FROM used) AS "used!" FROM enrolled"#,
        WorkerId::new().0, request.name, request.host, request.version, kept("slots", &request.slots)? as _,
        kept("capabilities", &request.capabilities)? as _, kept("labels", &request.labels)? as _, token, credential_sha256, credential_id.0
    ).fetch_one(&mut *tx).await?;
    if token.is_some() && !row.made {
        return Err(DbError::Conflict(said!("credential_used")));
    }
    if token.is_some() && !row.used {
        return Err(DbError::Conflict(said!("enrolment_used_up")));
    }
    tx.commit().await?;
    let worker = WorkerId(row.id);
    let credential = token.map(|_| Identity {
        id: credential_id,
        name: request.name.clone(),
        role: Role::Worker,
        worker: Some(worker),
        expires_at: None,
        revoked_at: None,
    });
    Ok(Seated { worker, session: row.session, credential })
}

/// A worker that is enrolled.
#[derive(Debug, Clone)]
pub struct Seated {
    /// The worker.
    pub worker: WorkerId,
    /// Its session.
    pub session: i64,
    /// The credential that it has from now on, where it got one.
    pub credential: Option<Identity>,
}

/// By what a worker asks to be enrolled.
#[derive(Debug, Clone)]
pub enum Asked<'a> {
    /// By an enrolment token.
    Token {
        /// The token.
        token: TokenId,
        /// SHA-256 of the credential that it made for itself.
        credential_sha256: &'a [u8],
    },
    /// By its credential.
    Credential(WorkerId),
}

/// Notes that a worker was heard of.
///
/// # Errors
/// [`DbError::Conflict`] for an old session.
pub async fn seen(pool: &PgPool, id: WorkerId, session: i64) -> Result<()> {
    let done =
        sqlx::query!("UPDATE workers SET seen_at = now(), lost = false WHERE id = $1 AND session = $2", id.0, session)
            .execute(pool)
            .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(session_over(id)) }
}

/// The answer to an old session.
pub(super) fn session_over(id: WorkerId) -> DbError {
    DbError::Conflict(said!("worker_session_over", worker = id.to_string()))
}

/// Workers by name: all, or some.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(executor: impl PgExecutor<'_>, some: Option<&[uuid::Uuid]>) -> Result<Listed<WorkerRow>> {
    let rows = sqlx::query!(
        r#"SELECT id, name, host, version, slots AS "slots: Stored<Vec<SlotInfo>>", capabilities AS "capabilities: Stored<Vec<JobKind>>",
           labels AS "labels: Stored<BTreeMap<String, String>>", mode, set_aside, set_aside_said AS "set_aside_said: Stored<Said>", lost, memory_used_bytes, cpu_share, seen_at FROM workers
           WHERE ($1::uuid[] IS NULL OR id = ANY($1)) AND (archived_at IS NULL OR seen_at > archived_at) ORDER BY name"#,
        some
    ).fetch_all(executor).await?;
    Ok(each(
        "worker",
        rows,
        |row| row.id,
        |row| {
            Ok(WorkerRow {
                id: WorkerId(row.id),
                name: row.name,
                host: row.host,
                version: row.version,
                slots: row.slots.read("slots")?,
                capabilities: row.capabilities.read("capabilities")?,
                labels: row.labels.read("labels")?,
                mode: unword(&row.mode)?,
                set_aside: sentence(row.set_aside, row.set_aside_said),
                lost: row.lost,
                memory_used_bytes: row.memory_used_bytes,
                cpu_share: row.cpu_share,
                seen_at: row.seen_at,
            })
        },
    ))
}

/// Changes whether a worker is given new jobs; what runs on a draining one is released by its next heartbeat. Enabled,
/// it is no longer set aside, and what failed there before is forgiven.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn set_mode(pool: &PgPool, id: WorkerId, mode: WorkerMode) -> Result<()> {
    let mut tx = begin(pool).await?;
    let done = sqlx::query!(
        "UPDATE workers SET mode = $2, set_aside = CASE WHEN $2 = 'enabled' THEN NULL ELSE set_aside END,
             judged_from = CASE WHEN $2 = 'enabled' THEN now() ELSE judged_from END WHERE id = $1",
        id.0,
        word(&mode)
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(DbError::NotFound { noun: "worker", id: id.to_string() });
    }
    tx.commit().await?;
    Ok(())
}

/// Marks workers lost that were silent for `ttl + lost_after`; the ones newly lost.
///
/// # Errors
/// When Postgres refuses.
pub async fn mark_lost(pool: &PgPool, silent_ms: i64) -> Result<Vec<(WorkerId, String)>> {
    let rows = sqlx::query!(
        "UPDATE workers SET lost = true WHERE NOT lost AND seen_at < now() - make_interval(secs => $1::bigint / 1000.0) RETURNING id, name", silent_ms
    ).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| (WorkerId(row.id), row.name)).collect())
}

/// How fast branches train: tokens per second with what may be compared, experiment, device and slots.
///
/// # Errors
/// When Postgres refuses.
pub async fn rates(pool: &PgPool) -> Result<Vec<((ExperimentId, String, u16), WorkerId, f64)>> {
    let rows = sqlx::query!(
        r#"SELECT j.experiment_id AS "experiment_id!", j.worker_id AS "worker_id!", j.slots, j.tokens_per_second, a.slots AS "held: Stored<Vec<u16>>",
           w.slots AS "infos: Stored<Vec<SlotInfo>>" FROM jobs j JOIN attempts a ON a.id = j.attempt_id JOIN workers w ON w.id = j.worker_id
           WHERE j.state = 'running' AND j.kind = 'train' AND j.tokens_per_second > 0"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let (held, infos) = (row.held.read("slots").ok()?, row.infos.read("slots").ok()?);
            let device = infos.into_iter().find(|slot| held.contains(&slot.index));
            let device = device.map(|slot| slot.device_name).unwrap_or_default();
            let shape = (ExperimentId(row.experiment_id), device, u16::try_from(row.slots).unwrap_or(1));
            Some((shape, WorkerId(row.worker_id), row.tokens_per_second))
        })
        .collect())
}

/// The database's time.
///
/// # Errors
/// When Postgres refuses.
pub async fn now(executor: impl PgExecutor<'_>) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(executor).await?)
}
