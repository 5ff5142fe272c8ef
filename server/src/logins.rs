//! Commands that wait for somebody's approval. In memory only: a restart of the server ends it.

use chrono::{DateTime, Utc};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a code is good.
pub const LIFE: Duration = Duration::from_secs(600);

/// Commands that wait, by their code for people.
#[derive(Debug, Clone, Default)]
pub struct Logins(Arc<Mutex<HashMap<String, Waiting>>>);

/// A command that waits.
#[derive(Debug)]
pub struct Waiting {
    /// Hash of its own code.
    pub device_sha256: Vec<u8>,
    /// Where it asked from.
    pub address: IpAddr,
    /// What its machine calls itself.
    pub host: String,
    /// When it asked, for people.
    pub asked_at: DateTime<Utc>,
    /// Since when it waits.
    pub since: Instant,
    /// Somebody approves it, or has.
    pub approved: bool,
    /// The secret of its token, until the command fetches it.
    pub secret: Option<String>,
}

impl Logins {
    /// What waits, without what has waited too long.
    pub fn fresh(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, one| one.since.elapsed() < LIFE);
        waiting
    }
}
