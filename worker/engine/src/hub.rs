//! Hugging Face model folders: what `transformers` writes is read, what is written `transformers` reads.

use super::parameters::{Arenas, Layout};
use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
pub use senmon_corpus::seed::MODEL_FILE;
use senmon_corpus::{
    roots::Folder,
    seed::{Seed, inspect},
};
use senmon_protocol::model::{LayerType, ModelSpec, ModelType};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    path::Path,
};

/// A tensor on the host: shape and fp32 values.
pub type HostTensor = (Vec<usize>, Vec<f32>);
/// Tensors by name.
pub type HostTensors = BTreeMap<String, HostTensor>;

/// Reads a model folder of ours.
///
/// # Errors
/// As [`load_folder`].
pub fn load_model(folder: &Path) -> Result<(ModelSpec, HostTensors)> {
    load_folder(&Folder::own(folder))
}

/// Reads a model folder: ours, or what `transformers` saved, in one file or several, fp32, bf16 or fp16.
///
/// # Errors
/// What keeps the folder from being used ([`inspect`]), or a tensor that holds a value that is not finite, by name.
pub fn load_folder(folder: &Folder) -> Result<(ModelSpec, HostTensors)> {
    let Seed { spec, files } = inspect(folder).map_err(anyhow::Error::msg)?;
    let known: BTreeSet<String> = spec.tensors().into_iter().map(|(name, _)| name).collect();
    let mut found = HostTensors::new();
    for file in files {
        for (name, tensor) in tensors_of(folder, &file)?.into_iter().filter(|(name, _)| known.contains(name)) {
            ensure!(
                tensor.1.iter().all(|value| value.is_finite()),
                "{file}: tensor {name} holds a value that is not finite"
            );
            found.insert(name, tensor);
        }
    }
    Ok((spec, found))
}

/// Reads all tensors of a file of ours as fp32.
///
/// # Errors
/// When the file is damaged or a tensor is of another type, by name.
pub fn read_tensors(folder: &Path, name: &str) -> Result<HostTensors> {
    tensors_of(&Folder::own(folder), name)
}

fn tensors_of(folder: &Folder, name: &str) -> Result<HostTensors> {
    let file = folder.open(name).with_context(|| format!("{name} of {}", folder.path().display()))?;
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

/// `config.json` of a model, for `transformers`; the ids of its special tokens are added by who knows them.
#[must_use]
pub fn config_json(spec: &ModelSpec) -> Value {
    let architecture = match spec.model_type {
        ModelType::Llama => "LlamaForCausalLM",
        ModelType::Mistral => "MistralForCausalLM",
        ModelType::Qwen2 => "Qwen2ForCausalLM",
        ModelType::Qwen3 => "Qwen3ForCausalLM",
        ModelType::Gemma2 => "Gemma2ForCausalLM",
        ModelType::Gemma3Text => "Gemma3ForCausalLM",
        ModelType::Olmo2 => "Olmo2ForCausalLM",
        ModelType::SmolLm3 => "SmolLM3ForCausalLM",
    };
    let mut config = json!({
        "architectures": [architecture], "model_type": spec.model_type.name(), "vocab_size": spec.vocab_size, "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size, "num_hidden_layers": spec.num_hidden_layers, "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.kv_heads(), "head_dim": spec.head_size(), "max_position_embeddings": spec.max_position_embeddings,
        "rms_norm_eps": spec.rms_norm_eps, "rope_theta": spec.rope_theta, "rope_scaling": spec.rope_scaling,
        "tie_word_embeddings": spec.tie_word_embeddings, "initializer_range": spec.initializer_range, "hidden_act": "silu",
        "attention_dropout": 0.0, "torch_dtype": "float32", "use_cache": true
    });
    let more = match spec.model_type {
        ModelType::Llama => json!({ "mlp_bias": false, "attention_bias": false }),
        ModelType::Olmo2 => json!({ "attention_bias": false }),
        ModelType::Mistral => json!({ "sliding_window": spec.sliding_window }),
        ModelType::Qwen2 | ModelType::Qwen3 => local_layers(spec),
        ModelType::SmolLm3 => {
            let turns: Vec<u8> = layers(spec).map(|layer| u8::from(spec.layer_turns(layer))).collect();
            let mut more = local_layers(spec);
            more["no_rope_layers"] = json!(turns);
            more
        }
        ModelType::Gemma2 | ModelType::Gemma3Text => {
            let gelu = "gelu_pytorch_tanh";
            let mut more = local_layers(spec);
            // There is always one, though no layer be local.
            more["sliding_window"] = json!(spec.sliding_window.unwrap_or(spec.max_position_embeddings));
            more["hidden_act"] = json!(gelu);
            more["hidden_activation"] = json!(gelu);
            more["query_pre_attn_scalar"] = json!(spec.query_pre_attn_scalar.unwrap_or(spec.head_size()));
            more["attn_logit_softcapping"] = json!(spec.attn_logit_softcapping);
            more["final_logit_softcapping"] = json!(spec.final_logit_softcapping);
            if let Some(theta) = spec.local_base() {
                more["rope_local_base_freq"] = json!(theta);
            }
            more
        }
    };
    if !matches!(spec.model_type, ModelType::Llama | ModelType::Mistral | ModelType::Qwen2 | ModelType::Qwen3) {
        // These have one by default, which a small vocabulary may not hold.
        config["pad_token_id"] = Value::Null;
    }
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

fn layers(spec: &ModelSpec) -> std::ops::Range<usize> {
    0..spec.num_hidden_layers as usize
}

/// Windows, and the kind of each layer, which `transformers` reads where a family has several.
fn local_layers(spec: &ModelSpec) -> Value {
    let types: Vec<LayerType> = layers(spec).map(|layer| spec.layer_type(layer)).collect();
    let slides = spec.sliding_window.is_some();
    json!({ "use_sliding_window": slides, "sliding_window": spec.sliding_window, "layer_types": types })
}
