//! Where in a YAML text the value of a path stands: line and column, as the parser itself says.
//!
//! The parser gives each failure the place of the value that it was reading. So a reader walks to the path and fails
//! there; nothing of YAML is scanned by hand.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A place: line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// What of a path is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The key itself.
    Key,
    /// What stands behind it.
    Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// How a failure at the place that was looked for is told from others.
const FOUND: &str = "here is the path that was looked for";

/// The place of `path` (`plan[0].tokens`); of the nearest value around it where it is not there.
#[must_use]
pub fn nearest(text: &str, path: &str, what: What) -> Option<Place> {
    let mut steps = steps(path)?;
    let mut what = what;
    while !steps.is_empty() {
        if let Some(place) = find(text, &steps, what) {
            return Some(place);
        }
        // Of what is missing, the key around it is where a reader looks.
        steps.pop();
        what = if matches!(steps.last(), Some(Step::Key(_))) { What::Key } else { What::Value };
    }
    None
}

fn find(text: &str, steps: &[Step], what: What) -> Option<Place> {
    let seek = Seek { steps, what };
    let error = seek.deserialize(serde_yaml_ng::Deserializer::from_str(text)).err()?;
    let found = error.location().filter(|_| error.to_string().contains(FOUND))?;
    Some(Place { line: found.line(), column: found.column() })
}

/// The steps of `plan[0].branches[1].name`; none where it is no path.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (key, mut rest) = match part.find('[') {
            Some(at) => part.split_at(at),
            None => (part, ""),
        };
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        } else if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            rest = after;
        }
    }
    Some(steps)
}

/// Walks down one step after the other.
#[derive(Clone, Copy)]
struct Seek<'a> {
    steps: &'a [Step],
    what: What,
}

impl Seek<'_> {
    fn arrived<E: Error>(self) -> Result<(), E> {
        if self.steps.is_empty() { Err(E::custom(FOUND)) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.arrived()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.arrived()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.arrived()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.arrived()?;
        let Some((Step::Index(wanted), rest)) = self.steps.split_first() else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        for _ in 0..*wanted {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        let _ = items.next_element_seed(Seek { steps: rest, what: self.what })?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.arrived()?;
        let (wanted, rest) = match self.steps.split_first() {
            Some((Step::Key(key), rest)) => (Some(key.as_str()), rest),
            _ => (None, self.steps),
        };
        let ends_here = rest.is_empty() && self.what == What::Key;
        while let Some(is_wanted) = entries.next_key_seed(KeySeek { wanted, ends_here })? {
            if is_wanted {
                entries.next_value_seed(Seek { steps: rest, what: self.what })?;
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Reads a key, and says whether it is the one.
struct KeySeek<'a> {
    wanted: Option<&'a str>,
    ends_here: bool,
}

impl<'de> DeserializeSeed<'de> for KeySeek<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeek<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let is_wanted = self.wanted == Some(key);
        if is_wanted && self.ends_here { Err(E::custom(FOUND)) } else { Ok(is_wanted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
# A remark: not a key
name: x
training: &t { batch_windows: 16, 'learning_rate': 0.1 }
plan:
  - kind: tree
    branches:
      - { name: a, mixture: { 0: 1, 3: 2 } }
      - name: \"b: c\"
        tokens: |
          800K
again: *t
";

    fn check(path: &str, what: What, expect: Option<(usize, usize)>) {
        let found = nearest(TEXT, path, what).map(|place| (place.line, place.column));
        assert_eq!(found, expect, "{path} {what:?}");
    }

    #[test]
    fn a_path_has_a_line_and_a_column() {
        check("name", What::Key, Some((2, 1)));
        check("name", What::Value, Some((2, 7)));
        check("training.batch_windows", What::Key, Some((3, 16)));
        check("training.learning_rate", What::Value, Some((3, 52)));
        check("plan[0].kind", What::Value, Some((5, 11)));
        check("plan[0].branches[0].mixture.3", What::Value, Some((7, 40)));
        check("plan[0].branches[1].name", What::Value, Some((8, 15)));
        check("plan[0].branches[1].tokens", What::Key, Some((9, 9)));
    }

    #[test]
    fn what_is_missing_has_the_place_around_it() {
        check("training.final_fraction", What::Key, Some((3, 1)));
        check("plan[4].kind", What::Value, Some((4, 1)));
        check("budget", What::Value, None);
        check("", What::Value, None);
    }

    proptest! {
        #[test]
        fn no_text_and_no_path_is_the_end(text in "[-a-c&*{}\\[\\]:,0-2 \n'\"|#]{0,80}", path in "[a-c0-2.\\[\\]]{0,12}") {
            let _ = nearest(&text, &path, What::Key);
        }

        /// In a file of one key a line, each key is on its line.
        #[test]
        fn keys_stand_on_their_lines(values in proptest::collection::vec(0_u32..9, 1..20)) {
            let text: String = values.iter().enumerate().map(|(i, value)| format!("k{i}: {value}\n")).collect();
            for i in 0..values.len() {
                prop_assert_eq!(nearest(&text, &format!("k{i}"), What::Key), Some(Place { line: i + 1, column: 1 }));
            }
        }
    }
}
