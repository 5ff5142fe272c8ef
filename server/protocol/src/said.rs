//! What is said to people: a kind and values, which whoever shows it words in its own language from the message files
//! (`messages/*.json`, which the dashboard reads too).
//!
//! Never reads the environment: the language is an argument.
//!
//! A message is a text with placeholders: `{name}` is the value; `{name:bytes}` and `{name:tokens}` write a number as
//! such; `{name:sentences}` sets a list of sentences one after the other; `{name|one|many}` is a word that follows the number. [`crate::said!`] is checked while it compiles: the key is
//! in the files, and the values are the message's.

#[cfg(test)]
mod catalogue;
pub mod expected;
pub mod of;
#[cfg(test)]
mod tests;

use crate::{storable, storage::Bytes, tokens::Tokens};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A message of the files.
struct Message {
    key: &'static str,
    en: &'static str,
    ja: &'static str,
    names: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/messages.rs"));

/// A language that messages are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lang {
    /// English.
    #[default]
    #[serde(rename = "en")]
    English,
    /// Japanese.
    #[serde(rename = "ja")]
    Japanese,
}

impl Lang {
    /// The language of a locale's name: `ja`, `ja_JP.UTF-8`, `en_GB`, `C`. Whatever is not Japanese is told in English.
    #[must_use]
    pub fn of_locale(name: &str) -> Self {
        let language = name.split(['_', '-', '.', '@']).next().unwrap_or_default();
        if language.eq_ignore_ascii_case("ja") { Self::Japanese } else { Self::English }
    }
}

/// Something said to people, as a kind and values; each client words it in its language.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// Key of the message.
    pub key: String,
    /// The values that stand in it, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(no_recursion)]
    pub values: BTreeMap<String, SaidValue>,
}

/// A value that stands in a message: a text as it is, a whole number, something said, or a list of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(no_recursion)]
pub enum SaidValue {
    /// A name, a path, another program's words: the same in every language.
    Text(String),
    /// A count.
    Whole(u64),
    /// Several. Tried before what is said, whose two fields may be read from a list.
    List(Vec<SaidValue>),
    /// Something said in its turn.
    Said(Said),
}

/// Says a message: `said!("corpus_deleted", who = who, name = name)`. A key that is in no message file, a value that the message does
/// not have or one that is missing does not compile.
#[macro_export]
macro_rules! said {
    ($key:literal $(, $name:ident = $value:expr)* $(,)?) => {{
        const _: () = $crate::said::check($key, &[$(stringify!($name)),*]);
        $crate::said::Said::new($key, [$((stringify!($name), ::core::convert::Into::<$crate::said::SaidValue>::into($value))),*])
    }};
}

/// Stops the compiler where a message is not in the files, or has other values. For [`crate::said!`].
///
/// # Panics
/// Then, while it compiles.
pub const fn check(key: &str, names: &[&str]) {
    let Some(message) = find(key) else { panic!("no message file has this key") };
    assert!(message.names.len() == names.len(), "the message has more values, or fewer");
    let mut i = 0;
    while i < names.len() {
        let mut known = 0;
        while known < message.names.len() && compare(message.names[known], names[i]) != 0 {
            known += 1;
        }
        assert!(known < message.names.len(), "the message has no value of this name");
        i += 1;
    }
}

/// The message of a key.
const fn find(key: &str) -> Option<&'static Message> {
    let (mut low, mut high) = (0, MESSAGES.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        match compare(MESSAGES[middle].key, key) {
            0 => return Some(&MESSAGES[middle]),
            1 => high = middle,
            _ => low = middle + 1,
        }
    }
    None
}

/// 0 where they are equal, 1 where the first is greater, −1 where it is less.
const fn compare(a: &str, b: &str) -> i8 {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return if a[i] > b[i] { 1 } else { -1 };
        }
        i += 1;
    }
    if a.len() == b.len() {
        0
    } else if a.len() > b.len() {
        1
    } else {
        -1
    }
}

/// A number with so many digits behind the point, as a value.
#[must_use]
pub fn decimal(number: f64, digits: usize) -> String {
    format!("{number:.digits$}")
}

/// What says it, wherever it comes from: the words of `said` in the language, else the text.
#[must_use]
pub fn words(said: Option<&Said>, text: &str, lang: Lang) -> String {
    said.and_then(|said| said.in_words(lang)).unwrap_or_else(|| text.to_owned())
}

