//! What every request and every loop shares.

use crate::{config::Config, storage::Storage};
use chrono::{DateTime, Utc};
use senmon_protocol::view::StreamMessage;
use sqlx::PgPool;
use std::sync::Arc;
use tokio::sync::{Notify, broadcast};

/// Shared state; cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// Postgres.
    pub db: PgPool,
    /// The object store.
    pub storage: Storage,
    /// Settings.
    pub config: Arc<Config>,
    /// Signals to the loops and to waiting polls.
    pub wake: Wake,
    /// Hints to the dashboards.
    pub stream: broadcast::Sender<StreamMessage>,
    /// When this server began to listen, by the database.
    pub since: DateTime<Utc>,
}

/// Signals: each wakes a loop before its period is over.
#[derive(Debug, Clone, Default)]
pub struct Wake {
    /// Corpora and fits wait.
    pub discover: Arc<Notify>,
    /// An experiment may go on.
    pub advance: Arc<Notify>,
    /// Jobs or slots are free.
    pub schedule: Arc<Notify>,
    /// Jobs were granted: polls look again.
    pub granted: Arc<Notify>,
}

impl App {
    /// Sends a hint to the dashboards; nobody may be listening.
    pub fn hint(&self, message: StreamMessage) {
        let _ = self.stream.send(message);
    }

    /// Writes an event down and shows it.
    pub async fn event(&self, event: crate::db::events::NewEvent) {
        match crate::db::events::insert(&self.db, &event).await {
            Ok(view) => self.hint(StreamMessage::Event(view)),
            Err(error) => tracing::error!(event.kind, %error, "could not write an event down"),
        }
    }
}
