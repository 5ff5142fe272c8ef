//! What the pass for cards has of each block: weights and where their gradients go, and what is kept for the way back.

use super::{attention::Kept, machine::Machine, ops::Hats};
use crate::{
    names::{Names, Sides},
    parameters::{Arenas, Layout},
};
use senmon_protocol::model::variant::{QkNorm, Variant};
use tch::{Kind, Tensor};

/// A matrix or vector and where its gradient goes, sharing the arenas' memory.
pub(super) struct Weight {
    pub(super) value: Tensor,
    pub(super) grad: Tensor,
}

/// A norm's weight, and which of all norms it is.
pub(super) struct Norm {
    pub(super) w: Tensor,
    pub(super) slot: i64,
}

/// Norms before and after attention or the gated unit.
pub(super) struct Around {
    pub(super) before: Option<Norm>,
    pub(super) after: Option<Norm>,
}

/// Weights of one block.
pub(super) struct Layer {
    pub(super) attention: Around,
    pub(super) qkv: Weight,
    pub(super) of_heads: Option<[Weight; 2]>,
    pub(super) bias: Option<Weight>,
    pub(super) output: Weight,
    pub(super) gated: Around,
    pub(super) gate_up: Weight,
    pub(super) down: Weight,
}

/// What a norm reads again on its way back.
pub(super) struct Input {
    pub(super) x: Tensor,
    pub(super) rstd: Tensor,
}

/// What one block keeps for its way back.
pub(super) struct Block {
    pub(super) x: Input,
    pub(super) qkv: Tensor,
    pub(super) hats: Option<Hats>,
    pub(super) attended: Option<Kept>,
    /// What attention says, where that is normed.
    pub(super) out: Option<Input>,
    pub(super) middle: Input,
    pub(super) gate_up: Tensor,
    /// What the gated unit says, where that is normed.
    pub(super) gated_out: Option<Input>,
}

impl Input {
    pub(super) fn new(machine: &Machine, rows: i64, h: i64) -> Self {
        Self {
            x: Tensor::empty([rows, h], (machine.kind(), machine.device)),
            rstd: Tensor::empty([rows], (Kind::Float, machine.device)),
        }
    }
}

/// Where weights and gradients lie.
pub(super) struct Places<'a> {
    pub(super) layout: &'a Layout,
    pub(super) values: &'a Arenas,
    pub(super) grads: &'a Arenas,
}

impl Places<'_> {
    /// A matrix or vector, with those that lie behind it.
    pub(super) fn joined(&self, first: &str, also: &[String]) -> Weight {
        Weight {
            value: self.layout.joined(self.values, first, also),
            grad: self.layout.joined(self.grads, first, also),
        }
    }

    /// A norm of all of a token.
    pub(super) fn norm(&self, name: &str, slot: i64) -> Norm {
        Norm { w: self.layout.view(self.values, name), slot }
    }

    /// Weights of the blocks; norms are numbered as they lie.
    pub(super) fn layers(&self, variant: &Variant, count: usize) -> Vec<Layer> {
        let of_block = variant.norms.names();
        let layer = |l: usize| {
            let names = Names::new(&variant.norms, l);
            let norm = |name: &String| {
                let place = of_block.iter().position(|part| name.ends_with(&format!(".{part}.weight")));
                let slot = l * of_block.len() + place.unwrap_or(0);
                self.norm(name, i64::try_from(slot).unwrap_or(0))
            };
            let around = |sides: &Sides| Around {
                before: sides.before.as_ref().map(norm),
                after: sides.after.as_ref().map(norm),
            };
            let of_heads = || [0, 1].map(|i: usize| self.joined(&names.of_heads[i], &[]));
            Layer {
                attention: around(&names.attention),
                qkv: self.joined(&names.q, &names.kv),
                of_heads: (variant.qk_norm != QkNorm::None).then(of_heads),
                bias: variant.qkv_bias.then(|| self.joined(&names.q_bias, &names.kv_bias)),
                output: self.joined(&names.output, &[]),
                gated: around(&names.gated),
                gate_up: self.joined(&names.gate, std::slice::from_ref(&names.up)),
                down: self.joined(&names.down, &[]),
            }
        };
        (0..count).map(layer).collect()
    }
}
