//! Checkpoint folders: a Hugging Face model, the trainer's state beside it, and `manifest.json` last.
//!
//! Order of a save: files written and synced, the folder synced, the manifest written and synced, the folder synced
//! again. A folder without a manifest is no checkpoint; a folder whose files differ from it is refused by name.

use super::model::shapes;
use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use senmon_corpus::{hex, sha256_file};
use senmon_protocol::{
    checkpoint::{CheckpointMeta, FileEntry, MANIFEST_FILE, Manifest},
    ids::CheckpointId,
    model::ModelSpec,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Write,
    path::Path,
};
use tch::{Device, Kind, Tensor};

const MODEL_FILE: &str = "model.safetensors";
const TRAINER_FILE: &str = "trainer.safetensors";
const TRAINER_STATE_FILE: &str = "trainer.json";

/// A tensor on the host: shape and fp32 values.
pub type HostTensor = (Vec<usize>, Vec<f32>);
/// Tensors by name.
pub type HostTensors = BTreeMap<String, HostTensor>;

/// State of training beside weights and moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Optimiser steps of the branch.
    pub step: u64,
    /// Tokens of the branch.
    pub tokens: u64,
    /// Steps that the moments have seen.
    pub optimizer_steps: u64,
    /// Hash of the next batch; None after the last step.
    pub next_batch_hash: Option<u64>,
    /// Digest of weights, moments and step.
    pub state_sha256: String,
}

/// Everything of a moment of training, copied to the host.
#[derive(Debug)]
pub struct Snapshot {
    /// Shape of the model.
    pub spec: ModelSpec,
    /// Weights.
    pub weights: HostTensors,
    /// First and second moments; None for weights alone.
    pub moments: Option<(HostTensors, HostTensors)>,
    /// The rest.
    pub state: TrainerState,
}

/// Copies tensors to the host.
///
/// # Errors
/// When a tensor cannot be read.
pub fn to_host(tensors: &BTreeMap<String, Tensor>) -> Result<HostTensors> {
    let copy = |(name, tensor): (&String, &Tensor)| {
        let shape = tensor.size().iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>()?;
        let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
        Ok((name.clone(), (shape, Vec::<f32>::try_from(&flat)?)))
    };
    tensors.iter().map(copy).collect()
}

/// Puts host tensors into tensors.
#[must_use]
pub fn from_host(tensors: &HostTensors) -> BTreeMap<String, Tensor> {
    let make = |(name, (shape, values)): (&String, &HostTensor)| {
        let shape: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).unwrap_or(0)).collect();
        (name.clone(), Tensor::from_slice(values).view(shape.as_slice()))
    };
    tensors.iter().map(make).collect()
}

