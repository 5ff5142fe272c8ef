//! A Hugging Face model folder, looked at before anything is loaded: whether it can be a seed, and whether a tokenizer
//! belongs to it.
//!
//! Reads `config.json`, the headers of the weights and `tokenizer.json`, so it is quick for a model of any size. Never
//! maps a file: a folder belongs to its user, who may cut it short meanwhile.

use crate::{
    roots::Folder,
    tokenizer::{TOKENIZER_BYTES_MAX, Tokenizer},
};
use safetensors::{Dtype, tensor::Metadata};
use senmon_protocol::model::ModelSpec;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// Weights in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Which file holds which tensor, where there are several.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// A header's size at most, as the format's own readers have it.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Bytes of `config.json` and of an index at most; an index of a thousand layers has some.
const JSON_BYTES_MAX: u64 = 64 << 20;
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// Spaces, case, digits, punctuation, scripts and symbols: two tokenizers that differ in more than ids differ here.
const PROBE: &str = " The quick-brown Fox isn't 2,048 years old:\n\n\tdef f(x): return x**2 설정 設定ファイルを、読む。 Größe naïve \u{1f389}";

/// A folder that can be a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Seed {
    /// Its shape.
    pub spec: ModelSpec,
    /// The files with its weights.
    pub files: BTreeSet<String>,
}

/// Where a tensor lies.
struct Found {
    file: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes of the file.
    place: std::ops::Range<u64>,
}

/// Looks at a folder: every parameter of its `config.json` is there, whole, in a number format that is read.
///
/// # Errors
/// What keeps it from being used: the file, what was found, what is accepted.
pub fn inspect(folder: &Folder) -> Result<Seed, String> {
    let text = config(folder).map_err(|error| format!("config.json of {}: {error}", folder.path().display()))?;
    let spec = ModelSpec::from_config_json(&text)?;
    let files = weight_files(folder)?;
    let mut found = BTreeMap::new();
    for file in &files {
        for (name, tensor) in header(folder, file)? {
            if let Some(other) = found.insert(name.clone(), tensor) {
                return Err(format!("{file}: tensor {name} is in {} too", other.file));
            }
        }
    }
    for (name, shape) in spec.tensors() {
        let tensor = found.get(&name).ok_or_else(|| format!("{}: tensor {name} is missing", listed(&files)))?;
        let Found { file, dtype, shape: have, .. } = tensor;
        if !have.iter().map(|n| *n as u64).eq(shape.iter().copied()) {
            return Err(format!("{file}: tensor {name} has shape {have:?}, config.json asks for {shape:?}"));
        }
        if !matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
            return Err(format!("{file}: tensor {name} is {dtype:?}, expected F32, BF16 or F16"));
        }
    }
    let known: BTreeSet<String> = spec.tensors().into_iter().map(|(name, _)| name).collect();
    for (name, Found { file, .. }) in found.iter().filter(|(name, _)| !known.contains(*name)) {
        if name == HEAD {
            second_head(folder, &found[EMBEDDING], &found[HEAD])?;
        } else if !is_ignored(name) {
            return Err(format!("{file}: tensor {name} belongs to no model of this config.json"));
        }
    }
    Ok(Seed { spec, files })
}

fn config(folder: &Folder) -> std::io::Result<String> {
    String::from_utf8(folder.read("config.json", JSON_BYTES_MAX)?).map_err(std::io::Error::other)
}

/// Old conversions carry the rotary frequencies, which are computed.
fn is_ignored(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

fn listed(files: &BTreeSet<String>) -> String {
    files.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Names of the files that hold the weights.
fn weight_files(folder: &Folder) -> Result<BTreeSet<String>, String> {
    if folder.has(MODEL_FILE) {
        return Ok(BTreeSet::from([MODEL_FILE.to_owned()]));
    }
    let bytes = match folder.read(INDEX_FILE, JSON_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(_) if folder.has("pytorch_model.bin") || folder.has("pytorch_model.bin.index.json") => {
            return Err(format!(
                "found pytorch_model.bin in {}, expected {MODEL_FILE}: pickled weights are not read; save the model with \
                 transformers' save_pretrained, which writes safetensors",
                folder.path().display()
            ));
        }
        Err(_) => {
            return Err(format!("{MODEL_FILE} is missing in {}, and so is {INDEX_FILE}", folder.path().display()));
        }
    };
    let index: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{INDEX_FILE}: {error}"))?;
    let map = index["weight_map"].as_object().ok_or_else(|| format!("{INDEX_FILE}: weight_map is missing"))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().ok_or_else(|| format!("{INDEX_FILE}: weight_map.{tensor} is no file name"))?;
        if Path::new(name).file_name().is_none_or(|plain| plain != name) {
            return Err(format!("{INDEX_FILE}: weight_map.{tensor}: found {name}, expected a file of this folder"));
        }
        if !folder.has(name) {
            return Err(format!("{INDEX_FILE}: {name} is missing in {}", folder.path().display()));
        }
        files.insert(name.to_owned());
    }
    Ok(files)
}

/// The tensors of a file, by its header; the file must be as long as its header says.
fn header(folder: &Folder, name: &str) -> Result<BTreeMap<String, Found>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{name} of {}: {error}", folder.path().display());
    let mut file = folder.open(name).map_err(|error| wrong(&error))?;
    let bytes = file.metadata().map_err(|error| wrong(&error))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|error| wrong(&error))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX || length > bytes.saturating_sub(8) {
        return Err(wrong(&format!("no safetensors, or cut short: {bytes} bytes, a header of {length}")));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(|error| wrong(&error))?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| wrong(&format!("no safetensors header: {error}")))?;
    let begin = 8 + length;
    let tensors = metadata.tensors();
    let end = tensors.values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0).saturating_add(begin);
    if end != bytes {
        return Err(wrong(&format!("{bytes} bytes, its header says {end}: the file is cut short or damaged")));
    }
    let found = |(key, info): (String, &safetensors::tensor::TensorInfo)| {
        let place = begin + info.data_offsets.0 as u64..begin + info.data_offsets.1 as u64;
        (key, Found { file: name.to_owned(), dtype: info.dtype, shape: info.shape.clone(), place })
    };
    Ok(tensors.into_iter().map(found).collect())
}

