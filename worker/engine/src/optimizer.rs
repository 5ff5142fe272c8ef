//! `AdamW` (Loshchilov & Hutter 2019, algorithm 2) in `PyTorch`'s order of operations. Decay on matrices only.

use super::{
    buffer::{Number, values, values_mut},
    parameters::{Arenas, Layout},
    pass::Pass,
};
use half::bf16;
use senmon_kernels as kernels;
use senmon_protocol::spec::TrainingSpec;
use tch::{Device, Kind, Tensor, no_grad};

/// What holds moments and takes steps with them. A trainer has one and does not know which.
pub trait Optimizer {
    /// One step at `rate` with the gradients times `scale`, by the kernels of `pass`.
    fn step(
        &mut self,
        pass: &mut dyn Pass,
        arenas: (&mut Arenas, &Arenas),
        training: &TrainingSpec,
        rate: f64,
        scale: f64,
    );
    /// Steps taken with these moments.
    fn steps(&self) -> u64;
    /// First and second moments of every parameter.
    fn moments(&self) -> (&Arenas, &Arenas);
    /// The same, for whoever keeps them.
    fn into_moments(self: Box<Self>) -> (Arenas, Arenas);
    /// Takes other moments, of the same layout, with which so many steps were taken.
    fn set_moments(&mut self, moments: (Arenas, Arenas), steps: u64);
}

/// Moments of every parameter, fp32.
#[derive(Debug)]
pub struct AdamW {
    first: Arenas,
    second: Arenas,
    /// The bias correction counts from here.
    steps: u64,
}

impl AdamW {
    /// Fresh moments.
    #[must_use]
    pub fn new(layout: &Layout, device: Device) -> Self {
        Self { first: layout.zeros(Kind::Float, device), second: layout.zeros(Kind::Float, device), steps: 0 }
    }
}

