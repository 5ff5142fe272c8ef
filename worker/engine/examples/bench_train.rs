//! One contestant of `make bench-train`: trains on fixed tokens, a few steps for each line on its standard input.
//!
//! `bench_train CONFIG PRECISION ENGINE WINDOWS LENGTH THREADS`: a model's `config.json`, `fp32` or `bf16`, `fused` or
//! `autograd`. Prints one JSON object a line: first what it is, then for each line read the seconds of each step.

use anyhow::{Context, Result, bail};
use senmon_engine::{
    clock::Clock,
    device::matmul_peak,
    model::initial_weights,
    trainer::{Shape, Trainer},
    tune,
};
use senmon_protocol::{model::ModelSpec, spec::TrainingSpec};
use serde_json::json;
use std::{collections::BTreeMap, io::BufRead, time::Instant};
use tch::{Device, Kind};

/// Steps of one repetition.
const STEPS: usize = 4;

fn main() -> Result<()> {
    tune::restart_if_needed(false);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, precision, engine, windows, length, threads] = arguments.as_slice() else {
        bail!("usage: bench_train CONFIG fp32|bf16 fused|autograd WINDOWS LENGTH THREADS")
    };
    tch::set_num_threads(threads.parse().context("THREADS")?);
    let (windows, length): (i64, i64) = (windows.parse().context("WINDOWS")?, length.parse().context("LENGTH")?);
    let text = std::fs::read_to_string(config).with_context(|| config.clone())?;
    let spec = ModelSpec::from_config_json(&text).map_err(anyhow::Error::msg)?;
    let training: TrainingSpec = serde_json::from_value(json!({ "batch_windows": windows, "learning_rate": 1e-4 }))?;
    let kind = if precision == "bf16" { Kind::BFloat16 } else { Kind::Float };
    let vocab = i64::from(spec.vocab_size.context("vocab_size")?);
    let (parameters, flops) =
        (spec.parameters(vocab.try_into()?), spec.train_flops_per_token(vocab.try_into()?, length.try_into()?));
    let peak = matmul_peak(Device::Cpu, kind);
    let weights = initial_weights(&spec, 1);
    let shape = Shape { windows, micro: windows, length };
    let mut trainer = Trainer::with_pass(spec, &weights, Device::Cpu, kind, shape, engine == "fused");
    drop(weights);
    println!("{}", json!({ "parameters": parameters, "flops_per_token": flops, "matmul_peak": peak }));
    let tokens: Vec<i64> = (0..windows * (length + 1)).map(|i| (i * i + i / 7) % vocab).collect();
    for line in std::io::stdin().lock().lines() {
        line?;
        let mut seconds = Vec::new();
        let mut last = 0.0;
        for _ in 0..STEPS {
            let start = Instant::now();
            let (loss, norm) = trainer.forward_backward(&tokens, None);
            trainer.step(&training, 1e-4, (1.0 / (norm + 1e-6)).min(1.0));
            seconds.push(start.elapsed().as_secs_f64());
            last = loss;
        }
        let split: BTreeMap<&str, f64> = trainer.clock.seconds().iter().map(|(part, s)| (part.word(), *s)).collect();
        trainer.clock = Clock::default();
        println!("{}", json!({ "seconds": seconds, "loss": last, "peak_bytes": peak_bytes(), "split": split }));
    }
    Ok(())
}

/// Largest resident memory of this process so far.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
