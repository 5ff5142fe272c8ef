//! Scores of one checkpoint on every domain's held-out documents; the log-probability of every token is cached.
//!
//! A document is opened as in training, by its opening token or the separator, and cut into windows without overlap, so
//! every token is predicted once. Which documents, and which half calibrates, says the experiment's list.

use super::{
    checkpoint::from_host,
    context::{JobContext, Phase, asked_to_end, ended},
    device, hub,
    model::Model,
    place::{Place, make_folder},
};
use anyhow::{Context, Result, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use senmon_corpus::{
    compare::{Documents, Half},
    held_out::HeldOutList,
    hex,
    manifest::verify,
    shard_set::ShardSet,
    wanted::Wanted,
};
use senmon_protocol::{
    ids::StorageKey,
    job::{EndedOutcome, EvaluateJob, EvaluateResult, TerminationReason},
    spec::Precision,
};
use sha2::{Digest, Sha256};
use std::{fs::File, io::Write, path::Path, time::Instant};
use tch::{Kind, no_grad};

/// Windows scored at once.
pub const BATCH_WINDOWS: usize = 16;
/// Name of the cache in its folder.
pub const SCORES_FILE: &str = "logprobs.safetensors";

/// A held-out document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// Its domain.
    pub domain: u32,
    /// Hash of its group.
    pub group: u64,
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
    /// The documents.
    pub documents: Documents,
}

/// The documents to score, by their list, each from its beginning to `tokens_max`: the same for every model of an experiment.
///
/// # Errors
/// When the list is missing, or a shard is damaged.
pub fn held_out(shards: &ShardSet, place: &Place, list: &StorageKey, tokens_max: u32) -> Result<Vec<HeldOut>> {
    let list = held_out_list(place, list)?;
    let read = |listed: &senmon_corpus::held_out::Listed| -> Result<HeldOut> {
        let mut tokens = shards.held_out(listed)?;
        tokens.truncate(tokens_max.max(1) as usize);
        Ok(HeldOut { domain: listed.domain, group: listed.group, reported: listed.reported, tokens })
    };
    list.documents.iter().map(read).collect()
}

/// The list of what an experiment scores.
///
/// # Errors
/// When it is missing or damaged.
pub fn held_out_list(place: &Place, list: &StorageKey) -> Result<HeldOutList> {
    let bytes = std::fs::read(place.path(list)).with_context(|| list.to_string())?;
    serde_json::from_slice(&bytes).with_context(|| list.to_string())
}

/// What comparing needs to know of documents.
#[must_use]
pub fn sheet(documents: &[HeldOut]) -> Documents {
    Documents {
        domain: documents.iter().map(|document| document.domain).collect(),
        tokens: documents.iter().map(|document| u32::try_from(document.tokens.len()).unwrap_or(u32::MAX)).collect(),
        group: documents.iter().map(|document| document.group).collect(),
        reported: documents.iter().map(|document| document.reported).collect(),
    }
}

/// Runs an evaluation.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &EvaluateJob, place: &Place, context: &dyn JobContext) -> Result<EvaluateResult, EndedOutcome> {
    let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
    let device = device::open(&place.device).map_err(|error| ended(TerminationReason::InvalidInput, error))?;
    let shards = place.shards(&job.shards, &Wanted::HeldOut, context)?;
    let documents = held_out(&shards, place, &job.held_out, job.tokens_per_document_max).map_err(corrupt)?;
    let folder = place.path(&job.checkpoint.folder);
    verify(&folder, &job.checkpoint.manifest_sha256).map_err(corrupt)?;
    let (spec, weights) = hub::load_model(&folder).map_err(corrupt)?;
    let parameters = spec.parameters(spec.vocab_size.unwrap_or_default().into());
    let kind = if job.precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
    let model = Model::new(spec, &from_host(&weights), device, kind, job.sequence_length.into(), false);
    let scores = score(&model, device, &documents, shards.index().opener_id(), job.sequence_length, context)?;
    context.pulse(Phase::Long);
    let (key, path) = place.attempt_folder(&job.output)?;
    let _held = place.depot.hold(&key);
    make_folder(&path)?;
    let sha256 = scores.save(&path).map_err(|error| ended(TerminationReason::StorageFailure, format!("{error:#}")))?;
    place.publish(&key, &[SCORES_FILE], context)?;
    let nats = scores.nats();
    let losses = |half| scores.documents.losses(&nats, half, shards.index().domains);
    let (domains, calibration) = (losses(Half::Reported), losses(Half::Calibration));
    Ok(EvaluateResult { folder: key, sha256, domains, calibration, parameters: Some(parameters) })
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
    let windows = windows(documents, opener, length);
    let logprobs = run_windows(model, device, windows, total, BATCH_WINDOWS, &mut telling(context))?;
    Ok(Scores { logprobs, documents: sheet(documents) })
}

