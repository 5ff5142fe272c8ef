//! What is done with a step before the optimiser sees its gradient: what is not finite, spikes of the loss, and what a
//! second computation finds different.

use super::state::Session;
use crate::{data::Batch, faults::differ, health::said_of};
use senmon_protocol::{
    job::{EndedOutcome, TerminationReason},
    said,
    spec::SpikeAction,
};
use tch::Device;

/// Steps in a row that may be skipped for a loss or gradient that is not finite.
const SKIPS_MAX: u32 = 10;

/// What is done with a step.
pub(super) enum Verdict {
    Step,
    Skip,
    RollBack,
    Pause,
}

impl Session<'_> {
    /// Computes a batch once more: a device that errs without saying so gives another loss or norm. The gradients that are
    /// kept are the second ones, the same where the first were right.
    pub(super) fn recheck(&mut self, batch: &Batch, (loss, norm): (f64, f64)) -> Result<(), EndedOutcome> {
        let (loss_again, norm_again) = self.gradients(batch)?;
        let exact = self.device == Device::Cpu || self.job.training.deterministic;
        if !differ(loss, loss_again, exact) && !differ(norm, norm_again, exact) {
            return Ok(());
        }
        let said = said!(
            "ended_recheck",
            step = self.step + 1,
            device = self.place.device.as_str(),
            loss = loss.to_string(),
            loss_again = loss_again.to_string(),
            norm = norm.to_string(),
            norm_again = norm_again.to_string()
        );
        Err(EndedOutcome::said(TerminationReason::DeviceFault, said))
    }

    /// The verdict over a step, said where it is not an ordinary one.
    pub(super) fn judge(&mut self, loss: f64, norm: f64, batch: u64) -> Result<Verdict, EndedOutcome> {
        let (spikes, step) = (&self.job.training.loss_spikes, self.step + 1);
        if !(loss.is_finite() && norm.is_finite()) {
            self.skips += 1;
            let (loss, norm) = (loss.to_string(), norm.to_string());
            let said = said!("step_skipped", step = step, loss = loss, norm = norm, batch = batch);
            self.context.leaves_out("step_skipped", step, batch, said);
            if self.skips > SKIPS_MAX {
                let said = said!("ended_not_finite", count = self.skips, step = step);
                return Err(EndedOutcome::said(TerminationReason::NonFiniteLoss, said));
            }
            return Ok(Verdict::Skip);
        }
        self.skips = 0;
        let Some(spike) = self.health.spike(loss, spikes) else {
            self.health.accept(loss, spikes);
            return Ok(Verdict::Step);
        };
        let said = said_of(spikes.action, step, batch, loss, spike);
        match spikes.action {
            SpikeAction::Skip => self.context.leaves_out("loss_spike", step, batch, said),
            _ => self.context.event("loss_spike", step, "warn", said),
        }
        Ok(match spikes.action {
            SpikeAction::Watch => {
                self.health.accept(loss, spikes);
                Verdict::Step
            }
            SpikeAction::LowerRate => {
                self.health.accept(loss, spikes);
                self.health.rate_scale *= spikes.rate_factor;
                Verdict::Step
            }
            SpikeAction::Skip => Verdict::Skip,
            SpikeAction::RollBack => Verdict::RollBack,
            // Resumed, the same batch has the same loss: the second time it is taken.
            SpikeAction::Pause if self.job.resume.as_ref().is_some_and(|resume| resume.step == self.step) => {
                self.health.accept(loss, spikes);
                Verdict::Step
            }
            SpikeAction::Pause => Verdict::Pause,
        })
    }
}
