//! Work on text as a worker does it, with one thread and with more: assignment, tokenising, and a whole shard job.

use crate::process::repository;
use anyhow::{Context, Result, anyhow};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use senmon_corpus::{
    discover::discover,
    read::{Document, documents},
    roots::Roots,
    router::Router,
    shard::{ShardInput, write_shard},
    tokenizer::{self, SEPARATOR, Tokenizer},
};
use senmon_protocol::{
    clustering::{ClusteringSpec, FeatureSpec},
    corpus::DocumentFields,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// Domains of the router, and entries of the tokenizer.
const DOMAINS: u32 = 32;
const VOCABULARY: u32 = 16_384;
/// One document in so many of the demo's.
const SHARE: usize = 3;
/// Times that each figure is measured, in turn; the median counts.
const TIMES: usize = 3;

/// The kinds of work that a worker does with text.
const KINDS: [&str; 3] = ["assignment", "tokenising", "shard"];

struct Bench {
    folder: PathBuf,
    file: PathBuf,
    documents: Vec<Document>,
    bytes: usize,
    router: Router,
    tokenizer: Tokenizer,
    fields: DocumentFields,
    roots: Roots,
}

/// Megabytes of text a second of each kind of work with 1, 2, 4 … threads, and how much faster than one they are.
///
/// # Errors
/// When the demo's corpus is not there (`scripts/setup-corpus`), or something cannot be written.
pub fn run() -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let bench = Bench::new(folder.path())?;
    let cores = std::thread::available_parallelism()?.get();
    let mut counts: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < cores).collect();
    counts.push(cores);
    let pools: Vec<ThreadPool> =
        counts.iter().map(|n| ThreadPoolBuilder::new().num_threads(*n).build()).collect::<Result<_, _>>()?;
    let mut seconds: BTreeMap<(&str, usize), Vec<f64>> = BTreeMap::new();
    for time in 0..=TIMES {
        for (pool, threads) in pools.iter().zip(&counts) {
            for kind in KINDS {
                let start = Instant::now();
                pool.install(|| bench.work(kind))?;
                // The first time fills caches.
                if time > 0 {
                    seconds.entry((kind, *threads)).or_default().push(start.elapsed().as_secs_f64());
                }
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes of a small corpus")]
    let megabytes = bench.bytes as f64 / 1e6;
    let rate = |kind, threads| megabytes / median(&seconds[&(kind, threads)]);
    let rows = KINDS.iter().map(|kind| {
        let rates = counts.iter().map(|&threads| {
            let times = rate(kind, threads) / rate(kind, 1);
            (threads.to_string(), json!({ "mb_per_s": rate(kind, threads), "times_one_thread": times }))
        });
        (kind.to_string(), Value::Object(rates.collect()))
    });
    Ok(json!({
        "text_mb": megabytes, "documents": bench.documents.len(), "domains": DOMAINS, "vocabulary": VOCABULARY,
        "cores": cores, "times": TIMES, "threads": Value::Object(rows.collect()),
    }))
}

/// The report for people.
#[must_use]
pub fn table(report: &Value) -> String {
    let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let mut lines = vec![format!("{:.1} MB of text, {} cores", figure(&report["text_mb"]), report["cores"])];
    for (kind, rates) in report["threads"].as_object().into_iter().flatten() {
        for (threads, rate) in rates.as_object().into_iter().flatten() {
            let (speed, times) = (figure(&rate["mb_per_s"]), figure(&rate["times_one_thread"]));
            lines.push(format!("{kind:<12} {threads:>3} threads {speed:>8.1} MB/s  x{times:.2}"));
        }
    }
    lines.join("\n")
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Bench {
    fn new(folder: &Path) -> Result<Self> {
        let (roots, fields) = (Roots::whole_disk(), DocumentFields::default());
        let corpus = repository().join("var/demo/corpus");
        let names = fs::read_dir(&corpus).context("read var/demo/corpus: run scripts/setup-corpus first")?;
        let mut files: Vec<PathBuf> = names.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        files.retain(|path| path.to_string_lossy().contains(".jsonl"));
        files.sort();
        let mut all = Vec::new();
        for file in &files {
            let read: Result<Vec<_>, _> = documents(&roots, file, &fields)?.collect();
            all.extend(read.map_err(|trouble| anyhow!("{}: {trouble:?}", file.display()))?);
        }
        // Of each source the same share, so that both languages are there.
        let documents: Vec<Document> = all.into_iter().step_by(SHARE).collect();
        let file = folder.join("text.jsonl");
        let lines = documents.iter().map(|document| json!({ "text": document.text }).to_string() + "\n");
        fs::write(&file, lines.collect::<String>())?;
        let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
        let spec = ClusteringSpec {
            domains: DOMAINS,
            sample_documents: u32::try_from(texts.len())?,
            seed: 7,
            features: FeatureSpec::default(),
            iterations_max: 20,
        };
        let router = discover(&documents, &spec).map_err(anyhow::Error::msg)?.router;
        let tokenizer = Tokenizer::from_bytes(&tokenizer::train(&texts, VOCABULARY)?, SEPARATOR, None)?;
        let bytes = texts.iter().map(|text| text.len()).sum();
        Ok(Self { folder: folder.into(), file, bytes, documents, router, tokenizer, fields, roots })
    }

    fn work(&self, kind: &str) -> Result<()> {
        let texts = self.documents.par_iter().map(|document| document.text.as_str());
        match kind {
            "assignment" => {
                texts.map(|text| self.router.assign(text)).collect::<Vec<_>>();
            }
            "tokenising" => {
                texts.map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
            }
            _ => {
                let input = ShardInput {
                    roots: &self.roots,
                    path: &self.file,
                    fields: &self.fields,
                    dropped: &[],
                    router: &self.router,
                    router_sha256: "",
                    tokenizer: &self.tokenizer,
                    tokenizer_sha256: "",
                    held_out_fraction: 0.02,
                    documents_per_domain: 64,
                };
                write_shard(&input, &self.folder.join("shard"), |_| true)?;
            }
        }
        Ok(())
    }
}
