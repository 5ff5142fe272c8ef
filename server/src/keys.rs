//! Keys of requests that may come twice: whose turn it is, and answers with a secret, which are kept nowhere else.

use crate::db::idempotency::{Answer, Key};
use senmon_protocol::ids::TokenId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long an answer with a secret is kept, in memory.
const SECRET_FOR: Duration = Duration::from_secs(3600);

/// Keys in use.
#[derive(Debug, Clone, Default)]
pub struct Keys(Arc<Mutex<HashMap<(TokenId, String), Turn>>>);

/// Whoever holds it answers a key; an answer with a secret, and since when.
pub type Turn = Arc<tokio::sync::Mutex<Option<(Answer, Instant)>>>;

impl Keys {
    /// The turn of a key: its requests follow each other.
    #[must_use]
    pub fn turn(&self, key: &Key) -> Turn {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1 || turn.try_lock().is_ok_and(|secret| is_fresh(&secret)));
        turns.entry((key.token, key.key.clone())).or_default().clone()
    }
}

/// Whether an answer with a secret is there, and not too old.
#[must_use]
pub fn is_fresh(secret: &Option<(Answer, Instant)>) -> bool {
    secret.as_ref().is_some_and(|(_, since)| since.elapsed() < SECRET_FOR)
}
