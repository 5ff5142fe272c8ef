//! Who is asking, and may they: bearer tokens, browser sessions, roles.

use crate::{
    api::{
        error::{ApiError, ApiResult},
        peer,
    },
    app::App,
    db::{self, tokens::Identity},
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, header, request::Parts},
};
use senmon_protocol::view::Role;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Name of the session's cookie.
pub const COOKIE: &str = "senmon_session";
/// Browsers send it only from our own pages: a form of another site cannot set it.
const CSRF_HEADER: &str = "x-senmon";

/// SHA-256 of a secret.
#[must_use]
pub fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// A fresh secret of 256 random bits.
///
/// # Errors
/// When the operating system has no randomness.
pub fn new_secret(role: Role) -> anyhow::Result<String> {
    use rand::TryRngCore;
    let mut bytes = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes)?;
    let letter = db::word(&role).chars().next().unwrap_or('x');
    Ok(format!("smn_{letter}_{}", senmon_corpus::hex(&bytes)))
}

/// The value of the session's cookie.
#[must_use]
pub fn cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies.split(';').find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('=').map(str::to_owned))
}

/// How long an answer of the database counts. A token that another server revoked is refused this much later; one that
/// this server revokes at once.
const KNOWN_FOR: Duration = Duration::from_secs(2);
/// Tokens remembered, at most.
const KNOWN_MAX: usize = 10_000;

/// Tokens that asked a moment ago: a thousand workers with one token are not a thousand look-ups a second.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<Remembered>>);

/// By the SHA-256 of the secret: whose it is, and when that was asked.
type Remembered = HashMap<Vec<u8>, (Identity, Instant)>;

impl Known {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn by_secret(&self, app: &App, secret_sha256: Vec<u8>, from: IpAddr) -> ApiResult<Option<Identity>> {
        let known = self.lock().get(&secret_sha256).cloned();
        match known {
            Some((identity, since)) if since.elapsed() < KNOWN_FOR => return Ok(Some(identity)),
            Some(_) => {}
            // Whoever tries secrets is told to wait, and asks the database nothing.
            None => app.limits.may_be_looked_up(from)?,
        }
        let asked = Instant::now();
        let found = db::tokens::by_secret(&app.db, &secret_sha256).await?;
        let mut known = self.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        match &found {
            Some(identity) => known.insert(secret_sha256, (identity.clone(), asked)),
            None => {
                app.limits.was_a_stranger(from);
                known.remove(&secret_sha256)
            }
        };
        Ok(found)
    }

    /// Forgets everybody: a token was revoked.
    pub fn forget(&self) {
        self.lock().clear();
    }
}

/// Who is asking. Any role; see [`Viewer`], [`User`], [`Admin`], [`Worker`].
#[derive(Debug, Clone)]
pub struct Auth(pub Identity);

impl FromRequestParts<App> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let identity = Self::identity(parts, app).await?;
        app.limits.token(&identity)?;
        Ok(Self(identity))
    }
}

impl Auth {
    async fn identity(parts: &Parts, app: &App) -> ApiResult<Identity> {
        let from = peer::of(&parts.extensions).address;
        let authorization = parts.headers.get_all(header::AUTHORIZATION).iter();
        if let Some(secret) = authorization.filter_map(|value| bearer(value.to_str().ok()?)).next() {
            return app.known.by_secret(app, hash(secret), from).await?.ok_or(ApiError::Unauthenticated);
        }
        let secret = cookie(&parts.headers).ok_or(ApiError::Unauthenticated)?;
        if parts.method != Method::GET && !parts.headers.contains_key(CSRF_HEADER) {
            return Err(ApiError::Forbidden("a browser session needs the header X-Senmon to change something".into()));
        }
        app.limits.may_be_looked_up(from)?;
        let found = db::tokens::by_session(&app.db, &hash(&secret)).await?;
        found.ok_or_else(|| {
            app.limits.was_a_stranger(from);
            ApiError::Unauthenticated
        })
    }
}

/// The secret of an `Authorization`; the scheme's case does not matter (RFC 9110, 11.1). Another scheme is a proxy's own.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident: $allowed:pat, $words:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub Identity);

        impl FromRequestParts<App> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
                let Auth(identity) = Auth::from_request_parts(parts, app).await?;
                if matches!(identity.role, $allowed) {
                    return Ok(Self(identity));
                }
                Err(ApiError::Forbidden(format!("this needs the role {}; the token {:?} has {}", $words, identity.name, crate::db::word(&identity.role))))
            }
        }
    )+};
}

roles! {
    /// May read.
    Viewer: Role::Viewer | Role::User | Role::Admin, "viewer, user or admin";
    /// May submit and steer.
    User: Role::User | Role::Admin, "user or admin";
    /// May manage workers and tokens.
    Admin: Role::Admin, "admin";
    /// May speak the worker protocol.
    Worker: Role::Worker | Role::Admin, "worker";
}
