//! The one error body of the API: RFC 9457 `application/problem+json`.

use crate::said::{Lang, Said, SaidValue, words};
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
    /// The same as a kind and values, for whoever words it in another language; none where the faults say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// Every fault of the input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Id of the request, to quote.
    #[serde(default)]
    pub request_id: String,
}

impl Problem {
    /// The kind of problem in the words of a language.
    #[must_use]
    pub fn title_in(&self, lang: Lang) -> String {
        words(Some(&Said { key: format!("problem_{}", self.code), ..Said::default() }), &self.title, lang)
    }
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
    /// A fault in English words alone: of what one program tells another, a worker or MLflow's client, and no person reads.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), said: None }
    }

    /// What is wrong, as a value of what says more.
    #[must_use]
    pub fn why(&self) -> SaidValue {
        self.said.clone().map_or_else(|| self.message.as_str().into(), SaidValue::Said)
    }

    /// A fault as a kind and values.
    #[must_use]
    pub fn said(path: impl Into<String>, said: Said) -> Self {
        Self { path: path.into(), message: said.text(), said: Some(said) }
    }
}
