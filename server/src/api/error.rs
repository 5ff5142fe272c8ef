//! The one error type of the API: RFC 9457 problem documents.

use crate::{db::DbError, limits::Wait};
use axum::{
    Json,
    http::{StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use senmon_protocol::{
    problem::{Fault, Problem},
    said,
    said::{Said, of},
};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The input has faults.
    #[error("{} fault(s) in the input", .0.len())]
    Invalid(Vec<Fault>),
    /// The body or query cannot be read.
    #[error("{}", .0.text())]
    Malformed(Said),
    /// The body did not come in time, milliseconds.
    #[error("the body did not come within {0} ms")]
    TooSlow(u64),
    /// Too much is asked at once.
    #[error("too much is asked at once")]
    TooMany(Wait),
    /// The body is larger than this request may have, in bytes.
    #[error("found a body of more than {0} bytes")]
    TooLarge(usize),
    /// The body is of another kind than this request may have.
    #[error("{}", .0.text())]
    Unsupported(Said),
    /// It was changed since it was read: what, and to what.
    #[error("{} change(s) since it was read", .0.len())]
    Changed(Vec<Fault>),
    /// The file has no such range; its length in bytes.
    #[error("found a range that begins beyond the end of {0} bytes")]
    NoSuchRange(u64),
    /// Nobody known is asking.
    #[error("a bearer token or a session is needed")]
    Unauthenticated,
    /// A token that was accepted once.
    #[error("{}", .0.text())]
    TokenOver(Said),
    /// Somebody is asking who may not.
    #[error("{}", .0.text())]
    Forbidden(Said),
    /// The path knows other methods: these.
    #[error("found another method than this path knows, expected {0}")]
    Method(String),
    /// There is no such thing.
    #[error("{}", .0.text())]
    NotFound(Said),
    /// The state does not allow it.
    #[error("{}", .0.text())]
    Conflict(Said),
    /// Another machine lives under a worker's name.
    #[error("{}", .0.text())]
    NameTaken(Said),
    /// The fence is old.
    #[error("{}", .0.text())]
    StaleFence(Said),
    /// The database or the store is away, or does not answer in time.
    #[error("the database or the store does not answer")]
    Unavailable(#[source] anyhow::Error),
    /// A disk is nearly full, or a budget spent.
    #[error("{}", .0.text())]
    NoRoom(Said),
    /// A stored row that this program cannot read.
    #[error("{}", .0.text())]
    Unreadable(Said),
    /// The server's own fault.
    #[error("the server could not do it")]
    Internal(#[source] anyhow::Error),
}

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// One fault at one path.
    #[must_use]
    pub fn invalid(path: &str, said: Said) -> Self {
        Self::Invalid(vec![Fault::said(path, said)])
    }

    /// One fault in English words alone: what a worker, or MLflow's client, is told.
    #[must_use]
    pub fn unsaid(path: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault::new(path, message)])
    }

    /// There is no such thing of this kind, by this id or name.
    #[must_use]
    pub fn missing(noun: &str, id: impl ToString) -> Self {
        Self::NotFound(said!("no_such", noun = of::noun(noun), id = id.to_string()))
    }

    /// What happened, as a kind and values; none where the faults say it.
    fn said(&self) -> Option<Said> {
        Some(match self {
            Self::Invalid(_) | Self::Changed(_) => return None,
            Self::Malformed(said)
            | Self::Unsupported(said)
            | Self::TokenOver(said)
            | Self::Forbidden(said)
            | Self::NotFound(said)
            | Self::Conflict(said)
            | Self::NameTaken(said)
            | Self::StaleFence(said)
            | Self::NoRoom(said)
            | Self::Unreadable(said) => said.clone(),
            Self::TooSlow(ms) => said!("refused_too_slow", ms = *ms),
            Self::TooMany(wait) => said!("refused_too_many", seconds = retry_seconds(wait)),
            Self::TooLarge(bytes) => said!("refused_too_large", bytes = *bytes),
            Self::NoSuchRange(bytes) => said!("refused_range", bytes = *bytes),
            Self::Unauthenticated => said!("refused_stranger"),
            Self::Method(methods) => said!("refused_method", methods = methods),
            Self::Unavailable(_) => said!("refused_unavailable"),
            Self::Internal(_) => said!("refused_internal"),
        })
    }

    fn kind(&self) -> (StatusCode, &'static str, Said) {
        match self {
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_input", said!("problem_invalid_input")),
            Self::Malformed(_) => (StatusCode::UNPROCESSABLE_ENTITY, "malformed", said!("problem_malformed")),
            Self::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "too_slow", said!("problem_too_slow")),
            Self::TooMany(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", said!("problem_too_many_requests"))
            }
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", said!("problem_too_large")),
            Self::Unsupported(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", said!("problem_unsupported")),
            Self::Changed(_) => (StatusCode::PRECONDITION_FAILED, "changed", said!("problem_changed")),
            Self::NoSuchRange(_) => {
                (StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range", said!("problem_no_such_range"))
            }
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", said!("problem_unauthenticated")),
            Self::TokenOver(_) => (StatusCode::UNAUTHORIZED, "token_over", said!("problem_token_over")),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", said!("problem_forbidden")),
            Self::Method(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", said!("problem_method_not_allowed"))
            }
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", said!("problem_not_found")),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", said!("problem_conflict")),
            Self::NameTaken(_) => (StatusCode::CONFLICT, "name_taken", said!("problem_name_taken")),
            Self::StaleFence(_) => (StatusCode::CONFLICT, "stale_fence", said!("problem_stale_fence")),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", said!("problem_unavailable")),
            Self::NoRoom(_) => (StatusCode::INSUFFICIENT_STORAGE, "no_room", said!("problem_no_room")),
            Self::Unreadable(_) => (StatusCode::INTERNAL_SERVER_ERROR, "unreadable", said!("problem_unreadable")),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", said!("problem_internal")),
        }
    }
}

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
        match error {
            DbError::NotFound { noun, id } => Self::missing(noun, id),
            DbError::StaleFence(attempt) => Self::StaleFence(said!("refused_stale_fence", attempt = attempt)),
            DbError::Conflict(said) => Self::Conflict(said),
            DbError::NameTaken(said) => Self::NameTaken(said),
            DbError::Unstorable { path, why } => Self::invalid(&path, why),
            DbError::Impossible(why) => Self::Unreadable(said!("refused_unreadable", why = why)),
            DbError::Sql(ref sql) if is_away(sql) => Self::Unavailable(error.into()),
            DbError::Sql(ref sql) if has_nul(sql) => Self::Malformed(said!("refused_nul")),
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
        match &self {
            Self::Unavailable(error) => tracing::warn!(error = format!("{error:#}"), "no answer in time"),
            Self::Internal(error) => tracing::error!(error = format!("{error:#}"), "request failed"),
            _ => {}
        }
        let ((status, code, title), said) = (self.kind(), self.said());
        let more = match &self {
            Self::Unavailable(_) => Some((header::RETRY_AFTER, "1".to_owned())),
            Self::TooMany(wait) => Some((header::RETRY_AFTER, retry_seconds(wait).to_string())),
            Self::NoSuchRange(bytes) => Some((header::CONTENT_RANGE, format!("bytes */{bytes}"))),
            Self::Method(methods) => Some((header::ALLOW, methods.clone())),
            _ => None,
        };
        let faults = if let Self::Invalid(faults) | Self::Changed(faults) = self { faults } else { Vec::new() };
        let listed = || faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect::<Vec<_>>();
        let problem = Problem {
            kind: format!("/problems/{code}"),
            code: code.into(),
            title: title.text(),
            status: status.as_u16(),
            detail: said.as_ref().map_or_else(|| listed().join("; "), Said::text),
            said,
            faults,
            request_id: String::new(),
        };
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, AppendHeaders(more), Json(problem)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Clients word a title by its code.
    #[test]
    fn a_title_is_the_message_of_its_code() {
        let said = Said::default;
        for error in [
            ApiError::Invalid(Vec::new()),
            ApiError::Malformed(said()),
            ApiError::TooSlow(1),
            ApiError::TooMany(Wait(Duration::ZERO)),
            ApiError::TooLarge(1),
            ApiError::Unsupported(said()),
            ApiError::Changed(Vec::new()),
            ApiError::NoSuchRange(1),
            ApiError::Unauthenticated,
            ApiError::TokenOver(said()),
            ApiError::Forbidden(said()),
            ApiError::Method("GET".into()),
            ApiError::NotFound(said()),
            ApiError::Conflict(said()),
            ApiError::NameTaken(said()),
            ApiError::StaleFence(said()),
            ApiError::Unavailable(anyhow::anyhow!("away")),
            ApiError::NoRoom(said()),
            ApiError::Unreadable(said()),
            ApiError::Internal(anyhow::anyhow!("broken")),
        ] {
            let (_, code, title) = error.kind();
            assert_eq!(title.key, format!("problem_{code}"), "{error}");
            let has_faults = matches!(error, ApiError::Invalid(_) | ApiError::Changed(_));
            assert_eq!(error.said().is_none(), has_faults, "{error}");
        }
    }
}
