//! One server leads a database; others started on it wait for its end.
//!
//! The lock is Postgres' own and belongs to a connection: it is free when the leader's process or machine is gone.

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Number of the advisory lock: "senmon" in ASCII.
const LOCK: i64 = 0x7365_6e6d_6f6e;
/// Between two looks at the lock.
const PERIOD: Duration = Duration::from_secs(1);
/// A connection that does not answer for so long is given up: beyond a stall, and well before Postgres gives up a
/// machine that is gone (see [`open`]).
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The right to lead, as long as it lives.
#[derive(Debug)]
pub struct Leader {
    connection: PgConnection,
    /// Its other end.
    backend: Backend,
    options: PgConnectOptions,
}

/// A process of Postgres that serves one connection; numbers come again, with another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backend {
    pid: i32,
    since: DateTime<Utc>,
}

impl Leader {
    /// Waits until no other server leads.
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn wait(options: PgConnectOptions) -> Result<Self> {
        let (mut connection, backend) = open(&options).await.context("connect to Postgres")?;
        let mut said = false;
        while !try_lock(&mut connection).await.context("ask for the lead")? {
            if !said {
                tracing::warn!("another server leads this database; this one waits for its end and serves nobody");
                said = true;
            }
            sleep(PERIOD).await;
        }
        Ok(Self { connection, backend, options })
    }

    /// Comes back when another server leads. An outage of Postgres alone ends nothing: what this server writes is
    /// guarded by states and fences, and it asks for the lead again first.
    ///
    /// # Errors
    /// Always; says why.
    pub async fn keep(mut self) -> Result<()> {
        loop {
            sleep(PERIOD).await;
            if timeout(ANSWER_MAX, self.connection.ping()).await.is_ok_and(|answer| answer.is_ok()) {
                continue;
            }
            tracing::warn!("lost the connection that holds the lead; asking for it again");
            self.lead_again().await?;
            tracing::info!("leads again");
        }
    }

    /// Asks until Postgres answers. The other end of the lost connection is closed first: Postgres may not have noticed
    /// that nobody is there any more, and the lock would seem to be another server's.
    async fn lead_again(&mut self) -> Result<()> {
        loop {
            if let Ok(Ok((mut connection, backend))) = timeout(ANSWER_MAX, open(&self.options)).await
                && close(&mut connection, self.backend).await.is_ok_and(|was_there| !was_there)
                && let Ok(locked) = try_lock(&mut connection).await
            {
                if !locked {
                    bail!("another server leads this database now");
                }
                (self.connection, self.backend) = (connection, backend);
                return Ok(());
            }
            sleep(PERIOD / 4).await;
        }
    }
}

/// Opens a connection whose end Postgres notices: over TCP it asks a silent peer after 5 s and gives it up 15 s later,
/// where the system's default is two hours.
async fn open(options: &PgConnectOptions) -> sqlx::Result<(PgConnection, Backend)> {
    let mut connection = PgConnection::connect_with(options).await?;
    let backend = sqlx::query_as!(
        Backend,
        r#"SELECT a.pid AS "pid!", a.backend_start AS "since!" FROM pg_stat_activity a, set_config('tcp_keepalives_idle', '5', false) AS idle,
           set_config('tcp_keepalives_interval', '5', false) AS step, set_config('tcp_keepalives_count', '3', false) AS count WHERE a.pid = pg_backend_pid()"#
    )
    .fetch_one(&mut connection)
    .await?;
    Ok((connection, backend))
}

async fn try_lock(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, LOCK).fetch_one(connection).await
}

/// Closes a connection of this server by its other end; false where there is no such end any more.
async fn close(connection: &mut PgConnection, backend: Backend) -> sqlx::Result<bool> {
    let closed = sqlx::query_scalar!(
        r#"SELECT pg_terminate_backend(pid) AS "closed!" FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2"#,
        backend.pid,
        backend.since
    )
    .fetch_optional(connection)
    .await?;
    Ok(closed.is_some())
}