/// Digest of a state: weights, first and second moments by name, then the step.
#[must_use]
pub fn digest(weights: &HostTensors, moments: Option<&(HostTensors, HostTensors)>, step: u64) -> String {
    let mut hash = Sha256::new();
    for set in std::iter::once(weights).chain(moments.into_iter().flat_map(|(first, second)| [first, second])) {
        for (name, (_, values)) in set {
            hash.update(name.as_bytes());
            hash.update(bytes_of(values));
        }
    }
    hash.update(step.to_le_bytes());
    hex(&hash.finalize())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes a checkpoint folder; returns the SHA-256 of its manifest. `meta.bytes` is filled in.
///
/// # Errors
/// When the disk refuses.
pub fn save(
    folder: &Path,
    snapshot: &Snapshot,
    tokenizer: &Path,
    id: CheckpointId,
    meta: &mut CheckpointMeta,
) -> Result<String> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let tokenizer = fs::read(tokenizer).with_context(|| format!("read {}", tokenizer.display()))?;
    let separator = separator_of(&tokenizer);
    write(folder, "config.json", &serde_json::to_vec_pretty(&config_json(&snapshot.spec, separator.1))?)?;
    write(folder, "tokenizer.json", &tokenizer)?;
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": separator.0, "bos_token": separator.0,
        "model_max_length": snapshot.spec.max_position_embeddings, "clean_up_tokenization_spaces": false
    });
    write(folder, "tokenizer_config.json", &serde_json::to_vec_pretty(&tokenizer_config)?)?;
    write_tensors(folder, MODEL_FILE, &snapshot.weights, "")?;
    if let Some((first, second)) = &snapshot.moments {
        let named = |set: &HostTensors, prefix: &str| {
            set.iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor.clone())).collect::<Vec<_>>()
        };
        let both: HostTensors = named(first, "first").into_iter().chain(named(second, "second")).collect();
        write_tensors(folder, TRAINER_FILE, &both, "")?;
        write(folder, TRAINER_STATE_FILE, &serde_json::to_vec_pretty(&snapshot.state)?)?;
    }
    File::open(folder)?.sync_all()?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        files.insert(name, FileEntry { bytes: entry.metadata()?.len(), sha256: sha256_file(&path)? });
    }
    meta.bytes = files.values().map(|file| file.bytes).sum();
    let manifest = Manifest {
        format: 1,
        id,
        files,
        meta: meta.clone(),
        created_at: chrono::Utc::now(),
        writer: concat!("senmon-worker ", env!("CARGO_PKG_VERSION")).into(),
    };
    let bytes = serde_json::to_vec_pretty(&manifest)?;
    write(folder, MANIFEST_FILE, &bytes)?;
    File::open(folder)?.sync_all()?;
    Ok(hex(&Sha256::digest(&bytes)))
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(folder.join(name)).with_context(|| format!("create {name}"))?;
    file.write_all(bytes).with_context(|| format!("write {name}"))?;
    file.sync_all().with_context(|| format!("sync {name}"))
}

fn write_tensors(folder: &Path, name: &str, tensors: &HostTensors, prefix: &str) -> Result<()> {
    let bytes: Vec<(String, &Vec<usize>, Vec<u8>)> =
        tensors.iter().map(|(key, (shape, values))| (format!("{prefix}{key}"), shape, bytes_of(values))).collect();
    let views =
        bytes.iter().map(|(key, shape, data)| Ok((key.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), data)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    // transformers refuses files without this mark.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write(folder, name, &safetensors::serialize(views, Some(metadata))?)
}

/// The separator token and its id, by the first special token of the tokenizer.
fn separator_of(tokenizer: &[u8]) -> (String, u64) {
    let value: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let added = value["added_tokens"].as_array().into_iter().flatten().find(|token| token["special"] == true);
    let text = added.and_then(|token| token["content"].as_str()).unwrap_or("<|endoftext|>");
    (text.to_owned(), added.and_then(|token| token["id"].as_u64()).unwrap_or(0))
}

fn config_json(spec: &ModelSpec, separator: u64) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": spec.vocab_size, "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size, "num_hidden_layers": spec.num_hidden_layers, "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.kv_heads(), "head_dim": spec.head_size(), "max_position_embeddings": spec.max_position_embeddings,
        "rms_norm_eps": spec.rms_norm_eps, "rope_theta": spec.rope_theta, "tie_word_embeddings": spec.tie_word_embeddings,
        "initializer_range": spec.initializer_range, "hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0,
        "bos_token_id": separator, "eos_token_id": separator, "torch_dtype": "float32", "use_cache": true
    })
}

/// Checks a folder of the store against its manifest.
///
/// # Errors
/// The first file that is missing, short or altered, by name; the manifest itself when it is not the committed one.
pub fn verify(folder: &Path, manifest_sha256: &str) -> Result<Manifest> {
    let bytes =
        fs::read(folder.join(MANIFEST_FILE)).with_context(|| format!("{MANIFEST_FILE} of {}", folder.display()))?;
    let found = hex(&Sha256::digest(&bytes));
    ensure!(found == manifest_sha256, "{MANIFEST_FILE}: SHA-256 is {found}, the committed one is {manifest_sha256}");
    let manifest: Manifest = serde_json::from_slice(&bytes).context(MANIFEST_FILE)?;
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let bytes = fs::metadata(&path).with_context(|| format!("{name} is missing"))?.len();
        ensure!(bytes == entry.bytes, "{name}: {bytes} bytes, the manifest says {}", entry.bytes);
        let found = sha256_file(&path)?;
        ensure!(found == entry.sha256, "{name}: SHA-256 is {found}, the manifest says {}", entry.sha256);
    }
    Ok(manifest)
}

