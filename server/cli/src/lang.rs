//! The language that the command speaks: `--lang`, else `SENMON_LANG`, else the locale (`LC_ALL`, `LC_MESSAGES`, `LANG`).
//! JSON and YAML, which scripts read, are the same in every language.

use clap::ValueEnum;
use senmon_protocol::said::{Lang, Said, SaidValue, of, words};
use serde_json::Value;
use std::{borrow::Cow, sync::OnceLock};

/// A language to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Chosen {
    /// English.
    En,
    /// Japanese.
    Ja,
}

static LANG: OnceLock<Lang> = OnceLock::new();

/// Settles the language, once; `find` reads a variable of the environment. What is for scripts is told in English.
pub fn settle(chosen: Option<Chosen>, for_people: bool, find: impl Fn(&str) -> Option<String>) {
    let _ = LANG.set(if for_people { choose(chosen, find) } else { Lang::English });
}

/// The first of these that is set decides, as with every program of the system.
fn choose(chosen: Option<Chosen>, find: impl Fn(&str) -> Option<String>) -> Lang {
    let named = ["SENMON_LANG", "LC_ALL", "LC_MESSAGES", "LANG"];
    match chosen {
        Some(Chosen::En) => Lang::English,
        Some(Chosen::Ja) => Lang::Japanese,
        None => {
            let locale = named.into_iter().filter_map(find).find(|name| !name.is_empty());
            Lang::of_locale(&locale.unwrap_or_default())
        }
    }
}

/// The language.
pub fn lang() -> Lang {
    LANG.get().copied().unwrap_or_default()
}

/// What the command itself says.
pub fn own(said: &Said) -> String {
    words(Some(said), &said.key, lang())
}

/// A word or two in the language: the head of a column, the name of a fact, a state. What has no other word stays.
pub fn term(english: &str) -> String {
    term_in(english, lang())
}

fn term_in(english: &str, lang: Lang) -> String {
    if lang == Lang::English {
        return english.to_owned();
    }
    let letters = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' };
    let plain: String = english.chars().map(letters).collect();
    let key = format!("term_{}", plain.split_whitespace().collect::<Vec<_>>().join("_"));
    words(Some(&Said { key, ..Said::default() }), english, lang)
}

/// An answer of the server's with its sentences in the command's language: what came as a kind and values (`said` beside
/// `text`, `why_said` beside `why`) is worded, and so are the titles of jobs. All other words stay as they are.
pub fn retold(answer: &[u8]) -> Cow<'_, [u8]> {
    let lang = lang();
    if lang == Lang::English {
        return Cow::Borrowed(answer);
    }
    let Ok(mut value) = serde_json::from_slice(answer) else { return Cow::Borrowed(answer) };
    retell(&mut value, lang);
    serde_json::to_vec(&value).map_or(Cow::Borrowed(answer), Cow::Owned)
}

/// The sentences that `said` may stand beside.
const TEXTS: [&str; 3] = ["text", "message", "detail"];

fn retell(value: &mut Value, lang: Lang) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| retell(item, lang)),
        Value::Object(fields) => {
            let is_said = |key: &str| key == "said" || key.ends_with("_said");
            fields.iter_mut().filter(|(key, _)| !is_said(key)).for_each(|(_, value)| retell(value, lang));
            let said: Vec<(String, Value)> = fields
                .iter()
                .filter(|(key, _)| is_said(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            for (key, said) in said {
                let beside =
                    key.strip_suffix("_said").or_else(|| TEXTS.into_iter().find(|text| fields.contains_key(*text)));
                if let Some(text) = beside.and_then(|name| fields.get_mut(name)) {
                    word(text, said, lang);
                }
            }
            // What follows from a word of the answer comes without values.
            for (word, sentence, kind) in [("reason", "advice", "advice"), ("cause", "sentence", "time_is")] {
                let key = fields.get(word).and_then(Value::as_str).map(|word| format!("{kind}_{word}"));
                if let (Some(key), Some(Value::String(text))) = (key, fields.get_mut(sentence)) {
                    *text = words(Some(&Said { key, ..Said::default() }), text, lang);
                }
            }
            if let Some(Value::String(title)) = fields.get_mut("title")
                && let SaidValue::Said(said) = of::title(title)
            {
                *title = words(Some(&said), title, lang);
            }
        }
        _ => {}
    }
}

