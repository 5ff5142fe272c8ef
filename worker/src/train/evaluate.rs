//! Scores of one checkpoint on every domain's held-out documents; the log-probability of every token is cached.
//!
//! A document is opened as in training, by its opening token or the separator, and cut into windows without overlap, so
//! every token is predicted once. Which documents, and which half calibrates, says the experiment's list.

use super::{
    checkpoint::from_host,
    context::{JobContext, Place, asked_to_end, ended, make_folder},
    device, hub,
    model::Model,
};
use anyhow::{Context, Result, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use senmon_corpus::{held_out::HeldOutList, hex, manifest::verify, shard_set::ShardSet};
use senmon_protocol::{
    ids::StorageKey,
    job::{DomainLoss, EndedOutcome, EvaluateJob, EvaluateResult, TerminationReason},
    spec::Precision,
};
use sha2::{Digest, Sha256};
use std::{fs::File, io::Write, path::Path, time::Instant};
use tch::{Kind, no_grad};

/// Windows scored at once.
const BATCH_WINDOWS: usize = 16;
/// Name of the cache in its folder.
pub const SCORES_FILE: &str = "logprobs.safetensors";

/// A held-out document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// Its domain.
    pub domain: u32,
    /// Reported, or used to calibrate.
    pub reported: bool,
    /// Its tokens, the separator last.
    pub tokens: Vec<u32>,
}

/// Scores of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Log-probability of every token, documents in order, nats.
    pub logprobs: Vec<f32>,
    /// Domain of each document.
    pub domain: Vec<u32>,
    /// Tokens of each document.
    pub tokens: Vec<u32>,
    /// Whether each document is reported.
    pub reported: Vec<u8>,
}

/// The documents to score, by their list: the same for every model of an experiment.
///
/// # Errors
/// When the list is missing, or a shard is damaged.
pub fn held_out(shards: &ShardSet, place: &Place, list: &StorageKey) -> Result<Vec<HeldOut>> {
    let bytes = std::fs::read(place.path(list)).with_context(|| list.to_string())?;
    let list: HeldOutList = serde_json::from_slice(&bytes).with_context(|| list.to_string())?;
    let read = |listed: &senmon_corpus::held_out::Listed| -> Result<HeldOut> {
        Ok(HeldOut { domain: listed.domain, reported: listed.reported, tokens: shards.held_out(listed)? })
    };
    list.documents.iter().map(read).collect()
}

/// Runs an evaluation.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &EvaluateJob, place: &Place, context: &dyn JobContext) -> Result<EvaluateResult, EndedOutcome> {
    let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
    let device = device::open(&place.device).map_err(|error| ended(TerminationReason::InvalidInput, error))?;
    let shards = ShardSet::open(place.shard_index(&job.shards)?, &place.storage).map_err(corrupt)?;
    let documents = held_out(&shards, place, &job.held_out).map_err(corrupt)?;
    let folder = place.path(&job.checkpoint.folder);
    verify(&folder, &job.checkpoint.manifest_sha256).map_err(corrupt)?;
    let (spec, weights) = hub::load_model(&folder).map_err(corrupt)?;
    let kind = if job.precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
    let model = Model::new(spec, &from_host(&weights), device, kind, job.sequence_length.into(), false);
    let scores = score(&model, device, &documents, shards.index().opener_id(), job.sequence_length, context)?;
    let (key, path) = place.attempt_folder(&job.output)?;
    let _held = place.store.hold(&key);
    make_folder(&path)?;
    let sha256 = scores.save(&path).map_err(|error| ended(TerminationReason::StorageFailure, format!("{error:#}")))?;
    place.publish(&key, context)?;
    let domains = losses(&scores, shards.index().domains, |token| f64::from(scores.logprobs[token]), true);
    Ok(EvaluateResult { folder: key, sha256, domains })
}

/// A window to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Place of the first prediction among all tokens.
    pub first: usize,
    /// Tokens read.
    pub inputs: Vec<i64>,
    /// Tokens predicted, one for each read.
    pub targets: Vec<i64>,
}

/// Documents, each opened by a token, in windows of at most `length` tokens without overlap.
#[must_use]
pub fn windows(documents: &[impl AsRef<[u32]>], opener: u32, length: u32) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut first = 0;
    for document in documents {
        let tokens = document.as_ref();
        let sequence: Vec<i64> = std::iter::once(opener).chain(tokens.iter().copied()).map(i64::from).collect();
        for start in (0..tokens.len()).step_by(length.max(1) as usize) {
            let end = (start + length as usize).min(tokens.len());
            let (inputs, targets) = (sequence[start..end].to_vec(), sequence[start + 1..=end].to_vec());
            windows.push(Window { first: first + start, inputs, targets });
        }
        first += tokens.len();
    }
    windows
}

impl AsRef<[u32]> for HeldOut {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}

/// Scores documents.
///
/// # Errors
/// When a command asks to end.
pub fn score(
    model: &Model,
    device: tch::Device,
    documents: &[HeldOut],
    opener: u32,
    length: u32,
    context: &dyn JobContext,
) -> Result<Scores, EndedOutcome> {
    let total = documents.iter().map(|document| document.tokens.len()).sum();
    let logprobs = run_windows(model, device, windows(documents, opener, length), total, context)?;
    Ok(Scores {
        logprobs,
        domain: documents.iter().map(|document| document.domain).collect(),
        tokens: documents.iter().map(|document| u32::try_from(document.tokens.len()).unwrap_or(u32::MAX)).collect(),
        reported: documents.iter().map(|document| u8::from(document.reported)).collect(),
    })
}

