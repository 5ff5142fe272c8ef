//! `senmon explain KEY`: type, default and meaning of a key of the experiment file, from the types that read it.
//!
//! A default is what those types make of a file without the key.

use crate::{
    error::{CliError, CliResult},
    faults::nearest,
    lang::own,
    output::Format,
    schema::{Key, Schemas, Shape},
    table::Table,
};
use clap::Args;
use senmon_protocol::{said, said::expected::quoted, spec::ExperimentSpec};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Arguments.
#[derive(Debug, Args)]
pub struct Explain {
    /// A key or the end of its path: `training.learning_rate`, plan.chain.replay, `vocab_size`. All of the file without it.
    key: Option<String>,
    /// Everything below it too.
    #[arg(short, long)]
    recursive: bool,
}

/// A way down the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hop {
    Key(String),
    Item,
    Kind(String),
}

/// A key of the file.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its path, the kinds on the way among its steps: `plan.chain.replay`.
    pub path: String,
    /// What it takes.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is without being given.
    pub default: String,
    /// What it means.
    pub about: String,
    #[serde(skip)]
    route: Vec<Hop>,
}

impl Entry {
    /// The path without the kinds: `plan.replay` of `plan.chain.replay`.
    fn short(&self) -> String {
        let key = |hop: &Hop| if let Hop::Key(name) = hop { Some(name.clone()) } else { None };
        self.route.iter().filter_map(key).collect::<Vec<_>>().join(".")
    }

    fn is_below(&self, other: &Self) -> bool {
        self.route.len() > other.route.len() && self.route.starts_with(&other.route)
    }

    fn is_key(&self) -> bool {
        matches!(self.route.last(), Some(Hop::Key(_)))
    }

    fn keys(&self) -> usize {
        self.route.iter().filter(|hop| matches!(hop, Hop::Key(_))).count()
    }
}

/// Explains.
///
/// # Errors
/// When there is no such key: with those that are like it.
pub fn explain(format: Format, args: &Explain) -> CliResult {
    let all = entries(&Schemas::of_experiment_file());
    let Some(key) = &args.key else {
        let top = |entry: &&Entry| args.recursive || entry.keys() == 1 && entry.is_key();
        let entries: Vec<&Entry> = all.iter().filter(top).collect();
        return format.print(&entries, |entries| table(entries, format.width()));
    };
    let (entry, also) = find(&all, key).map_err(CliError::Refused)?;
    let inside = |other: &&Entry| other.is_below(entry) && (args.recursive || other.keys() == entry.keys() + 1);
    let below: Vec<&Entry> = all.iter().filter(inside).collect();
    let answer = json!({ "key": entry, "below": below, "also": also });
    format.print(&answer, |_| {
        let mut facts = Table::facts();
        facts.row(vec!["type", entry.kind.as_str()]);
        facts.row(vec!["default", entry.default.as_str()]);
        let mut text = format!("{}\n{}\n{}\n", entry.path, facts.render(), entry.about);
        if !below.is_empty() {
            let _ = write!(text, "\n{}", table(&below, format.width()));
        }
        if !also.is_empty() {
            let _ = write!(text, "\n{}", own(&said!("explain_also", paths = also.clone())));
        }
        text
    })
}

fn table(entries: &[&Entry], width: Option<usize>) -> String {
    let mut table = Table::new(&["=key", "=type", "=default", "what it is"]);
    for entry in entries {
        // The first sentence; the whole is one `explain` away.
        let first = entry.about.split_inclusive(". ").next().unwrap_or_default().trim();
        let kind = if entry.kind.len() > 32 { "one of several words" } else { entry.kind.as_str() };
        table.row(vec![entry.path.as_str(), kind, entry.default.as_str(), first]);
    }
    table.render_in(width)
}

