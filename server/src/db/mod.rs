//! The only SQL. One file per table family; updates are guarded and their affected rows checked; a row that cannot
//! be is refused when it is read.

pub mod alerts;
pub mod archive;
pub mod attempts;
pub mod audit;
pub mod branches;
pub mod checkpoints;
pub mod corpora;
pub mod edits;
mod error;
pub mod evaluations;
pub mod events;
pub mod experiments;
pub mod fits;
pub mod goodput;
pub mod idempotency;
pub mod ingest;
pub mod jobs;
pub mod leader;
pub mod leases;
pub mod lists;
pub mod metrics;
mod open_jobs;
pub mod progress;
pub mod prune;
pub mod rates;
pub mod readings;
pub mod restore;
pub mod retention;
pub mod scans;
pub mod store;
mod stored;
pub mod tokens;
pub mod troubles;
pub mod usage;
pub mod workers;

pub use error::{DbError, Result};
use serde::{Serialize, de::DeserializeOwned};
pub use sqlx::PgPool;
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::time::Duration;
pub use stored::Listed;
use stored::{Stored, each, kept, sentence, worded};

/// While Postgres is away, a request is told so after this long: longer than a busy disk holds a commit up, within
/// which every connection may be taken.
const ACQUIRE_MAX: Duration = Duration::from_secs(15);

/// A connection that does not answer within this time is closed, when it is given back and when it has idled: one whose
/// answer a wire has lost would be waited for until all are, and none is left.
const PING_MAX: Duration = Duration::from_secs(5);
/// A connection that has idled so long may have died meanwhile.
const IDLED: Duration = Duration::from_secs(1);

/// Connects, and brings the schema up to this program's version.
///
/// # Errors
/// When the database is not reachable, or was migrated by a newer program.
pub async fn connect(options: PgConnectOptions) -> anyhow::Result<PgPool> {
    use anyhow::Context;
    let pool = PgPoolOptions::new()
        .max_connections(24)
        .acquire_timeout(ACQUIRE_MAX)
        .after_release(|connection, _| Box::pin(answers(connection)))
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { if meta.idle_for < IDLED { Ok(true) } else { answers(connection).await } })
        })
        .connect_with(options)
        .await
        .context("connect to Postgres")?;
    sqlx::migrate!("../migrations").run(&pool).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::VersionMissing(version) => anyhow::anyhow!(
            "the database is newer than this program: it has migration {version}, which is unknown here; start a newer senmon-server"
        ),
        other => anyhow::Error::new(other).context("migrate the database"),
    })?;
    Ok(pool)
}

/// Whether a connection answers.
async fn answers(connection: &mut PgConnection) -> std::result::Result<bool, sqlx::Error> {
    in_time(PING_MAX, connection.ping()).await.map(|()| true)
}

/// Begins a transaction, in a task of its own. Whoever asked may be given up meanwhile, and sqlx rolls back only what it
/// knows to have begun: what came next on such a connection would see an old snapshot, or never be committed.
async fn transaction(pool: &PgPool) -> std::result::Result<sqlx::Transaction<'static, sqlx::Postgres>, sqlx::Error> {
    begun_with(pool, "BEGIN").await
}

/// Begins a transaction that reads what was there when it began, and writes nothing.
///
/// # Errors
/// When Postgres does not answer.
pub async fn snapshot(pool: &PgPool) -> std::result::Result<sqlx::Transaction<'static, sqlx::Postgres>, sqlx::Error> {
    begun_with(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

async fn begun_with(
    pool: &PgPool,
    statement: &'static str,
) -> std::result::Result<sqlx::Transaction<'static, sqlx::Postgres>, sqlx::Error> {
    let pool = pool.clone();
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let begun = tokio::spawn(async move { pool.begin_with(statement).await });
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// What is asked of the database, or that it has not answered in time: a wire may lose an answer, and no driver notices.
///
/// # Errors
/// Those of the work, and a time-out.
pub async fn in_time<T, E: From<sqlx::Error>>(
    limit: Duration,
    work: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    let silent = |_| {
        let message = format!("the database has not answered for {} s", limit.as_secs());
        Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message)).into())
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(silent)
}

/// Begins what a request changes: the first transaction of a request with an `Idempotency-Key` reserves it.
///
/// # Errors
/// When Postgres refuses; [`DbError::Conflict`] when the key is taken.
pub async fn begin(pool: &PgPool) -> Result<sqlx::Transaction<'static, sqlx::Postgres>> {
    let mut tx = transaction(pool).await?;
    idempotency::reserve(&mut tx).await?;
    Ok(tx)
}

/// The word of a unit enum, as serde writes it.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("not a unit enum: {other:?}"),
    }
}

/// The unit enum of a word.
pub(crate) fn unword<T: DeserializeOwned>(word: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|error| DbError::Impossible(format!("{word:?}: {error}")))
}

/// A count that Postgres keeps as a signed number.
pub(crate) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A count for Postgres.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
