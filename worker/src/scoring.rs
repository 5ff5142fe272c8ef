//! `senmon-worker score`: new text through a set of experts, on this machine. Prints one JSON object.
//!
//! Never talks to the server: the file that `senmon ensemble` wrote and the object store are all it needs.

use crate::{config::Config, store::Store, telemetry::say};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use senmon_corpus::{read::documents, roots::Roots};
use senmon_engine::{
    JobContext, MetricPoint,
    score::{Manner, score},
};
use senmon_protocol::{
    corpus::DocumentFields,
    ensemble::Ensemble,
    ids::{CheckpointId, StorageKey},
    job::WrittenCheckpoint,
    said::Said,
    spec::Precision,
    worker,
};
use senmon_store::{Bucket, StoreUrl};
use std::path::PathBuf;

/// Arguments of `score`.
#[derive(Debug, Clone, Args)]
pub struct Score {
    /// What `senmon ensemble EXPERIMENT` wrote.
    ensemble: PathBuf,
    /// Documents: .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .txt.
    texts: PathBuf,
    /// Experts mixed for a token, instead of as many as were best on the calibration half; the others do not run.
    #[arg(long)]
    top_k: Option<u32>,
    /// Temperature of the router, instead of the calibrated one.
    #[arg(long)]
    temperature: Option<f64>,
    /// Number format of the computation.
    #[arg(long, value_enum, default_value_t = Format::Fp32)]
    precision: Format,
    /// Field of the text in each record.
    #[arg(long, default_value = "text")]
    text_field: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Fp32,
    Bf16,
}

/// Scores the texts on the first slot.
///
/// # Errors
/// When a file cannot be read or is altered, naming it.
pub fn run(config: &Config, args: &Score) -> Result<()> {
    let name = args.ensemble.display();
    let bytes = std::fs::read(&args.ensemble).with_context(|| format!("read {name}"))?;
    let ensemble: Ensemble = serde_json::from_slice(&bytes)
        .with_context(|| format!("{name}: expected what senmon --output json ensemble EXPERIMENT writes"))?;
    let url = StoreUrl::parse(&ensemble.storage_url);
    let (storage, _runtime, _held) = match (&config.storage_dir, url) {
        (Some(folder), _) => (folder.clone(), None, Vec::new()),
        (None, Ok(StoreUrl::Folder(folder))) => (folder, None, Vec::new()),
        (None, Ok(StoreUrl::Bucket { bucket, prefix })) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let bucket = Bucket::open(&bucket, &prefix, &config.s3)?;
            // A copy of its own: a worker may be at work beside it.
            let root = config.state_dir.join("score");
            let (bytes_max, patience) = (config.cache_bytes_max.0, config.storage_retry_max);
            let store = Store::bucket(bucket, &root, bytes_max, runtime.handle().clone(), patience)?;
            let held = store.fetch_ensemble(&ensemble).map_err(|ended| anyhow::anyhow!(ended.message))?;
            (root, Some(runtime), held)
        }
        (None, Err(error)) => return Err(error).with_context(|| format!("{name}: storage_url")),
    };
    ensure!(
        storage.is_dir(),
        "storage_dir: {} is no folder here; name the mount with --storage-dir",
        storage.display()
    );
    let fields = DocumentFields { text: args.text_field.clone(), ..DocumentFields::default() };
    let texts = std::path::absolute(&args.texts)
        .and_then(|path| documents(&Roots::whole_disk(), &path, &fields))
        .with_context(|| format!("read {}", args.texts.display()))?
        .map(|item| {
            item.map(|document| document.text).map_err(|trouble| anyhow::anyhow!("{}: {trouble}", args.texts.display()))
        })
        .collect::<Result<Vec<String>>>()?;
    ensure!(!texts.is_empty(), "{}: found no document", args.texts.display());
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let slot = config.slots.first().context("slots: none")?;
    tch::set_num_threads(slot.threads.into());
    let precision = match args.precision {
        Format::Fp32 => Precision::Fp32,
        Format::Bf16 => Precision::Bf16,
    };
    let top_k = args.top_k.or(ensemble.chosen.map(|chosen| chosen.top_k));
    let top_k = top_k.with_context(|| format!("{name}: no number of experts was chosen; give --top-k"))?;
    let manner = Manner { top_k, temperature: args.temperature, precision };
    let scored = score(&ensemble, &storage, &texts, manner, &slot.device, &Alone)?;
    say(serde_json::to_string_pretty(&scored)?);
    Ok(())
}

/// A job without a server: nobody listens and nobody commands.
struct Alone;

impl JobContext for Alone {
    fn started(&self, _: u64, _: Option<bool>) {}
    fn metrics(&self, _: MetricPoint) {}
    fn log(&self, _: &str, _: &str) {}
    fn event(&self, _: &str, _: u64, _: &str, _: Said) {}
    fn progress(&self, _: u64, _: u64, _: f64) {}
    fn command(&self) -> worker::Command {
        worker::Command::Continue
    }
    fn announce(&self, _: CheckpointId, _: &StorageKey, _: u64) {}
    fn commit(&self, _: WrittenCheckpoint) {}
}