/// The key that a text means, and others that it could mean.
fn find<'a>(all: &'a [Entry], text: &str) -> Result<(&'a Entry, Vec<&'a str>), String> {
    let mut plain = String::new();
    let mut inside = false;
    for c in text.trim().chars() {
        inside = inside || c == '[';
        if !inside {
            plain.push(c);
        }
        inside = inside && c != ']';
    }
    let ends = |path: &str| path == plain || path.ends_with(&format!(".{plain}"));
    let mut fitting: Vec<&Entry> =
        all.iter().filter(|entry| ends(&entry.path) || entry.is_key() && ends(&entry.short())).collect();
    fitting.sort_by_key(|entry| (entry.path != plain && entry.short() != plain, !entry.is_key(), entry.keys()));
    if let Some((first, rest)) = fitting.split_first() {
        return Ok((first, rest.iter().map(|entry| entry.path.as_str()).collect()));
    }
    let last = |path: &'a str| path.rsplit('.').next().unwrap_or_default();
    let names: Vec<&str> = all.iter().map(|entry| last(&entry.path)).collect();
    let asked = plain.rsplit('.').next().unwrap_or_default();
    let like = nearest(asked, &names).map(|near| {
        let meant = plain.rsplit_once('.').map_or_else(|| near.to_owned(), |(above, _)| format!("{above}.{near}"));
        let mut alike: Vec<&Entry> = all.iter().filter(|entry| last(&entry.path) == near).collect();
        alike.sort_by_key(|entry| (entry.path != meant && entry.short() != meant, entry.keys()));
        let paths: Vec<&str> = alike.into_iter().map(|entry| entry.path.as_str()).take(3).collect();
        said!("no_such_key_like", key = quoted(text), like = paths)
    });
    Err(own(&like.unwrap_or_else(|| said!("no_such_key", key = quoted(text)))))
}

/// All keys of the file, in the order of the tree.
#[must_use]
pub fn entries(schemas: &Schemas) -> Vec<Entry> {
    let mut all = Vec::new();
    gather(schemas, schemas.root(), &mut Vec::new(), &mut all);
    all
}

fn gather(schemas: &Schemas, schema: &Value, route: &mut Vec<Hop>, all: &mut Vec<Entry>) {
    match schemas.shape(schema) {
        Shape::Object(keys) => gather_keys(schemas, &keys, route, all),
        Shape::Kinds(_, kinds) => {
            for kind in kinds {
                route.push(Hop::Kind(kind.word.to_owned()));
                all.push(entry(route, "keys, see below".into(), "none".into(), &kind.about));
                gather_keys(schemas, &kind.keys, route, all);
                route.pop();
            }
        }
        Shape::List(items) => {
            route.push(Hop::Item);
            gather(schemas, items, route, all);
            route.pop();
        }
        _ => {}
    }
}