/// Log-probabilities of `total` tokens, 0 for those in no window.
///
/// # Errors
/// When a command asks to end.
pub fn run_windows(
    model: &Model,
    device: tch::Device,
    mut windows: Vec<Window>,
    total: usize,
    context: &dyn JobContext,
) -> Result<Vec<f32>, EndedOutcome> {
    // Longest first, so that a batch wastes little.
    windows.sort_by_key(|window| (std::cmp::Reverse(window.inputs.len()), window.first));
    let all: u64 = windows.iter().map(|window| window.inputs.len() as u64).sum();
    let mut logprobs = vec![0.0_f32; total];
    let began = Instant::now();
    let mut done = 0;
    for batch in windows.chunks(BATCH_WINDOWS) {
        if let Some(end) = asked_to_end(context.command()) {
            return Err(end);
        }
        let width = batch.iter().map(|window| window.inputs.len()).max().unwrap_or(0);
        let padded = |pick: &dyn Fn(&Window) -> &[i64]| {
            let mut rows = vec![0; batch.len() * width];
            for (row, window) in rows.chunks_mut(width).zip(batch) {
                row[..pick(window).len()].copy_from_slice(pick(window));
            }
            device::upload(&rows, device).view([i64::try_from(batch.len()).unwrap_or(0), -1])
        };
        let (inputs, targets) = (padded(&|window| &window.inputs), padded(&|window| &window.targets));
        let found =
            no_grad(|| model.log_probabilities(&inputs, &targets)).to_device(tch::Device::Cpu).contiguous().view(-1);
        let found = Vec::<f32>::try_from(&found).map_err(|error| ended(TerminationReason::InternalError, error))?;
        for (window, row) in batch.iter().zip(found.chunks(width)) {
            let read = window.inputs.len();
            logprobs[window.first..window.first + read].copy_from_slice(&row[..read]);
            done += read as u64;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        context.progress(done, all, done as f64 / began.elapsed().as_secs_f64().max(1e-9));
    }
    Ok(logprobs)
}

/// Loss by domain over the reported half (or the calibration half) of the documents; `logprob` is asked by token.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "tokens below 2^53")]
pub fn losses(scores: &Scores, domains: u32, logprob: impl Fn(usize) -> f64, reported: bool) -> Vec<DomainLoss> {
    let mut losses: Vec<DomainLoss> =
        (0..domains).map(|domain| DomainLoss { domain, documents: 0, tokens: 0, loss: 0.0 }).collect();
    let mut first = 0;
    for ((&domain, &tokens), &is_reported) in scores.domain.iter().zip(&scores.tokens).zip(&scores.reported) {
        let range = first..first + tokens as usize;
        first = range.end;
        if (is_reported == 1) == reported
            && let Some(loss) = losses.get_mut(domain as usize)
        {
            loss.documents += 1;
            loss.tokens += u64::from(tokens);
            loss.loss -= range.map(&logprob).sum::<f64>();
        }
    }
    losses.iter_mut().filter(|loss| loss.tokens > 0).for_each(|loss| loss.loss /= loss.tokens as f64);
    losses
}

impl Scores {
    /// Writes the cache; returns its SHA-256.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, folder: &Path) -> Result<String> {
        let floats: Vec<u8> = self.logprobs.iter().flat_map(|value| value.to_le_bytes()).collect();
        let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (domain, tokens) = (words(&self.domain), words(&self.tokens));
        let n = self.domain.len();
        let views = [
            ("document_tokens", TensorView::new(Dtype::U32, vec![n], &tokens)?),
            ("domain", TensorView::new(Dtype::U32, vec![n], &domain)?),
            ("logprobs", TensorView::new(Dtype::F32, vec![self.logprobs.len()], &floats)?),
            ("reported", TensorView::new(Dtype::U8, vec![n], &self.reported)?),
        ];
        let bytes = safetensors::serialize(views, None)?;
        let mut file = File::create(folder.join(SCORES_FILE))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(hex(&Sha256::digest(&bytes)))
    }

    /// Reads the cache.
    ///
    /// # Errors
    /// When it is missing, altered, or its parts do not fit together.
    pub fn load(folder: &Path, sha256: &str) -> Result<Self> {
        let bytes = std::fs::read(folder.join(SCORES_FILE))
            .with_context(|| format!("{SCORES_FILE} of {}", folder.display()))?;
        let found = hex(&Sha256::digest(&bytes));
        ensure!(
            found == sha256,
            "{}/{SCORES_FILE}: SHA-256 is {found}, its evaluation says {sha256}",
            folder.display()
        );
        let parts = SafeTensors::deserialize(&bytes).context(SCORES_FILE)?;
        let words = |name: &str| -> Result<Vec<u32>> {
            Ok(parts.tensor(name)?.data().as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
        };
        let scores = Self {
            logprobs: words("logprobs")?.into_iter().map(f32::from_bits).collect(),
            domain: words("domain")?,
            tokens: words("document_tokens")?,
            reported: parts.tensor("reported")?.data().to_vec(),
        };
        let total: u64 = scores.tokens.iter().copied().map(u64::from).sum();
        ensure!(
            total == scores.logprobs.len() as u64 && scores.domain.len() == scores.tokens.len(),
            "{SCORES_FILE}: its parts do not fit together"
        );
        Ok(scores)
    }
}
