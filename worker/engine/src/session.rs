//! One branch, from its parent to its last step: rate → micro-steps → clip → step → log → checkpoint → stop.

mod held_out;
mod judge;
mod resume;
mod state;

use super::{
    context::{JobContext, MetricPoint, Phase, asked_to_end, ended},
    data::{self, Batch, Source},
    device,
    memory::{resident_bytes, within_memory},
    place::Place,
    saver::{Need, Saver},
    schedule::learning_rate,
};
use held_out::Scorer;
use judge::Verdict;
use senmon_corpus::{shard_set::ShardSet, wanted::Wanted, windows::WindowOrder};
use senmon_protocol::{
    job::{EndedOutcome, TerminationReason, TrainJob, TrainResult},
    said,
    said::decimal,
};
use state::Session;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Time and tokens since the last point of the curves.
struct Interval {
    began: Instant,
    steps: u64,
    waited: Duration,
    stalled: Duration,
}

impl Interval {
    fn new() -> Self {
        Self { began: Instant::now(), steps: 0, waited: Duration::ZERO, stalled: Duration::ZERO }
    }
}

/// Trains a branch.
///
/// # Errors
/// How it ended without a result; every reason of the closed list that can happen here.
pub fn run(job: &TrainJob, place: &Place, context: &dyn JobContext) -> Result<TrainResult, EndedOutcome> {
    let device = device::open(&place.device).map_err(|error| ended(TerminationReason::InvalidInput, error))?;
    let shards = place.shards(&job.shards, &Wanted::of(&job.mixture), context)?;
    if job.steps == 0 {
        let session = Session::open(job, place, context, device, &shards, None)?;
        context.started(0, None);
        session.save_start()?;
        return Ok(TrainResult { steps: 0, tokens: 0, loss_last: None });
    }
    let windows = shards.windows(job.sequence_length);
    let invalid = |error| ended(TerminationReason::InvalidInput, error);
    let order = WindowOrder::new(&windows, &job.mixture, &job.lineage, job.training.random_seed).map_err(invalid)?;
    order.ensure_budget(job.steps * u64::from(job.training.batch_windows), job.epochs_max).map_err(invalid)?;
    let mut session = Session::open(job, place, context, device, &shards, Some(&order))?;
    session.scorer = Scorer::open(job, place, context)?;
    session.resume_or_begin(&shards, &order)?;
    std::thread::scope(|scope| session.train(scope, &shards, &order))?;
    Ok(TrainResult { steps: job.steps, tokens: job.steps * session.step_tokens(), loss_last: session.loss })
}

