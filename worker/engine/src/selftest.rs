//! What the doctor runs on a device: a matrix product against the same in double precision, and training steps of a
//! tiny model against stored losses.

use super::{
    device::matmul_error,
    model::initial_weights,
    trainer::{Shape, Trainer},
};
use senmon_protocol::{model::ModelSpec, spec::TrainingSpec};
use tch::{Device, Kind};

/// Losses of the tiny model's first steps in fp32, nats per token, from the day they were stored. Any change of model,
/// optimiser or initial weights moves them.
pub const STORED_LOSSES: [f64; 6] = [2.823_997_5, 2.667_332_65, 2.563_294_89, 2.422_447_68, 2.292_986_63, 2.164_033_89];

/// What one check found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// Largest relative error.
    pub error: f64,
    /// Largest that is accepted.
    pub error_max: f64,
}

impl Finding {
    /// Whether the device computes rightly.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.error <= self.error_max
    }
}

/// Runs every check on a device.
///
/// Accepted errors: a product of 256 terms in fp32 errs by less than 1e-5, through TF32 (10 bits) by 1e-3, in bf16 (7
/// bits) by 1e-2; six steps carry the same differences on.
#[must_use]
pub fn run(device: Device, tf32: bool) -> Vec<Finding> {
    let fp32_max = if tf32 && device != Device::Cpu { 5e-3 } else { 1e-4 };
    let formats = [(Kind::Float, "fp32", fp32_max), (Kind::BFloat16, "bf16", 3e-2)];
    let mut found: Vec<Finding> = formats
        .iter()
        .map(|&(kind, name, error_max)| Finding {
            check: format!("{name} matrix product"),
            error: matmul_error(device, kind),
            error_max,
        })
        .collect();
    for (fused, pass) in [(true, "fused"), (false, "autograd")] {
        for (kind, name, error_max) in formats {
            let (_, losses) = tiny(STORED_LOSSES.len(), device, kind, fused);
            let errors = losses.iter().zip(STORED_LOSSES).map(|(loss, stored)| (loss / stored - 1.0).abs());
            // f64::max would drop a NaN, and a NaN is what a broken device gives.
            let error = errors.fold(0.0, |most: f64, error| if error <= most { most } else { error });
            found.push(Finding { check: format!("{name} training, {pass}"), error, error_max });
        }
    }
    found
}

/// Shape of the tiny model.
///
/// # Panics
/// Never: the shape is a constant.
#[must_use]
pub fn tiny_model() -> ModelSpec {
    serde_json::from_value(serde_json::json!({
        "vocab_size": 17, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 8
    }))
    .expect("a constant")
}

/// Trains the tiny model on one batch; the losses before each step.
///
/// # Panics
/// Never: the settings are constants.
#[must_use]
pub fn tiny(steps: usize, device: Device, kind: Kind, fused: bool) -> (Trainer, Vec<f64>) {
    let training: TrainingSpec =
        serde_json::from_value(serde_json::json!({ "batch_windows": 2, "learning_rate": 0.02 })).expect("a constant");
    let shape = Shape { windows: 2, micro: 2, length: 8 };
    let weights = initial_weights(&tiny_model(), 7);
    let mut trainer = Trainer::with_pass(tiny_model(), &weights, device, kind, shape, fused);
    let batch: Vec<i64> = (0..18).map(|i| i * 5 % 17).collect();
    let losses = (0..steps)
        .map(|_| {
            let (loss, norm) = trainer.forward_backward(&batch, None);
            trainer.step(&training, 0.02, (1.0 / (norm + 1e-6)).min(1.0));
            loss
        })
        .collect();
    (trainer, losses)
}
