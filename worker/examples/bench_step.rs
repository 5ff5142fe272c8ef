//! Tokens per second of the training step on this machine: `bench_step fp32|bf16 THREADS`, the demo's model, JSON out.

use anyhow::{Context, Result};
use senmon_protocol::{model::ModelSpec, spec::TrainingSpec};
use senmon_worker::train::{
    model::{Model, initial_weights},
    optimizer::{AdamW, clear_gradients, gradient_norm},
};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const WINDOWS: i64 = 16;
const LENGTH: i64 = 256;
const STEPS: usize = 12;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let precision = arguments.next().unwrap_or_else(|| "fp32".into());
    let threads: i32 = arguments.next().unwrap_or_else(|| "1".into()).parse().context("threads")?;
    tch::set_num_threads(threads);
    let spec: ModelSpec = serde_json::from_value(serde_json::json!({
        "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": LENGTH
    }))?;
    let training: TrainingSpec =
        serde_json::from_value(serde_json::json!({ "batch_windows": WINDOWS, "learning_rate": 1e-3 }))?;
    let kind = if precision == "bf16" { Kind::BFloat16 } else { Kind::Float };
    let mut model = Model::new(spec.clone(), initial_weights(&spec, 1), Device::Cpu, kind, LENGTH, true);
    let mut optimizer = AdamW::new(&model.weights);
    let batch = Tensor::randint(2048, [WINDOWS, LENGTH + 1], (Kind::Int64, Device::Cpu));
    let mut seconds = Vec::new();
    for _ in 0..STEPS {
        let start = Instant::now();
        let loss = model.loss_sum(&batch.narrow(1, 0, LENGTH), &batch.narrow(1, 1, LENGTH)) / 4096.0;
        loss.backward();
        let _ = gradient_norm(&model.weights, Device::Cpu);
        optimizer.step(&mut model.weights, &training, 1e-3, 1.0);
        clear_gradients(&mut model.weights);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let mut settled = seconds.split_off(2);
    settled.sort_by(f64::total_cmp);
    let rate = 4096.0 / settled[settled.len() / 2];
    println!("{}", serde_json::json!({ "precision": precision, "threads": threads, "tokens_per_second": rate }));
    Ok(())
}
