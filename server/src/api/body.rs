//! Bodies: JSON (or YAML, where the content type says so), with the path of what cannot be read.

use crate::{api::error::ApiError, app::App};
use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::header,
};
use serde::de::DeserializeOwned;

/// A parsed body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_yaml = kind.contains("yaml");
        let bytes = Bytes::from_request(request, app).await.map_err(|error| ApiError::Malformed(error.to_string()))?;
        parse(&bytes, is_yaml).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], is_yaml: bool) -> Result<T, ApiError> {
    let bytes: &[u8] = if bytes.is_empty() { b"null" } else { bytes };
    let fault = |path: String, message: String| ApiError::invalid(if path == "." { "body" } else { &path }, message);
    if is_yaml {
        let value = serde_yaml_ng::Deserializer::from_slice(bytes);
        return serde_path_to_error::deserialize(value)
            .map_err(|error| fault(error.path().to_string(), error.inner().to_string()));
    }
    let mut value = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut value)
        .map_err(|error| fault(error.path().to_string(), error.inner().to_string()))
}