/// Tells of windows that were scored: a sign of life, progress, and the end that a command asks for.
pub fn telling(context: &dyn JobContext) -> impl FnMut(u64, u64) -> Result<(), EndedOutcome> {
    let began = Instant::now();
    move |done, all| {
        context.pulse(Phase::Step);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        context.progress(done, all, done as f64 / began.elapsed().as_secs_f64().max(1e-9));
        asked_to_end(context.command()).map_or(Ok(()), Err)
    }
}

/// Log-probabilities of `total` tokens, 0 for those in no window; `batch` windows at once. `told` hears of the tokens done
/// and of all before each batch and at the end, and may end it.
///
/// # Errors
/// Those of `told`.
pub fn run_windows(
    model: &Model,
    device: tch::Device,
    mut windows: Vec<Window>,
    total: usize,
    batch: usize,
    told: &mut dyn FnMut(u64, u64) -> Result<(), EndedOutcome>,
) -> Result<Vec<f32>, EndedOutcome> {
    // Longest first, so that a batch wastes little.
    windows.sort_by_key(|window| (std::cmp::Reverse(window.inputs.len()), window.first));
    let all: u64 = windows.iter().map(|window| window.inputs.len() as u64).sum();
    let mut logprobs = vec![0.0_f32; total];
    let mut done = 0;
    for batch in windows.chunks(batch.max(1)) {
        told(done, all)?;
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
    }
    told(done, all)?;
    Ok(logprobs)
}

impl Scores {
    /// Negative log-likelihood of each document, nats.
    #[must_use]
    pub fn nats(&self) -> Vec<f64> {
        let mut rest = self.logprobs.as_slice();
        let document = |&tokens: &u32| {
            let (own, behind) = rest.split_at(tokens as usize);
            rest = behind;
            -own.iter().map(|&logprob| f64::from(logprob)).sum::<f64>()
        };
        self.documents.tokens.iter().map(document).collect()
    }

    /// Writes the cache; returns its SHA-256.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, folder: &Path) -> Result<String> {
        let floats: Vec<u8> = self.logprobs.iter().flat_map(|value| value.to_le_bytes()).collect();
        let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (domain, tokens) = (words(&self.documents.domain), words(&self.documents.tokens));
        let group: Vec<u8> = self.documents.group.iter().flat_map(|value| value.to_le_bytes()).collect();
        let reported: Vec<u8> = self.documents.reported.iter().map(|&reported| reported.into()).collect();
        let n = reported.len();
        let views = [
            ("document_tokens", TensorView::new(Dtype::U32, vec![n], &tokens)?),
            ("domain", TensorView::new(Dtype::U32, vec![n], &domain)?),
            ("group", TensorView::new(Dtype::U64, vec![n], &group)?),
            ("logprobs", TensorView::new(Dtype::F32, vec![self.logprobs.len()], &floats)?),
            ("reported", TensorView::new(Dtype::U8, vec![n], &reported)?),
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
            documents: Documents {
                domain: words("domain")?,
                tokens: words("document_tokens")?,
                group: parts
                    .tensor("group")?
                    .data()
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|x| u64::from_le_bytes(*x))
                    .collect(),
                reported: parts.tensor("reported")?.data().iter().map(|&reported| reported == 1).collect(),
            },
        };
        let documents = &scores.documents;
        let total: u64 = documents.tokens.iter().copied().map(u64::from).sum();
        let n = documents.tokens.len();
        ensure!(
            total == scores.logprobs.len() as u64
                && [documents.domain.len(), documents.group.len(), documents.reported.len()] == [n; 3],
            "{SCORES_FILE}: its parts do not fit together"
        );
        Ok(scores)
    }
}
