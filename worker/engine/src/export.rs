//! What stands beside the weights of a checkpoint, so that `transformers` uses it as the seed's makers meant: ids of
//! special tokens, tokenizer settings, chat template, generation settings.
//!
//! It goes from folder to folder: from the seed's to the branch's first checkpoint, from there to every descendant's.
//! Never touches weights or `tokenizer.json`.

use anyhow::{Context, Result};
use senmon_corpus::{roots::Folder, tokenizer::Tokenizer};
use senmon_protocol::{job::ShardIndex, model::ModelSpec};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, path::Path};

const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
const GENERATION_FILE: &str = "generation_config.json";
const CARRIED: [&str; 5] =
    [TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, GENERATION_FILE, "chat_template.jinja", "chat_template.json"];
/// Bytes of each of them at most.
const BYTES_MAX: u64 = 64 << 20;
/// Keys of `config.json` that are the tokenizer's and not the model's.
const IDS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];
/// Settings of a tokenizer class that would do again, or otherwise, what `tokenizer.json` says.
const OVERRULED: [&str; 5] = ["auto_map", "tokenizer_file", "name_or_path", "add_bos_token", "add_eos_token"];

/// Files and ids beside weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Export {
    files: BTreeMap<&'static str, Vec<u8>>,
    ids: Map<String, Value>,
}

/// The tokens around documents: id and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// Closes a document.
    pub separator: (u32, String),
    /// Opens it; the separator where nothing else does.
    pub opener: (u32, String),
}

impl Marks {
    /// The tokens around the documents of these shards.
    ///
    /// # Errors
    /// When the tokenizer does not know them.
    pub fn of(index: &ShardIndex, tokenizer: &Path) -> Result<Self> {
        let bytes = fs::read(tokenizer).with_context(|| format!("read {}", tokenizer.display()))?;
        let tokenizer = Tokenizer::parse(&bytes)?;
        let named = |id: u32| -> Result<(u32, String)> {
            Ok((id, tokenizer.token(id).with_context(|| format!("token {id} is unknown"))?))
        };
        Ok(Self { separator: named(index.separator_id)?, opener: named(index.opener_id())? })
    }
}

impl Export {
    /// What stands beside the weights of a folder.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn load(folder: &Folder) -> Result<Self> {
        let mut export = Self::default();
        for name in CARRIED {
            match folder.read(name, BYTES_MAX) {
                Ok(bytes) => drop(export.files.insert(name, bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("{name} of {}", folder.path().display())),
            }
        }
        let config: Value = serde_json::from_slice(&folder.read("config.json", BYTES_MAX)?).context("config.json")?;
        for key in IDS {
            if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
                export.ids.insert(key.to_owned(), id.clone());
            }
        }
        Ok(export)
    }

    /// The same with the tokens that training puts around documents: they open and end a text. The rest stays as it
    /// was: padding, chat template, what else ends a generation.
    ///
    /// # Errors
    /// When a file is no JSON object.
    pub fn marked(mut self, marks: &Marks, spec: &ModelSpec) -> Result<Self> {
        let ends = self.json(GENERATION_FILE)?.remove("eos_token_id").or_else(|| self.ids.get("eos_token_id").cloned());
        self.ids.insert("bos_token_id".into(), json!(marks.opener.0));
        self.ids.insert("eos_token_id".into(), json!(marks.separator.0));

        let mut settings = self.json(TOKENIZER_CONFIG_FILE)?;
        OVERRULED.iter().for_each(|key| drop(settings.remove(*key)));
        settings.entry("clean_up_tokenization_spaces").or_insert(json!(false));
        settings.entry("model_max_length").or_insert(json!(spec.max_position_embeddings));
        settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        let mut special = self.json(SPECIAL_TOKENS_FILE)?;
        for object in [&mut settings, &mut special] {
            name(object, "bos_token", &marks.opener.1);
            name(object, "eos_token", &marks.separator.1);
        }
        let mut generation = self.json(GENERATION_FILE)?;
        for key in IDS {
            if let Some(id) = self.ids.get(key) {
                generation.entry(key).or_insert(id.clone());
            }
        }
        generation.insert("bos_token_id".into(), json!(marks.opener.0));
        generation.insert("eos_token_id".into(), all_ends(marks.separator.0, ends));
        for (name, object) in
            [(TOKENIZER_CONFIG_FILE, settings), (SPECIAL_TOKENS_FILE, special), (GENERATION_FILE, generation)]
        {
            self.files.insert(name, serde_json::to_vec_pretty(&object)?);
        }
        Ok(self)
    }

    fn json(&self, name: &str) -> Result<Map<String, Value>> {
        self.files
            .get(name)
            .map_or_else(|| Ok(Map::new()), |bytes| serde_json::from_slice(bytes))
            .context(name.to_owned())
    }

    /// Adds the ids to a model's `config.json`.
    pub fn complete(&self, config: &mut Value) {
        for (key, id) in &self.ids {
            config[key] = id.clone();
        }
    }

    /// The files, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (*name, bytes.as_slice()))
    }
}

