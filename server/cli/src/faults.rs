//! All faults of an experiment file at once: what the reader of its types refuses one by one, found by their schema.
//!
//! Asked only about files that were refused, so that it can refuse nothing that the types accept.

use crate::{
    lang::own,
    place::What,
    schema::{Key, Schemas, Shape},
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    said,
    said::{Said, SaidValue, expected},
    tokens::Tokens,
};
use serde_json::{Map, Value};

/// A fault, and what of its path is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Path in the file.
    pub path: String,
    /// What was found and what is accepted.
    pub message: String,
    /// Whether the key is wrong, or the value.
    pub what: What,
}

/// The faults of a file.
#[must_use]
pub fn all(schemas: &Schemas, file: &Value) -> Vec<Found> {
    let mut found = Vec::new();
    look(schemas, schemas.root(), file, "", &mut found);
    found
}

fn look(schemas: &Schemas, schema: &Value, value: &Value, path: &str, found: &mut Vec<Found>) {
    if value.is_null() && schemas.is_optional(schema) {
        return;
    }
    let mut wrong = |expected: Said| found.push(fault(path, &expected::found(shown(value), expected), What::Value));
    match (schemas.shape(schema), value) {
        (Shape::Object(keys), Value::Object(entries)) => look_at_keys(schemas, &keys, None, entries, path, found),
        (Shape::Object(_), _) => wrong(said!("yaml_keys")),
        (Shape::Kinds(tag, kinds), Value::Object(entries)) => {
            let words: Vec<&str> = kinds.iter().map(|kind| kind.word).collect();
            match entries.get(tag) {
                None => {
                    let said = said!("yaml_tag_missing", tag = tag, words = listed(&words));
                    found.push(fault(path, &said, What::Value));
                }
                Some(word) => match kinds.iter().find(|kind| word.as_str() == Some(kind.word)) {
                    Some(kind) => look_at_keys(schemas, &kind.keys, Some(tag), entries, path, found),
                    None => {
                        let said = expected::found(shown(word), meant(word, &words));
                        found.push(fault(&below(path, tag), &said, What::Value));
                    }
                },
            }
        }
        (Shape::Kinds(tag, _), _) => wrong(said!("yaml_keys_with", tag = tag)),
        (Shape::List(items), Value::Array(values)) => {
            for (i, value) in values.iter().enumerate() {
                look(schemas, items, value, &format!("{path}[{i}]"), found);
            }
        }
        (Shape::List(_), _) => wrong(said!("yaml_list")),
        (Shape::Map(values), Value::Object(entries)) => {
            for (name, value) in entries {
                look(schemas, values, value, &below(path, name), found);
            }
        }
        (Shape::Map(_), _) => wrong(said!("yaml_names")),
        (Shape::Words(words), value) if !value.as_str().is_some_and(|word| words.contains(&word)) => {
            wrong(meant(value, &words));
        }
        (Shape::Tokens, value) if serde_json::from_value::<Tokens>(value.clone()).is_err() => {
            wrong(said!("yaml_tokens"));
        }
        (Shape::Integer(least, most), value) => {
            let number = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
            let fits =
                number.is_some_and(|n| least.is_none_or(|least| n >= least) && most.is_none_or(|most| n <= most));
            if !fits {
                wrong(integer(number, least, most));
            }
        }
        (Shape::Number, value) if !value.is_number() => wrong(said!("yaml_number")),
        (Shape::Text, value) if !value.is_string() => {
            wrong(said!("yaml_text"));
        }
        (Shape::Time, value) if !is_time(value) => wrong(said!("yaml_time")),
        (Shape::Bool, value) if !value.is_boolean() => wrong(said!("yaml_bool")),
        _ => {}
    }
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<DateTime<Utc>>().is_ok())
}

fn look_at_keys(
    schemas: &Schemas,
    keys: &[Key<'_>],
    tag: Option<&str>,
    entries: &Map<String, Value>,
    path: &str,
    found: &mut Vec<Found>,
) {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let unknown = |name: &&String| !names.contains(&name.as_str()) && Some(name.as_str()) != tag;
    let mut missing: Vec<&str> = Vec::new();
    for key in keys {
        match entries.get(key.name) {
            Some(value) => look(schemas, key.schema, value, &below(path, key.name), found),
            None if key.required => missing.push(key.name),
            None => {}
        }
    }
    for name in entries.keys().filter(unknown) {
        // A key that is missing is the likelier meaning of one that is unknown; it is then no second fault.
        let near = nearest(name, &missing).or_else(|| nearest(name, &names));
        missing.retain(|other| Some(*other) != near);
        let known = listed(&names);
        let said = match near {
            Some(near) => said!("yaml_no_such_key_like", near = near, known = known),
            None => said!("yaml_no_such_key", known = known),
        };
        found.push(fault(&below(path, name), &said, What::Key));
    }
    for name in missing {
        found.push(fault(&below(path, name), &said!("yaml_missing"), What::Key));
    }
}

fn fault(path: &str, said: &Said, what: What) -> Found {
    Found { path: if path.is_empty() { "body".into() } else { path.to_owned() }, message: own(said), what }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn integer(number: Option<i128>, least: Option<i128>, most: Option<i128>) -> Said {
    match (number, least, most) {
        (Some(_), Some(least), Some(most)) => expected::range(least.to_string(), most.to_string()),
        (Some(_), Some(least), None) => said!("yaml_or_more", least = least.to_string()),
        (Some(_), None, Some(most)) => expected::at_most(most.to_string()),
        (None, ..) | (Some(_), None, None) => said!("yaml_integer"),
    }
}

/// `the text "four"`, `3`, `a list`.
fn shown(value: &Value) -> SaidValue {
    match value {
        Value::Null => said!("yaml_nothing").into(),
        Value::String(text) => expected::quoted(text),
        Value::Array(_) => said!("yaml_list").into(),
        Value::Object(_) => said!("yaml_keys").into(),
        other => other.to_string().into(),
    }
}

fn listed(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| format!("`{word}`")).collect()
}

fn meant(value: &Value, words: &[&str]) -> Said {
    match value.as_str().and_then(|word| nearest(word, words)) {
        Some(near) => said!("yaml_one_of_like", words = listed(words), near = near),
        None => said!("yaml_one_of", words = listed(words)),
    }
}

/// The one of `words` that was probably meant: at most a third of its letters are other ones.
#[must_use]
pub fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let near = words.iter().map(|other| (distance(word, other), *other));
    let (edits, best) = near.min_by_key(|(edits, other)| (*edits, other.len()))?;
    (edits <= (best.chars().count() / 3).max(1) && edits < word.chars().count()).then_some(best)
}