fn gather_keys(schemas: &Schemas, keys: &[Key<'_>], route: &mut Vec<Hop>, all: &mut Vec<Entry>) {
    for key in keys {
        route.push(Hop::Key(key.name.to_owned()));
        let default = if key.required {
            "must be given".into()
        } else {
            default_words(schemas, key.schema, &default(schemas, route))
        };
        all.push(entry(route, type_words(schemas, key.schema), default, &schemas.about(key.schema)));
        gather(schemas, key.schema, route, all);
        route.pop();
    }
}

fn entry(route: &[Hop], kind: String, default: String, about: &str) -> Entry {
    let word = |hop: &Hop| match hop {
        Hop::Key(word) | Hop::Kind(word) => Some(word.clone()),
        Hop::Item => None,
    };
    Entry {
        path: route.iter().filter_map(word).collect::<Vec<_>>().join("."),
        kind,
        default,
        about: about.split_whitespace().collect::<Vec<_>>().join(" "),
        route: route.to_vec(),
    }
}

fn type_words(schemas: &Schemas, schema: &Value) -> String {
    match schemas.shape(schema) {
        Shape::Object(_) => "keys, see below".into(),
        Shape::Kinds(tag, kinds) => {
            format!("one {tag} of {}", kinds.iter().map(|kind| kind.word).collect::<Vec<_>>().join(", "))
        }
        Shape::List(items) => match schemas.shape(items) {
            Shape::Kinds(..) => format!("list, each {}", type_words(schemas, items)),
            Shape::Object(_) => "list of keys, see below".into(),
            _ => format!("list of {}", type_words(schemas, items)),
        },
        Shape::Map(values) => format!("names with {}", type_words(schemas, values)),
        Shape::Words(words) => words.join(", "),
        Shape::Tokens => "tokens: 6500000, 6.5M".into(),
        Shape::Integer(..) => "integer".into(),
        Shape::Number => "number".into(),
        Shape::Text => "text".into(),
        Shape::Time => "time, as 2027-01-31T08:00:00Z".into(),
        Shape::Bool => "true or false".into(),
        Shape::Any => "any".into(),
    }
}

fn default_words(schemas: &Schemas, schema: &Value, value: &Value) -> String {
    // What is written only where it says something.
    let is_void = value.is_null() && !schemas.is_optional(schema) || value.as_object().is_some_and(Map::is_empty);
    if is_void {
        let is_object = matches!(schemas.shape(schema), Shape::Object(_) | Shape::Kinds(..));
        return if is_object { "as below".into() } else { "empty".into() };
    }
    match value {
        Value::Null => "none".into(),
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Array(items) if items.is_empty() => "empty".into(),
        Value::Object(_) => "as below".into(),
        other => other.to_string(),
    }
}

/// What the types that read the file make of one that says nothing of the key at the end of `route`.
fn default(schemas: &Schemas, route: &[Hop]) -> Value {
    let least = sample(schemas, schemas.root(), route);
    let read = serde_json::from_value::<ExperimentSpec>(least).and_then(serde_json::to_value);
    let mut value = read.unwrap_or_default();
    for hop in route {
        value = match hop {
            Hop::Key(name) => value[name.as_str()].take(),
            Hop::Item => value[0].take(),
            Hop::Kind(_) => value,
        };
    }
    value
}

/// A file that says no more than it must, except what leads to the object around the end of `route`.
fn sample(schemas: &Schemas, schema: &Value, route: &[Hop]) -> Value {
    match (schemas.shape(schema), route) {
        (Shape::Object(keys), route) => Value::Object(sample_keys(schemas, &keys, route)),
        (Shape::Kinds(tag, kinds), route) => {
            let (wanted, rest) = match route {
                [Hop::Kind(word), rest @ ..] => (kinds.iter().find(|kind| kind.word == word), rest),
                _ => (kinds.first(), route),
            };
            let Some(kind) = wanted else { return Value::Null };
            let mut entries = sample_keys(schemas, &kind.keys, rest);
            entries.insert(tag.to_owned(), kind.word.into());
            Value::Object(entries)
        }
        (Shape::List(items), [Hop::Item, rest @ ..]) => json!([sample(schemas, items, rest)]),
        (Shape::List(_), _) => json!([]),
        (Shape::Map(_), _) => json!({}),
        (Shape::Words(words), _) => json!(words.first()),
        (Shape::Tokens | Shape::Number, _) => json!(1),
        (Shape::Integer(least, _), _) => json!(i64::try_from(least.unwrap_or(1).max(1)).unwrap_or(1)),
        (Shape::Text, _) => json!("x"),
        (Shape::Time, _) => json!("2027-01-31T08:00:00Z"),
        (Shape::Bool, _) => json!(true),
        (Shape::Any, _) => Value::Null,
    }
}

fn sample_keys(schemas: &Schemas, keys: &[Key<'_>], route: &[Hop]) -> Map<String, Value> {
    let mut entries = Map::new();
    for key in keys {
        let on_the_way = match route {
            [Hop::Key(name), rest @ ..] if name == key.name && !rest.is_empty() => Some(rest),
            _ => None,
        };
        if key.required || on_the_way.is_some() {
            entries.insert(key.name.to_owned(), sample(schemas, key.schema, on_the_way.unwrap_or_default()));
        }
    }
    entries
}

#[cfg(test)]
mod tests;
