//! `Idempotency-Key`: a request that comes twice makes one thing.

use crate::{
    api::error::ApiError,
    db::{idempotency::Key, tokens::Identity},
};
use axum::{extract::FromRequestParts, http::request::Parts};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Longest key.
const CHARS_MAX: usize = 200;

/// The header, checked before anything else is done.
#[derive(Debug, Clone)]
pub struct IdempotencyKey(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let good = value.to_str().ok().filter(|key| (1..=CHARS_MAX).contains(&key.len()));
        good.map(|key| Self(Some(key.to_owned()))).ok_or_else(|| {
            let message = format!("found {} bytes, expected 1 to {CHARS_MAX} printable ASCII characters", value.len());
            ApiError::invalid("Idempotency-Key", message)
        })
    }
}

impl IdempotencyKey {
    /// The key of this operation with this body.
    ///
    /// # Errors
    /// When the body is no JSON.
    pub fn of(self, who: &Identity, operation: &str, body: &impl Serialize) -> Result<Option<Key>, ApiError> {
        let Self(Some(key)) = self else { return Ok(None) };
        let body = serde_json::to_vec(body).map_err(anyhow::Error::from)?;
        let request_sha256 =
            Sha256::new().chain_update(operation).chain_update([0]).chain_update(body).finalize().to_vec();
        Ok(Some(Key { token: who.id, key, request_sha256 }))
    }
}
