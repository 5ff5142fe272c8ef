//! The one door for bodies: their size and the time that they take are bounded before they are read, and what cannot be read is named with its path.

use crate::{api::error::ApiError, app::App};
use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{StatusCode, header},
};
use senmon_protocol::{
    file, said,
    said::{Said, expected::quoted},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

/// A JSON body of at most `KIB` KiB. JSON has no number that is not finite, and its parser follows no more than 128
/// levels.
#[derive(Debug)]
pub struct Body<T, const KIB: usize = 64>(pub T);

/// The same of what workers send a thousand times a second: nobody looks at it a second time.
#[derive(Debug)]
pub struct Message<T, const KIB: usize>(pub T);

/// A file that somebody wrote: JSON, or YAML where the content type says so.
#[derive(Debug)]
pub struct FileBody<T>(pub T);

impl<T: DeserializeOwned + Serialize, const KIB: usize> FromRequest<App> for Body<T, KIB> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let bytes = json_bytes(app, request, KIB << 10).await?;
        let value = json(&bytes)?;
        exact(&value, || json(&bytes)).map(|()| Self(value))
    }
}

impl<T: DeserializeOwned, const KIB: usize> FromRequest<App> for Message<T, KIB> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        json(&json_bytes(app, request, KIB << 10).await?).map(Self)
    }
}

impl<T: DeserializeOwned + Serialize> FromRequest<App> for FileBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let kind = kind(&request)?;
        let bytes = read(app, request, file::FILE_BYTES_MAX).await?;
        if kind == Kind::Json {
            let value = json(&bytes)?;
            return exact(&value, || json(&bytes)).map(|()| Self(value));
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| ApiError::Malformed(said!("refused_not_utf8", why = error.to_string())))?;
        let refused = |fault| ApiError::Invalid(vec![fault]);
        let value = file::parse(text).map_err(refused)?;
        exact(&value, || file::parse(text).map_err(refused)).map(|()| Self(value))
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
        return Err(ApiError::Unsupported(said!("refused_coding", coding = quoted(&coding))));
    }
    let Some(found) = header(header::CONTENT_TYPE) else { return Ok(Kind::Json) };
    let name = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "application/json" => Ok(Kind::Json),
        json if json.starts_with("application/") && json.ends_with("+json") => Ok(Kind::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Kind::Yaml),
        _ => Err(ApiError::Unsupported(said!("refused_kind", kind = quoted(&found)))),
    }
}

/// The bytes of a body; of one that is larger, or does not come in time, no more is read.
///
/// # Errors
/// 408, 413, 422.
pub async fn read(app: &App, mut request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    // One that says that it is larger is not waited for.
    let says =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if says.is_some_and(|says| says > bytes_max) {
        return Err(ApiError::TooLarge(bytes_max));
    }
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    let limit = app.config.body_timeout_ms;
    let read = tokio::time::timeout(Duration::from_millis(limit), Bytes::from_request(request, &()));
    read.await.map_err(|_| ApiError::TooSlow(limit))?.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge(bytes_max),
        _ => ApiError::Malformed(said!("cannot_be_read", why = error.to_string())),
    })
}

async fn json_bytes(app: &App, request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    if kind(&request)? == Kind::Yaml {
        return Err(ApiError::Unsupported(said!("refused_yaml")));
    }
    read(app, request, bytes_max).await
}

/// serde takes an array for the fields of an object in their order, and a number for a word of a list, at any depth:
/// nobody means that.
fn exact<T: Serialize>(value: &T, given: impl FnOnce() -> Result<Value, ApiError>) -> Result<(), ApiError> {
    let read = serde_json::to_value(value).map_err(anyhow::Error::from)?;
    match unlike(&given()?, &read, String::new()) {
        Some((path, why)) => {
            let path = path.trim_start_matches('.');
            Err(ApiError::invalid(if path.is_empty() { "body" } else { path }, why))
        }
        None => Ok(()),
    }
}

/// The path of the first value that was read as one of another kind.
fn unlike(given: &Value, read: &Value, path: String) -> Option<(String, Said)> {
    match (given, read) {
        (Value::Array(_), Value::Object(_)) => Some((path, said!("found_array_for_object"))),
        (Value::Number(_), Value::String(_)) => Some((path, said!("found_number_for_text"))),
        (Value::Array(given), Value::Array(read)) => {
            let pairs = given.iter().zip(read).enumerate();
            pairs.map(|(i, (given, read))| unlike(given, read, format!("{path}[{i}]"))).find_map(|found| found)
        }
        (Value::Object(given), Value::Object(read)) => {
            let pairs = given.iter().filter_map(|(key, given)| Some((key, given, read.get(key)?)));
            pairs.map(|(key, given, read)| unlike(given, read, format!("{path}.{key}"))).find_map(|found| found)
        }
        _ => None,
    }
}

/// Reads JSON; what is refused is named with its path.
///
/// # Errors
/// 422.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes: &[u8] = if bytes.is_empty() { b"null" } else { bytes };
    // To know the path costs about as much as to read: it is looked for only where something is refused.
    let refused = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(refused) => refused,
    };
    let again: Result<T, _> = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes));
    let (path, why) = again.err().map_or_else(
        || (".".to_owned(), refused.to_string()),
        |error| (error.path().to_string(), error.inner().to_string()),
    );
    // What ends too early has no place.
    let path = if matches!(path.as_str(), "." | "?") { "body" } else { &path };
    Err(ApiError::invalid(path, said!("cannot_be_read", why = why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::{plan::PlanRequest, view::ChangeExperiment};
    use serde_json::json;

    fn refused<T: DeserializeOwned + Serialize>(body: Value) -> String {
        let bytes = body.to_string();
        let read: Result<T, ApiError> = json(bytes.as_bytes());
        match read.and_then(|value| exact(&value, || json(bytes.as_bytes()))) {
            Ok(()) => String::new(),
            Err(ApiError::Invalid(faults)) => faults[0].path.clone(),
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn what_is_refused_is_named_with_its_path_and_nothing_stands_behind_a_body() {
        let refused = |text: &str| match json::<ChangeExperiment>(text.as_bytes()) {
            Err(ApiError::Invalid(faults)) => format!("{}: {}", faults[0].path, faults[0].message),
            found => format!("{found:?}"),
        };
        assert!(refused(r#"{ "budget": { "slot_hours": "x" } }"#).starts_with("budget.slot_hours: invalid type"));
        assert!(refused(r#"{ "priority": 1 } {}"#).starts_with("body: trailing characters"));
        assert!(refused("{").starts_with("body: EOF"));
    }

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        let text = include_str!("../../../configs/experiments/demo.yaml");
        let mut plan = json!({ "experiment": file::parse::<Value>(text).unwrap() });
        assert_eq!(refused::<PlanRequest>(plan.clone()), "");
        plan["experiment"]["seed"]["training"] = json!([]);
        assert_eq!(refused::<PlanRequest>(plan.clone()), "experiment.seed.training");
        plan["experiment"]["seed"] = json!({ "kind": 0, "tokens": "1M" });
        assert_eq!(refused::<PlanRequest>(plan), "experiment.seed.kind");
        assert_eq!(refused::<ChangeExperiment>(json!([])), "body");
        assert_eq!(refused::<ChangeExperiment>(json!({ "budget": [] })), "budget");
        assert_eq!(refused::<ChangeExperiment>(json!({ "budget": {} })), "");
    }
}
