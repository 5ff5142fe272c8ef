//! `AdamW` (Loshchilov & Hutter 2019, algorithm 2) in `PyTorch`'s order of operations. Decay on matrices only.

use senmon_protocol::spec::TrainingSpec;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

/// Moments of every parameter, fp32.
#[derive(Debug)]
pub struct AdamW {
    /// First moments by parameter name.
    pub first: BTreeMap<String, Tensor>,
    /// Second moments by parameter name.
    pub second: BTreeMap<String, Tensor>,
    /// Steps taken with these moments: the bias correction counts from here.
    pub steps: u64,
}

impl AdamW {
    /// Fresh moments.
    #[must_use]
    pub fn new(parameters: &BTreeMap<String, Tensor>) -> Self {
        let zeros = || parameters.iter().map(|(name, p)| (name.clone(), p.zeros_like().detach())).collect();
        Self { first: zeros(), second: zeros(), steps: 0 }
    }

    /// One step with the gradients times `scale`.
    pub fn step(&mut self, parameters: &mut BTreeMap<String, Tensor>, training: &TrainingSpec, rate: f64, scale: f64) {
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let correction1 = 1.0 - training.beta1.powi(steps);
        let correction2 = (1.0 - training.beta2.powi(steps)).sqrt();
        no_grad(|| {
            for (name, parameter) in parameters.iter_mut() {
                let gradient = parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                let gradient = if scale == 1.0 { gradient } else { gradient * scale };
                let (Some(first), Some(second)) = (self.first.get_mut(name), self.second.get_mut(name)) else {
                    continue;
                };
                if parameter.dim() >= 2 && training.weight_decay > 0.0 {
                    let _ = parameter.g_mul_scalar_(1.0 - rate * training.weight_decay);
                }
                let _ = first.lerp_(&gradient, 1.0 - training.beta1);
                let _ = second.g_mul_scalar_(training.beta2);
                let _ = second.g_add_(&(&gradient * &gradient * (1.0 - training.beta2)));
                let denominator = second.sqrt().g_div_scalar_(correction2).g_add_scalar_(training.epsilon);
                let _ = parameter.g_sub_(&(&*first / denominator * (rate / correction1)));
            }
        });
    }
}

/// Global L2 norm of the gradients, one number to the host.
#[must_use]
pub fn gradient_norm(parameters: &BTreeMap<String, Tensor>, device: Device) -> f64 {
    let squares: Vec<Tensor> =
        parameters.values().map(Tensor::grad).filter(Tensor::defined).map(|g| (&g * &g).sum(Kind::Float)).collect();
    if squares.is_empty() {
        return 0.0;
    }
    Tensor::stack(&squares, 0).to_device(device).sum(Kind::Double).sqrt().double_value(&[])
}

/// Forgets the gradients.
pub fn clear_gradients(parameters: &mut BTreeMap<String, Tensor>) {
    parameters.values_mut().for_each(Tensor::zero_grad);
}
