//! Values in jsonb columns: what is written was read back first, and a row that cannot be read hides itself alone.

use super::error::{DbError, Result};
use senmon_protocol::{said, said::Said, view::BrokenRow};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Database, Decode, Postgres, Type, error::BoxDynError, postgres::PgTypeInfo, types::Json};
use std::{
    collections::HashSet,
    sync::{LazyLock, Mutex, PoisonError},
};
use uuid::Uuid;

/// A value for a jsonb column: only what comes back equal from its JSON (which knows no number that is not finite) is
/// stored. `path` is where it stands in what was asked.
///
/// # Errors
/// [`DbError::Unstorable`].
pub(crate) fn kept<'a, T>(path: &'static str, value: &'a T) -> Result<Json<&'a T>>
where
    T: ?Sized + Serialize + ToOwned<Owned: DeserializeOwned + PartialEq<T>>,
{
    let bytes = serde_json::to_vec(value).map_err(|error| DbError::Unstorable {
        path: path.into(),
        why: said!("cannot_be_read", why = error.to_string()),
    })?;
    let back = serde_path_to_error::deserialize::<_, T::Owned>(&mut serde_json::Deserializer::from_slice(&bytes));
    let place = match back {
        Ok(back) if back == *value => return Ok(Json(value)),
        Ok(_) => path.to_owned(),
        Err(error) => format!("{path}.{}", error.path()),
    };
    Err(DbError::Unstorable { path: place, why: said!("refused_unstorable") })
}

/// What a jsonb column holds: a value, or why it is none.
#[derive(Debug, Clone)]
pub(crate) struct Stored<T>(std::result::Result<T, String>);

impl<T> Stored<T> {
    /// The value of this column.
    ///
    /// # Errors
    /// [`DbError::Impossible`].
    pub fn read(self, column: &str) -> Result<T> {
        self.0.map_err(|why| DbError::Impossible(format!("{column}: {why}")))
    }
}

impl<T> Type<Postgres> for Stored<T> {
    fn type_info() -> PgTypeInfo {
        <Json<()> as Type<Postgres>>::type_info()
    }

    fn compatible(found: &PgTypeInfo) -> bool {
        <Json<()> as Type<Postgres>>::compatible(found)
    }
}

impl<'r, T: DeserializeOwned + 'r> Decode<'r, Postgres> for Stored<T> {
    fn decode(value: <Postgres as Database>::ValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        Ok(Self(<Json<T> as Decode<Postgres>>::decode(value).map(|json| json.0).map_err(|error| error.to_string())))
    }
}

/// A column's sentence as a kind and values, where its English words are that sentence still.
pub(crate) fn worded(text: Option<&str>, said: Option<Stored<Said>>) -> Option<Said> {
    said?.0.ok()?.that_says(text?)
}

/// The sentence of a column, as a kind and values where it is known as such.
pub(crate) fn sentence(text: Option<String>, said: Option<Stored<Said>>) -> Option<Said> {
    worded(text.as_deref(), said).or_else(|| text.map(Said::verbatim))
}

/// Rows that could be read, and those that could not.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    /// Read.
    pub rows: Vec<T>,
    /// Not read: nothing but their id and the reason is known.
    pub broken: Vec<BrokenRow>,
}

impl<T> Listed<T> {
    /// All rows.
    ///
    /// # Errors
    /// [`DbError::Impossible`] when one of them cannot be read.
    pub fn all(self) -> Result<Vec<T>> {
        match self.broken.into_iter().next() {
            Some(broken) => Err(DbError::Impossible(broken.problem)),
            None => Ok(self.rows),
        }
    }

    /// The only row, if there is one.
    ///
    /// # Errors
    /// [`DbError::Impossible`] when it cannot be read.
    pub fn one(mut self) -> Result<Option<T>> {
        match self.broken.pop() {
            Some(broken) => Err(DbError::Impossible(broken.problem)),
            None => Ok(self.rows.pop()),
        }
    }
}

/// Rows that were found broken and said to be so: once each, not at every turn of every loop.
static SAID: LazyLock<Mutex<HashSet<(&'static str, Uuid)>>> = LazyLock::new(Mutex::default);

/// What was read, or why it cannot be, which is said in the log once.
pub(crate) fn said<T>(noun: &'static str, id: Uuid, read: Result<T>) -> std::result::Result<T, String> {
    read.map_err(|error| {
        let problem = format!("the {noun} {id} cannot be read: {error}");
        if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert((noun, id)) {
            tracing::error!(problem, "a row of the database is set aside");
        }
        problem
    })
}

/// Reads rows one by one: what cannot be read is said in the log once, and spoils no other.
pub(crate) fn each<R, T>(
    noun: &'static str,
    rows: Vec<R>,
    id: impl Fn(&R) -> Uuid,
    read: impl Fn(R) -> Result<T>,
) -> Listed<T> {
    let mut listed = Listed { rows: Vec::with_capacity(rows.len()), broken: Vec::new() };
    for row in rows {
        let id = id(&row);
        match said(noun, id, read(row)) {
            Ok(row) => listed.rows.push(row),
            Err(problem) => listed.broken.push(BrokenRow { id: id.to_string(), problem }),
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::spec::ExperimentSpec;

    #[test]
    fn what_json_does_not_give_back_is_not_stored() {
        let text = include_str!("../../../configs/experiments/demo.yaml");
        let mut spec: ExperimentSpec = senmon_protocol::file::parse(text).unwrap();
        assert!(kept("spec", &spec).is_ok());
        spec.training.learning_rate = f64::NAN;
        let Err(DbError::Unstorable { path, .. }) = kept("spec", &spec) else { panic!("it was stored") };
        assert!(path.starts_with("spec.training"), "{path}");
        spec.training.learning_rate = 0.1;
        spec.deadline = None;
        spec.budget.slot_hours = Some(f64::INFINITY);
        assert!(kept("spec", &spec).is_err(), "null would come back as nothing");
    }
}
