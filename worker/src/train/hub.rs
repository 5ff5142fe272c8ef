//! Hugging Face model folders: what `transformers` writes is read, what is written `transformers` reads.

use super::parameters::{Arenas, Layout};
use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use senmon_protocol::model::{ModelSpec, ModelType};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    path::Path,
};

/// Weights in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Which file holds which tensor, where there are several.
const INDEX_FILE: &str = "model.safetensors.index.json";

/// A tensor on the host: shape and fp32 values.
pub type HostTensor = (Vec<usize>, Vec<f32>);
/// Tensors by name.
pub type HostTensors = BTreeMap<String, HostTensor>;

/// Reads a model folder: ours, or what `transformers` saved, in one file or several, fp32, bf16 or fp16.
///
/// # Errors
/// An unsupported key of `config.json`, or a tensor that is missing, extra, misshapen, of another type or not finite,
/// by name.
pub fn load_model(folder: &Path) -> Result<(ModelSpec, HostTensors)> {
    let text = fs::read_to_string(folder.join("config.json"))
        .with_context(|| format!("config.json of {}", folder.display()))?;
    let spec = ModelSpec::from_config_json(&text).map_err(anyhow::Error::msg)?;
    let known: BTreeMap<String, Vec<i64>> =
        Layout::new(&spec).shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
    let mut found = HostTensors::new();
    for file in weight_files(folder)? {
        for (name, tensor) in read_tensors(folder, &file)? {
            let ours = known.contains_key(&name);
            // Old conversions carry the rotary frequencies; tied models sometimes carry the output twice.
            if !ours
                && (name.ends_with("rotary_emb.inv_freq") || (spec.tie_word_embeddings && name == "lm_head.weight"))
            {
                continue;
            }
            ensure!(ours, "{file}: tensor {name} belongs to no model of this config.json");
            ensure!(
                tensor.1.iter().all(|value| value.is_finite()),
                "{file}: tensor {name} holds a value that is not finite"
            );
            ensure!(found.insert(name.clone(), tensor).is_none(), "{file}: tensor {name} is in another file too");
        }
    }
    for (name, shape) in &known {
        let (have, _) = found.get(name).with_context(|| format!("{MODEL_FILE}: tensor {name} is missing"))?;
        let want: Vec<usize> = shape.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
        ensure!(*have == want, "{MODEL_FILE}: tensor {name} has shape {have:?}, config.json asks for {want:?}");
    }
    Ok((spec, found))
}

/// Names of the files that hold the weights.
fn weight_files(folder: &Path) -> Result<BTreeSet<String>> {
    if folder.join(MODEL_FILE).exists() {
        return Ok(BTreeSet::from([MODEL_FILE.to_owned()]));
    }
    let path = folder.join(INDEX_FILE);
    ensure!(path.exists(), "{MODEL_FILE} is missing in {}, and so is {INDEX_FILE}", folder.display());
    let index: Value = serde_json::from_slice(&fs::read(path)?).context(INDEX_FILE)?;
    let map = index["weight_map"].as_object().with_context(|| format!("{INDEX_FILE}: weight_map is missing"))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().with_context(|| format!("{INDEX_FILE}: weight_map.{tensor} is no file name"))?;
        let plain = Path::new(name).file_name().is_some_and(|plain| plain == name);
        ensure!(plain, "{INDEX_FILE}: weight_map.{tensor}: found {name}, expected a file of this folder");
        ensure!(folder.join(name).exists(), "{INDEX_FILE}: {name} is missing");
        files.insert(name.to_owned());
    }
    Ok(files)
}

