//! How large a model is: its parameters by name and shape, and what training on a token costs.

use super::{LayerType, ModelSpec, variant::QkNorm};

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
        let [h, i, layers] = [self.hidden_size, self.intermediate_size, self.num_hidden_layers].map(u128::from);
        let q = u128::from(self.num_attention_heads) * u128::from(self.head_size());
        let kv = u128::from(self.kv_heads()) * u128::from(self.head_size());
        let bias = if self.qkv_bias() { q + 2 * kv } else { 0 };
        let [q_norm, k_norm] = self.qk_norm_widths().map(u128::from);
        let norms = self.norms().names().len() as u128 * h + q_norm + k_norm;
        let block = h * q + 2 * h * kv + q * h + 3 * h * i + norms + bias;
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
            ];
            let norms = self.norms().names().into_iter().map(|name| (name, vec![h]));
            let of_heads = ["self_attn.q_norm", "self_attn.k_norm"].into_iter().zip(self.qk_norm_widths());
            let of_heads = of_heads.filter(|(_, width)| *width > 0).map(|(name, width)| (name, vec![width]));
            let name = |part| format!("model.layers.{layer}.{part}.weight");
            tensors.extend(block.into_iter().chain(norms).chain(of_heads).map(|(part, shape)| (name(part), shape)));
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

    /// Widths of the norms of queries and of keys; 0 where there are none.
    #[must_use]
    pub fn qk_norm_widths(&self) -> [u64; 2] {
        let d = u64::from(self.head_size());
        match self.qk_norm() {
            QkNorm::None => [0, 0],
            QkNorm::Head => [d, d],
            QkNorm::Projection => [u64::from(self.num_attention_heads) * d, u64::from(self.kv_heads()) * d],
        }
    }

    /// Floating-point operations to train on one token: 6 per matrix weight plus causal attention counted half
    /// (Kaplan et al. 2020, section 2.1; `PaLM`, appendix B); a local layer's by the keys that it sees.
    #[must_use]
    pub fn train_flops_per_token(&self, vocab_size: u64, sequence_length: u64) -> u64 {
        let embedding_lookup =
            if self.tie_word_embeddings { 0 } else { vocab_size.saturating_mul(u64::from(self.hidden_size)) };
        let width = u64::from(self.num_attention_heads) * u64::from(self.head_size());
        let is_local = |layer: &usize| self.layer_type(*layer) == LayerType::SlidingAttention;
        let local = (0..self.num_hidden_layers as usize).filter(is_local).count() as u64;
        let full = u64::from(self.num_hidden_layers) - local;
        // Twice the keys that a token sees on average: of the first tokens, fewer than the window.
        let window = u64::from(self.sliding_window.unwrap_or(0)).min(sequence_length);
        let of_local = 2 * window - window * window / sequence_length.max(1);
        let keys = full.saturating_mul(sequence_length).saturating_add(local.saturating_mul(of_local));
        let attention = 6_u64.saturating_mul(width).saturating_mul(keys);
        self.parameters(vocab_size).saturating_sub(embedding_lookup).saturating_mul(6).saturating_add(attention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(over: Value) -> ModelSpec {
        let mut spec = json!({
            "vocab_size": 100, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 7, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64
        });
        spec.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn parameters_are_those_of_the_tensors() {
        for family in ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "smollm3"] {
            for tied in [false, true] {
                let spec = spec(json!({ "model_type": family, "tie_word_embeddings": tied }));
                let all: u64 = spec.tensors().iter().map(|(_, shape)| shape.iter().product::<u64>()).sum();
                assert_eq!(spec.parameters(100), all, "{family}");
            }
        }
    }

    #[test]
    fn a_local_layer_costs_what_it_sees() {
        let cost = |over: Value, length| spec(over).train_flops_per_token(100, length);
        let full = cost(json!({ "model_type": "mistral" }), 32);
        assert_eq!(cost(json!({ "model_type": "mistral", "sliding_window": 32 }), 32), full);
        assert_eq!(cost(json!({ "model_type": "mistral", "sliding_window": 99 }), 32), full);
        // Seven layers of width 24: of twice 32 keys, a window of 8 leaves 16 - 2.
        assert_eq!(full - cost(json!({ "model_type": "mistral", "sliding_window": 8 }), 32), 6 * 7 * 24 * (32 - 14));
    }
}
