//! The message files are whole, and what is said is what they say.

use super::{Lang, MESSAGES, Said, SaidValue, catalogue, find, words};
use crate::{said, storage::Bytes};
use proptest::prelude::*;

#[test]
fn a_message_without_both_languages_or_with_other_values_is_refused() {
    let check = |text: &str, expect: &str| {
        let why = catalogue::read(text).unwrap_err();
        assert!(why.contains(expect), "{text}: {why}");
    };
    check(r#"{ "a": { "en": "x" } }"#, "missing field `ja`");
    check(r#"{ "a": { "en": "x", "ja": " " } }"#, "no words in ja");
    check(r#"{ "a": { "en": "{x}", "ja": "x" } }"#, "expected the same");
    check(r#"{ "a": { "en": "{x", "ja": "{x}" } }"#, "{ without }");
    check(r#"{ "a": { "en": "x}", "ja": "x" } }"#, "} without {");
    check(r#"{ "a": { "en": "{x:hours}", "ja": "{x}" } }"#, "after the colon");
    check(r#"{ "a": { "en": "{x|one}", "ja": "{x}" } }"#, "{name|one|many}");
    check(r#"{ "a": { "en": "{X}", "ja": "{X}" } }"#, "lower-case");
    check(r#"{ "A": { "en": "x", "ja": "x" } }"#, "a key of lower-case");
    assert!(catalogue::read(r#"{ "a": { "en": "{n} {n|day|days}", "ja": "{n} 日" } }"#).is_ok());
}

#[test]
fn the_table_has_every_message_once_and_finds_it() {
    assert!(MESSAGES.len() > 100);
    assert!(MESSAGES.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert!(MESSAGES.iter().all(|message| find(message.key).is_some_and(|found| found.en == message.en)));
    assert!(find("no_such_message").is_none() && find("").is_none());
}

#[test]
fn japanese_sentences_are_japanese_and_polite() {
    for message in MESSAGES {
        let is_sentence = message.ja.ends_with('。');
        let polite = ["ます。", "ません。", "です。", "でした。", "ました。", "ください。", "でしょうか。"];
        let ends_with_value = message.ja.ends_with("}。") || message.ja.ends_with("）。");
        let ends = polite.iter().any(|end| message.ja.ends_with(end)) || ends_with_value;
        assert!(!is_sentence || ends, "{}: {}", message.key, message.ja);
        // What stands between braces is no word.
        let plain = message.en.split('{').map(|part| part.split_once('}').map_or(part, |(_, behind)| behind));
        let has_words = plain.collect::<String>().chars().filter(char::is_ascii_alphabetic).count() > 25;
        let is_japanese = message.ja.chars().any(|c| ('\u{3040}'..='\u{30ff}').contains(&c));
        assert!(!has_words || is_japanese, "{}: {}", message.key, message.ja);
    }
}

/// The dashboard words the same examples in its tests.
#[test]
fn what_is_said_is_worded_as_the_dashboard_words_it() {
    #[derive(serde::Deserialize)]
    struct Example {
        said: Said,
        en: Option<String>,
        ja: Option<String>,
    }
    let examples: Vec<Example> = serde_json::from_str(include_str!("examples.json")).unwrap();
    for Example { said, en, ja } in examples {
        assert_eq!((said.in_words(Lang::English), said.in_words(Lang::Japanese)), (en, ja), "{}", said.key);
    }
    let freed = said!("checkpoints_removed", branch = "expert-0", steps = vec!["20", "40"], freed = Bytes(3 << 20));
    assert_eq!(freed.text(), "Retention removed checkpoints of expert-0 at steps 20, 40: 3.0 MiB.");
}

#[test]
fn the_language_is_that_of_the_locale() {
    for name in ["ja", "ja_JP.UTF-8", "JA-jp", "ja@x"] {
        assert_eq!(Lang::of_locale(name), Lang::Japanese, "{name}");
    }
    for name in ["", "C", "en_GB.UTF-8", "jav", "de_DE"] {
        assert_eq!(Lang::of_locale(name), Lang::English, "{name}");
    }
}

#[test]
fn a_message_of_a_newer_program_falls_back_to_its_text() {
    let newer = Said { key: "of_a_newer_program".into(), ..Said::default() };
    assert_eq!(words(Some(&newer), "The text.", Lang::Japanese), "The text.");
    assert_eq!(words(None, "The text.", Lang::Japanese), "The text.");
    // A value that is missing, too.
    let less = Said { key: "attempt_started".into(), ..Said::default() };
    assert_eq!(words(Some(&less), "The text.", Lang::Japanese), "The text.");
}

#[test]
fn nobody_is_told_something_else_than_the_text() {
    let said = said!("attempt_done", job = "train seed");
    assert_eq!(said.clone().that_says("train seed is done."), Some(said.clone()));
    assert_eq!(said.clone().that_says("train seed failed."), None);
    let mut more = said;
    more.values.insert("hidden".into(), SaidValue::Whole(1));
    assert_eq!(more.that_says("train seed is done."), None);
}

fn any_value() -> impl Strategy<Value = SaidValue> {
    let leaf = prop_oneof![
        "[a-z /.\u{3042}-\u{3096}{}|:]{0,12}".prop_map(SaidValue::from),
        any::<u64>().prop_map(SaidValue::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let said = inner.clone().prop_map(|why| SaidValue::Said(Said::verbatim(why)));
        prop_oneof![prop::collection::vec(inner, 0..3).prop_map(SaidValue::List), said]
    })
}

proptest! {
    /// Every message has words in both languages whatever stands in it, also when it comes back from its JSON, and no
    /// placeholder is left.
    #[test]
    fn every_message_can_be_said(values in prop::collection::vec(any_value(), 8), pick in any::<prop::sample::Index>()) {
        let message = &MESSAGES[pick.index(MESSAGES.len())];
        let named = message.names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value));
        let said = Said { key: message.key.to_owned(), values: named.collect() };
        let back: Said = serde_json::from_str(&serde_json::to_string(&said).unwrap()).unwrap();
        prop_assert_eq!(&back, &said);
        for lang in [Lang::English, Lang::Japanese] {
            prop_assert!(back.in_words(lang).is_some());
        }
        let text = said.text();
        prop_assert_eq!(back.that_says(&text), Some(said));
    }
}
