//! What a shape may not be.

use super::{LayerType, ModelSpec, ModelType, RopeScaling, YarnScaling};

impl ModelSpec {
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
            Some(RopeScaling::Yarn(scaling)) => {
                let YarnScaling { beta_fast: fast, beta_slow: slow, .. } = scaling;
                if !(slow > 0.0 && fast >= slow && fast.is_finite()) {
                    let found = format!("found {slow}, expected a number above 0, at most beta_fast {fast}");
                    problems.push(("rope_scaling.beta_slow", found));
                }
                if scaling.attention_factor.is_some_and(|factor| !(factor > 0.0 && factor.is_finite())) {
                    let found = format!("found {:?}, expected a number above 0", scaling.attention_factor);
                    problems.push(("rope_scaling.attention_factor", found));
                }
                scaling.factor
            }
            None => 1.0,
        };
        if !(factor >= 1.0 && factor.is_finite()) {
            problems.push(("rope_scaling.factor", format!("found {factor}, expected at least 1")));
        }
        self.of_the_family(&mut problems);
        problems
    }

    /// Keys that some families have, and their values.
    fn of_the_family(&self, problems: &mut Vec<(&'static str, String)>) {
        use ModelType::{Gemma2, Gemma3Text, Mistral, Qwen2, Qwen3, SmolLm3};
        let given: [(&str, bool, &[ModelType]); 7] = [
            ("sliding_window", self.sliding_window.is_some(), &[Mistral, Qwen2, Qwen3, Gemma2, Gemma3Text, SmolLm3]),
            ("layer_types", self.layer_types.is_some(), &[Qwen2, Qwen3, Gemma2, Gemma3Text, SmolLm3]),
            ("no_rope_layers", self.no_rope_layers.is_some(), &[SmolLm3]),
            ("rope_local_base_freq", self.rope_local_base_freq.is_some(), &[Gemma3Text]),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar.is_some(), &[Gemma2, Gemma3Text]),
            ("attn_logit_softcapping", self.attn_logit_softcapping.is_some(), &[Gemma2]),
            ("final_logit_softcapping", self.final_logit_softcapping.is_some(), &[Gemma2, Gemma3Text]),
        ];
        for (key, is_given, families) in given {
            if is_given && !families.contains(&self.model_type) {
                let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
                let found = self.model_type.name();
                problems.push((key, format!("found with model_type {found}, expected with {}", names.join(", "))));
            }
        }
        let numbers = [
            ("rope_local_base_freq", self.rope_local_base_freq),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar.map(f64::from)),
            ("sliding_window", self.sliding_window.map(f64::from)),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ];
        for (key, found) in numbers {
            if let Some(found) = found.filter(|found| !(found.is_finite() && *found > 0.0)) {
                problems.push((key, format!("found {found}, expected a number above 0")));
            }
        }
        let lengths = [
            ("layer_types", self.layer_types.as_ref().map(Vec::len)),
            ("no_rope_layers", self.no_rope_layers.as_ref().map(Vec::len)),
        ];
        for (key, found) in lengths {
            if let Some(found) = found.filter(|found| *found != self.num_hidden_layers as usize) {
                let expected = self.num_hidden_layers;
                problems.push((key, format!("found {found} layers, expected num_hidden_layers {expected}")));
            }
        }
        if let Some(found) = self.no_rope_layers.iter().flatten().find(|turns| **turns > 1) {
            problems.push(("no_rope_layers", format!("found {found}, expected 0 or 1")));
        }
        let is_local = self.layer_types.iter().flatten().any(|kind| *kind == LayerType::SlidingAttention);
        if is_local && self.sliding_window.is_none() {
            problems.push(("layer_types", "found sliding_attention without a sliding_window".to_owned()));
        }
    }
}
