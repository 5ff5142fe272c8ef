//! One branch, from its parent to its last step: rate → micro-steps → clip → step → log → checkpoint → stop.

use super::{
    checkpoint::{self, Snapshot, TrainerState},
    context::{JobContext, MetricPoint, Place, asked_to_end, ended},
    data, device,
    model::{Model, initial_weights},
    optimizer::{AdamW, clear_gradients, gradient_norm},
    schedule::learning_rate,
};
use senmon_corpus::{hex, shard_set::ShardSet, windows::WindowOrder};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::CheckpointId,
    job::{CheckpointRef, EndedOutcome, TerminationReason, TrainJob, TrainResult, TrainStart, WrittenCheckpoint},
    spec::{OptimizerStart, Precision},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tch::{Device, Kind, Tensor};

/// Steps in a row that may be skipped for a loss or gradient that is not finite.
const SKIPS_MAX: u32 = 10;

/// A branch while it trains.
struct Session<'a> {
    job: &'a TrainJob,
    place: &'a Place,
    context: &'a dyn JobContext,
    device: Device,
    model: Model,
    optimizer: AdamW,
    step: u64,
    parent: Option<CheckpointId>,
    loss: Option<f64>,
    peak: f64,
}

/// Time and tokens since the last point of the curves.
struct Interval {
    began: Instant,
    steps: u64,
    waited: Duration,
}

impl Interval {
    fn new() -> Self {
        Self { began: Instant::now(), steps: 0, waited: Duration::ZERO }
    }
}

/// Trains a branch.
///
/// # Errors
/// How it ended without a result; every reason of the closed list that can happen here.
pub fn run(job: &TrainJob, place: &Place, context: &dyn JobContext) -> Result<TrainResult, EndedOutcome> {
    let device = device::open(&place.device).map_err(|error| ended(TerminationReason::InvalidInput, error))?;
    let index = place.shard_index(&job.shards)?;
    let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
    let shards = ShardSet::open(index, &place.storage).map_err(corrupt)?;
    shards.verify(&place.storage).map_err(corrupt)?;
    let mut session = Session::open(job, place, context, device, &shards)?;
    if job.steps == 0 {
        context.started(0, None);
        session.save_now(None)?;
        return Ok(TrainResult { steps: 0, tokens: 0, loss_last: None });
    }
    let windows = shards.windows(job.sequence_length);
    let invalid = |error| ended(TerminationReason::InvalidInput, error);
    let order = WindowOrder::new(&windows, &job.mixture, job.training.random_seed).map_err(invalid)?;
    order.ensure_budget(job.steps * u64::from(job.training.batch_windows), job.epochs_max).map_err(invalid)?;
    session.resume_or_begin(&shards, &order)?;
    session.train(&shards, &order)?;
    Ok(TrainResult { steps: job.steps, tokens: job.steps * session.step_tokens(), loss_last: session.loss })
}

