//! Validators. An experiment's is made of what people edit, one hash a field, and of the whole answer: `If-Match` looks
//! at the former alone, so that progress is no edit, and a refusal can say what was changed.

use crate::{api::error::ApiError, db::edits::Editable};
use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use senmon_corpus::hex;
use senmon_protocol::{problem::Fault, said, view::ExperimentView};
use sha2::{Digest, Sha256};

/// Characters of a value that a refusal shows.
const SHOWN_MAX: usize = 200;

/// What people edit of an experiment, as `PATCH` names it, and how it stands.
fn edited(Editable { spec, note }: &Editable) -> [(&'static str, String); 5] {
    let text = |value: Option<String>| value.unwrap_or_else(|| "none".into());
    [
        ("priority", spec.priority.to_string()),
        ("deadline", text(spec.deadline.map(|deadline| deadline.to_rfc3339()))),
        ("budget", text(serde_json::to_string(&spec.budget).ok())),
        ("labels", spec.labels.join(", ")),
        ("note", note.clone()),
    ]
}

fn short(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..6])
}

fn of(edits: &Editable, body: &[u8]) -> String {
    let fields = edited(edits).map(|(_, value)| short(value.as_bytes()));
    format!("\"{}-{}\"", fields.join("-"), short(body))
}

/// The answer with an experiment, or 304 where the reader has it.
///
/// # Errors
/// When it is no JSON.
pub fn answer(status: StatusCode, headers: &HeaderMap, view: &ExperimentView) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(view).map_err(anyhow::Error::from)?;
    let tag = of(&Editable { spec: view.spec.clone(), note: view.note.clone() }, &body);
    if is_known(headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let kind = "application/json".to_owned();
    Ok((status, [(header::CONTENT_TYPE, kind), (header::ETAG, tag)], body).into_response())
}

/// Whether `If-None-Match` names this tag.
#[must_use]
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    tags(headers, header::IF_NONE_MATCH).iter().any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

/// Refuses an edit of what was edited since it was read, by the fields that differ.
///
/// # Errors
/// [`ApiError::Changed`].
pub fn ensure_unchanged(headers: &HeaderMap, edits: &Editable) -> Result<(), ApiError> {
    let read = tags(headers, header::IF_MATCH);
    if read.is_empty() || read.iter().any(|tag| tag == "*") {
        return Ok(());
    }
    let changes = read.iter().map(|tag| {
        let mut hashes = tag.trim_matches('"').split('-');
        let fields = edited(edits).into_iter().filter(|(_, now)| hashes.next() != Some(&short(now.as_bytes())));
        fields.collect::<Vec<_>>()
    });
    let fewest = changes.min_by_key(Vec::len).unwrap_or_default();
    if fewest.is_empty() {
        return Ok(());
    }
    // Of a long note its beginning tells enough.
    let begins = |now: String| now.chars().take(SHOWN_MAX).collect::<String>();
    let fault = |(path, now): (&str, String)| Fault::said(path, said!("changed_since", now = begins(now)));
    Err(ApiError::Changed(fewest.into_iter().map(fault).collect()))
}

/// Entity tags of a header; texts that are none count as tags that match nothing.
fn tags(headers: &HeaderMap, name: header::HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    lines.flat_map(|line| line.split(',').map(|tag| tag.trim().to_owned()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, tag: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, tag.parse().unwrap())])
    }

    #[test]
    fn progress_is_no_edit_and_an_edit_is_named() {
        let text = include_str!("../../../configs/experiments/demo.yaml");
        let mut edits = Editable { spec: senmon_protocol::file::parse(text).unwrap(), note: String::new() };
        let tag = of(&edits, b"now");
        let refused = |edits: &Editable, tag: &str| {
            ensure_unchanged(&headers(header::IF_MATCH, tag), edits).map_err(|error| match error {
                ApiError::Changed(faults) => faults.into_iter().map(|fault| fault.path).collect::<Vec<_>>(),
                other => vec![other.to_string()],
            })
        };
        assert!(is_known(&headers(header::IF_NONE_MATCH, &tag), &tag));
        assert!(!is_known(&headers(header::IF_NONE_MATCH, &tag), &of(&edits, b"later")));
        assert_eq!(refused(&edits, &of(&edits, b"later")), Ok(()));
        assert_eq!(refused(&edits, "*"), Ok(()));
        assert_eq!(refused(&edits, "\"x\"").unwrap_err().len(), 5);
        edits.spec.priority += 1;
        assert_eq!(refused(&edits, &tag), Err(vec!["priority".to_owned()]));
        assert_eq!(refused(&edits, &format!("\"x\", {}", of(&edits, b""))), Ok(()));
        edits.spec.budget.slot_hours = Some(7.0);
        assert_eq!(refused(&edits, &tag), Err(vec!["priority".to_owned(), "budget".to_owned()]));
        let tag = of(&edits, b"");
        edits.spec.labels.push("team=speech".into());
        edits.note = "**loss** is fine".into();
        assert_eq!(refused(&edits, &tag), Err(vec!["labels".to_owned(), "note".to_owned()]));
    }
}
