//! Where a branch goes on: at the state of a checkpoint, compared with what was recorded, or further back.

use super::state::Session;
use crate::{
    checkpoint::{self, from_host},
    context::ended,
    data::Source,
    hub,
};
use senmon_corpus::{shard_set::ShardSet, windows::WindowOrder};
use senmon_protocol::{
    job::{CheckpointRef, EndedOutcome, TerminationReason},
    said,
    said::Said,
};

/// Batches that rollbacks may leave out of one branch.
const ROLL_BACKS_MAX: usize = 64;

impl Session<'_> {
    /// Says where training starts; a resumed state is compared with what its checkpoint recorded.
    pub(super) fn resume_or_begin(&mut self, shards: &ShardSet, order: &WindowOrder) -> Result<(), EndedOutcome> {
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
        let trainer = &self.trainer;
        let folder = self.place.path(&resume.folder);
        let (_, state) = checkpoint::load_trainer(&folder, &trainer.layout).map_err(corrupt)?;
        let moments = Some(trainer.optimizer.moments());
        let digest = checkpoint::digest(&trainer.layout, &trainer.weights, moments, resume.step);
        let next = self.next_batch_hash(shards, order, resume.step)?;
        Ok(state.step == resume.step && state.next_batch_hash == next && digest == state.state_sha256)
    }

    pub(super) fn next_batch_hash(
        &self,
        shards: &ShardSet,
        order: &WindowOrder,
        step: u64,
    ) -> Result<Option<u64>, EndedOutcome> {
        if step >= self.job.steps {
            return Ok(None);
        }
        let source = Source { shards, order, job: self.job };
        Ok(Some(source.batch(self.health.batch_of(step))?.hash))
    }

    /// Takes the state of the last checkpoint that is old enough, and still there, and leaves `batch` out; the hash of the batch that
    /// comes next then, and what to say of it. None where there is no such checkpoint, or too many batches are left out
    /// already. The curve of the steps between is superseded as after any resume: the next attempt begins at that state.
    pub(super) fn roll_back(
        &mut self,
        batch: u64,
        shards: &ShardSet,
        order: &WindowOrder,
    ) -> Result<Option<(u64, Said)>, EndedOutcome> {
        let before = (self.step + 1).saturating_sub(self.job.training.loss_spikes.roll_back_steps.max(1));
        let older = self.job.resume.iter().chain(&self.written).rev().filter(|checkpoint| checkpoint.step <= before);
        let mut found = older
            .filter(|_| self.health.skipped.len() < ROLL_BACKS_MAX)
            .filter_map(|back| self.place.fetch_checkpoint(back, self.context).ok().map(|held| (back.clone(), held)));
        let Some((back, _held)) = found.next() else {
            let step = self.step + 1;
            let said = said!("nothing_to_roll_back_to", step = step, most = ROLL_BACKS_MAX);
            self.context.leaves_out("step_skipped", step, batch, said);
            return Ok(None);
        };
        let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
        let folder = self.place.path(&back.folder);
        let (_, weights) = hub::load_model(&folder).map_err(corrupt)?;
        let (moments, state) = checkpoint::load_trainer(&folder, &self.trainer.layout).map_err(corrupt)?;
        self.trainer.set_weights(&from_host(&weights));
        self.set_moments(&moments, state.optimizer_steps);
        let skipped = std::mem::take(&mut self.health.skipped);
        self.health = state.health;
        skipped.into_iter().chain([batch]).for_each(|batch| self.health.skip(batch));
        let said = said!("rolled_back", from = self.step + 1, to = back.step, batch = batch);
        (self.step, self.parent) = (back.step, Some(back.id));
        Ok(self.next_batch_hash(shards, order, back.step)?.map(|hash| (hash, said)))
    }
}