impl<'a> Session<'a> {
    fn open(
        job: &'a TrainJob,
        place: &'a Place,
        context: &'a dyn JobContext,
        device: Device,
        shards: &ShardSet,
    ) -> Result<Self, EndedOutcome> {
        let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
        let (spec, weights, parent, moments) = match (&job.resume, &job.start) {
            (Some(from), _) | (None, TrainStart::Checkpoint(from)) => {
                let folder = place.path(&from.folder);
                let manifest = checkpoint::verify(&folder, &from.manifest_sha256).map_err(corrupt)?;
                let (spec, weights) = checkpoint::load_model(&folder).map_err(corrupt)?;
                let carries = job.resume.is_some() || job.training.optimizer == OptimizerStart::Carry;
                let resumable = manifest.meta.kind == CheckpointKind::Resumable;
                let moments = (carries && resumable)
                    .then(|| checkpoint::load_trainer(&folder, &weights))
                    .transpose()
                    .map_err(corrupt)?;
                (spec, weights, Some(from.id), moments)
            }
            (None, TrainStart::Folder(folder)) => {
                let invalid = |error: anyhow::Error| ended(TerminationReason::InvalidInput, format!("seed: {error:#}"));
                let (spec, weights) = checkpoint::load_model(std::path::Path::new(&folder.path)).map_err(invalid)?;
                (spec, weights, None, None)
            }
            (None, TrainStart::Init(init)) => {
                let weights = initial_weights(&init.model, job.training.random_seed);
                (init.model.clone(), checkpoint::to_host(&weights).map_err(corrupt)?, None, None)
            }
        };
        if spec.vocab_size.unwrap_or(0) < shards.index().vocab_size {
            let message = format!(
                "model.vocab_size: found {}, the tokenizer of the shards has {} entries",
                spec.vocab_size.unwrap_or(0),
                shards.index().vocab_size
            );
            return Err(ended(TerminationReason::InvalidInput, message));
        }
        if job.sequence_length > spec.max_position_embeddings {
            let message = format!(
                "data.sequence_length: found {}, the model has {} positions",
                job.sequence_length, spec.max_position_embeddings
            );
            return Err(ended(TerminationReason::InvalidInput, message));
        }
        let kind = match job.training.precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        let model = Model::new(spec, checkpoint::from_host(&weights), device, kind, job.sequence_length.into(), true);
        let mut optimizer = AdamW::new(&model.weights);
        if let Some(((first, second), state)) = &moments {
            let place = |set| {
                checkpoint::from_host(set).into_iter().map(|(name, tensor)| (name, tensor.to_device(device))).collect()
            };
            (optimizer.first, optimizer.second, optimizer.steps) = (place(first), place(second), state.optimizer_steps);
        }
        Ok(Self {
            job,
            place,
            context,
            device,
            model,
            optimizer,
            step: 0,
            parent,
            loss: None,
            peak: device::matmul_peak(device, kind),
        })
    }

    fn step_tokens(&self) -> u64 {
        u64::from(self.job.training.batch_windows) * u64::from(self.job.sequence_length)
    }

    /// Says where training starts; a resumed state is compared with what its checkpoint recorded.
    fn resume_or_begin(&mut self, shards: &ShardSet, order: &WindowOrder) -> Result<(), EndedOutcome> {
        let Some(resume) = &self.job.resume else {
            self.context.started(0, None);
            self.context.log(
                "info",
                &format!(
                    "{}: {} steps of {} tokens on {}",
                    self.job.branch,
                    self.job.steps,
                    self.step_tokens(),
                    self.place.device
                ),
            );
            return Ok(());
        };
        let verified = self.is_as_recorded(resume, shards, order)?;
        self.step = resume.step;
        self.context.started(resume.step, Some(verified));
        self.context
            .log("info", &format!("{}: resumed at step {} of {}", self.job.branch, resume.step, self.job.steps));
        Ok(())
    }

    fn is_as_recorded(
        &self,
        resume: &CheckpointRef,
        shards: &ShardSet,
        order: &WindowOrder,
    ) -> Result<bool, EndedOutcome> {
        let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
        let weights = checkpoint::to_host(&self.model.weights).map_err(corrupt)?;
        let (_, state) = checkpoint::load_trainer(&self.place.path(&resume.folder), &weights).map_err(corrupt)?;
        let moments = (
            checkpoint::to_host(&self.optimizer.first).map_err(corrupt)?,
            checkpoint::to_host(&self.optimizer.second).map_err(corrupt)?,
        );
        let next = self.next_batch_hash(shards, order, resume.step)?;
        Ok(state.step == resume.step
            && state.next_batch_hash == next
            && checkpoint::digest(&weights, Some(&moments), resume.step) == state.state_sha256)
    }

    fn next_batch_hash(&self, shards: &ShardSet, order: &WindowOrder, step: u64) -> Result<Option<u64>, EndedOutcome> {
        if step >= self.job.steps {
            return Ok(None);
        }
        Ok(Some(data::batch(shards, order, step, self.job.training.batch_windows, self.job.sequence_length)?.hash))
    }

