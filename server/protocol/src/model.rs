//! The model: a Llama-family transformer, described by the keys of Hugging Face's `config.json`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// Shape of a Llama-family model. Key names are those of `transformers`' `LlamaConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
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
    /// Whether the output projection is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
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
const CONFIG_KEYS: [&str; 12] = [
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
        if kind != "llama" {
            return Err(refuse("model_type", &kind, "\"llama\""));
        }
        // `transformers` 5 moved the base of the rotary embedding into a table.
        if let Some(Value::Object(rope)) = config.get("rope_parameters").cloned() {
            let kind = rope.get("rope_type").cloned().unwrap_or_else(|| json!("default"));
            if kind != "default" {
                return Err(refuse("rope_parameters.rope_type", &kind, "\"default\""));
            }
            if let Some(theta) = rope.get("rope_theta") {
                config.insert("rope_theta".into(), theta.clone());
            }
        }
        let only = [
            ("rope_scaling", Value::Null),
            ("attention_bias", json!(false)),
            ("mlp_bias", json!(false)),
            ("hidden_act", json!("silu")),
            ("sliding_window", Value::Null),
        ];
        for (key, expected) in only {
            if let Some(found) = config.get(key).filter(|found| !found.is_null() && **found != expected) {
                return Err(refuse(key, found, &format!("{expected}")));
            }
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

impl ModelSpec {
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
        let [h, i, layers] = [self.hidden_size, self.intermediate_size, self.num_hidden_layers].map(u64::from);
        let q = u64::from(self.num_attention_heads) * u64::from(self.head_size());
        let kv = u64::from(self.kv_heads()) * u64::from(self.head_size());
        let block = h * q + 2 * h * kv + q * h + 3 * h * i + 2 * h;
        let embeddings = vocab_size * h * if self.tie_word_embeddings { 1 } else { 2 };
        embeddings + layers * block + h
    }

    /// Floating-point operations to train on one token: 6 per matrix weight plus causal attention counted half
    /// (Kaplan et al. 2020, section 2.1; `PaLM`, appendix B).
    #[must_use]
    pub fn train_flops_per_token(&self, vocab_size: u64, sequence_length: u64) -> u64 {
        let h = u64::from(self.hidden_size);
        let embedding_lookup = if self.tie_word_embeddings { 0 } else { vocab_size * h };
        let width = u64::from(self.num_attention_heads) * u64::from(self.head_size());
        let attention = 6 * u64::from(self.num_hidden_layers) * width * sequence_length;
        6 * (self.parameters(vocab_size) - embedding_lookup) + attention
    }

    /// What is wrong with the shape: pairs of key and complaint.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (key, size) in sizes {
            if size == 0 {
                problems.push((key, "found 0, expected at least 1".to_owned()));
            }
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
        problems
    }
}