/// Words a sentence, or each of a list.
fn word(text: &mut Value, said: Value, lang: Lang) {
    match (text, said) {
        (Value::String(text), said) => {
            if let Ok(said) = serde_json::from_value::<Said>(said) {
                *text = words(Some(&said), text, lang);
            }
        }
        (Value::Array(texts), Value::Array(said)) if texts.len() == said.len() => {
            texts.iter_mut().zip(said).for_each(|(text, said)| word(text, said, lang));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::said;
    use serde_json::json;

    #[test]
    fn the_first_that_is_set_decides() {
        let check = |chosen, set: &[(&str, &str)], expect| {
            let find = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(choose(chosen, find), expect, "{chosen:?} {set:?}");
        };
        check(None, &[], Lang::English);
        check(None, &[("LANG", "ja_JP.UTF-8")], Lang::Japanese);
        check(None, &[("LANG", "ja_JP.UTF-8"), ("LC_ALL", "C")], Lang::English);
        check(None, &[("LANG", "en_US.UTF-8"), ("LC_MESSAGES", "ja_JP"), ("LC_ALL", "")], Lang::Japanese);
        check(None, &[("LANG", "ja_JP.UTF-8"), ("SENMON_LANG", "en")], Lang::English);
        check(Some(Chosen::Ja), &[("SENMON_LANG", "en")], Lang::Japanese);
        check(Some(Chosen::En), &[("LANG", "ja")], Lang::English);
    }

    /// Heads of columns and names of facts, where the command's own files write them.
    #[test]
    fn every_head_has_its_japanese_word() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let folders = [source.clone(), source.join("report")];
        let files =
            folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        let mut missing = Vec::new();
        for file in files.filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("mod tests {").next().unwrap();
            let lists = code.split("Table::new(&[").skip(1).map(|rest| rest.split(']').next().unwrap());
            let facts = code.split("fact(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
            let heads = lists
                .flat_map(|list| list.split('"').skip(1).step_by(2))
                .map(|head| head.trim_start_matches(['>', '=']));
            for head in heads.chain(facts) {
                let is_plain =
                    head.is_empty() || !head.starts_with(|c: char| c.is_ascii_alphanumeric()) || head.contains('{');
                if !is_plain && term_in(head, Lang::Japanese) == head && head != "dense" {
                    missing.push(format!("{}: {head}", file.display()));
                }
            }
        }
        assert!(missing.is_empty(), "server/protocol/messages/terms.json has no term for: {missing:#?}");
    }

    #[test]
    fn an_answer_is_retold_where_it_says_a_kind_and_values_and_nowhere_else() {
        let began = said!("attempt_started", job = of::title("train seed"));
        let mut answer = json!({ "items": [
            { "kind": "attempt_started", "text": "train seed began.", "said": began },
            { "kind": "old", "text": "It began." },
            { "name": "train me", "title": "train seed", "why": "x", "why_said": said!("parent_is_paused", parent = "seed") },
            { "reason": "cancelled", "message": "cancelled.", "said": said!("ended_cancelled"), "advice": "" },
            { "method": ["a", "b"], "method_said": [said!("next_waits"), { "key": "of_a_newer_program" }] },
        ] });
        retell(&mut answer, Lang::Japanese);
        let items = &answer["items"];
        assert_eq!(items[0]["text"], "seed の学習を開始しました。");
        assert_eq!((&items[0]["kind"], &items[1]["text"]), (&json!("attempt_started"), &json!("It began.")));
        assert_eq!((&items[2]["name"], &items[2]["title"]), (&json!("train me"), &json!("seed の学習")));
        assert_eq!(items[2]["why"], "親の seed は一時停止中です。");
        assert_eq!(items[3]["message"], "中止されました。");
        assert!(items[3]["advice"].as_str().unwrap().contains("分岐"), "{items}");
        assert_eq!(items[4]["method"], json!(["再開されるのを待ちます。", "b"]));
    }
}