impl Optimizer for AdamW {
    fn step(
        &mut self,
        pass: &mut dyn Pass,
        (weights, grads): (&mut Arenas, &Arenas),
        training: &TrainingSpec,
        rate: f64,
        scale: f64,
    ) {
        self.steps += 1;
        let matrices = settings(training, rate, scale, self.steps);
        let vectors = kernels::AdamW { decay: 0.0, ..matrices };
        pass.adamw(weights, grads, (&mut self.first, &mut self.second), [matrices, vectors]);
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn moments(&self) -> (&Arenas, &Arenas) {
        (&self.first, &self.second)
    }

    fn into_moments(self: Box<Self>) -> (Arenas, Arenas) {
        (self.first, self.second)
    }

    fn set_moments(&mut self, (first, second): (Arenas, Arenas), steps: u64) {
        *self = Self { first, second, steps };
    }
}

/// Settings of step number `steps` in fp32.
#[expect(clippy::cast_possible_truncation, reason = "computed in f64, used in fp32")]
fn settings(training: &TrainingSpec, rate: f64, scale: f64, steps: u64) -> kernels::AdamW {
    let steps = i32::try_from(steps).unwrap_or(i32::MAX);
    kernels::AdamW {
        rate: rate as f32,
        decay: training.weight_decay as f32,
        beta1: training.beta1 as f32,
        beta2: training.beta2 as f32,
        epsilon: training.epsilon as f32,
        correction1: (1.0 - training.beta1.powi(steps)) as f32,
        correction2: (1.0 - training.beta2.powi(steps)).sqrt() as f32,
        grad_scale: scale as f32,
    }
}

/// One step on this CPU, or by tensor operations elsewhere; `copy` receives the matrices in bf16.
pub(super) fn update(
    weights: &mut Arenas,
    grads: &Arenas,
    (first, second): (&mut Arenas, &mut Arenas),
    copy: Option<&mut Tensor>,
    [matrices, vectors]: [kernels::AdamW; 2],
) {
    let moments = (&mut first.matrices, &mut second.matrices);
    update_arena(&mut weights.matrices, &grads.matrices, moments, copy, matrices);
    let moments = (&mut first.vectors, &mut second.vectors);
    update_arena(&mut weights.vectors, &grads.vectors, moments, None, vectors);
}

fn update_arena(
    weights: &mut Tensor,
    grads: &Tensor,
    moments: (&mut Tensor, &mut Tensor),
    copy: Option<&mut Tensor>,
    a: kernels::AdamW,
) {
    if weights.device() != Device::Cpu {
        return update_by_tensors(weights, grads, (moments.0, moments.1), a);
    }
    let copy = copy.map(values_mut::<bf16>);
    let moments = (values_mut(moments.0), values_mut(moments.1));
    if grads.kind() == bf16::KIND {
        kernels::adamw(values_mut(weights), values::<bf16>(grads), moments, copy, a);
    } else {
        kernels::adamw(values_mut(weights), values::<f32>(grads), moments, copy, a);
    }
}

/// Numbers that tensor operations see at once: their temporaries stay small beside the arenas.
const AT_ONCE: i64 = 1 << 26;

/// The same by tensor operations, for devices without our kernels.
fn update_by_tensors(weights: &Tensor, grads: &Tensor, (first, second): (&Tensor, &Tensor), a: kernels::AdamW) {
    let [rate, beta1, beta2, epsilon] = [a.rate, a.beta1, a.beta2, a.epsilon].map(f64::from);
    let pieces = |tensor: &Tensor| tensor.split(AT_ONCE, 0).into_iter();
    let moments = pieces(first).zip(pieces(second));
    no_grad(|| {
        for ((mut weights, grads), (mut first, mut second)) in pieces(weights).zip(pieces(grads)).zip(moments) {
            let scaled = grads.to_kind(Kind::Float) * f64::from(a.grad_scale);
            let _ = weights.g_mul_scalar_(1.0 - rate * f64::from(a.decay));
            let _ = first.lerp_(&scaled, 1.0 - beta1);
            let _ = second.g_mul_scalar_(beta2);
            let _ = second.addcmul_(&(&scaled * (1.0 - beta2)), &scaled);
            let denominator = second.sqrt().g_div_scalar_(f64::from(a.correction2)).g_add_scalar_(epsilon);
            let _ = weights.g_sub_(&(&first / denominator * (rate / f64::from(a.correction1))));
        }
    });
}

/// Global L2 norm of the gradients, one number to the host.
#[must_use]
pub fn gradient_norm(grads: &Arenas) -> f64 {
    let squares = |tensor: &Tensor| {
        if tensor.device() != Device::Cpu {
            squares_by_tensors(tensor)
        } else if tensor.kind() == bf16::KIND {
            kernels::sum_of_squares(values::<bf16>(tensor))
        } else {
            kernels::sum_of_squares(values::<f32>(tensor))
        }
    };
    (squares(&grads.matrices) + squares(&grads.vectors)).sqrt()
}

/// Sum of squares by tensor operations, for devices without our kernels.
fn squares_by_tensors(tensor: &Tensor) -> f64 {
    let square = |piece: &Tensor| piece.to_kind(Kind::Float).square().sum(Kind::Double);
    let sums: Vec<Tensor> = tensor.split(AT_ONCE, 0).iter().map(square).collect();
    Tensor::stack(&sums, 0).sum(Kind::Double).double_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel and the tensor operations take the same step.
    #[test]
    fn both_ways_of_a_step_agree() {
        let a = kernels::AdamW {
            rate: 0.01,
            decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            correction1: 0.19,
            correction2: 0.3,
            grad_scale: 0.5,
        };
        let make = || Tensor::arange(100_003, (Kind::Float, Device::Cpu)).g_mul_scalar_(0.37).sin();
        let (grads, mut one, other) = (make().cos(), make(), make());
        let [mut m1, mut v1, m2, v2] = [0.1, 0.2, 0.1, 0.2].map(|scale| make().square() * scale);
        update_arena(&mut one, &grads, (&mut m1, &mut v1), None, a);
        update_by_tensors(&other, &grads, (&m2, &v2), a);
        let squares = kernels::sum_of_squares(values::<f32>(&grads));
        assert!((squares_by_tensors(&grads) / squares - 1.0).abs() < 1e-6);
        for (a, b) in [(one, other), (m1, m2), (v1, v2)] {
            assert!((a - b).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
