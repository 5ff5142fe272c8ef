//! Checkpoints beside training: a copy of the state, a thread that writes it, and when the next one is due.

use super::{
    checkpoint::{self, Snapshot, TrainerState},
    context::{JobContext, Phase, Place, ended},
    parameters::Arenas,
    trainer::Trainer,
};
use senmon_protocol::{
    checkpoint::CheckpointMeta,
    ids::CheckpointId,
    job::{CheckpointRef, EndedOutcome, TerminationReason, TrainJob, WrittenCheckpoint},
    spec::TrainingSpec,
};
use std::{
    thread::{Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};
use tch::Device;

/// One fault a day: what the advice on intervals assumes of a worker.
const FAULTS_APART: Duration = Duration::from_secs(24 * 3600);

/// A written snapshot: its folder, and its memory, to be used again.
type Written = Result<(CheckpointRef, Snapshot, Duration), EndedOutcome>;

/// The saver of one branch. One save at a time: the next waits for the last and never overtakes it.
#[derive(Default)]
pub struct Saver<'s> {
    writing: Option<ScopedJoinHandle<'s, Written>>,
    spare: Option<Snapshot>,
    last: Option<Instant>,
    /// What was written by this attempt, oldest first.
    pub written: Vec<CheckpointRef>,
    /// How long training stood still for saves.
    pub stalled: Duration,
    advised: bool,
}

impl<'s> Saver<'s> {
    /// Whether a checkpoint is due after `step` steps.
    pub fn is_due(&mut self, training: &TrainingSpec, step: u64, step_tokens: u64) -> bool {
        let since = self.last.get_or_insert_with(Instant::now).elapsed();
        let minutes = training.checkpoint_every_minutes.is_some_and(|every| since.as_secs_f64() >= every * 60.0);
        minutes || is_due_by_count(training, step, step_tokens)
    }