/// A model with tied embeddings that carries an output projection too: the same values once more, or another model.
fn second_head(folder: &Folder, embedding: &Found, head: &Found) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", head.file);
    let part = |tensor: &Found| -> std::io::Result<_> {
        let mut file = folder.open(&tensor.file)?;
        file.seek(SeekFrom::Start(tensor.place.start))?;
        Ok(file.take(tensor.place.end - tensor.place.start))
    };
    let mut same = embedding.dtype == head.dtype && embedding.shape == head.shape;
    let (mut first, mut second) = (part(embedding).map_err(wrong)?, part(head).map_err(wrong)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while same {
        a.clear();
        b.clear();
        first.by_ref().take(1 << 20).read_to_end(&mut a).map_err(wrong)?;
        second.by_ref().take(1 << 20).read_to_end(&mut b).map_err(wrong)?;
        same = a == b;
        if a.is_empty() {
            break;
        }
    }
    if same {
        return Ok(());
    }
    Err(format!(
        "{}: tensor {HEAD} is not {EMBEDDING}, but config.json says tie_word_embeddings: true; expected the one without \
         the other, or tie_word_embeddings: false",
        head.file
    ))
}

/// Whether a tokenizer is the one that a model was trained with, as far as its folder tells.
///
/// # Errors
/// The first difference: a token of another id, a text of other tokens, a special token that is none.
pub fn belongs(folder: &Folder, tokenizer: &Tokenizer) -> Result<(), String> {
    let own = folder.read("tokenizer.json", TOKENIZER_BYTES_MAX);
    let own = own.ok().and_then(|bytes| Tokenizer::parse(&bytes).ok());
    match own {
        Some(own) => same_tokens(&own, tokenizer),
        None => special_ids(folder, tokenizer),
    }
}

fn same_tokens(own: &Tokenizer, tokenizer: &Tokenizer) -> Result<(), String> {
    let (theirs, ours) = (own.vocabulary(), tokenizer.vocabulary());
    let differs = |(token, id): &(&String, &u32)| match theirs.get(*token) {
        Some(other) => *other != **id,
        // A special token may have been added: text never becomes it.
        None => !tokenizer.is_special(**id),
    };
    let mut different: Vec<(&String, &u32)> = ours.iter().filter(differs).collect();
    different.sort_unstable_by_key(|(_, id)| **id);
    if let Some((token, id)) = different.first() {
        let other = theirs.get(*token).map_or("no id".to_owned(), |id| format!("id {id}"));
        return Err(format!(
            "the tokenizer is not the model's: {} of {} tokens differ; {token:?} has id {id}, in the model's own \
             tokenizer.json {other}",
            different.len(),
            ours.len()
        ));
    }
    let encode = |tokenizer: &Tokenizer| tokenizer.encode_text(PROBE).map_err(|error| format!("{error:#}"));
    if encode(own)? != encode(tokenizer)? {
        return Err("the tokenizer is not the model's: the same text becomes other tokens (merges, normaliser or \
                    pre-tokenizer differ from the model's own tokenizer.json)"
            .to_owned());
    }
    Ok(())
}

/// Without a tokenizer of the model's own: what its `config.json` calls special must be so.
fn special_ids(folder: &Folder, tokenizer: &Tokenizer) -> Result<(), String> {
    let text = config(folder).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    for key in ["bos_token_id", "eos_token_id"] {
        let ids = match &config[key] {
            Value::Array(several) => several.iter().filter_map(Value::as_u64).collect(),
            one => one.as_u64().into_iter().collect::<Vec<_>>(),
        };
        for id in ids {
            let id = u32::try_from(id).unwrap_or(u32::MAX);
            if !tokenizer.is_special(id) {
                let token = tokenizer.token(id).map_or("no token".to_owned(), |token| format!("the token {token:?}"));
                return Err(format!(
                    "the tokenizer is not the model's: config.json: {key} is {id}, {token} of this tokenizer, expected \
                     a special one"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
