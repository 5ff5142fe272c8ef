//! Trains a model folder on given batches by the worker's own code, for comparison with a reference trainer:
//! `train_steps JOB.json` prints losses, gradient norms and learning rates as JSON. See [`Job`] for the file.

use anyhow::{Context, Result};
use senmon_engine::{
    checkpoint::from_host,
    hub::{MODEL_FILE, config_json, load_model, write_tensors},
    schedule::learning_rate,
    trainer::{Shape, Trainer},
};
use senmon_protocol::spec::{Precision, TrainingSpec};
use serde::Deserialize;
use serde_json::json;
use std::{fs, path::PathBuf};
use tch::{Device, Kind};

/// What is trained.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Job {
    /// Folder of the first weights.
    folder: Option<PathBuf>,
    /// Folder for the last weights.
    out: Option<PathBuf>,
    /// Tokens of a window.
    length: i64,
    /// Windows of a pass.
    micro: i64,
    /// Tokens of each step: `[windows, length + 1]`.
    batches: Vec<Vec<i64>>,
    /// Where only the rates of so many steps are wanted.
    rates_of_steps: u64,
    training: TrainingSpec,
}

impl Default for Job {
    fn default() -> Self {
        let training = serde_json::from_value(json!({ "batch_windows": 1, "learning_rate": 0.0 }));
        Self {
            folder: None,
            out: None,
            length: 1,
            micro: 1,
            batches: Vec::new(),
            rates_of_steps: 0,
            training: training.expect("a training spec of its two required keys"),
        }
    }
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: train_steps JOB.json")?;
    let job: Job = serde_json::from_str(&fs::read_to_string(&path).with_context(|| path.clone())?)?;
    let steps = (job.batches.len() as u64).max(job.rates_of_steps);
    let rates: Vec<f64> = (0..steps).map(|step| learning_rate(&job.training, step, steps)).collect();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    if let Some(folder) = &job.folder {
        let (spec, weights) = load_model(folder)?;
        let kind = if job.training.precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
        let shape = Shape { windows: job.training.batch_windows.into(), micro: job.micro, length: job.length };
        let mut trainer = Trainer::new(spec, &from_host(&weights), Device::Cpu, kind, shape);
        for (tokens, rate) in job.batches.iter().zip(&rates) {
            let (loss, norm) = trainer.forward_backward(tokens, None);
            trainer.step(&job.training, *rate, (job.training.clip_norm / (norm + 1e-6)).min(1.0));
            losses.push(loss);
            norms.push(norm);
        }
        if let Some(out) = &job.out {
            fs::create_dir_all(out)?;
            fs::write(out.join("config.json"), config_json(&trainer.spec).to_string())?;
            write_tensors(out, MODEL_FILE, &trainer.layout, &[("", &trainer.weights)])?;
        }
    }
    println!("{}", json!({ "losses": losses, "norms": norms, "rates": rates }));
    Ok(())
}