/// Reads a model folder: ours, or what `transformers` saved.
///
/// # Errors
/// An unsupported key of `config.json`, or a tensor that is missing, extra, misshapen, of another type or not finite,
/// by name.
pub fn load_model(folder: &Path) -> Result<(ModelSpec, HostTensors)> {
    let text = fs::read_to_string(folder.join("config.json"))
        .with_context(|| format!("config.json of {}", folder.display()))?;
    let spec = ModelSpec::from_config_json(&text).map_err(anyhow::Error::msg)?;
    ensure!(
        folder.join(MODEL_FILE).exists(),
        "{MODEL_FILE} is missing in {} (sharded models are not read yet)",
        folder.display()
    );
    let mut found = read_tensors(folder, MODEL_FILE)?;
    if spec.tie_word_embeddings {
        found.remove("lm_head.weight");
    }
    for (name, shape) in shapes(&spec) {
        let (have, values) = found.get(&name).with_context(|| format!("{MODEL_FILE}: tensor {name} is missing"))?;
        let want: Vec<usize> = shape.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
        ensure!(*have == want, "{MODEL_FILE}: tensor {name} has shape {have:?}, config.json asks for {want:?}");
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "{MODEL_FILE}: tensor {name} holds a value that is not finite"
        );
    }
    let known = shapes(&spec);
    if let Some(extra) = found.keys().find(|name| !known.contains_key(*name) && !name.ends_with("rotary_emb.inv_freq"))
    {
        bail!("{MODEL_FILE}: tensor {extra} belongs to no Llama of this config.json");
    }
    found.retain(|name, _| known.contains_key(name));
    Ok((spec, found))
}

fn read_tensors(folder: &Path, name: &str) -> Result<HostTensors> {
    let bytes = fs::read(folder.join(name)).with_context(|| format!("{name} of {}", folder.display()))?;
    let parsed = SafeTensors::deserialize(&bytes).with_context(|| name.to_owned())?;
    let convert = |(key, view): (String, TensorView)| {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect(),
            Dtype::BF16 => {
                data.as_chunks::<2>().0.iter().map(|word| half::bf16::from_le_bytes(*word).to_f32()).collect()
            }
            Dtype::F16 => data.as_chunks::<2>().0.iter().map(|word| half::f16::from_le_bytes(*word).to_f32()).collect(),
            other => bail!("{name}: tensor {key} is {other:?}, expected F32, BF16 or F16"),
        };
        Ok((key, (view.shape().to_vec(), values)))
    };
    parsed.tensors().into_iter().map(convert).collect()
}

/// Reads the trainer's part of a resumable checkpoint.
///
/// # Errors
/// When a moment is missing or does not fit its weight, by name.
pub fn load_trainer(folder: &Path, weights: &HostTensors) -> Result<((HostTensors, HostTensors), TrainerState)> {
    let state = fs::read(folder.join(TRAINER_STATE_FILE)).with_context(|| TRAINER_STATE_FILE.to_owned())?;
    let state = serde_json::from_slice(&state).context(TRAINER_STATE_FILE)?;
    let mut all = read_tensors(folder, TRAINER_FILE)?;
    let mut take = |prefix: &str| -> Result<HostTensors> {
        weights
            .iter()
            .map(|(name, (shape, _))| {
                let tensor = all
                    .remove(&format!("{prefix}.{name}"))
                    .with_context(|| format!("{TRAINER_FILE}: tensor {prefix}.{name} is missing"))?;
                ensure!(
                    tensor.0 == *shape,
                    "{TRAINER_FILE}: tensor {prefix}.{name} has shape {:?}, its weight {shape:?}",
                    tensor.0
                );
                Ok((name.clone(), tensor))
            })
            .collect()
    };
    Ok(((take("first")?, take("second")?), state))
}