impl Said {
    /// For [`crate::said!`], which checks key and names.
    #[must_use]
    pub fn new<const N: usize>(key: &str, values: [(&str, SaidValue); N]) -> Self {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { key: key.to_owned(), values }
    }

    /// Words that are the same in every language: another program's, or what was written before there were kinds.
    #[must_use]
    pub fn verbatim(text: impl Into<SaidValue>) -> Self {
        let text: SaidValue = text.into();
        said!("verbatim", text = text)
    }

    /// In words; None where the message files of this program do not have it: it is of a newer one.
    #[must_use]
    pub fn in_words(&self, lang: Lang) -> Option<String> {
        let message = find(&self.key)?;
        let mut rest = match lang {
            Lang::English => message.en,
            Lang::Japanese => message.ja,
        };
        let mut words = String::new();
        while let Some((before, behind)) = rest.split_once('{') {
            let (inside, after) = behind.split_once('}')?;
            words.push_str(behind_stop(&words, before));
            let name = inside.split([':', '|']).next()?;
            words.push_str(&self.values.get(name)?.written(&inside[name.len()..], lang)?);
            rest = after;
        }
        words.push_str(behind_stop(&words, rest));
        Some(words)
    }

    /// In English words, for scripts, logs and whoever has no message files.
    #[must_use]
    pub fn text(&self) -> String {
        self.in_words(Lang::English).unwrap_or_else(|| self.key.clone())
    }

    /// The same where its English words are `text`, so that no reader is told something else than another.
    #[must_use]
    pub fn that_says(self, text: &str) -> Option<Self> {
        let names = find(&self.key)?.names;
        let is_plain = self.values.keys().all(|name| names.contains(&name.as_str()));
        (is_plain && self.in_words(Lang::English).as_deref() == Some(text)).then_some(self)
    }
}

/// What follows in a message, without its full stop where a value has just ended with one.
fn behind_stop<'a>(words: &str, next: &'a str) -> &'a str {
    let stop = ['.', '。'].into_iter().find(|stop| words.ends_with(*stop));
    stop.and_then(|stop| next.strip_prefix(stop)).unwrap_or(next)
}

impl SaidValue {
    /// As a placeholder asks for it: `:bytes`, `:tokens`, `|one|many` or nothing behind its name.
    fn written(&self, form: &str, lang: Lang) -> Option<String> {
        Some(match (self, form) {
            (Self::Whole(count), ":bytes") => Bytes(*count).to_string(),
            (Self::Whole(count), ":tokens") => Tokens(*count).to_string(),
            (value, form) if form.starts_with('|') => {
                let is_one = match value {
                    Self::Whole(count) => *count == 1,
                    Self::List(items) => items.len() == 1,
                    Self::Text(text) => text == "1",
                    Self::Said(_) => true,
                };
                form.split('|').nth(if is_one { 1 } else { 2 })?.to_owned()
            }
            (Self::Text(text), _) => text.clone(),
            (Self::Whole(count), _) => count.to_string(),
            (Self::Said(said), _) => said.in_words(lang)?,
            (Self::List(items), form) => {
                let separator = match (lang, form) {
                    (Lang::English, ":sentences") => " ",
                    (Lang::Japanese, ":sentences") => "",
                    (Lang::English, _) => ", ",
                    (Lang::Japanese, _) => "、",
                };
                items.iter().map(|item| item.written("", lang)).collect::<Option<Vec<_>>>()?.join(separator)
            }
        })
    }
}

impl From<&str> for SaidValue {
    fn from(text: &str) -> Self {
        Self::Text(storable(text))
    }
}

impl From<String> for SaidValue {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for SaidValue {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Said> for SaidValue {
    fn from(said: Said) -> Self {
        Self::Said(said)
    }
}

impl From<Bytes> for SaidValue {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes.0)
    }
}

/// Counts are whole numbers; other numbers are the same in every language.
macro_rules! numbers {
    (whole: $($whole:ty)*; others: $($other:ty)*) => {
        $(impl From<$whole> for SaidValue {
            fn from(count: $whole) -> Self {
                Self::Whole(count as u64)
            }
        })*
        $(impl From<$other> for SaidValue {
            fn from(number: $other) -> Self {
                Self::Text(number.to_string())
            }
        })*
    };
}

numbers!(whole: u8 u16 u32 u64 usize; others: i32 i64 f64);

impl<T: Into<SaidValue>> From<Vec<T>> for SaidValue {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}
