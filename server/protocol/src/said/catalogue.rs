//! Reads the message files, and refuses what is not whole. Compiled into the crate's build script, where a message that
//! is refused stops the build, and into its tests.

use std::collections::{BTreeMap, BTreeSet};

/// One message, in both languages.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// In English.
    pub en: String,
    /// In Japanese.
    pub ja: String,
}

/// Forms in which a value may be written.
const FORMS: [&str; 3] = ["bytes", "tokens", "sentences"];

/// The messages of one file.
///
/// # Errors
/// The first message that is not whole, and what is wrong with it.
pub fn read(text: &str) -> Result<BTreeMap<String, Words>, String> {
    let messages: BTreeMap<String, Words> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for (key, words) in &messages {
        names(key, words)?;
    }
    Ok(messages)
}

/// The names of a message's values, ascending: the same in both languages.
///
/// # Errors
/// What is wrong with the message.
pub fn names(key: &str, words: &Words) -> Result<Vec<String>, String> {
    let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if key.is_empty() || !is_word(key) {
        return Err(format!("{key:?}: expected a key of lower-case letters, digits and _"));
    }
    let [english, japanese] = [("en", &words.en), ("ja", &words.ja)].map(|(language, text)| {
        if text.trim().is_empty() {
            return Err(format!("{key}: found no words in {language}"));
        }
        placeholders(text).map_err(|why| format!("{key}, {language}: {why}"))
    });
    let (english, japanese) = (english?, japanese?);
    if english != japanese {
        return Err(format!("{key}: found the values {english:?} in en and {japanese:?} in ja, expected the same"));
    }
    if let Some(bad) = english.iter().find(|name| name.is_empty() || !is_word(name)) {
        return Err(format!("{key}: found the value {bad:?}, expected lower-case letters, digits and _"));
    }
    Ok(english.into_iter().collect())
}

fn placeholders(text: &str) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    let mut rest = text;
    while let Some(start) = rest.find(['{', '}']) {
        let inner = rest[start..].strip_prefix('{').ok_or("found } without {")?;
        let end = inner.find(['{', '}']).filter(|end| inner[*end..].starts_with('}')).ok_or("found { without }")?;
        let (inside, after) = (&inner[..end], &inner[end + 1..]);
        let name = if let Some((name, forms)) = inside.split_once('|') {
            if forms.split('|').count() != 2 {
                return Err(format!("found {{{inside}}}, expected {{name|one|many}}"));
            }
            name
        } else if let Some((name, form)) = inside.split_once(':') {
            if !FORMS.contains(&form) {
                return Err(format!("found {{{inside}}}, expected one of {FORMS:?} after the colon"));
            }
            name
        } else {
            inside
        };
        names.insert(name.to_owned());
        rest = after;
    }
    Ok(names)
}