    /// Copies the state and starts to write it.
    ///
    /// # Errors
    /// What became of the save before.
    pub fn save(
        &mut self,
        scope: &'s Scope<'s, '_>,
        (place, context, job): (&'s Place, &'s dyn JobContext, &'s TrainJob),
        trainer: &Trainer,
        (state, meta): (TrainerState, CheckpointMeta),
    ) -> Result<(), EndedOutcome> {
        let start = Instant::now();
        self.finish(context)?;
        let snapshot = copy(trainer, self.spare.take(), state);
        self.last = Some(Instant::now());
        let stalled = start.elapsed();
        self.stalled += stalled;
        self.writing = Some(scope.spawn(move || {
            let start = Instant::now();
            let written = write(place, context, job, &snapshot, meta)?;
            Ok((written, snapshot, start.elapsed()))
        }));
        context.pulse(Phase::Step);
        if !self.advised {
            self.advised = true;
            let best = best_interval(stalled, FAULTS_APART);
            context.log(
                "info",
                &format!(
                    "a save stalls training for {:.3} s; with one fault a day the best interval is {:.1} min (Daly 2006)",
                    stalled.as_secs_f64(),
                    best.as_secs_f64() / 60.0
                ),
            );
        }
        Ok(())
    }

    /// Waits for the save under way.
    ///
    /// # Errors
    /// What became of it.
    pub fn finish(&mut self, context: &dyn JobContext) -> Result<(), EndedOutcome> {
        // It waits for the disk, however slow, and a copy of the state may follow.
        context.pulse(Phase::Long);
        let Some(handle) = self.writing.take() else { return Ok(()) };
        let panicked = |_| Err(ended(TerminationReason::InternalError, "the checkpoint writer panicked."));
        let (written, snapshot, took) = handle.join().unwrap_or_else(panicked)?;
        context.log("info", &format!("checkpoint of step {} written in {:.2} s", written.step, took.as_secs_f64()));
        self.written.push(written);
        self.spare = Some(snapshot);
        Ok(())
    }
}

/// Whether steps or tokens make a checkpoint due.
fn is_due_by_count(training: &TrainingSpec, step: u64, step_tokens: u64) -> bool {
    let steps = training.checkpoint_every_steps.is_some_and(|every| step.is_multiple_of(every));
    let tokens = training.checkpoint_every_tokens.is_some_and(|every| {
        let intervals = |step: u64| step * step_tokens / every.0.max(1);
        step > 0 && intervals(step) > intervals(step - 1)
    });
    steps || tokens
}

/// The interval between saves that loses least (Daly 2006, equation 20), for saves that stall training for `cost` and
/// faults that are `apart`.
#[must_use]
pub fn best_interval(cost: Duration, apart: Duration) -> Duration {
    let (cost, apart) = (cost.as_secs_f64(), apart.as_secs_f64());
    if cost >= 2.0 * apart {
        return Duration::from_secs_f64(apart);
    }
    let ratio = cost / (2.0 * apart);
    let best = (2.0 * cost * apart).sqrt() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - cost;
    Duration::from_secs_f64(best.max(0.0))
}

/// The state of training on the host, in the memory of an older copy where there is one.
fn copy(trainer: &Trainer, spare: Option<Snapshot>, state: TrainerState) -> Snapshot {
    let arenas = || trainer.layout.zeros(tch::Kind::Float, Device::Cpu);
    let mut snapshot = spare.unwrap_or_else(|| Snapshot {
        spec: trainer.spec.clone(),
        weights: arenas(),
        moments: Some((arenas(), arenas())),
        state: state.clone(),
    });
    let take = |to: &mut Arenas, from: &Arenas| {
        to.matrices.copy_(&from.matrices);
        to.vectors.copy_(&from.vectors);
    };
    take(&mut snapshot.weights, &trainer.weights);
    if let Some((first, second)) = &mut snapshot.moments {
        take(first, &trainer.optimizer.first);
        take(second, &trainer.optimizer.second);
    }
    snapshot.state = state;
    snapshot
}

/// Writes a snapshot and asks for its commit.
fn write(
    place: &Place,
    context: &dyn JobContext,
    job: &TrainJob,
    snapshot: &Snapshot,
    mut meta: CheckpointMeta,
) -> Result<CheckpointRef, EndedOutcome> {
    let (id, step) = (CheckpointId::new(), snapshot.state.step);
    let failure = |error: &dyn std::fmt::Display| {
        ended(TerminationReason::StorageFailure, format!("checkpoint at step {step}: {error:#}"))
    };
    // A state after a rollback has the step of an older one: what it leaves out tells them apart.
    let left_out = match snapshot.state.health.skipped.len() {
        0 => String::new(),
        count => format!("-s{count}"),
    };
    let name = format!("{step:08}-f{}{left_out}", place.fence);
    let folder = job.output.join(name).map_err(|error| failure(&error))?;
    let manifest_sha256 = checkpoint::save(&place.path(&folder), snapshot, &place.path(&job.tokenizer), id, &mut meta)
        .map_err(|error| failure(&error))?;
    context.commit(WrittenCheckpoint { id, folder: folder.clone(), manifest_sha256: manifest_sha256.clone(), meta });
    Ok(CheckpointRef { id, folder, manifest_sha256, step })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn training(every: &serde_json::Value) -> TrainingSpec {
        let mut spec = json!({ "batch_windows": 1, "learning_rate": 1e-3 });
        spec.as_object_mut().unwrap().extend(every.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn steps_and_tokens_make_a_checkpoint_due() {
        let due = |every: &serde_json::Value| -> Vec<u64> {
            (1..=20).filter(|step| is_due_by_count(&training(every), *step, 100)).collect()
        };
        assert_eq!(due(&json!({ "checkpoint_every_steps": 8 })), [8, 16]);
        assert_eq!(due(&json!({ "checkpoint_every_tokens": 750 })), [8, 15]);
        assert_eq!(due(&json!({ "checkpoint_every_tokens": 750, "checkpoint_every_steps": 9 })), [8, 9, 15, 18]);
        assert_eq!(due(&json!({})), [0; 0]);
    }

    proptest! {
        /// Near the closed form of Young (1974) where saves are short, and never beyond the time between faults.
        #[test]
        fn the_best_interval_is_youngs_for_short_saves(cost in 1e-3..10.0_f64, apart in 1e4..1e6_f64) {
            let best = best_interval(Duration::from_secs_f64(cost), Duration::from_secs_f64(apart)).as_secs_f64();
            let young = (2.0 * cost * apart).sqrt();
            prop_assert!((best / young - 1.0).abs() < 0.05, "{best}, Young {young}");
            prop_assert!(best < apart);
        }
    }
}