    fn train(&mut self, shards: &ShardSet, order: &WindowOrder) -> Result<(), EndedOutcome> {
        let (windows, length, steps) = (self.job.training.batch_windows, self.job.sequence_length, self.job.steps);
        std::thread::scope(|scope| {
            let (batches, reader) = data::batches(scope, shards, order, self.step..=steps, windows, length);
            let mut interval = Interval::new();
            let mut skips = 0;
            let mut saved = self.job.resume.as_ref().map(|resume| resume.step);
            let mut writing: Option<std::thread::ScopedJoinHandle<Result<(), EndedOutcome>>> = None;
            // The batch after the last step is read too, where there is one: its hash is part of a checkpoint.
            let mut next = if self.step < steps {
                Some(
                    batches
                        .recv()
                        .map_err(|_| ended(TerminationReason::InternalError, "the reader of batches ended"))??,
                )
            } else {
                None
            };
            while let Some(batch) = next.take() {
                let rate = learning_rate(&self.job.training, self.step, steps);
                let (loss, norm) = self.forward_backward(&batch.tokens);
                if loss.is_finite() && norm.is_finite() {
                    let scale = (self.job.training.clip_norm / (norm + 1e-6)).min(1.0);
                    self.optimizer.step(&mut self.model.weights, &self.job.training, rate, scale);
                    (skips, self.loss) = (0, Some(loss));
                } else {
                    skips += 1;
                    self.context.log(
                        "warn",
                        &format!(
                            "step {}: loss {loss}, gradient norm {norm}: skipped before the optimiser saw it",
                            self.step + 1
                        ),
                    );
                }
                clear_gradients(&mut self.model.weights);
                self.step += 1;
                interval.steps += 1;
                if skips > SKIPS_MAX {
                    return Err(ended(
                        TerminationReason::NonFiniteLoss,
                        format!(
                            "{skips} steps in a row up to step {} had a loss or gradient that is not finite.",
                            self.step
                        ),
                    ));
                }
                let waiting = Instant::now();
                let following = if self.step < steps {
                    Some(
                        batches
                            .recv()
                            .map_err(|_| ended(TerminationReason::InternalError, "the reader of batches ended"))??,
                    )
                } else {
                    None
                };
                interval.waited += waiting.elapsed();
                if self.step.is_multiple_of(self.job.training.log_every_steps) || self.step == steps {
                    self.report(loss, norm, rate, &mut interval);
                }
                let asked = asked_to_end(self.context.command());
                let due = self.job.training.checkpoint_every_steps.is_some_and(|every| self.step.is_multiple_of(every));
                let keeps = !matches!(
                    asked,
                    Some(EndedOutcome { reason: TerminationReason::Cancelled | TerminationReason::WorkerLost, .. })
                );
                if keeps && (due || asked.is_some() || self.step == steps) && saved != Some(self.step) {
                    // One save at a time: the next waits for the last and never overtakes it.
                    finish(writing.take())?;
                    let (snapshot, meta) = self.snapshot(following.as_ref().map(|batch| batch.hash))?;
                    let (place, context, job) = (self.place, self.context, self.job);
                    writing = Some(scope.spawn(move || write(place, context, job, &snapshot, meta)));
                    saved = Some(self.step);
                }
                if let Some(end) = asked {
                    finish(writing.take())?;
                    return Err(end);
                }
                next = following;
            }
            drop(batches);
            finish(writing.take())?;
            let _ = reader.join();
            Ok(())
        })
    }

    /// Loss (nats per token) and gradient norm of a batch; gradients are left in the weights.
    fn forward_backward(&mut self, tokens: &[i64]) -> (f64, f64) {
        let (windows, length) = (i64::from(self.job.training.batch_windows), i64::from(self.job.sequence_length));
        let micro = i64::from(self.job.training.micro_batch_windows.unwrap_or(self.job.training.batch_windows));
        let batch = Tensor::from_slice(tokens).view([windows, length + 1]).to_device(self.device);
        #[expect(clippy::cast_precision_loss, reason = "tokens of a batch")]
        let count = (windows * length) as f64;
        let losses: Vec<Tensor> = (0..windows / micro)
            .map(|i| {
                let rows = batch.narrow(0, i * micro, micro);
                let loss = self.model.loss_sum(&rows.narrow(1, 0, length), &rows.narrow(1, 1, length)) / count;
                loss.backward();
                loss.detach()
            })
            .collect();
        // The one place where the host waits for the device.
        let norm = gradient_norm(&self.model.weights, self.device);
        (Tensor::stack(&losses, 0).sum(Kind::Double).double_value(&[]), norm)
    }

    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    fn report(&self, loss: f64, norm: f64, rate: f64, interval: &mut Interval) {
        let seconds = interval.began.elapsed().as_secs_f64().max(1e-9);
        let per_second = (interval.steps * self.step_tokens()) as f64 / seconds;
        let flops = self
            .model
            .spec
            .train_flops_per_token(u64::from(self.model.spec.vocab_size.unwrap_or(0)), self.job.sequence_length.into())
            as f64;
        let values = [
            ("train/loss", loss),
            ("train/grad_norm", norm),
            ("train/learning_rate", rate),
            ("throughput/tokens_per_second", per_second),
            ("throughput/mfu", per_second * flops / self.peak),
            ("time/data_wait_share", interval.waited.as_secs_f64() / seconds),
            ("memory/bytes", resident_bytes()),
        ];
        let values: BTreeMap<String, Option<f64>> =
            values.into_iter().map(|(name, value)| (name.to_owned(), Some(value).filter(|v| v.is_finite()))).collect();
        self.context.metrics(MetricPoint { step: self.step, tokens: self.step * self.step_tokens(), values });
        self.context.progress(self.step, self.job.steps, per_second);
        *interval = Interval::new();
    }

