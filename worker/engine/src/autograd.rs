//! Gradients by autograd: the reference that the other passes are held to, and the way back where none of them may run.

use crate::{
    clock::{Clock, Part},
    device::upload,
    model::Model,
    optimizer::{gradient_norm, update},
    parameters::{Arenas, Layout},
    pass::{Found, Pass, Windows, count, in_passes},
    shape::Shape,
};
use senmon_kernels::AdamW as Settings;
use tch::{Device, Kind};

/// A model whose weights lie in the trainer's arenas.
pub struct Autograd {
    model: Model,
    layout: Layout,
    shape: Shape,
    device: Device,
}

impl Autograd {
    /// A pass through `model`, whose weights are those of arenas of this layout.
    #[must_use]
    pub fn new(model: Model, layout: Layout, shape: Shape, device: Device) -> Self {
        Self { model, layout, shape, device }
    }

    /// Moves autograd's gradients into the arenas.
    fn gather(&mut self, grads: &Arenas, add: bool) {
        tch::no_grad(|| {
            for (name, weight) in &mut self.model.weights {
                let mut to = self.layout.view(grads, name);
                if add {
                    let _ = to.g_add_(&weight.grad());
                } else {
                    to.copy_(&weight.grad());
                }
                weight.zero_grad();
            }
        });
    }
}

impl Pass for Autograd {
    fn batch(&mut self, _: &Arenas, grads: &mut Arenas, windows: Windows, clock: &mut Clock) -> Found {
        let (shape, device) = (self.shape, self.device);
        let loss = in_passes(shape, windows, |number, tokens| {
            let tensor = |values: &[i64]| upload(values, device).view([-1, shape.length]);
            let first = tokens.document_first.map(|first| upload(first, device).view([-1, shape.length]));
            let (inputs, targets) = (tensor(tokens.inputs), tensor(tokens.targets));
            let loss = self.model.backward(&inputs, &targets, first.as_ref(), count(shape));
            self.gather(grads, number > 0);
            loss.to_kind(Kind::Double).double_value(&[])
        });
        clock.begin();
        let norm = gradient_norm(grads);
        clock.mark(Part::Optimizer);
        Found { loss, norm }
    }

    fn adamw(&mut self, weights: &mut Arenas, grads: &Arenas, moments: (&mut Arenas, &mut Arenas), of: [Settings; 2]) {
        update(weights, grads, moments, None, of);
    }
}
