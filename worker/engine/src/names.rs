//! Names of one block's parameters, for the passes that are written out.

use crate::parameters::{Arenas, Layout};
use senmon_protocol::model::variant::{Around, Norms};
use tch::Tensor;

/// Norms around attention or the gated unit, where there are any.
pub(super) struct Sides {
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// Names of one block's parameters.
pub(super) struct Names {
    pub(super) attention: Sides,
    pub(super) gated: Sides,
    pub(super) q: String,
    pub(super) kv: [String; 2],
    pub(super) q_bias: String,
    pub(super) kv_bias: [String; 2],
    /// Norms of queries and of keys.
    pub(super) of_heads: [String; 2],
    pub(super) output: String,
    pub(super) gate: String,
    pub(super) up: String,
    pub(super) down: String,
}

impl Names {
    pub(super) fn new(norms: &Norms, layer: usize) -> Self {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let weight = |part: &str| name(&format!("{part}.weight"));
        let sides = |around: Around| Sides { before: around.before.map(weight), after: around.after.map(weight) };
        Self {
            attention: sides(norms.attention),
            gated: sides(norms.gated),
            q: weight("self_attn.q_proj"),
            kv: [weight("self_attn.k_proj"), weight("self_attn.v_proj")],
            q_bias: name("self_attn.q_proj.bias"),
            kv_bias: [name("self_attn.k_proj.bias"), name("self_attn.v_proj.bias")],
            of_heads: [weight("self_attn.q_norm"), weight("self_attn.k_norm")],
            output: weight("self_attn.o_proj"),
            gate: weight("mlp.gate_proj"),
            up: weight("mlp.up_proj"),
            down: weight("mlp.down_proj"),
        }
    }

    pub(super) fn qkv(&self, layout: &Layout, weights: &Arenas) -> Tensor {
        layout.joined(weights, &self.q, &self.kv)
    }

    pub(super) fn qkv_bias(&self, layout: &Layout, weights: &Arenas) -> Tensor {
        layout.joined(weights, &self.q_bias, &self.kv_bias)
    }

    pub(super) fn gate_up(&self, layout: &Layout, weights: &Arenas) -> Tensor {
        layout.joined(weights, &self.gate, std::slice::from_ref(&self.up))
    }
}
