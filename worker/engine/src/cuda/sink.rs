//! Where gradients of matrices go: products straight into the arena, in its format, or through a piece.

use super::machine::Machine;
use tch::{Kind, Tensor};

/// One way for all matrices of a pass.
pub enum Sink {
    /// The arena has the format of the products.
    Same,
    /// fp32, which the products write from bf16 factors.
    Wide,
    /// fp32, which a kernel adds to from the product in bf16.
    Piece(Tensor),
}

impl Sink {
    /// How gradients in `kind` are gathered; `largest` is the size of the largest matrix.
    #[must_use]
    pub fn new(machine: &Machine, kind: Kind, largest: i64) -> Self {
        if kind == machine.kind() {
            return Self::Same;
        }
        // Devices differ in whether they do this: asked by doing it.
        let small = |kind| Tensor::ones([16, 16], (kind, machine.device));
        let (a, out) = (small(machine.kind()), small(kind));
        let works = a.f_mm_dtype_out(&out, &a, kind).is_ok()
            && out.f_addmm_dtype_out(&out, &a, &a, kind).is_ok()
            && (&out - 32.0).abs().max().double_value(&[]) == 0.0;
        if works { Self::Wide } else { Self::Piece(Tensor::empty([largest], (machine.kind(), machine.device))) }
    }

    /// `to` (+)= `dyᵀ x`.
    pub fn matrix(&self, machine: &Machine, to: &Tensor, dy: &Tensor, x: &Tensor, add: bool) {
        let dy = dy.tr();
        match (self, add) {
            (Self::Same, true) => drop(to.shallow_clone().addmm_(&dy, x)),
            (Self::Same, false) => drop(dy.mm_out(to, x)),
            (Self::Wide, true) => drop(to.addmm_dtype_out(to, &dy, x, to.kind())),
            (Self::Wide, false) => drop(dy.mm_dtype_out(to, x, to.kind())),
            (Self::Piece(piece), _) => {
                let found = piece.narrow(0, 0, to.size().iter().product()).view_as(to);
                let _ = dy.mm_out(&found, x);
                if add {
                    machine.accumulate(&found, to);
                } else {
                    to.shallow_clone().copy_(&found);
                }
            }
        }
    }
}
