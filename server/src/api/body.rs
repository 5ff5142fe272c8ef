//! The one door for bodies: their size is bounded before they are read, and what cannot be read is named with its path.

use crate::{api::error::ApiError, app::App};
use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{StatusCode, header},
};
use senmon_protocol::file;
use serde::de::DeserializeOwned;

/// A JSON body of at most `KIB` KiB. JSON has no number that is not finite, and its parser follows no more than 128
/// levels.
#[derive(Debug)]
pub struct Body<T, const KIB: usize = 64>(pub T);

/// A file that somebody wrote: JSON, or YAML where the content type says so.
#[derive(Debug)]
pub struct FileBody<T>(pub T);

impl<T: DeserializeOwned, const KIB: usize> FromRequest<App> for Body<T, KIB> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &App) -> Result<Self, ApiError> {
        match kind(&request)? {
            Kind::Json => {}
            Kind::Yaml => {
                return Err(ApiError::Unsupported("found YAML, expected JSON: only experiment files may be YAML".into()));
            }
        }
        json(&read(request, KIB << 10).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<App> for FileBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &App) -> Result<Self, ApiError> {
        let kind = kind(&request)?;
        let bytes = read(request, file::FILE_BYTES_MAX).await?;
        if kind == Kind::Json {
            return json(&bytes).map(Self);
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| ApiError::Malformed(format!("the file is no UTF-8: {error}")))?;
        file::parse(text).map(Self).map_err(|fault| ApiError::Invalid(vec![fault]))
    }
}

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Yaml,
}

/// What the headers say of a body; one that says nothing is JSON. No body is compressed: what it would become is not
/// bounded by what it is.
fn kind(request: &Request) -> Result<Kind, ApiError> {
    let header = |name| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(coding) = header(header::CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(ApiError::Unsupported(format!("Content-Encoding: found {coding:?}, expected a body as it is")));
    }
    let Some(found) = header(header::CONTENT_TYPE) else { return Ok(Kind::Json) };
    let name = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "application/json" => Ok(Kind::Json),
        json if json.starts_with("application/") && json.ends_with("+json") => Ok(Kind::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Kind::Yaml),
        _ => Err(ApiError::Unsupported(format!("Content-Type: found {found:?}, expected application/json"))),
    }
}

/// The bytes of a body; of one that is larger no more is read.
async fn read(mut request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    Bytes::from_request(request, &()).await.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge(bytes_max),
        _ => ApiError::Malformed(error.to_string()),
    })
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes: &[u8] = if bytes.is_empty() { b"null" } else { bytes };
    // serde would read an array as the fields of an object in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::invalid("body", "found an array, expected an object"));
    }
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes)).map_err(|error| {
        let path = error.path().to_string();
        ApiError::invalid(if path == "." { "body" } else { &path }, error.inner().to_string())
    })
}
