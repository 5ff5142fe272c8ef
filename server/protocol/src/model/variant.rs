//! What a family does otherwise than Llama, as data: whoever computes a model reads this and knows no family.

use super::{LayerType, ModelSpec, ModelType, RopeScaling};

/// How queries and keys are normed before they are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Not at all.
    None,
    /// Each head, with one weight for all heads.
    Head,
    /// All heads of a token together.
    Projection,
}

/// Norms around attention or the gated unit, by the name of their parameter in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Around {
    /// Of what goes in.
    pub before: Option<&'static str>,
    /// Of what comes out, before it joins the residual stream.
    pub after: Option<&'static str>,
}

/// The norms of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norms {
    /// Around attention.
    pub attention: Around,
    /// Around the gated unit.
    pub gated: Around,
}

/// What stands between the gate and the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by its approximation with a hyperbolic tangent (Hendrycks & Gimpel 2016).
    GeluTanh,
}

/// One way of turning queries and keys by their positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: Option<RopeScaling>,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Tokens that it sees, the present one included; None for all.
    pub window: Option<u32>,
    /// Which of [`Variant::rotaries`]; None where positions are not told.
    pub rotary: Option<usize>,
}

/// All that a forward pass must know besides sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Norms of a block.
    pub norms: Norms,
    /// Added to the weight of every norm.
    pub norm_offset: f64,
    /// Of the gate.
    pub activation: Activation,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f64,
    /// Scores of attention are multiplied by this.
    pub query_scale: f64,
    /// Scores stay within this.
    pub attention_cap: Option<f64>,
    /// Logits stay within this.
    pub logit_cap: Option<f64>,
    /// Ways of turning.
    pub rotaries: Vec<Rotary>,
    /// The layers in order.
    pub layers: Vec<Layer>,
}

/// Every so many layers SmolLM3 has one without positions.
const NO_ROPE_EVERY: usize = 4;
/// Every so many layers Gemma 3 has one that sees all.
const FULL_EVERY: usize = 6;
/// Base of Gemma 3's local layers.
const LOCAL_BASE: f64 = 10_000.0;

impl ModelSpec {
    /// What this model does otherwise than Llama.
    #[must_use]
    pub fn variant(&self) -> Variant {
        let is_gemma = matches!(self.model_type, ModelType::Gemma2 | ModelType::Gemma3Text);
        let mut rotaries = vec![Rotary { theta: self.rope_theta, scaling: self.rope_scaling }];
        let local_base = self.local_base();
        rotaries.extend(local_base.map(|theta| Rotary { theta, scaling: None }));
        let layer = |number: usize| {
            let is_local = self.layer_type(number) == LayerType::SlidingAttention;
            let rotary = usize::from(is_local && local_base.is_some());
            Layer {
                window: self.sliding_window.filter(|_| is_local),
                rotary: self.layer_turns(number).then_some(rotary),
            }
        };
        Variant {
            qkv_bias: self.qkv_bias(),
            qk_norm: self.qk_norm(),
            norms: self.norms(),
            norm_offset: if is_gemma { 1.0 } else { 0.0 },
            activation: if is_gemma { Activation::GeluTanh } else { Activation::Silu },
            embedding_scale: if is_gemma { f64::from(self.hidden_size).sqrt() } else { 1.0 },
            query_scale: 1.0 / f64::from(self.query_pre_attn_scalar.unwrap_or(self.head_size())).sqrt(),
            attention_cap: self.attn_logit_softcapping,
            logit_cap: self.final_logit_softcapping,
            rotaries,
            layers: (0..self.num_hidden_layers as usize).map(layer).collect(),
        }
    }

    /// Whether queries, keys and values have a bias.
    #[must_use]
    pub fn qkv_bias(&self) -> bool {
        self.model_type == ModelType::Qwen2
    }

    /// Norms of queries and keys.
    #[must_use]
    pub fn qk_norm(&self) -> QkNorm {
        match self.model_type {
            ModelType::Qwen3 | ModelType::Gemma3Text => QkNorm::Head,
            ModelType::Olmo2 => QkNorm::Projection,
            _ => QkNorm::None,
        }
    }

    /// The norms of a block.
    #[must_use]
    pub fn norms(&self) -> Norms {
        let (attended, gated) = (Some("post_attention_layernorm"), Some("post_feedforward_layernorm"));
        match self.model_type {
            ModelType::Gemma2 | ModelType::Gemma3Text => Norms {
                attention: Around { before: Some("input_layernorm"), after: attended },
                gated: Around { before: Some("pre_feedforward_layernorm"), after: gated },
            },
            ModelType::Olmo2 => Norms {
                attention: Around { before: None, after: attended },
                gated: Around { before: None, after: gated },
            },
            // Llama's second norm is named for where it stands, and norms what goes into the gated unit.
            _ => Norms {
                attention: Around { before: Some("input_layernorm"), after: None },
                gated: Around { before: attended, after: None },
            },
        }
    }

    /// Base of the rotary embedding of local layers, where they have one of their own.
    #[must_use]
    pub fn local_base(&self) -> Option<f64> {
        (self.model_type == ModelType::Gemma3Text).then(|| self.rope_local_base_freq.unwrap_or(LOCAL_BASE))
    }

    /// How far a layer looks back.
    #[must_use]
    pub fn layer_type(&self, layer: usize) -> LayerType {
        if self.sliding_window.is_none() {
            return LayerType::FullAttention;
        }
        if let Some(found) = self.layer_types.as_ref().and_then(|types| types.get(layer)) {
            return *found;
        }
        let is_local = match self.model_type {
            ModelType::Mistral => true,
            ModelType::Gemma2 => layer.is_multiple_of(2),
            ModelType::Gemma3Text => !(layer + 1).is_multiple_of(FULL_EVERY),
            _ => false,
        };
        if is_local { LayerType::SlidingAttention } else { LayerType::FullAttention }
    }

    /// Whether a layer turns queries and keys by their positions.
    #[must_use]
    pub fn layer_turns(&self, layer: usize) -> bool {
        if self.model_type != ModelType::SmolLm3 {
            return true;
        }
        let given = self.no_rope_layers.as_ref().and_then(|layers| layers.get(layer));
        given.map_or(!(layer + 1).is_multiple_of(NO_ROPE_EVERY), |turns| *turns != 0)
    }
}

impl Norms {
    /// All of them, in the order in which a block's parameters lie.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let Self { attention, gated } = self;
        [attention.before, attention.after, gated.before, gated.after].into_iter().flatten().collect()
    }
}
