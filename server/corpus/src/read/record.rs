//! A record to a document: nested fields, numbers as ids, lists of texts, missing ids.
//!
//! Never looks at a file.

use super::item::{Document, Item, RECORD_BYTES_MAX, Trouble};
use senmon_protocol::{
    corpus::{BrokenRecord, DocumentFields},
    storable,
};
use serde_json::Value;
use std::path::Path;

/// Makes the documents of one file.
pub(super) struct Maker {
    path: String,
    file: String,
    pub(super) fields: DocumentFields,
    pub(super) notes: Notes,
}

/// What was mended on the way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Notes {
    pub(super) ids_missing: u64,
    pub(super) surrogates_replaced: u64,
}

/// The needed values of a record; None where a field is missing.
pub(super) struct Values<'a> {
    pub(super) text: Option<&'a Value>,
    pub(super) id: Option<&'a Value>,
    pub(super) group: Option<&'a Value>,
    pub(super) source: Option<&'a Value>,
}

impl Maker {
    pub(super) fn new(path: &Path, fields: &DocumentFields) -> Self {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { path: path.display().to_string(), file, fields: fields.clone(), notes: Notes::default() }
    }

    pub(super) fn broken(&self, record: u64, why: impl Into<String>) -> Item {
        let why = storable(&why.into());
        Err(Trouble::Record(BrokenRecord { path: self.path.clone(), record: record + 1, why }))
    }

    pub(super) fn too_long(&self, record: u64) -> Item {
        self.broken(record, format!("longer than {} MiB", RECORD_BYTES_MAX >> 20))
    }

    /// A document of a file without fields. Line ends become `\n`.
    pub(super) fn plain(&self, record: u64, bytes: Vec<u8>) -> Item {
        match String::from_utf8(bytes) {
            Ok(text) => {
                let text = if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text };
                Ok(Document { record, id: self.place(record), group: None, source: None, text })
            }
            Err(error) => self.broken(record, format!("invalid UTF-8: {error}")),
        }
    }

    /// A document of a parsed JSON value.
    pub(super) fn json(&mut self, record: u64, value: &Value) -> Item {
        if !value.is_object() {
            return self.broken(record, format!("expected an object, found {}", kind_of(value)));
        }
        let fields = &self.fields;
        let field = |name: &Option<String>| name.as_deref().and_then(|name| lookup(value, name));
        let values = Values {
            text: lookup(value, &fields.text),
            id: field(&fields.id),
            group: field(&fields.group),
            source: field(&fields.source),
        };
        self.document(record, &values)
    }

    /// A document of a record's values.
    pub(super) fn document(&mut self, record: u64, values: &Values<'_>) -> Item {
        let fields = &self.fields;
        let made = (|| -> Result<_, String> {
            let text = values.text.ok_or_else(|| format!("field {:?} is missing", fields.text))?;
            let text =
                text_of(text).map_err(|found| format!("field {:?}: expected text, found {found}", fields.text))?;
            let label = |name: &Option<String>, value: Option<&Value>| {
                value.map_or(Ok(None), label_of).map_err(|found| {
                    format!("field {:?}: expected text or a number, found {found}", name.as_deref().unwrap_or(""))
                })
            };
            let group = label(&fields.group, values.group)?;
            Ok((text, label(&fields.id, values.id)?, group, label(&fields.source, values.source)?))
        })();
        let (text, id, group, source) = match made {
            Ok(made) => made,
            Err(why) => return self.broken(record, why),
        };
        if text.len() > RECORD_BYTES_MAX {
            return self.too_long(record);
        }
        if self.fields.id.is_some() && id.is_none() {
            self.notes.ids_missing += 1;
        }
        // Only an id that the record brings names a group: a file's name may hold anything.
        let group = group.or_else(|| Some(id.as_deref()?.split_once('#')?.0.to_owned()));
        Ok(Document { record, id: id.unwrap_or_else(|| self.place(record)), group, source, text })
    }

    fn place(&self, record: u64) -> String {
        format!("{}:{}", self.file, record + 1)
    }
}

/// A field by its name, or by a way through nested records.
fn lookup<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).or_else(|| ways(name).find_map(|(first, rest)| lookup(value.get(first)?, rest)))
}

/// Every way to read a name as a field and a rest.
pub(super) fn ways(name: &str) -> impl Iterator<Item = (&str, &str)> {
    name.match_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..]))
}

/// Null is an empty text: a record without text, which is counted as such.
fn text_of(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Array(parts) => {
            let texts = parts.iter().filter(|part| !part.is_null()).map(|part| match part {
                Value::String(text) => Ok(text.as_str()),
                other => Err(format!("a list with {}", kind_of(other))),
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        other => Err(kind_of(other).into()),
    }
}

fn label_of(value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(value) => Ok(Some(value.to_string())),
        other => Ok(Some(text_of(other)?).filter(|text| !text.is_empty())),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
