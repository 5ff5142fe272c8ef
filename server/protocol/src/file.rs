//! Files that people write: YAML, of which JSON is a part. What is no such file is refused with the path of its fault.
//!
//! A file is measured before it becomes a value: an alias can stand for a billion nodes, and `.inf` is a number to YAML
//! that no JSON holds.

use crate::{
    problem::Fault,
    said,
    said::expected::{at_most, found},
};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::{cell::Cell, fmt};

/// Largest file, in bytes.
pub const FILE_BYTES_MAX: usize = 256 << 10;
/// Most keys and values of a file, those that aliases stand for included.
const NODES_MAX: u32 = 100_000;

/// Reads a file.
///
/// # Errors
/// The fault, with its path: too large, too many nodes, a number that is not finite, an unknown key, a wrong value.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Fault::said("body", found(said!("found_bytes", bytes = text.len()), at_most(FILE_BYTES_MAX))));
    }
    let yaml = || serde_yaml_ng::Deserializer::from_str(text);
    let left = Cell::new(NODES_MAX);
    let mut track = serde_path_to_error::Track::new();
    let measured = Nodes(&left).deserialize(serde_path_to_error::Deserializer::new(yaml(), &mut track));
    measured.map_err(|error| fault(&track.path().to_string(), &error.to_string()))?;
    serde_path_to_error::deserialize(yaml())
        .map_err(|error| fault(&error.path().to_string(), &error.inner().to_string()))
}

/// The parser repeats the place, or the place above, where it knows it.
fn fault(path: &str, message: &str) -> Fault {
    let parents = std::iter::successors(Some(path), |place| place.rsplit_once('.').map(|(above, _)| above));
    let shorter = parents.filter_map(|place| message.strip_prefix(&format!("{place}: "))).next();
    let path = if path == "." { "body" } else { path };
    Fault::said(path, said!("cannot_be_read", why = shorter.unwrap_or(message)))
}

/// Counts what a value is made of, and keeps none of it.
#[derive(Clone, Copy)]
struct Nodes<'a>(&'a Cell<u32>);

impl Nodes<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| {
            E::custom(format!("found more than {NODES_MAX} keys and values (aliases counted in full), expected fewer"))
        })?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Nodes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nodes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has too")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.count()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.count()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.count()
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if !value.is_finite() {
            return Err(E::custom(format!("found the number {value}, expected a finite one")));
        }
        self.count()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.count()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.count()
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.count()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.count()?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.count()?;
        while entries.next_key_seed(self)?.is_some() {
            entries.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ExperimentSpec;
    use proptest::prelude::*;

    const GOOD: &str = include_str!("../../../configs/experiments/quick.yaml");

    fn refused(from: &str, to: &str, path: &str, says: &str) {
        assert!(GOOD.contains(from), "{from:?} is not in quick.yaml");
        let fault = parse::<ExperimentSpec>(&GOOD.replacen(from, to, 1)).expect_err("it was accepted");
        assert_eq!(fault.path, path, "{fault:?}");
        assert!(fault.message.contains(says), "{fault:?}");
    }

    #[test]
    fn a_number_that_is_not_finite_is_named_with_its_path() {
        for (word, number) in [(".inf", "inf"), ("-.inf", "-inf"), (".nan", "NaN")] {
            refused("hidden_size: 64", &format!("rope_theta: {word}"), "model.rope_theta", number);
        }
    }

    #[test]
    fn a_few_lines_that_stand_for_a_billion_are_refused_at_once() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let row = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb += &format!("a{i}: &a{i} [{row}]\n");
        }
        for text in [bomb.as_str(), "a: &a [*a]", &"[".repeat(100_000), &"- ".repeat(100_000)] {
            let fault = parse::<serde_json::Value>(text).expect_err("it was accepted");
            assert!(fault.message.len() < 300, "{fault:?}");
        }
        let long = " ".repeat(FILE_BYTES_MAX + 1);
        assert!(parse::<serde_json::Value>(&long).unwrap_err().message.contains("at most"));
    }

    #[test]
    fn an_alias_that_people_use_is_fine() {
        let text = "training: &rates { learning_rate: 0.1 }\nseed: *rates\n";
        let value: serde_json::Value = parse(text).unwrap();
        assert_eq!(value["seed"], value["training"]);
    }

    proptest! {
        #[test]
        fn no_text_is_the_parsers_end(text in "[-a-z&*!{}\\[\\]:,.0-9 \n'\"|>%#?]{0,200}") {
            let _: Result<serde_json::Value, Fault> = parse(&text);
        }
    }
}
