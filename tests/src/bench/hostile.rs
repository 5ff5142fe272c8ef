//! Heartbeats beside requests that cost the server as much as one person may make it cost: globs over the whole disk,
//! plans of thousands of branches, large tokenizers.

use super::figures::Times;
use crate::{Pretended, World, client::Api, spec};
use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Requests at once.
pub const AT_ONCE: usize = 50;
/// Tokens of the large tokenizer; the largest in use have as many.
const TOKENS: usize = 260_000;

/// What was seen.
#[derive(Debug, Default)]
pub struct Hostile {
    /// Heartbeats meanwhile.
    pub beat: Times,
    /// Requests that were answered, whatever was said.
    pub answered: usize,
    /// Of them, those that were told to wait.
    pub told_to_wait: usize,
}

/// Files to walk, and a tokenizer to load.
///
/// # Errors
/// When the disk refuses.
pub fn prepare(world: &World, files: usize) -> Result<()> {
    for folder in 0..files.div_ceil(500) {
        let folder = world.path(&format!("corpus/hostile/{folder}"));
        fs::create_dir_all(&folder)?;
        (0..files.min(500)).try_for_each(|file| fs::write(folder.join(format!("{file}.txt")), ""))?;
    }
    let mut vocabulary: serde_json::Map<String, Value> =
        (0..TOKENS).map(|id| (format!("token{id}"), json!(id))).collect();
    vocabulary.insert("<|endoftext|>".into(), json!(TOKENS));
    let special = json!({ "id": TOKENS, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": [] },
    });
    Ok(fs::write(world.path("corpus/large.json"), tokenizer.to_string())?)
}

/// The requests, in turn.
fn request(number: usize) -> (&'static str, Value) {
    let mut plan = spec::small_json();
    match number % 3 {
        0 => ("/api/v1/corpora", json!({ "name": "hostile", "paths": ["/**/*.jsonl.gz", "/**/*nothing*/**"] })),
        1 => {
            plan["tokenizer"] = json!({ "kind": "file", "path": "large.json" });
            ("/api/v1/plan", json!({ "experiment": plan }))
        }
        _ => {
            plan["clustering"]["domains"] = json!(4096);
            plan["evaluation"]["repeats"] = json!(2);
            ("/api/v1/plan", json!({ "experiment": plan }))
        }
    }
}

/// Sends the requests over and over until `enough` says so, and beats meanwhile.
///
/// # Errors
/// When a heartbeat is not answered as it should be, or a request falls over.
pub async fn beside(world: &World, pause: Duration, enough: impl Fn(usize, Instant) -> bool) -> Result<Hostile> {
    let worker = Pretended::enrol(world, "beating").await?;
    let (stop, start) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let hostile: Vec<_> =
        (0..AT_ONCE).map(|number| tokio::spawn(over_and_over(world.api.clone(), number, stop.clone()))).collect();
    let path = format!("/api/v1/workers/{}/heartbeat", worker.id());
    let beat = json!({ "session": worker.enrolled.session, "attempts": [] });
    let mut seen = Hostile::default();
    while !enough(seen.beat.len(), start) {
        let asked = Instant::now();
        let (status, answer) = worker.api.send(Method::POST, &path, Some(&beat)).await?;
        seen.beat.push(asked.elapsed().as_secs_f64() * 1000.0);
        ensure!(status == 200, "a heartbeat: {status} {answer}");
        tokio::time::sleep(pause).await;
    }
    stop.store(true, Ordering::Relaxed);
    for done in join_all(hostile).await {
        let (answered, told_to_wait) = done.context("a hostile client panicked")??;
        seen.answered += answered;
        seen.told_to_wait += told_to_wait;
    }
    Ok(seen)
}

async fn over_and_over(api: Api, number: usize, stop: Arc<AtomicBool>) -> Result<(usize, usize)> {
    let (mut answered, mut told_to_wait) = (0, 0);
    let (path, body) = request(number);
    while !stop.load(Ordering::Relaxed) {
        let (status, answer) = api.send(Method::POST, path, Some(&body)).await?;
        ensure!(status != 500, "{path}: {answer}");
        answered += 1;
        // Who waits longer than the server's patience is told so; both are answers.
        if matches!(status, 429 | 503) {
            told_to_wait += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok((answered, told_to_wait))
}
