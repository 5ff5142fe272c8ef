//! One server leads a database; others started on it wait for its end.
//!
//! The lock is Postgres' own and belongs to a connection: it is free when the leader's process or machine is gone.

use anyhow::{Context, Result, bail};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::time::Duration;

/// Number of the advisory lock: "senmon" in ASCII.
const LOCK: i64 = 0x7365_6e6d_6f6e;
/// Between two looks at the lock.
const PERIOD: Duration = Duration::from_secs(1);

/// The right to lead, as long as it lives.
#[derive(Debug)]
pub struct Leader {
    connection: PgConnection,
    options: PgConnectOptions,
}

impl Leader {
    /// Waits until no other server leads.
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn wait(options: PgConnectOptions) -> Result<Self> {
        let mut connection = PgConnection::connect_with(&options).await.context("connect to Postgres")?;
        let mut said = false;
        while !try_lock(&mut connection).await.context("ask for the lead")? {
            if !said {
                tracing::warn!("another server leads this database; this one waits for its end and serves nobody");
                said = true;
            }
            tokio::time::sleep(PERIOD).await;
        }
        Ok(Self { connection, options })
    }

    /// Comes back when another server leads. An outage of Postgres alone ends nothing: what this server writes is
    /// guarded by states and fences, and it asks for the lead again first.
    ///
    /// # Errors
    /// Always; says why.
    pub async fn keep(mut self) -> Result<()> {
        loop {
            tokio::time::sleep(PERIOD).await;
            if self.connection.ping().await.is_ok() {
                continue;
            }
            tracing::warn!("lost the connection that holds the lead; asking for it again");
            self.connection = loop {
                match PgConnection::connect_with(&self.options).await {
                    Ok(connection) => break connection,
                    Err(_) => tokio::time::sleep(PERIOD).await,
                }
            };
            if !try_lock(&mut self.connection).await.unwrap_or(false) {
                bail!("another server leads this database now");
            }
        }
    }
}

async fn try_lock(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, LOCK).fetch_one(connection).await
}
