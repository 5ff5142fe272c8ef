//! What `scripts/gpu-check` and `make bench-gpu` run on a card; each prints one JSON object a line.
//!
//! `gpu check`: kernels and pass of every variant against autograd. `gpu speed CONFIG WINDOWS LENGTH`: each kernel and
//! product alone. `gpu bench CONFIG fp32|bf16 fused|autograd WINDOWS MICRO LENGTH STEPS`: whole steps.

use anyhow::{Context, Result, bail};
use senmon_engine::{
    cuda::{Machine, proof, speed},
    device::{matmul_peak, open},
    gpu,
    model::initial_weights,
    parameters::Layout,
    trainer::{Shape, Trainer},
    tune,
};
use senmon_protocol::{model::ModelSpec, spec::TrainingSpec};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};
use tch::{Device, Kind, Tensor};

fn main() -> Result<()> {
    tune::restart_if_needed(false);
    let device = open("cuda:0").map_err(anyhow::Error::msg)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(device),
        ["speed", config, windows, length] => {
            let machine = Machine::of_card(device, Kind::BFloat16, &model(config)?).map_err(anyhow::Error::msg)?;
            for line in speed::measure(&machine, &model(config)?, windows.parse()?, length.parse()?) {
                println!("{}", line.text());
            }
            Ok(())
        }
        ["bench", config, precision, pass, windows, micro, length, steps] => {
            let shape = Shape { windows: windows.parse()?, micro: micro.parse()?, length: length.parse()? };
            bench(device, config, kind(precision), pass, shape, steps.parse()?)
        }
        _ => bail!(
            "usage: gpu check | speed CONFIG WINDOWS LENGTH | bench CONFIG fp32|bf16 fused|autograd WINDOWS MICRO LENGTH STEPS"
        ),
    }
}

fn kind(precision: &str) -> Kind {
    if precision == "bf16" { Kind::BFloat16 } else { Kind::Float }
}

fn model(config: &str) -> Result<ModelSpec> {
    let text = std::fs::read_to_string(config).with_context(|| config.to_owned())?;
    ModelSpec::from_config_json(&text).map_err(anyhow::Error::msg)
}

/// Variants beside the plain one.
fn variants() -> Vec<Value> {
    let heads = |d: u32, n: u32, g: u32| json!({ "head_dim": d, "num_attention_heads": n, "num_key_value_heads": g });
    vec![
        json!({}),
        json!({ "num_key_value_heads": 2, "tie_word_embeddings": true }),
        json!({ "num_key_value_heads": 2, "model_type": "qwen3" }),
        json!({ "model_type": "mistral", "sliding_window": 24 }),
        json!({ "model_type": "smollm3", "no_rope_layers": [1, 0] }),
        json!({ "model_type": "olmo2", "num_key_value_heads": 2 }),
        json!({ "model_type": "gemma3_text", "sliding_window": 24, "num_key_value_heads": 2 }),
        json!({ "num_key_value_heads": 1, "model_type": "qwen2" }),
        json!({ "rope_scaling": { "rope_type": "linear", "factor": 4.0 } }),
        json!({ "rope_theta": 500_000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64
        } }),
        heads(32, 8, 2),
        heads(80, 4, 4),
        heads(96, 6, 2),
        heads(128, 4, 1),
        heads(256, 2, 1),
        json!({ "hidden_size": 4096, "num_hidden_layers": 1 }),
        json!({ "vocab_size": 1001, "hidden_size": 72, "intermediate_size": 100, "head_dim": 6, "num_attention_heads": 3 }),
    ]
}

fn check(device: Device) -> Result<()> {
    let mut ill = 0;
    for over in variants() {
        let mut spec = json!({
            "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 4096
        });
        spec.as_object_mut().context("an object")?.extend(over.as_object().context("an object")?.clone());
        let spec: ModelSpec = serde_json::from_value(spec)?;
        for precision in ["bf16", "fp32"] {
            let start = Instant::now();
            let found = Machine::of_card(device, kind(precision), &spec)
                .and_then(|machine| proof::check(&machine, &spec).map(|()| machine));
            ill += i32::from(found.is_err());
            let said = found.err().unwrap_or_else(|| "well".to_owned());
            println!(
                "{}",
                json!({ "variant": over, "precision": precision, "found": said, "seconds": start.elapsed().as_secs_f64() })
            );
        }
    }
    documents(device)?;
    if ill > 0 {
        bail!("{ill} variants are off")
    }
    Ok(())
}

