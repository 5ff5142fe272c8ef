//! Checkpoints beside training: a copy of the state, a thread that writes it, and when the next one is due.
//!
//! A store that refuses one in the middle of a branch does not end the training: the partial folder is removed, the
//! cause is an event, and a later interval tries again. Only what must not be lost is tried until patience ends.

use super::{
    checkpoint::{Snapshot, TrainerState},
    commit::{Draft, commit},
    context::{JobContext, Phase, asked_to_end, ended},
    parameters::{Arenas, Layout},
    place::Place,
    trainer::Trainer,
};
use senmon_protocol::{
    checkpoint::CheckpointMeta,
    job::{CheckpointRef, EndedOutcome, TerminationReason, TrainJob},
    said,
    spec::TrainingSpec,
};
use std::{
    thread::{Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};
use tch::Device;

/// One fault a day: what the advice on intervals assumes of a worker.
const FAULTS_APART: Duration = Duration::from_secs(24 * 3600);

/// Memory for one copy of the state: weights, first and second moments.
type Room = (Arenas, (Arenas, Arenas));
/// Longest wait for the save before: beyond it a slow store costs a checkpoint, not the training's time.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Pauses between saves while the store refuses.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Failed saves in a row from which the branch is called degraded.
const FAILURES_DEGRADED: u32 = 3;

/// What became of a save, its memory, to be used again, and how long it took.
type Written = (Result<CheckpointRef, EndedOutcome>, Snapshot, Duration);

/// How much depends on a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The last of a branch, or a state that the next attempt must find: without it the attempt ends.
    Must,
    /// One of many: without it training goes on.
    May,
}

/// Saves that failed since the last good one.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    not_before: Option<Instant>,
}

/// The saver of one branch. One save at a time: the next waits for the last and never overtakes it.
pub struct Saver<'s> {
    writing: Option<(ScopedJoinHandle<'s, Written>, Need)>,
    /// Memory of the next copy, while it is made beside the first steps: the system hands fresh memory out page by
    /// page as it is touched, which takes ten times as long as a copy.
    making: Option<ScopedJoinHandle<'s, Room>>,
    room: Option<Room>,
    last: Option<Instant>,
    failures: Failures,
    resumed: Option<u64>,
    /// What was written by this attempt, oldest first.
    pub written: Vec<CheckpointRef>,
    /// How long training stood still for saves.
    pub stalled: Duration,
    advised: bool,
}

impl<'s> Saver<'s> {
    /// A saver that makes room for its copies on a thread of its own. `resumed` is the step of the branch's last
    /// checkpoint.
    pub fn new(scope: &'s Scope<'s, '_>, trainer: &Trainer, resumed: Option<u64>) -> Self {
        let layout = trainer.layout.clone();
        let making = Some(scope.spawn(move || make_room(&layout)));
        Self {
            writing: None,
            making,
            room: None,
            last: None,
            failures: Failures::default(),
            resumed,
            written: Vec::new(),
            stalled: Duration::ZERO,
            advised: false,
        }
    }

    /// Whether a checkpoint is due after `step` steps; after a failure not before its pause is over.
    pub fn is_due(&mut self, training: &TrainingSpec, step: u64, step_tokens: u64) -> bool {
        let since = self.last.get_or_insert_with(Instant::now).elapsed();
        let minutes = training.minutes_between_checkpoints().is_some_and(|every| since.as_secs_f64() >= every * 60.0);
        let rests = self.failures.not_before.is_some_and(|at| Instant::now() < at);
        !rests && (minutes || is_due_by_count(training, step, step_tokens))
    }