/// Reads all tensors of a file as fp32.
///
/// # Errors
/// When the file is damaged or a tensor is of another type, by name.
pub fn read_tensors(folder: &Path, name: &str) -> Result<HostTensors> {
    let file = File::open(folder.join(name)).with_context(|| format!("{name} of {}", folder.display()))?;
    let bytes = map(&file).with_context(|| name.to_owned())?;
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

/// Maps a file that nobody changes while it is read: checkpoint folders are written once.
#[expect(unsafe_code, reason = "a file that somebody else truncates would end the process")]
pub fn map(file: &File) -> Result<memmap2::Mmap> {
    // SAFETY: the folder is complete and immutable (its manifest is written last); a seed folder belongs to the user,
    // who is told not to change it while it is loaded.
    Ok(unsafe { memmap2::Mmap::map(file)? })
}

/// Writes tensors of arenas into one file, synced, and compares the file with them.
///
/// # Errors
/// When the disk refuses or gives back something else.
pub fn write_tensors(folder: &Path, name: &str, layout: &Layout, sets: &[(&str, &Arenas)]) -> Result<()> {
    let named: Vec<(String, tch::Tensor)> = sets
        .iter()
        .flat_map(|(prefix, set)| {
            layout.views(set).into_iter().map(move |(key, view)| (format!("{prefix}{key}"), view))
        })
        .collect();
    let views = named
        .iter()
        .map(|(key, tensor)| {
            let shape = tensor.size().iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>()?;
            Ok((key.as_str(), TensorView::new(Dtype::F32, shape, bytes_of(tensor))?))
        })
        .collect::<Result<Vec<_>>>()?;
    // transformers refuses files without this mark.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = folder.join(name);
    safetensors::serialize_to_file(views, Some(metadata), &path).with_context(|| format!("write {name}"))?;
    let file = File::open(&path)?;
    file.sync_all().with_context(|| format!("sync {name}"))?;
    let back = map(&file)?;
    let read = SafeTensors::deserialize(&back).with_context(|| format!("read {name} back"))?;
    for (key, tensor) in &named {
        let same = read.tensor(key).is_ok_and(|view| view.data() == bytes_of(tensor));
        ensure!(same, "{name}: tensor {key} reads back as something else");
    }
    Ok(())
}

/// The bytes of an fp32 host tensor, as files keep them.
pub fn bytes_of(tensor: &tch::Tensor) -> &[u8] {
    bytemuck::cast_slice(super::buffer::values::<f32>(tensor))
}

/// `config.json` of a model, for `transformers`.
#[must_use]
pub fn config_json(spec: &ModelSpec, separator: u64) -> Value {
    let (architecture, kind) = match spec.model_type {
        ModelType::Llama => ("LlamaForCausalLM", "llama"),
        ModelType::Mistral => ("MistralForCausalLM", "mistral"),
        ModelType::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
    };
    let mut config = json!({
        "architectures": [architecture], "model_type": kind, "vocab_size": spec.vocab_size, "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size, "num_hidden_layers": spec.num_hidden_layers, "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.kv_heads(), "head_dim": spec.head_size(), "max_position_embeddings": spec.max_position_embeddings,
        "rms_norm_eps": spec.rms_norm_eps, "rope_theta": spec.rope_theta, "rope_scaling": spec.rope_scaling,
        "tie_word_embeddings": spec.tie_word_embeddings, "initializer_range": spec.initializer_range, "hidden_act": "silu",
        "attention_dropout": 0.0, "bos_token_id": separator, "eos_token_id": separator, "torch_dtype": "float32", "use_cache": true
    });
    match spec.model_type {
        ModelType::Llama => config["mlp_bias"] = json!(false),
        ModelType::Mistral => config["sliding_window"] = Value::Null,
        ModelType::Qwen2 => config["use_sliding_window"] = json!(false),
    }
    if spec.model_type == ModelType::Llama {
        config["attention_bias"] = json!(false);
    }
    config
}

/// The separator token and its id, by the first special token of the tokenizer.
#[must_use]
pub fn separator_of(tokenizer: &[u8]) -> (String, u64) {
    let value: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let added = value["added_tokens"].as_array().into_iter().flatten().find(|token| token["special"] == true);
    let text = added.and_then(|token| token["content"].as_str()).unwrap_or("<|endoftext|>");
    (text.to_owned(), added.and_then(|token| token["id"].as_u64()).unwrap_or(0))
}
