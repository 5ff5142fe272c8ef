//! The fused pass of a CPU as one of the trainer's ways to gradients.

use crate::{
    buffer::{Number, values, values_mut},
    clock::{Clock, Part},
    fused::Fused,
    optimizer::{gradient_norm, update},
    parameters::Arenas,
    pass::{Found, Pass, Windows, count, in_passes},
    shape::Shape,
};
use half::bf16;
use senmon_kernels::{self as kernels, AdamW as Settings};
use senmon_protocol::model::ModelSpec;
use tch::Kind;

/// The fused pass in one number format.
struct Cpu<T> {
    fused: Fused<T>,
    /// The matrices once more in bf16, written by the optimiser; None where the pass reads the fp32 weights.
    copy: Option<Arenas>,
    shape: Shape,
}

/// The fused pass for batches of `shape`, in `kind`.
#[must_use]
pub fn pass(spec: &ModelSpec, weights: &Arenas, kind: Kind, shape: Shape) -> Box<dyn Pass> {
    let Shape { windows, micro, length } = shape;
    let wide = micro < windows;
    if kind == Kind::BFloat16 {
        let copy = Arenas { matrices: weights.matrices.to_kind(kind), vectors: weights.vectors.shallow_clone() };
        Box::new(Cpu::<bf16> { fused: Fused::new(spec, micro, length, wide), copy: Some(copy), shape })
    } else {
        Box::new(Cpu::<f32> { fused: Fused::new(spec, micro, length, wide), copy: None, shape })
    }
}

impl<T: Number> Pass for Cpu<T> {
    fn batch(&mut self, weights: &Arenas, grads: &mut Arenas, windows: Windows, clock: &mut Clock) -> Found {
        #[expect(clippy::cast_possible_truncation, reason = "a scale, used in fp32")]
        let scale = (1.0 / count(self.shape)) as f32;
        let weights = self.copy.as_ref().unwrap_or(weights);
        let loss = in_passes(self.shape, windows, |number, tokens| {
            self.fused.pass(weights, grads, tokens, scale, number > 0, clock)
        });
        clock.begin();
        let norm = gradient_norm(grads);
        clock.mark(Part::Optimizer);
        Found { loss, norm }
    }

    fn adamw(&mut self, weights: &mut Arenas, grads: &Arenas, moments: (&mut Arenas, &mut Arenas), of: [Settings; 2]) {
        update(weights, grads, moments, self.copy.as_mut().map(|copy| &mut copy.matrices), of);
    }

    fn refresh(&mut self, weights: &Arenas) {
        if let Some(copy) = &mut self.copy {
            kernels::to_bf16(values(&weights.matrices), values_mut(&mut copy.matrices));
        }
    }
}