/// Sets a special token, keeping its other settings where its text is the same.
fn name(object: &mut Map<String, Value>, key: &str, text: &str) {
    let own = object.get(key).map(|token| token.get("content").unwrap_or(token));
    if own.and_then(Value::as_str) != Some(text) {
        object.insert(key.to_owned(), json!(text));
    }
}

/// The separator, and what ended a generation before.
fn all_ends(separator: u32, before: Option<Value>) -> Value {
    let mut ends = match before {
        Some(Value::Array(several)) => several,
        Some(one) if !one.is_null() => vec![one],
        _ => Vec::new(),
    };
    if !ends.contains(&json!(separator)) {
        ends.insert(0, json!(separator));
    }
    if ends.len() == 1 { ends.remove(0) } else { ends.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ModelSpec {
        serde_json::from_value(json!({
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 64
        }))
        .unwrap()
    }

    fn marks() -> Marks {
        Marks { separator: (2, "</s>".into()), opener: (1, "<s>".into()) }
    }

    /// A seed's folder with these files, marked: its files and its config's ids.
    fn check(files: &[(&'static str, Value)], name: &str, expect: &Value) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), json!({ "model_type": "llama" }).to_string()).unwrap();
        for (name, value) in files {
            fs::write(folder.path().join(name), value.to_string()).unwrap();
        }
        let export = Export::load(&Folder::own(folder.path())).unwrap().marked(&marks(), &spec()).unwrap();
        let found = match name {
            "config.json" => {
                let mut config = json!({});
                export.complete(&mut config);
                config
            }
            _ => export.json(name).unwrap().into(),
        };
        for (key, value) in expect.as_object().unwrap() {
            assert_eq!(found.get(key).unwrap_or(&Value::Null), value, "{name}: {key} of {found}");
        }
    }

    #[test]
    fn a_seeds_own_settings_stay_and_the_separator_ends_a_text() {
        let ends = |generation: Value, expect: Value| {
            check(&[(GENERATION_FILE, generation)], GENERATION_FILE, &json!({ "eos_token_id": expect }));
        };
        ends(json!({}), json!(2));
        ends(json!({ "eos_token_id": 2 }), json!(2));
        ends(json!({ "eos_token_id": 7 }), json!([2, 7]));
        ends(json!({ "eos_token_id": [7, 2] }), json!([7, 2]));
        let config = json!({ "bos_token_id": 5, "eos_token_id": 7, "pad_token_id": 6 });
        let given = [("config.json", config)];
        check(&given, "config.json", &json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 6 }));
        check(&given, GENERATION_FILE, &json!({ "eos_token_id": [2, 7], "pad_token_id": 6 }));
        let own = json!({
            "tokenizer_class": "Other", "auto_map": {}, "add_bos_token": true, "chat_template": "{{ x }}", "pad_token": "<pad>",
            "eos_token": "<|im_end|>", "model_max_length": 9
        });
        check(
            &[(TOKENIZER_CONFIG_FILE, own)],
            TOKENIZER_CONFIG_FILE,
            &json!({
                "tokenizer_class": "PreTrainedTokenizerFast", "auto_map": null, "add_bos_token": null, "chat_template": "{{ x }}",
                "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "model_max_length": 9
            }),
        );
        let token = json!({ "content": "</s>", "lstrip": true });
        let own = json!({ "eos_token": token, "bos_token": { "content": "<b>" }, "unk_token": "<unk>" });
        check(
            &[(SPECIAL_TOKENS_FILE, own)],
            SPECIAL_TOKENS_FILE,
            &json!({ "eos_token": token, "bos_token": "<s>", "unk_token": "<unk>" }),
        );
    }

    #[test]
    fn a_descendant_has_what_its_parent_had() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
        fs::write(folder.path().join("config.json"), json!({ "pad_token_id": 6 }).to_string()).unwrap();
        let first = Export::load(&Folder::own(folder.path())).unwrap().marked(&marks(), &spec()).unwrap();
        let next = tempfile::tempdir().unwrap();
        first.files().for_each(|(name, bytes)| fs::write(next.path().join(name), bytes).unwrap());
        let mut config = json!({});
        first.complete(&mut config);
        fs::write(next.path().join("config.json"), config.to_string()).unwrap();
        assert_eq!(Export::load(&Folder::own(next.path())).unwrap(), first);
        assert!(first.files().any(|(name, _)| name == "chat_template.jinja"));
    }
}