impl<'a> Session<'a> {
    /// Trains to the last step.
    fn train<'s>(
        &mut self,
        scope: &'s std::thread::Scope<'s, '_>,
        shards: &'s ShardSet,
        order: &'s WindowOrder,
    ) -> Result<(), EndedOutcome>
    where
        'a: 's,
    {
        let (job, steps) = (self.job, self.job.steps);
        // The batch after the last step is read too, where there is one: its hash is part of a checkpoint.
        let health = self.health.clone();
        let numbers = (self.step..=steps).map(move |step| health.batch_of(step));
        let (batches, _reader) = data::batches(scope, Source { shards, order, job }, numbers);
        let read =
            || batches.recv().map_err(|_| ended(TerminationReason::InternalError, "the reader of batches ended"))?;
        let mut saver = Saver::new(scope, &self.trainer, job.resume.as_ref().map(|resume| resume.step));
        let mut saved = Some(self.step).filter(|step| *step > 0);
        let mut interval = Interval::new();
        let mut next = read()?;
        let began = Instant::now();
        self.context.training_time(self.spent);
        while self.step < steps {
            let rate = learning_rate(&job.training, self.step, steps) * self.health.rate_scale;
            let (loss, norm) = self.gradients(&next)?;
            if job.training.recheck_every_steps.is_some_and(|every| (self.step + 1).is_multiple_of(every)) {
                self.recheck(&next, (loss, norm))?;
            }
            match self.judge(loss, norm, next.number)? {
                Verdict::Step => {
                    let scale = (job.training.clip_norm / (norm + 1e-6)).min(1.0);
                    self.trainer.step(&job.training, rate, scale);
                    self.loss = Some(loss);
                }
                Verdict::Skip => {}
                Verdict::Pause => {
                    let saving = Instant::now();
                    saver.finish(self.context)?;
                    if saved != Some(self.step) {
                        let state = self.state(Some(next.hash));
                        saver.save(scope, (self.place, self.context, job), &self.trainer, state, Need::Must)?;
                        saver.finish(self.context)?;
                    }
                    self.spent.stalled += saving.elapsed();
                    self.say_spent(began);
                    let said = said!("ended_loss_spike", step = self.step + 1, loss = decimal(loss, 4));
                    return Err(EndedOutcome::said(TerminationReason::LossSpike, said));
                }
                Verdict::RollBack => {
                    let saving = Instant::now();
                    saver.finish(self.context)?;
                    self.written.append(&mut saver.written);
                    if let Some((hash, said)) = self.roll_back(next.number, shards, order)? {
                        let (back, state) = (self.step, self.state(Some(hash)));
                        saver.save(scope, (self.place, self.context, job), &self.trainer, state, Need::Must)?;
                        saver.finish(self.context)?;
                        // In the ledger only behind the checkpoint that leaves the batch out.
                        self.context.leaves_out("rolled_back", back, next.number, said);
                        self.spent.stalled += saving.elapsed();
                        self.say_spent(began);
                        let said = said!("ended_rolled_back", step = back, batch = next.number);
                        return Err(EndedOutcome::said(TerminationReason::RolledBack, said));
                    }
                }
            }
            self.step += 1;
            interval.steps += 1;
            self.context.pulse(Phase::Step);
            let waiting = Instant::now();
            next = read()?;
            let waited = waiting.elapsed();
            interval.waited += waited;
            self.spent.waited += waited;
            let scoring = Instant::now();
            let held_out = self.held_out_losses();
            interval.began += scoring.elapsed();
            let logs = self.step.is_multiple_of(job.training.log_every_steps) || self.step == steps;
            if logs || !held_out.is_empty() {
                interval.stalled = std::mem::take(&mut saver.stalled);
                self.report(loss, norm, rate, &mut interval, held_out);
            }
            let asked = asked_to_end(self.context.command());
            let due = saver.is_due(&job.training, self.step, self.step_tokens());
            let keeps = !matches!(
                asked,
                Some(EndedOutcome { reason: TerminationReason::Cancelled | TerminationReason::WorkerLost, .. })
            );
            if keeps && (due || asked.is_some() || self.step == steps) && saved != Some(self.step) {
                let state = self.state(Some(next.hash).filter(|_| self.step < steps));
                let need = if self.step == steps { Need::Must } else { Need::May };
                let saving = Instant::now();
                if saver.save(scope, (self.place, self.context, job), &self.trainer, state, need)? {
                    saved = Some(self.step);
                }
                self.spent.stalled += saving.elapsed();
            }
            if asked.is_some() || self.step == steps {
                // Nothing is left to do beside the last save.
                let saving = Instant::now();
                saver.finish(self.context)?;
                self.spent.stalled += saving.elapsed();
            }
            self.say_spent(began);
            if let Some(end) = asked {
                return Err(end);
            }
        }
        Ok(())
    }

    /// Says what was spent since `began`, when the first step of this attempt did.
    fn say_spent(&mut self, began: Instant) {
        self.spent.training = began.elapsed();
        self.spent.step_last = self.spent.step_last.max(self.step);
        self.context.training_time(self.spent);
    }

    /// Loss and gradient norm of a batch; where memory runs out, in smaller passes from here on.
    fn gradients(&mut self, batch: &Batch) -> Result<(f64, f64), EndedOutcome> {
        loop {
            let trainer = &mut self.trainer;
            let pass = || trainer.forward_backward(&batch.tokens, batch.document_first.as_deref());
            let found = within_memory(pass);
            for note in self.trainer.take_notes() {
                if note.warns {
                    self.context.event("pass_changed", self.step + 1, "warn", note.said);
                } else {
                    self.context.log("info", &note.said.text());
                }
            }
            let said = match found {
                Ok(found) => return Ok(found),
                Err(said) => said,
            };
            let (before, step) = (self.trainer.micro(), self.step + 1);
            if !self.trainer.halve() {
                let said = said!("ended_out_of_memory", step = step, error = said);
                return Err(EndedOutcome::said(TerminationReason::OutOfMemory, said));
            }
            let (after, batch) = (self.trainer.micro().unsigned_abs(), self.job.training.batch_windows);
            let before = before.unsigned_abs();
            let said =
                said!("micro_batch_halved", step = step, before = before, after = after, batch = batch, error = said);
            self.context.event("micro_batch_halved", step, "warn", said);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    fn report(&self, loss: f64, norm: f64, rate: f64, interval: &mut Interval, held_out: BTreeMap<String, f64>) {
        let seconds = interval.began.elapsed().as_secs_f64().max(1e-9);
        let per_second = (interval.steps * self.step_tokens()) as f64 / seconds;
        let flops = self.trainer.spec.train_flops_per_token(
            u64::from(self.trainer.spec.vocab_size.unwrap_or(0)),
            self.job.sequence_length.into(),
        ) as f64;
        let values = [
            ("train/loss", loss),
            ("train/grad_norm", norm),
            ("train/learning_rate", rate),
            ("throughput/tokens_per_second", per_second),
            ("throughput/mfu", per_second * flops / self.peak),
            ("time/data_wait_share", interval.waited.as_secs_f64() / seconds),
            ("time/checkpoint_stall_share", interval.stalled.as_secs_f64() / seconds),
            ("memory/bytes", resident_bytes()),
        ];
        let of_data_sheet = self.peak_data_sheet.map(|peak| ("throughput/mfu_data_sheet", per_second * flops / peak));
        let of_device = device::usage(self.device).into_iter().chain(of_data_sheet);
        let values: BTreeMap<String, Option<f64>> = values
            .into_iter()
            .chain(of_device)
            .map(|(name, value)| (name.to_owned(), value))
            .chain(held_out)
            .map(|(name, value)| (name, Some(value).filter(|v| v.is_finite())))
            .collect();
        self.context.metrics(MetricPoint { step: self.step, tokens: self.step * self.step_tokens(), values });
        self.context.progress(self.step, self.job.steps, per_second);
        *interval = Interval::new();
    }

    /// A checkpoint of the start: a seed that is not trained.
    fn save_start(&self) -> Result<(), EndedOutcome> {
        let state = self.state(None);
        std::thread::scope(|scope| {
            let mut saver = Saver::new(scope, &self.trainer, None);
            saver.save(scope, (self.place, self.context, self.job), &self.trainer, state, Need::Must)?;
            saver.finish(self.context)
        })
    }
}
