//! A branch while it trains: what it is, what it starts from, and all of a checkpoint but the tensors.

use super::held_out::Scorer;
use crate::{
    checkpoint::{self, TrainerState, from_host},
    context::{JobContext, TrainingTime, ended},
    device,
    export::{Export, Marks},
    health::HealthState,
    hub::{self, HostTensors},
    model::initial_weights,
    parameters::Layout,
    place::Place,
    trainer::{Shape, Trainer},
};
use senmon_corpus::{hex, manifest::verify, roots::Folder, shard_set::ShardSet, windows::WindowOrder};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::CheckpointId,
    job::{CheckpointRef, EndedOutcome, TerminationReason, TrainJob, TrainStart},
    lineage::Lineage,
    model::ModelSpec,
    spec::{OptimizerStart, Precision},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use tch::{Device, Kind};

/// A branch while it trains.
pub(super) struct Session<'a> {
    pub(super) job: &'a TrainJob,
    pub(super) place: &'a Place,
    pub(super) context: &'a dyn JobContext,
    pub(super) device: Device,
    /// None for a start that is not trained.
    pub(super) order: Option<&'a WindowOrder>,
    pub(super) trainer: Trainer,
    pub(super) health: HealthState,
    /// Checkpoints of this attempt that a rollback may go back to.
    pub(super) written: Vec<CheckpointRef>,
    /// Steps in a row that were not finite.
    pub(super) skips: u32,
    pub(super) step: u64,
    pub(super) parent: Option<CheckpointId>,
    pub(super) loss: Option<f64>,
    pub(super) peak: f64,
    pub(super) peak_data_sheet: Option<f64>,
    /// Since the first step of this attempt.
    pub(super) spent: TrainingTime,
    pub(super) scorer: Option<Scorer<'a>>,
}

impl<'a> Session<'a> {
    /// Loads what a branch starts from.
    pub(super) fn open(
        job: &'a TrainJob,
        place: &'a Place,
        context: &'a dyn JobContext,
        device: Device,
        shards: &ShardSet,
        order: Option<&'a WindowOrder>,
    ) -> Result<Self, EndedOutcome> {
        let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
        let marked = |export: Export, spec: &ModelSpec| {
            let marks = Marks::of(shards.index(), &place.path(&job.tokenizer))?;
            export.marked(&marks, spec)
        };
        let (spec, weights, parent, carried, export) = match (&job.resume, &job.start) {
            (Some(from), _) | (None, TrainStart::Checkpoint(from)) => {
                let folder = place.path(&from.folder);
                let manifest = verify(&folder, &from.manifest_sha256).map_err(corrupt)?;
                let (spec, weights) = hub::load_model(&folder).map_err(corrupt)?;
                let carries = job.resume.is_some() || job.training.optimizer == OptimizerStart::Carry;
                let resumable = manifest.meta.kind == CheckpointKind::Resumable;
                let carried = (carries && resumable)
                    .then(|| checkpoint::load_trainer(&folder, &Layout::new(&spec)))
                    .transpose()
                    .map_err(corrupt)?;
                let export = Export::load(&Folder::own(&folder)).map_err(corrupt)?;
                (spec, from_host(&weights), Some(from.id), carried, export)
            }
            (None, TrainStart::Folder(folder)) => {
                let invalid = |error: anyhow::Error| ended(TerminationReason::InvalidInput, format!("seed: {error:#}"));
                let folder = Folder::below(&place.roots, &folder.path);
                let (spec, weights) = hub::load_folder(&folder).map_err(invalid)?;
                let export = Export::load(&folder).and_then(|own| marked(own, &spec)).map_err(invalid)?;
                (spec, from_host(&weights), None, None, export)
            }
            (None, TrainStart::Init(init)) => {
                let export = marked(Export::default(), &init.model).map_err(corrupt)?;
                (init.model.clone(), initial_weights(&init.model, job.training.random_seed), None, None, export)
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
        let kind = kind(job.training.precision);
        let windows = job.training.batch_windows;
        let shape = Shape {
            windows: windows.into(),
            micro: job.training.micro_batch_windows.unwrap_or(windows).into(),
            length: job.sequence_length.into(),
        };
        let mut trainer = Trainer::new(spec, &weights, device, kind, shape);
        trainer.deterministic = job.training.deterministic;
        trainer.export = export.into();
        let peak = device::matmul_peak(device, kind);
        let peak_data_sheet = device::data_sheet_peak(device, kind);
        let mut session = Self {
            job,
            place,
            context,
            device,
            order,
            trainer,
            health: HealthState::default(),
            written: Vec::new(),
            skips: 0,
            step: 0,
            parent,
            loss: None,
            peak,
            peak_data_sheet,
            spent: TrainingTime::default(),
            scorer: None,
        };
        if let Some((moments, state)) = carried {
            session.set_moments(&moments, state.optimizer_steps);
            if job.resume.is_some() {
                session.health = state.health;
            }
        }
        Ok(session)
    }

    /// Tokens of a step.
    pub(super) fn step_tokens(&self) -> u64 {
        u64::from(self.job.training.batch_windows) * u64::from(self.job.sequence_length)
    }

    pub(super) fn set_moments(&mut self, (first, second): &(HostTensors, HostTensors), steps: u64) {
        self.trainer.set_moments(&from_host(first), &from_host(second), steps);
    }

    /// Losses of held-out text, where they are due now.
    pub(super) fn held_out_losses(&mut self) -> BTreeMap<String, f64> {
        let (step, job) = (self.step, self.job);
        let Some(scorer) = self.scorer.as_mut().filter(|scorer| scorer.is_due(step, job.steps)) else {
            return BTreeMap::new();
        };
        let how = (self.device, kind(job.training.precision), job.sequence_length);
        scorer.score(&self.trainer, how, step, self.context)
    }

    /// What the lineage has drawn up to the next batch, the batches left out included.
    fn lineage(&self) -> Lineage {
        let drawn = self.health.batch_of(self.step) * u64::from(self.job.training.batch_windows);
        self.order.map_or_else(|| self.job.lineage.clone(), |order| order.after(drawn))
    }

    /// Everything of a checkpoint but the tensors.
    pub(super) fn state(&self, next_batch_hash: Option<u64>) -> (TrainerState, CheckpointMeta) {
        let (job, tokens) = (self.job, self.step * self.step_tokens());
        let config = serde_json::to_vec(&(&job.training, &job.mixture, &job.lineage, job.sequence_length, job.steps))
            .unwrap_or_default();
        let meta = CheckpointMeta {
            kind: CheckpointKind::Resumable,
            experiment_id: job.experiment_id,
            branch_id: job.branch_id,
            fence: self.place.fence,
            step: self.step,
            tokens,
            lineage: self.lineage(),
            parent_id: self.parent,
            bytes: 0,
            loss: self.loss,
            config_sha256: hex(&Sha256::digest(config)),
            state_sha256: String::new(),
        };
        let state = TrainerState {
            step: self.step,
            tokens,
            optimizer_steps: self.trainer.optimizer.steps(),
            next_batch_hash,
            state_sha256: String::new(),
            health: self.health.clone(),
        };
        (state, meta)
    }
}

fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    }
}
