//! Who is asking: bearer tokens and browser sessions. What they may do is `gate`'s.

pub use crate::known::Watched;
use crate::{
    api::error::{ApiError, ApiResult},
    app::App,
    db::{self, tokens::Identity},
    known::Session,
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, header, request::Parts},
};
use chrono::Utc;
use senmon_protocol::{said, view::Role};
use sha2::{Digest, Sha256};
use std::{net::IpAddr, sync::Arc};

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

/// Who sends a request, and the session of a browser.
///
/// # Errors
/// [`ApiError::Unauthenticated`], [`ApiError::TokenOver`]; [`ApiError::TooMany`]; [`ApiError::Forbidden`] for a browser that may have been led here
/// by another site.
pub async fn identify(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    from: IpAddr,
) -> ApiResult<(Arc<Identity>, Option<Session>)> {
    let authorization = headers.get_all(header::AUTHORIZATION).iter();
    let mut session = None;
    let found = if let Some(secret) = authorization.filter_map(|value| bearer(value.to_str().ok()?)).next() {
        app.known.by_secret((&app.db, &app.limits), hash(secret), from).await?
    } else {
        let secret = cookie(headers).ok_or(ApiError::Unauthenticated)?;
        if method != Method::GET && method != Method::HEAD && !headers.contains_key(CSRF_HEADER) {
            return Err(ApiError::Forbidden(said!("refused_header")));
        }
        app.limits.may_be_looked_up(from)?;
        let found = db::tokens::by_session(&app.db, session.insert(hash(&secret))).await?;
        if found.is_none() {
            app.limits.was_a_stranger(from);
        }
        found.map(Arc::new)
    };
    let identity = found.ok_or(ApiError::Unauthenticated)?;
    match identity.over(Utc::now()) {
        Some(why) => Err(ApiError::TokenOver(why)),
        None => {
            app.limits.token(&identity)?;
            Ok((identity, session))
        }
    }
}

/// The secret of an `Authorization`; the scheme's case does not matter (RFC 9110, 11.1). Another scheme is a proxy's own.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// Who is asking, as the gate found and let in.
#[derive(Debug, Clone)]
pub struct Who(pub Arc<Identity>);

impl<S: Send + Sync> FromRequestParts<S> for Watched {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::Unauthenticated)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Watched>().map(|watched| Self(watched.who.clone())).ok_or(ApiError::Unauthenticated)
    }
}
