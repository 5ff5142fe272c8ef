//! Where the fused pass of a CPU puts gradients: into arenas, in their number format, added to what is there or not.

use super::{
    buffer::{Buffer, Number, values, values_mut},
    parameters::{Arenas, Layout},
};
use senmon_kernels::{self as kernels, Gradient, Heads, Normed};
use tch::Tensor;

/// Where gradients go.
pub(super) struct Sink<'a, T> {
    pub(super) layout: &'a Layout,
    pub(super) grads: &'a mut Arenas,
    /// One matrix's gradient, where gradients are gathered in another format.
    pub(super) piece: Option<&'a Buffer<T>>,
    pub(super) add: bool,
}

impl<T: Number> Sink<'_, T> {
    /// `dyᵀ x` for the matrices `first` and `also`; `again` where this pass wrote there before.
    pub(super) fn matrix(&mut self, first: &str, also: &[String], dy: &Tensor, x: &Tensor, again: bool) {
        let mut to = self.layout.joined(self.grads, first, also);
        match self.piece {
            None if self.add || again => drop(to.addmm_(&dy.tr(), x)),
            None => drop(dy.tr().mm_out(&to, x)),
            Some(piece) => {
                let found = piece.view(&to.size());
                let _ = dy.tr().mm_out(&found, x);
                if self.add || again {
                    kernels::accumulate(values::<T>(&found), values_mut(&mut to));
                } else {
                    to.copy_(&found);
                }
            }
        }
    }

    pub(super) fn norm(&mut self, name: &str, dn: &[T], norm: Normed<T>, dx: &mut [T], add_dx: bool) {
        let mut to = self.layout.view(self.grads, name);
        kernels::rms_norm_backward(dn, norm, dx, values_mut(&mut to), (add_dx, self.add));
    }

    /// Through the norms of queries and keys, in place.
    pub(super) fn heads(
        &mut self,
        names: &[String; 2],
        dqkv: &mut [T],
        kept: (&[T], &[f32]),
        weights: (&[f32], &[f32]),
        s: Heads,
    ) {
        let [mut q, mut k] = [0, 1].map(|i: usize| self.layout.view(self.grads, &names[i]));
        kernels::norm_heads_backward(dqkv, kept, weights, (values_mut(&mut q), values_mut(&mut k)), self.add, s);
    }

    pub(super) fn bias(&mut self, first: &str, also: &[String], dy: &[T]) {
        let mut to = self.layout.joined(self.grads, first, also);
        kernels::column_sums(dy, values_mut(&mut to), self.add);
    }

    pub(super) fn embedding(&mut self, dx: &[T], tokens: &[i64], h: usize, tied: bool) {
        let mut to = self.layout.view(self.grads, "model.embed_tokens.weight");
        if !tied && !self.add {
            let _ = to.zero_();
        }
        let grad = if to.kind() == T::KIND {
            Gradient::Same(values_mut(&mut to))
        } else {
            Gradient::Wide(values_mut(&mut to))
        };
        kernels::embed_backward(dx, tokens, grad, h);
    }
}
