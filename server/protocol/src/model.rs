//! The model: a transformer of the Llama family, described by the keys of Hugging Face's `config.json`.
//!
//! What a family does otherwise than Llama is data ([`variant`]); how many parameters that makes is in `size`, what a
//! shape may not be in `problems`, how a `config.json` is read in `config`.

mod config;
mod problems;
mod size;
pub mod variant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Shape of a Llama-family model. Key names are those of `transformers`' configurations.
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
    /// Width of the gated unit.
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
    /// Base of the rotary embedding of Gemma 3's local layers; 10000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_local_base_freq: Option<f64>,
    /// Tokens that a local layer sees, the present one included; every layer sees all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<u32>,
    /// Which layers are local; as the family has it when absent: all of Mistral, every second of Gemma 2, five of six of
    /// Gemma 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_types: Option<Vec<LayerType>>,
    /// Per layer of SmolLM3, 1 where queries and keys are turned by their positions, 0 where not; every fourth is not
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_rope_layers: Option<Vec<u8>>,
    /// Scores of attention are divided by the root of this; by that of a head's size when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_pre_attn_scalar: Option<u32>,
    /// Scores of attention stay within this, by a hyperbolic tangent (Gemma 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_logit_softcapping: Option<f64>,
    /// Logits stay within this, by a hyperbolic tangent (Gemma).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_logit_softcapping: Option<f64>,
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
    /// Mistral; with a `sliding_window`, every layer is local.
    Mistral,
    /// Qwen2 and 2.5: queries, keys and values have a bias.
    Qwen2,
    /// Qwen3: each head's queries and keys are normed.
    Qwen3,
    /// Gemma 2: norms before and after, local layers, soft caps, gated GELU.
    Gemma2,
    /// Gemma 3, text alone: as Gemma 2, with normed queries and keys and no caps.
    #[serde(rename = "gemma3_text")]
    Gemma3Text,
    /// OLMo 2: norms after attention and gated unit, queries and keys normed over their whole projection.
    Olmo2,
    /// SmolLM3: some layers know no positions.
    SmolLm3,
}

impl ModelType {
    /// All families, by name.
    pub const ALL: [(&'static str, Self); 8] = [
        ("llama", Self::Llama),
        ("mistral", Self::Mistral),
        ("qwen2", Self::Qwen2),
        ("qwen3", Self::Qwen3),
        ("gemma2", Self::Gemma2),
        ("gemma3_text", Self::Gemma3Text),
        ("olmo2", Self::Olmo2),
        ("smollm3", Self::SmolLm3),
    ];

    /// The family's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// How far a layer looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// To the beginning.
    FullAttention,
    /// `sliding_window` tokens.
    SlidingAttention,
}

/// A stretched rotary embedding. Key names are those of `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// All positions are divided (Chen et al. 2023).
    Linear(LinearScaling),
    /// Llama 3.1: long waves are stretched, short ones kept.
    Llama3(Llama3Scaling),
    /// YaRN: the same between two numbers of turns, with sharper attention (Peng et al. 2023).
    Yarn(YarnScaling),
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

/// See [`RopeScaling::Yarn`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct YarnScaling {
    /// Long waves are stretched by this: at least 1.
    pub factor: f64,
    /// The original context, in tokens.
    pub original_max_position_embeddings: u32,
    /// Cosines and sines are multiplied by this; `0.1 ln(factor) + 1` when absent, or the quotient of the same with
    /// `mscale` and `mscale_all_dim` before the logarithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    /// Waves that turn more often than this in the original context are kept.
    #[serde(default = "default_beta_fast")]
    pub beta_fast: f64,
    /// Waves that turn less often than this are stretched whole.
    #[serde(default = "default_beta_slow")]
    pub beta_slow: f64,
    /// See `attention_factor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mscale: Option<f64>,
    /// See `attention_factor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mscale_all_dim: Option<f64>,
    /// Whether the two bounds are rounded to whole coordinates.
    #[serde(default = "default_truncate")]
    pub truncate: bool,
}

fn default_beta_fast() -> f64 {
    32.0
}
fn default_beta_slow() -> f64 {
    1.0
}
fn default_truncate() -> bool {
    true
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