    fn snapshot(&self, next_batch_hash: Option<u64>) -> Result<(Snapshot, CheckpointMeta), EndedOutcome> {
        let host = |set| {
            checkpoint::to_host(set).map_err(|error| ended(TerminationReason::InternalError, format!("{error:#}")))
        };
        let weights = host(&self.model.weights)?;
        let moments = (host(&self.optimizer.first)?, host(&self.optimizer.second)?);
        let state_sha256 = checkpoint::digest(&weights, Some(&moments), self.step);
        let tokens = self.step * self.step_tokens();
        let state = TrainerState {
            step: self.step,
            tokens,
            optimizer_steps: self.optimizer.steps,
            next_batch_hash,
            state_sha256: state_sha256.clone(),
        };
        let config =
            serde_json::to_vec(&(&self.job.training, &self.job.mixture, self.job.sequence_length, self.job.steps))
                .unwrap_or_default();
        let meta = CheckpointMeta {
            kind: CheckpointKind::Resumable,
            experiment_id: self.job.experiment_id,
            branch_id: self.job.branch_id,
            fence: self.place.fence,
            step: self.step,
            tokens,
            parent_id: self.parent,
            bytes: 0,
            loss: self.loss,
            config_sha256: hex(&Sha256::digest(config)),
            state_sha256,
        };
        Ok((Snapshot { spec: self.model.spec.clone(), weights, moments: Some(moments), state }, meta))
    }

    fn save_now(&mut self, next: Option<u64>) -> Result<(), EndedOutcome> {
        let (snapshot, meta) = self.snapshot(next)?;
        write(self.place, self.context, self.job, &snapshot, meta)
    }
}

fn finish(writing: Option<std::thread::ScopedJoinHandle<Result<(), EndedOutcome>>>) -> Result<(), EndedOutcome> {
    let Some(handle) = writing else { return Ok(()) };
    handle.join().unwrap_or_else(|_| Err(ended(TerminationReason::InternalError, "the checkpoint writer panicked.")))
}

/// Writes a snapshot and asks for its commit.
fn write(
    place: &Place,
    context: &dyn JobContext,
    job: &TrainJob,
    snapshot: &Snapshot,
    mut meta: CheckpointMeta,
) -> Result<(), EndedOutcome> {
    let id = CheckpointId::new();
    let failure = |error: &dyn std::fmt::Display| {
        ended(TerminationReason::StorageFailure, format!("checkpoint at step {}: {error:#}", meta_step(snapshot)))
    };
    let folder =
        job.output.join(format!("{:08}-f{}", snapshot.state.step, place.fence)).map_err(|error| failure(&error))?;
    let manifest_sha256 = checkpoint::save(&place.path(&folder), snapshot, &place.path(&job.tokenizer), id, &mut meta)
        .map_err(|error| failure(&error))?;
    context.commit(WrittenCheckpoint { id, folder, manifest_sha256, meta });
    Ok(())
}

fn meta_step(snapshot: &Snapshot) -> u64 {
    snapshot.state.step
}

/// Resident memory of this process.
fn resident_bytes() -> f64 {
    let pages =
        std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.map_or(f64::NAN, |pages| pages * 4096.0)
}
