//! The one door for bodies: their size and the time that they take are bounded before they are read, and what cannot be read is named with its path.

use crate::{api::error::ApiError, app::App};
use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{StatusCode, header},
};
use senmon_protocol::file;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A JSON body of at most `KIB` KiB. JSON has no number that is not finite, and its parser follows no more than 128
/// levels.
#[derive(Debug)]
pub struct Body<T, const KIB: usize = 64>(pub T);

/// A file that somebody wrote: JSON, or YAML where the content type says so.
#[derive(Debug)]
pub struct FileBody<T>(pub T);

impl<T: DeserializeOwned, const KIB: usize> FromRequest<App> for Body<T, KIB> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        if is_yaml(&request) {
            return Err(ApiError::Malformed("found YAML, expected JSON: only experiment files may be YAML".into()));
        }
        json(&read(app, request, KIB << 10).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<App> for FileBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let is_yaml = is_yaml(&request);
        let bytes = read(app, request, file::FILE_BYTES_MAX).await?;
        if !is_yaml {
            return json(&bytes).map(Self);
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| ApiError::Malformed(format!("the file is no UTF-8: {error}")))?;
        file::parse(text).map(Self).map_err(|fault| ApiError::Invalid(vec![fault]))
    }
}

fn is_yaml(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.contains("yaml")
}

/// The bytes of a body; of one that is larger, or does not come in time, no more is read.
async fn read(app: &App, mut request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    let limit = app.config.body_timeout_ms;
    let read = tokio::time::timeout(Duration::from_millis(limit), Bytes::from_request(request, &()));
    read.await.map_err(|_| ApiError::TooSlow(limit))?.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge(bytes_max),
        _ => ApiError::Malformed(error.to_string()),
    })
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes: &[u8] = if bytes.is_empty() { b"null" } else { bytes };
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes)).map_err(|error| {
        let path = error.path().to_string();
        ApiError::invalid(if path == "." { "body" } else { &path }, error.inner().to_string())
    })
}
