//! The one error type of the API: RFC 9457 problem documents.

use crate::{db::DbError, limits::Wait};
use axum::{
    Json,
    http::{StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use senmon_protocol::problem::{Fault, Problem};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The input has faults.
    #[error("{} fault(s) in the input", .0.len())]
    Invalid(Vec<Fault>),
    /// The body or query cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// The body did not come in time, milliseconds.
    #[error("the body did not come within {0} ms, which is the most that a request may take to be sent")]
    TooSlow(u64),
    /// Too much is asked at once.
    #[error("too much is asked at once; ask again in {} s", retry_seconds(.0))]
    TooMany(Wait),
    /// The body is larger than this request may have, in bytes.
    #[error("found a body of more than {0} bytes, which is the most that this request may have")]
    TooLarge(usize),
    /// The body is of another kind than this request may have.
    #[error("{0}")]
    Unsupported(String),
    /// It was changed since it was read: what, and to what.
    #[error("{} change(s) since it was read", .0.len())]
    Changed(Vec<Fault>),
    /// The file has no such range; its length in bytes.
    #[error("found a range that begins beyond the end; the file has {0} bytes")]
    NoSuchRange(u64),
    /// Nobody known is asking.
    #[error("a bearer token or a session is needed")]
    Unauthenticated,
    /// A token that was accepted once.
    #[error("{0}")]
    TokenOver(String),
    /// Somebody is asking who may not.
    #[error("{0}")]
    Forbidden(String),
    /// The path knows other methods: these.
    #[error("found another method than this path knows; expected {0}")]
    Method(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Another machine lives under a worker's name.
    #[error("{0}")]
    NameTaken(String),
    /// The fence is old.
    #[error("{0}")]
    StaleFence(String),
    /// The database or the store is away, or does not answer in time.
    #[error("the database or the store does not answer; ask again in a moment")]
    Unavailable(#[source] anyhow::Error),
    /// A disk is nearly full, or a budget spent.
    #[error("{0}")]
    NoRoom(String),
    /// A stored row that this program cannot read.
    #[error("{0}")]
    Unreadable(String),
    /// The server's own fault.
    #[error("the server could not do it; its log says why")]
    Internal(#[source] anyhow::Error),
}

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// One fault at one path.
    #[must_use]
    pub fn invalid(path: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault::new(path, message)])
    }
}

const NUL: &str = "found a text with a NUL character (U+0000), which cannot be stored; expected texts without it";

/// Whether Postgres was not there, or its answer was not, or it ended one of two that waited for each other (40P01).
fn is_away(error: &sqlx::Error) -> bool {
    let is_deadlock = error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "40P01");
    is_deadlock || matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_))
}

/// Whether a text holds what Postgres can store in no `text` (22021) and no `jsonb` (22P05).
fn has_nul(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22021" || code == "22P05")
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match &error {
            DbError::NotFound { .. } => Self::NotFound(error.to_string()),
            DbError::StaleFence(_) => Self::StaleFence(error.to_string()),
            DbError::Conflict(_) => Self::Conflict(error.to_string()),
            DbError::NameTaken(_) => Self::NameTaken(error.to_string()),
            DbError::Sql(sql) if is_away(sql) => Self::Unavailable(error.into()),
            DbError::Sql(sql) if has_nul(sql) => Self::Malformed(NUL.into()),
            DbError::Unstorable { path, message } => Self::invalid(path, message.as_str()),
            DbError::Impossible(_) => Self::Unreadable(error.to_string()),
            DbError::Sql(_) => Self::Internal(error.into()),
        }
    }
}

/// Whole seconds, as `Retry-After` has them.
fn retry_seconds(wait: &Wait) -> u64 {
    wait.0.as_secs() + 1
}

impl From<Wait> for ApiError {
    fn from(wait: Wait) -> Self {
        Self::TooMany(wait)
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, title) = match &self {
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_input", "The input has faults"),
            Self::Malformed(_) => (StatusCode::UNPROCESSABLE_ENTITY, "malformed", "The request cannot be read"),
            Self::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "too_slow", "The request came too slowly"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too much at once"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is too large"),
            Self::Unsupported(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", "The body is of another kind"),
            Self::Changed(_) => (StatusCode::PRECONDITION_FAILED, "changed", "It was changed since it was read"),
            Self::NoSuchRange(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range", "There is no such range"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "Who is asking?"),
            Self::TokenOver(_) => (StatusCode::UNAUTHORIZED, "token_over", "The token is not accepted any more"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "This role may not do that"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path knows other methods"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", "There is no such thing"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "The state does not allow it"),
            Self::NameTaken(_) => (StatusCode::CONFLICT, "name_taken", "Another machine has this name"),
            Self::StaleFence(_) => (StatusCode::CONFLICT, "stale_fence", "The lease is over"),
            Self::Unavailable(error) => {
                tracing::warn!(error = format!("{error:#}"), "no answer in time");
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Try again in a moment")
            }
            Self::NoRoom(_) => (StatusCode::INSUFFICIENT_STORAGE, "no_room", "There is no room for it"),
            Self::Unreadable(_) => (StatusCode::INTERNAL_SERVER_ERROR, "unreadable", "A stored row cannot be read"),
            Self::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "request failed");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The server failed")
            }
        };
        let detail = match &self {
            Self::Invalid(faults) | Self::Changed(faults) => {
                faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect::<Vec<_>>().join("; ")
            }
            other => other.to_string(),
        };
        let more = match &self {
            Self::Unavailable(_) => Some((header::RETRY_AFTER, "1".to_owned())),
            Self::TooMany(wait) => Some((header::RETRY_AFTER, retry_seconds(wait).to_string())),
            Self::NoSuchRange(bytes) => Some((header::CONTENT_RANGE, format!("bytes */{bytes}"))),
            Self::Method(methods) => Some((header::ALLOW, methods.clone())),
            _ => None,
        };
        let faults = if let Self::Invalid(faults) | Self::Changed(faults) = self { faults } else { Vec::new() };
        let problem = Problem {
            kind: format!("/problems/{code}"),
            code: code.into(),
            title: title.into(),
            status: status.as_u16(),
            detail,
            faults,
            request_id: String::new(),
        };
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, AppendHeaders(more), Json(problem)).into_response()
    }
}
