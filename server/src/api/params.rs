//! The one door for what stands in an address: a parameter that cannot be read is refused by name, with what was found
//! and what is expected.

use crate::{api::error::ApiError, domain::validate::is_branch_name};
use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use senmon_protocol::{
    problem::Fault,
    said,
    said::expected::{found, quoted, range},
    view::Page,
};
use serde::{Deserialize, de::DeserializeOwned};
use uuid::Uuid;

/// Parameters of the path.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// Parameters behind the question mark. Their names are those that the operation has: others are refused too.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let raw = RawPathParams::from_request_parts(parts, state).await;
        let raw = raw.map_err(|error| ApiError::Malformed(said!("refused_path", why = error.to_string())))?;
        for (name, value) in &raw {
            without_nul(name, value)?;
        }
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        // Every parameter that is no text is an id, or a word of a list, which the reason names.
        read.map(|axum::extract::Path(read)| Self(read)).map_err(|error| {
            let faulty = raw.iter().find(|(_, value)| value.parse::<Uuid>().is_err());
            let (name, value) = faulty.unwrap_or(("path", ""));
            let (found, why) = (quoted(value), error.body_text());
            ApiError::invalid(
                name,
                match name {
                    "id" => said!("refused_id", found = found, why = why),
                    _ => said!("refused_parameter", found = found, why = why),
                },
            )
        })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = || form_urlencoded::parse(query.as_bytes());
        for (name, value) in pairs() {
            without_nul(&name, &value)?;
        }
        serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs())).map(Self).map_err(|error| {
            let (name, why) = (error.path().to_string(), error.inner().to_string());
            match pairs().find(|(given, _)| *given == name) {
                Some((_, value)) => ApiError::invalid(&name, said!("found_unread", found = quoted(&value), why = why)),
                None => ApiError::invalid("query", said!("cannot_be_read", why = why)),
            }
        })
    }
}

/// Texts with U+0000 name nothing: Postgres has none.
fn without_nul(name: &str, value: &str) -> Result<(), ApiError> {
    match value.contains('\0') {
        true => Err(ApiError::invalid(name, said!("found_nul"))),
        false => Ok(()),
    }
}

/// Most items of a page.
pub const LIMIT_MAX: i64 = 500;

/// Items of a page: what was asked for, or 50.
///
/// # Errors
/// When it is out of bounds.
pub fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked.unwrap_or(50) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        limit => Err(ApiError::invalid("limit", found(limit, range(1, LIMIT_MAX)))),
    }
}

/// Which page of a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

impl PageQuery {
    /// The page of a list that is short enough to be read whole; `id` is what is an item's own.
    ///
    /// # Errors
    /// When the limit is out of bounds, or the cursor is of no item.
    pub fn of<T>(&self, items: Vec<T>, id: impl Fn(&T) -> String) -> Result<Page<T>, ApiError> {
        let limit = usize::try_from(limit(self.limit)?).unwrap_or(1);
        let begin = match &self.cursor {
            None => 0,
            Some(cursor) => {
                let before = items.iter().position(|item| id(item) == *cursor);
                let unknown = || ApiError::invalid("cursor", said!("refused_cursor", found = quoted(cursor)));
                before.ok_or_else(unknown)? + 1
            }
        };
        let more = items.len() > begin + limit;
        let items: Vec<T> = items.into_iter().skip(begin).take(limit).collect();
        let next_cursor = items.last().map(id).filter(|_| more);
        Ok(Page { items, next_cursor, broken: Vec::new() })
    }
}

/// The fault of a name that people give a thing, if it has one.
#[must_use]
pub fn name_fault(name: &str) -> Option<Fault> {
    let good = is_branch_name(name) && name.chars().count() <= 100;
    let message = || found(quoted(name), said!("expected_short_name", most = 100));
    (!good).then(|| Fault::said("name", message()))
}

/// Texts separated by commas.
#[must_use]
pub fn split(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// Words of a unit enum separated by commas; None where there is no such parameter.
///
/// # Errors
/// When one is none of its words.
pub fn words<T: DeserializeOwned>(name: &str, list: Option<&str>) -> Result<Option<Vec<String>>, ApiError> {
    let Some(list) = list else { return Ok(None) };
    let words = split(list);
    for word in &words {
        if let Err(error) = serde_json::from_value::<T>(serde_json::Value::String(word.clone())) {
            return Err(ApiError::invalid(name, said!("found_unread", found = quoted(word), why = error.to_string())));
        }
    }
    if words.is_empty() {
        return Err(ApiError::invalid(name, said!("refused_no_word")));
    }
    Ok(Some(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        #[serde(default)]
        limit: Option<i64>,
    }

    async fn query(text: &str) -> Result<Option<i64>, String> {
        let (mut parts, ()) = Request::builder().uri(format!("/x?{text}")).body(()).unwrap().into_parts();
        let read = Query::<Wanted>::from_request_parts(&mut parts, &()).await;
        read.map(|Query(wanted)| wanted.limit).map_err(|error| match error {
            ApiError::Invalid(faults) => format!("{}: {}", faults[0].path, faults[0].message),
            other => other.to_string(),
        })
    }

    #[tokio::test]
    async fn a_parameter_that_cannot_be_read_is_named() {
        assert_eq!(query("limit=3").await, Ok(Some(3)));
        assert_eq!(query("").await, Ok(None));
        for (text, says) in [
            ("limit=x", "limit: found \"x\""),
            ("limit=", "limit: found \"\""),
            ("limt=3", "unknown field `limt`"),
            ("limit=3&limit=4", "duplicate field `limit`"),
            ("limit=3%00", "limit: found a text with a NUL"),
        ] {
            let refused = query(text).await.unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }

    #[test]
    fn pages_of_a_short_list_hold_every_item_once() {
        let page = |cursor: Option<&str>, limit| {
            let query = PageQuery { cursor: cursor.map(str::to_owned), limit };
            query.of(vec![3, 1, 2, 5, 4], i32::to_string).map(|page| (page.items, page.next_cursor))
        };
        assert_eq!(page(None, Some(2)).unwrap(), (vec![3, 1], Some("1".into())));
        assert_eq!(page(Some("1"), Some(2)).unwrap(), (vec![2, 5], Some("5".into())));
        assert_eq!(page(Some("5"), Some(2)).unwrap(), (vec![4], None));
        assert_eq!(page(Some("4"), None).unwrap(), (Vec::new(), None), "nothing is behind the last");
        assert_eq!(page(None, Some(5)).unwrap().1, None, "the last page says so");
        assert!(page(Some("9"), None).is_err() && page(None, Some(0)).is_err());
    }
}
