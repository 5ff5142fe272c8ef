//! Who is asking, and may they: bearer tokens, browser sessions, roles.

use crate::{
    api::error::ApiError,
    app::App,
    db::{self, tokens::Identity},
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, header, request::Parts},
};
use senmon_protocol::view::Role;
use sha2::{Digest, Sha256};

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

/// Who is asking. Any role; see [`Viewer`], [`User`], [`Admin`], [`Worker`].
#[derive(Debug, Clone)]
pub struct Auth(pub Identity);

impl FromRequestParts<App> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
            let secret =
                value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or(ApiError::Unauthenticated)?;
            return db::tokens::by_secret(&app.db, &hash(secret)).await?.map(Self).ok_or(ApiError::Unauthenticated);
        }
        let secret = cookie(&parts.headers).ok_or(ApiError::Unauthenticated)?;
        if parts.method != Method::GET && !parts.headers.contains_key(CSRF_HEADER) {
            return Err(ApiError::Forbidden("a browser session needs the header X-Senmon to change something".into()));
        }
        db::tokens::by_session(&app.db, &hash(&secret)).await?.map(Self).ok_or(ApiError::Unauthenticated)
    }
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
