//! Who asked a moment ago, and what was revoked since.

use crate::{
    api::error::ApiResult,
    db::{
        audit,
        tokens::{self, Identity},
    },
    limits::Limits,
};
use chrono::Utc;
use senmon_protocol::ids::{AttemptId, WorkerId};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long an answer of the database counts. What this server revokes counts at once, and no other one serves the same
/// database; an expiry is looked at each time.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// Tokens, and attempts, remembered at most.
const KNOWN_MAX: usize = 50_000;
/// How often a stream that is open asks whether its token still counts.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What was asked of the database a moment ago: a thousand workers are not a thousand look-ups a second.
#[derive(Debug)]
pub struct Known {
    memory: Mutex<Memory>,
    over: watch::Sender<Revocations>,
}

/// How often tokens were revoked, and how often sessions ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revocations {
    tokens: u64,
    sessions: u64,
}

impl Revocations {
    /// Those that what was asked with a token alone, or with a session, has to do with.
    fn of(self, session: bool) -> Self {
        if session { self } else { Self { sessions: 0, ..self } }
    }
}

#[derive(Debug, Default)]
struct Memory {
    /// By the SHA-256 of the secret: whose it is, and when that was asked.
    tokens: HashMap<Vec<u8>, (Arc<Identity>, Instant)>,
    /// Which worker executes an attempt. That never changes.
    attempts: HashMap<AttemptId, WorkerId>,
}

impl Default for Known {
    fn default() -> Self {
        Self { memory: Mutex::default(), over: watch::channel(Revocations::default()).0 }
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose secret this is, accepted or not; `from` asks.
    ///
    /// # Errors
    /// When the database does not answer, or too many secrets from there were none.
    pub async fn by_secret(
        &self,
        (db, limits): (&PgPool, &Limits),
        secret_sha256: Vec<u8>,
        from: IpAddr,
    ) -> ApiResult<Option<Arc<Identity>>> {
        let known = self.lock().tokens.get(&secret_sha256).cloned();
        match known {
            Some((identity, since)) if since.elapsed() < KNOWN_FOR => return Ok(Some(identity)),
            Some(_) => {}
            // Whoever tries secrets is told to wait, and asks the database nothing.
            None => limits.may_be_looked_up(from)?,
        }
        let asked = Instant::now();
        let revocations = self.revocations();
        let found = tokens::by_secret(db, &secret_sha256).await?.map(Arc::new);
        let mut memory = self.lock();
        if memory.tokens.len() >= KNOWN_MAX {
            memory.tokens.clear();
        }
        match &found {
            // Asked before a revocation, the answer may be the one from before.
            Some(identity) if self.revocations().tokens == revocations.tokens => {
                memory.tokens.insert(secret_sha256, (identity.clone(), asked));
            }
            Some(_) => {
                memory.tokens.remove(&secret_sha256);
            }
            None => {
                limits.was_a_stranger(from);
                memory.tokens.remove(&secret_sha256);
            }
        }
        Ok(found)
    }

    /// A secret that was made a moment ago, after so many revocations.
    pub fn learn(&self, secret_sha256: Vec<u8>, whose: Identity, revocations: Revocations) {
        let mut memory = self.lock();
        if self.revocations().tokens == revocations.tokens && memory.tokens.len() < KNOWN_MAX {
            memory.tokens.insert(secret_sha256, (Arc::new(whose), Instant::now()));
        }
    }

    /// The worker that executes an attempt.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_of(&self, db: &PgPool, attempt: AttemptId) -> ApiResult<Option<WorkerId>> {
        if let Some(worker) = self.lock().attempts.get(&attempt) {
            return Ok(Some(*worker));
        }
        let found = audit::worker_of(db, attempt).await?;
        if let Some(worker) = found {
            let mut memory = self.lock();
            if memory.attempts.len() >= KNOWN_MAX {
                memory.attempts.clear();
            }
            memory.attempts.insert(attempt, worker);
        }
        Ok(found)
    }

    /// Forgets every token: one was revoked, or replaced. What waits or streams asks again whether its own still counts.
    pub fn forget(&self) {
        self.lock().tokens.clear();
        self.over.send_modify(|count| count.tokens += 1);
    }

    /// A session ended: what it has open ends too. Nothing but sessions asks again.
    pub fn signed_out(&self) {
        self.over.send_modify(|count| count.sessions += 1);
    }

    /// How many revocations there were.
    #[must_use]
    pub fn revocations(&self) -> Revocations {
        *self.over.borrow()
    }

    /// Waits until the token or the session of a request is not accepted any more.
    pub async fn over(&self, db: &PgPool, of: &Watched) {
        let mut counts = self.over.subscribe();
        // One between the look at the token and now is not missed.
        let mut seen = of.revocations.of(of.session.is_some());
        loop {
            let left = of.who.expires_at.and_then(|at| (at - Utc::now()).to_std().ok()).unwrap_or(ASK_AGAIN);
            let more = counts.wait_for(|now| now.of(of.session.is_some()) != seen);
            let _ = tokio::time::timeout(left.min(ASK_AGAIN), more).await;
            seen = counts.borrow_and_update().of(of.session.is_some());
            // A database that does not answer ends no stream.
            let accepted = match &of.session {
                Some(session) => {
                    let found = tokens::by_session(db, session).await;
                    found.map(|found| found.is_some_and(|identity| identity.over(Utc::now()).is_none()))
                }
                None => tokens::is_accepted(db, of.who.id).await,
            };
            if let Ok(false) = accepted {
                return;
            }
        }
    }
}

/// Who is asking for what may last, and how many revocations there were before that was looked up.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Who.
    pub who: Arc<Identity>,
    /// The browser's session, where it is one.
    pub session: Option<Session>,
    /// Revocations before.
    pub revocations: Revocations,
}

/// SHA-256 of a session's secret.
pub type Session = Vec<u8>;
