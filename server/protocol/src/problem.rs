//! The one error body of the API: RFC 9457 `application/problem+json`.

use crate::said::Said;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Stable word for scripts: `invalid_input`, `not_found`, `stale_fence`, `conflict`, `unauthenticated`, …
    pub code: String,
    /// The kind of problem in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time: the field or file, what was found, what is accepted.
    pub detail: String,
    /// Every fault of the input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Id of the request, to quote.
    #[serde(default)]
    pub request_id: String,
}

/// One fault of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Path in the file or body: `plan[0].tokens`.
    pub path: String,
    /// What was found and what is accepted.
    pub message: String,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
}

impl Fault {
    /// A fault in English words alone.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), said: None }
    }

    /// A fault as a kind and values.
    #[must_use]
    pub fn said(path: impl Into<String>, said: Said) -> Self {
        Self { path: path.into(), message: said.text(), said: Some(said) }
    }
}