/// Letters to insert, leave out, exchange or swap with their neighbour to come from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let exchange = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = exchange.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const GOOD: &str = include_str!("../../../configs/experiments/quick.yaml");

    fn good() -> Value {
        serde_yaml_ng::from_str(GOOD).unwrap()
    }

    fn check(pointer: &str, value: Value, expect: &[(&str, &str)]) {
        let mut file = good();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match (file.pointer_mut(parent).unwrap(), value) {
            (Value::Object(entries), Value::Null) => drop(entries.remove(key).unwrap()),
            (Value::Object(entries), value) => drop(entries.insert(key.into(), value)),
            (other, _) => panic!("{other}"),
        }
        let found = all(&Schemas::of_experiment_file(), &file);
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for ((path, part), found) in expect.iter().zip(&found) {
            assert!(found.path == *path && found.message.contains(part), "{found:?}, expected {path} {part}");
        }
    }

    #[test]
    fn files_that_are_right_have_no_fault() {
        for text in [
            GOOD,
            include_str!("../../../configs/experiments/demo.yaml"),
            include_str!("../../../configs/experiments/h100-10b.yaml"),
            include_str!("../../../configs/experiments/smollm2.yaml"),
        ] {
            let file: Value = serde_yaml_ng::from_str(text).unwrap();
            assert_eq!(all(&Schemas::of_experiment_file(), &file), []);
        }
    }

    #[test]
    fn each_fault_has_its_path() {
        check("/priority", json!("high"), &[("priority", "found \"high\", expected an integer")]);
        check(
            "/training/learning_rate",
            json!("fast"),
            &[("training.learning_rate", "found \"fast\", expected a number")],
        );
        check("/training/schedule", json!("cosin"), &[("training.schedule", "did you mean `cosine`?")]);
        check("/plan/0/share", json!("fair"), &[("plan[0].share", "`proportional`")]);
        check("/plan/0/kind", json!("fanout"), &[("plan[0].kind", "did you mean `fan_out`?")]);
        check("/plan/1/branches/0/tokens", json!("6Q"), &[("plan[1].branches[0].tokens", "6.5M")]);
        check("/data/sequence_length", Value::Null, &[("data.sequence_length", "must be given")]);
        check("/labels", json!("quick"), &[("labels", "expected a list")]);
        check("/seed", json!(7), &[("seed", "kind among them")]);
        check("/deadline", json!("tomorrow"), &[("deadline", "2027-01-31T08:00:00Z")]);
        check("/training/learning_rat", json!(1), &[("training.learning_rat", "did you mean `learning_rate`?")]);
    }

    #[test]
    fn a_misspelt_key_that_must_be_given_is_one_fault() {
        let mut file = good();
        let training = file["training"].as_object_mut().unwrap();
        let rate = training.remove("learning_rate").unwrap();
        training.insert("learning_rat".into(), rate);
        let found = all(&Schemas::of_experiment_file(), &file);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn what_was_probably_meant_is_said_and_nothing_wilder() {
        let words = ["learning_rate", "seed", "slots"];
        for (word, expect) in [
            ("learnig_rate", Some("learning_rate")),
            ("sede", Some("seed")),
            ("slot", Some("slots")),
            ("x", None),
            ("budget", None),
        ] {
            assert_eq!(nearest(word, &words), expect, "{word}");
        }
    }

    proptest! {
        #[test]
        fn a_distance_is_one(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &b) <= a.len().max(b.len()));
        }

        /// Whatever stands at one place of the file: nothing that the types accept is called a fault.
        #[test]
        fn what_the_types_accept_has_no_fault(
            place in proptest::sample::select(vec!["/priority", "/model", "/labels", "/training/schedule", "/seed/tokens", "/plan/0/training", "/deadline", "/controls/dense", "/budget", "/evaluation/top_k"]),
            value in proptest::sample::select(vec![json!(null), json!(0), json!(-1), json!(1.5), json!(300), json!("linear"), json!("6.5M"), json!("2027-01-31T08:00:00Z"), json!([]), json!({}), json!(true), json!([1, 2]), json!({ "slots": 2 })]),
        ) {
            // A struct may also be read from a list of its values; nobody writes that, and it is called a fault.
            prop_assume!(!value.is_array() || ["/labels", "/evaluation/top_k"].contains(&place));
            let mut file = good();
            let (parent, key) = place.rsplit_once('/').unwrap();
            file.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
            let found = all(&Schemas::of_experiment_file(), &file);
            let accepted = serde_json::from_value::<senmon_protocol::spec::ExperimentSpec>(file);
            prop_assert!(accepted.is_err() || found.is_empty(), "{:?}", found);
        }
    }
}