/// Documents kept apart, and several passes a batch: losses and gradient norms of ten steps of both ways.
fn documents(device: Device) -> Result<()> {
    let spec: ModelSpec = serde_json::from_value(json!({
        "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256
    }))?;
    let training: TrainingSpec = serde_json::from_value(json!({ "batch_windows": 8, "learning_rate": 1e-3 }))?;
    let first: Vec<i32> = (0..8 * 256).map(|i| i % 256 / 50 * 50).collect();
    for (precision, micro, first) in [
        ("bf16", 8, None),
        ("bf16", 8, Some(&first)),
        ("bf16", 2, Some(&first)),
        ("bf16", 2, None),
        ("fp32", 8, None),
        ("fp32", 4, Some(&first)),
    ] {
        let run = |fused: bool| {
            let shape = Shape { windows: 8, micro, length: 256 };
            let mut trainer =
                Trainer::with_pass(spec.clone(), &initial_weights(&spec, 5), device, kind(precision), shape, fused);
            let steps: Vec<(f64, f64)> = (0..10)
                .map(|step| {
                    let tokens: Vec<i64> = (0..8 * 257).map(|i| (i * 7 + i * i / 11 + step * 131) % 300).collect();
                    let (loss, norm) = trainer.forward_backward(&tokens, first.map(Vec::as_slice));
                    trainer.step(&training, 1e-3, (1.0 / (norm + 1e-6)).min(1.0));
                    (loss, norm)
                })
                .collect();
            (steps, words(&mut trainer))
        };
        let ((fused, notes), (again, _), (expected, _)) = (run(true), run(true), run(false));
        let apart = |a: &[(f64, f64)], b: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
            a.iter().zip(b).map(|(a, b)| (of(a) / of(b) - 1.0).abs()).fold(0.0, f64::max)
        };
        println!(
            "{}",
            json!({ "precision": precision, "micro": micro, "documents": first.is_some(), "notes": notes,
            "loss_apart": apart(&fused, &expected, |s| s.0), "norm_apart": apart(&fused, &expected, |s| s.1),
            "twice_apart": apart(&fused, &again, |s| s.0), "loss_last": fused[9].0 })
        );
    }
    Ok(())
}

fn words(trainer: &mut Trainer) -> Vec<String> {
    trainer.take_notes().into_iter().map(|note| note.said.text()).collect()
}

/// Random weights of the card's making: a benchmark of seconds does not wait for streams that are the same everywhere.
fn quick_weights(spec: &ModelSpec, device: Device) -> BTreeMap<String, Tensor> {
    let layout = Layout::new(spec);
    let make = |(name, shape): (&str, &[i64])| {
        let tensor = if shape.len() == 1 {
            Tensor::ones(shape, (Kind::Float, device))
        } else {
            Tensor::randn(shape, (Kind::Float, device)) * spec.initializer_range
        };
        (name.to_owned(), tensor)
    };
    layout.shapes().map(make).collect()
}

fn bench(device: Device, config: &str, kind: Kind, pass: &str, shape: Shape, steps: usize) -> Result<()> {
    let (spec, Shape { windows, micro, length }) = (model(config)?, shape);
    let training: TrainingSpec = serde_json::from_value(json!({ "batch_windows": windows, "learning_rate": 1e-4 }))?;
    let vocab = i64::from(spec.vocab_size.context("vocab_size")?);
    #[expect(clippy::cast_precision_loss, reason = "a count of operations")]
    let flops = spec.train_flops_per_token(vocab.try_into()?, length.try_into()?) as f64;
    let parameters = spec.parameters(vocab.try_into()?);
    let peak = matmul_peak(device, kind);
    let weights = quick_weights(&spec, device);
    let mut trainer = Trainer::with_pass(spec, &weights, device, kind, shape, pass == "fused");
    drop(weights);
    let tokens: Vec<i64> = (0..windows * (length + 1)).map(|i| (i * i + i / 7) % vocab).collect();
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let start = Instant::now();
        let (loss, norm) = trainer.forward_backward(&tokens, None);
        trainer.step(&training, 1e-4, (1.0 / (norm + 1e-6)).min(1.0));
        tch::Cuda::synchronize(0);
        seconds.push(start.elapsed().as_secs_f64());
        losses.push(loss);
    }
    let memory = gpu::cuda(0).map(|gpu| gpu.used_bytes).unwrap_or(0);
    let mut sorted: Vec<f64> = seconds[steps / 3..].to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (rate, gib) = ((windows * length) as f64 / median, memory as f64 / (1_u64 << 30) as f64);
    println!(
        "{}",
        json!({
            "who": pass, "config": config, "windows": windows, "micro": micro,
            "length": length, "parameters": parameters, "tokens_per_second": rate, "step_ms": median * 1e3,
            "tflops": rate * flops / 1e12, "matmul_peak_tflops": peak / 1e12, "memory_gib": gib, "loss_first": losses[0],
            "loss_last": losses[steps - 1], "flops_per_token": flops, "notes": words(&mut trainer), "step_first_ms": seconds[0] * 1e3,
        })
    );
    Ok(())
}
