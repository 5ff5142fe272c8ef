//! The model: a transformer of the Llama family, described by the keys of Hugging Face's `config.json`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// Shape of a Llama-family model. Key names are those of `transformers`' `LlamaConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Family, by the name that `transformers` gives it.
    #[serde(default)]
    pub model_type: ModelType,
    /// Rows of the embedding; taken from the tokenizer when absent, refused when smaller than it.
    #[serde(default)]
    pub vocab_size: Option<u32>,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the SwiGLU.
    pub intermediate_size: u32,
    /// Blocks.
    pub num_hidden_layers: u32,
    /// Query heads.
    pub num_attention_heads: u32,
    /// Key and value heads; as many as query heads when absent.
    #[serde(default)]
    pub num_key_value_heads: Option<u32>,
    /// Size of a head; `hidden_size / num_attention_heads` when absent.
    #[serde(default)]
    pub head_dim: Option<u32>,
    /// Longest sequence the model accepts.
    pub max_position_embeddings: u32,
    /// Epsilon of RMSNorm.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// How the rotary embedding is stretched for sequences longer than those of its training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output projection is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
}

/// A family of models. All are the same transformer; what differs is said at each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelType {
    /// Llama 1 to 3, and what calls itself so (`SmolLM2`, ...).
    #[default]
    Llama,
    /// Mistral without its sliding window.
    Mistral,
    /// Qwen2 and 2.5: queries, keys and values have a bias.
    Qwen2,
}

/// A stretched rotary embedding. Key names are those of `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// All positions are divided (Chen et al. 2023).
    Linear(LinearScaling),
    /// Llama 3.1: long waves are stretched, short ones kept.
    Llama3(Llama3Scaling),
}

/// See [`RopeScaling::Linear`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearScaling {
    /// Positions are divided by this: at least 1.
    pub factor: f64,
}

/// See [`RopeScaling::Llama3`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Llama3Scaling {
    /// Long waves are stretched by this: at least 1.
    pub factor: f64,
    /// Waves that fit less often than this into the original context are long.
    pub low_freq_factor: f64,
    /// Waves that fit more often than this into the original context are short.
    pub high_freq_factor: f64,
    /// The original context, in tokens.
    pub original_max_position_embeddings: u32,
}

fn default_rms_norm_eps() -> f64 {
    1e-5
}
fn default_rope_theta() -> f64 {
    10_000.0
}
fn default_initializer_range() -> f64 {
    0.02
}

/// Keys of `config.json` that shape a Llama.
const CONFIG_KEYS: [&str; 14] = [
    "model_type",
    "rope_scaling",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "initializer_range",
];

impl ModelSpec {
    /// Reads Hugging Face's `config.json`.
    ///
    /// # Errors
    /// The key that is missing or not supported, what was found and what is accepted.
    pub fn from_config_json(text: &str) -> Result<Self, String> {
        let mut config: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("config.json: {error}"))?;
        let refuse = |key: &str, found: &Value, expected: &str| {
            format!("config.json: {key}: found {found}, expected {expected}")
        };
        let kind = config.get("model_type").cloned().unwrap_or_default();
        if !["llama", "mistral", "qwen2"].contains(&kind.as_str().unwrap_or_default()) {
            return Err(refuse("model_type", &kind, "\"llama\", \"mistral\" or \"qwen2\""));
        }
        // `transformers` 5 keeps base and scaling of the rotary embedding in one table.
        let (table, key) = match config.remove("rope_parameters") {
            Some(Value::Object(table)) => (table, "rope_parameters"),
            _ => match config.remove("rope_scaling") {
                Some(Value::Object(table)) => (table, "rope_scaling"),
                _ => (Map::new(), ""),
            },
        };
        if let Some(theta) = table.get("rope_theta") {
            config.insert("rope_theta".into(), theta.clone());
        }
        if let Some(scaling) = rope_scaling(key, table)? {
            config.insert("rope_scaling".into(), scaling);
        }
        let only = [
            ("attention_bias", json!(false)),
            ("mlp_bias", json!(false)),
            ("hidden_act", json!("silu")),
            ("use_sliding_window", json!(false)),
            ("pretraining_tp", json!(1)),
            // Mixtures of experts inside one model.
            ("num_local_experts", json!(null)),
            ("num_experts", json!(null)),
            ("n_routed_experts", json!(null)),
        ];
        for (key, expected) in only {
            if let Some(found) = config.get(key).filter(|found| !found.is_null() && **found != expected) {
                return Err(refuse(key, found, &format!("{expected}")));
            }
        }
        for kind in config.get("layer_types").and_then(Value::as_array).into_iter().flatten() {
            if kind != "full_attention" {
                return Err(refuse("layer_types", kind, "\"full_attention\" throughout"));
            }
        }
        // Qwen2 writes its window even where it does not use it.
        let positions = config.get("max_position_embeddings").and_then(Value::as_u64).unwrap_or(0);
        let window = config.get("sliding_window").filter(|_| kind != "qwen2");
        if let Some(found) = window.filter(|found| found.as_u64().is_some_and(|window| window < positions)) {
            return Err(refuse("sliding_window", found, "null, or at least max_position_embeddings"));
        }
        if let Some(found) = config.get("quantization_config").filter(|found| !found.is_null()) {
            return Err(refuse("quantization_config", found, "none: weights are read as F32, BF16 or F16"));
        }
        for (key, value) in left_out(kind.as_str().unwrap_or_default()) {
            config.entry(key).or_insert(value);
        }
        config.retain(|key, value| CONFIG_KEYS.contains(&key.as_str()) && !value.is_null());
        let spec: Self = serde_json::from_value(config.into()).map_err(|error| format!("config.json: {error}"))?;
        if spec.vocab_size.is_none() {
            return Err("config.json: vocab_size is missing".to_owned());
        }
        match spec.problems().first() {
            Some((key, message)) => Err(format!("config.json: {key}: {message}")),
            None => Ok(spec),
        }
    }
}