    /// Copies the state and starts to write it. False where it is left out, because the save before still runs.
    ///
    /// # Errors
    /// What became of the save before, where it must not be lost.
    pub fn save(
        &mut self,
        scope: &'s Scope<'s, '_>,
        (place, context, job): (&'s Place, &'s dyn JobContext, &'s TrainJob),
        trainer: &Trainer,
        (state, meta): (TrainerState, CheckpointMeta),
        need: Need,
    ) -> Result<bool, EndedOutcome> {
        let start = Instant::now();
        // Asked to end, this save is the last: it waits for the one under way, for as long as this process may.
        let limit = if asked_to_end(context.command()).is_some() { Duration::MAX } else { WAIT_MAX };
        if need == Need::May && !self.wait(limit, context) {
            self.stalled += start.elapsed();
            self.last = Some(Instant::now());
            context.event("checkpoint_skipped", state.step, "warn", said!("checkpoint_skipped", step = state.step));
            context.pulse(Phase::Step);
            return Ok(false);
        }
        self.finish(context)?;
        let made = self.making.take().and_then(|thread| thread.join().ok());
        let room = made.or_else(|| self.room.take()).unwrap_or_else(|| make_room(&trainer.layout));
        let snapshot = copy(trainer, room, state);
        self.last = Some(Instant::now());
        let stalled = start.elapsed();
        self.stalled += stalled;
        let thread = scope.spawn(move || {
            let start = Instant::now();
            let written = write(place, context, job, &snapshot, meta, need);
            (written, snapshot, start.elapsed())
        });
        self.writing = Some((thread, need));
        context.pulse(Phase::Step);
        // A checkpoint of what is not trained keeps no training waiting.
        if !self.advised && job.steps > 0 {
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
        Ok(true)
    }

    /// Whether the save under way is over, or will be within `limit`.
    fn wait(&self, limit: Duration, context: &dyn JobContext) -> bool {
        // It waits for the disk, however slow; the writer gives the signs of life meanwhile.
        context.pulse(Phase::Long);
        let start = Instant::now();
        while self.writing.as_ref().is_some_and(|(handle, _)| !handle.is_finished()) {
            if start.elapsed() >= limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits for the save under way.
    ///
    /// # Errors
    /// Why it failed, where it must not be lost.
    pub fn finish(&mut self, context: &dyn JobContext) -> Result<(), EndedOutcome> {
        // It waits for the disk, however slow, and a copy of the state may follow.
        context.pulse(Phase::Long);
        let Some((handle, need)) = self.writing.take() else { return Ok(()) };
        let panicked = |_| ended(TerminationReason::InternalError, "the checkpoint writer panicked.");
        let (written, snapshot, took) = handle.join().map_err(panicked)?;
        let step = snapshot.state.step;
        self.room = snapshot.moments.map(|moments| (snapshot.weights, moments));
        match written {
            Ok(written) => {
                context.log("info", &format!("checkpoint of step {step} written in {:.2} s", took.as_secs_f64()));
                if self.failures.count >= FAILURES_DEGRADED {
                    context.event("branch_recovered", step, "info", said!("branch_recovered", step = step));
                }
                self.failures = Failures::default();
                self.written.push(written);
                Ok(())
            }
            Err(why) if need == Need::Must => Err(why),
            Err(why) => {
                self.failed(step, &why.message, context);
                Ok(())
            }
        }
    }

    fn failed(&mut self, step: u64, why: &str, context: &dyn JobContext) {
        let failures = &mut self.failures;
        failures.count += 1;
        let pause = PAUSE_FIRST.saturating_mul(1 << (failures.count - 1).min(16)).min(PAUSE_MAX);
        failures.not_before = Some(Instant::now() + pause);
        let last = match self.written.last().map(|written| written.step).or(self.resumed) {
            Some(last) => said!("last_good_step", step = last),
            None => said!("last_good_none"),
        };
        context.event("checkpoint_failed", step, "warn", said!("checkpoint_failed", why = why, last = last.clone()));
        if failures.count == FAILURES_DEGRADED {
            let said = said!("branch_degraded", count = failures.count, last = last, why = why);
            context.event("branch_degraded", step, "error", said);
        }
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

/// Memory for a copy, touched: what is filled with zeros is there.
fn make_room(layout: &Layout) -> Room {
    let arenas = || layout.zeros(tch::Kind::Float, Device::Cpu);
    (arenas(), (arenas(), arenas()))
}

/// The state of training on the host.
fn copy(trainer: &Trainer, (mut weights, (mut first, mut second)): Room, state: TrainerState) -> Snapshot {
    let take = |to: &mut Arenas, from: &Arenas| {
        to.matrices.copy_(&from.matrices);
        to.vectors.copy_(&from.vectors);
    };
    take(&mut weights, &trainer.weights);
    let moments = trainer.optimizer.moments();
    take(&mut first, moments.0);
    take(&mut second, moments.1);
    let (spec, export) = (trainer.spec.clone(), trainer.export.clone());
    Snapshot { spec, weights, moments: Some((first, second)), state, export }
}

/// Writes a snapshot and asks for its commit; what must not be lost is tried until patience ends.
fn write(
    place: &Place,
    context: &dyn JobContext,
    job: &TrainJob,
    snapshot: &Snapshot,
    meta: CheckpointMeta,
    need: Need,
) -> Result<CheckpointRef, EndedOutcome> {
    // A state after a rollback has the step of an older one: what it leaves out tells them apart.
    let left_out = match snapshot.state.health.skipped.len() {
        0 => String::new(),
        count => format!("-s{count}"),
    };
    let name = format!("{:08}-f{}{left_out}", snapshot.state.step, place.fence);
    let patience = if need == Need::Must { place.depot.patience() } else { Duration::ZERO };
    let draft = Draft { snapshot, meta, tokenizer: &job.tokenizer, output: &job.output, name };
    commit(draft, place, context, patience)
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