/// What `transformers` takes where a family's `config.json` does not say (`LlamaConfig`, `MistralConfig`,
/// `Qwen2Config`). A `null` is not left out: key and value heads are then as many as query heads.
fn left_out(model_type: &str) -> [(&'static str, Value); 3] {
    let (kv_heads, positions) = match model_type {
        "mistral" => (json!(8), 131_072),
        "qwen2" => (json!(32), 32_768),
        _ => (Value::Null, 2048),
    };
    [("rms_norm_eps", json!(1e-6)), ("num_key_value_heads", kv_heads), ("max_position_embeddings", json!(positions))]
}

/// Reads a table of the rotary embedding; None where it is not stretched.
fn rope_scaling(key: &str, mut table: Map<String, Value>) -> Result<Option<Value>, String> {
    let kind = table.remove("rope_type").or_else(|| table.remove("type")).unwrap_or_else(|| json!("default"));
    let keys: &[&str] = match kind.as_str().unwrap_or_default() {
        "default" => return Ok(None),
        "linear" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        _ => {
            return Err(format!(
                "config.json: {key}.rope_type: found {kind}, expected \"default\", \"linear\" or \"llama3\""
            ));
        }
    };
    table.retain(|name, _| keys.contains(&name.as_str()));
    if let Some(missing) = keys.iter().find(|name| !table.contains_key(**name)) {
        return Err(format!("config.json: {key}.{missing} is missing"));
    }
    table.insert("rope_type".into(), kind);
    Ok(Some(table.into()))
}

impl ModelSpec {
    /// Whether queries, keys and values have a bias.
    #[must_use]
    pub fn qkv_bias(&self) -> bool {
        self.model_type == ModelType::Qwen2
    }

    /// Key and value heads.
    #[must_use]
    pub fn kv_heads(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Size of one head.
    #[must_use]
    pub fn head_size(&self) -> u32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Number of parameters with a vocabulary of `vocab_size`.
    #[must_use]
    pub fn parameters(&self, vocab_size: u64) -> u64 {
        let [h, i, layers] = [self.hidden_size, self.intermediate_size, self.num_hidden_layers].map(u128::from);
        let q = u128::from(self.num_attention_heads) * u128::from(self.head_size());
        let kv = u128::from(self.kv_heads()) * u128::from(self.head_size());
        let bias = if self.qkv_bias() { q + 2 * kv } else { 0 };
        let block = h * q + 2 * h * kv + q * h + 3 * h * i + 2 * h + bias;
        let embeddings = u128::from(vocab_size) * h * if self.tie_word_embeddings { 1 } else { 2 };
        u64::try_from(embeddings.saturating_add(layers.saturating_mul(block)).saturating_add(h)).unwrap_or(u64::MAX)
    }

    /// Names and shapes of the parameters, as `transformers` names them. Projections that are multiplied together stand
    /// side by side.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let [h, i, v] = [self.hidden_size, self.intermediate_size, self.vocab_size.unwrap_or(0)].map(u64::from);
        let q = u64::from(self.num_attention_heads) * u64::from(self.head_size());
        let kv = u64::from(self.kv_heads()) * u64::from(self.head_size());
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![v, h])];
        for layer in 0..self.num_hidden_layers {
            let block = [
                ("self_attn.q_proj", vec![q, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, q]),
                ("mlp.gate_proj", vec![i, h]),
                ("mlp.up_proj", vec![i, h]),
                ("mlp.down_proj", vec![h, i]),
                ("input_layernorm", vec![h]),
                ("post_attention_layernorm", vec![h]),
            ];
            tensors.extend(block.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
            if self.qkv_bias() {
                let bias = [("q", q), ("k", kv), ("v", kv)];
                let name = |part| format!("model.layers.{layer}.self_attn.{part}_proj.bias");
                tensors.extend(bias.map(|(part, width)| (name(part), vec![width])));
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![h]));
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![v, h]));
        }
        tensors
    }

    /// Floating-point operations to train on one token: 6 per matrix weight plus causal attention counted half
    /// (Kaplan et al. 2020, section 2.1; `PaLM`, appendix B).
    #[must_use]
    pub fn train_flops_per_token(&self, vocab_size: u64, sequence_length: u64) -> u64 {
        let embedding_lookup =
            if self.tie_word_embeddings { 0 } else { vocab_size.saturating_mul(u64::from(self.hidden_size)) };
        let width = u64::from(self.num_attention_heads) * u64::from(self.head_size());
        let attention = (6 * u64::from(self.num_hidden_layers)).saturating_mul(width).saturating_mul(sequence_length);
        self.parameters(vocab_size).saturating_sub(embedding_lookup).saturating_mul(6).saturating_add(attention)
    }

    /// What is wrong with the shape: pairs of key and complaint.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let sizes = [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 14),
            ("num_attention_heads", self.num_attention_heads, 1 << 16),
            ("num_key_value_heads", self.kv_heads(), 1 << 16),
            ("head_dim", self.head_dim.unwrap_or(2), 1 << 16),
            ("vocab_size", self.vocab_size.unwrap_or(1), 1 << 30),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 30),
        ];
        for (key, size, most) in sizes {
            if !(1..=most).contains(&size) {
                problems.push((key, format!("found {size}, expected 1 to {most}")));
            }
        }
        let (eps, theta, spread) = (self.rms_norm_eps, self.rope_theta, self.initializer_range);
        if !(eps > 0.0 && eps < 1.0) {
            problems.push(("rms_norm_eps", format!("found {eps}, expected more than 0, below 1")));
        }
        if !(theta.is_finite() && theta > 0.0) {
            problems.push(("rope_theta", format!("found {theta}, expected a number above 0")));
        }
        if !(0.0..=10.0).contains(&spread) {
            problems.push(("initializer_range", format!("found {spread}, expected 0 to 10")));
        }
        if !problems.is_empty() {
            return problems;
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (h, n) = (self.hidden_size, self.num_attention_heads);
            problems.push(("num_attention_heads", format!("found {n}, expected a divisor of hidden_size {h}")));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            let (n, kv) = (self.num_attention_heads, self.kv_heads());
            problems
                .push(("num_key_value_heads", format!("found {kv}, expected a divisor of num_attention_heads {n}")));
        }
        if !self.head_size().is_multiple_of(2) {
            let found = self.head_size();
            problems.push(("head_dim", format!("found {found}, expected an even number (rotary embedding)")));
        }
        let factor = match self.rope_scaling {
            Some(RopeScaling::Linear(scaling)) => scaling.factor,
            Some(RopeScaling::Llama3(scaling)) => {
                let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
                if !(low > 0.0 && high > low && high.is_finite()) {
                    let found = format!("found {low} to {high}, expected positive and rising");
                    problems.push(("rope_scaling.low_freq_factor", found));
                }
                scaling.factor
            }
            None => 1.0,
        };
        if !(factor >= 1.0 && factor.is_finite()) {
            problems.push(("rope_scaling.factor", format!("found {factor}, expected at least 1")));
        }
        problems
    }
}
