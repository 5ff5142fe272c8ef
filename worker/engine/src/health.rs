//! The health of a loss: what is a spike, and which batches a branch leaves out. Pure.

use senmon_protocol::{
    said,
    said::{Said, decimal},
    spec::{SpikeAction, SpikeSpec},
};
use serde::{Deserialize, Serialize};

/// Losses needed before anything is called a spike.
const WINDOW_MIN: usize = 16;
/// The median of absolute deviations times this estimates a standard deviation (Rousseeuw & Croux 1993).
const DEVIATION: f64 = 1.4826;
/// Losses that are all alike still vary by this share of their median.
const DEVIATION_SHARE_MIN: f64 = 1e-3;

/// What the steps so far leave to the steps to come; part of every checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthState {
    /// The last accepted losses, oldest first: at most [`SpikeSpec::window`].
    pub losses: Vec<f64>,
    /// Numbers of the batches in the data order that are left out, ascending.
    pub skipped: Vec<u64>,
    /// The learning rate is multiplied by this.
    pub rate_scale: f64,
}

impl Eq for HealthState {}

impl Default for HealthState {
    fn default() -> Self {
        Self { losses: Vec::new(), skipped: Vec::new(), rate_scale: 1.0 }
    }
}

/// A loss far above its fellows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// Robust deviations above the median.
    pub score: f64,
    /// Median of the window.
    pub median: f64,
}

impl HealthState {
    /// Number in the data order of the batch of optimiser step `step` (from 0).
    #[must_use]
    pub fn batch_of(&self, step: u64) -> u64 {
        self.skipped.iter().fold(step, |batch, &skipped| if skipped <= batch { batch + 1 } else { batch })
    }

    /// Leaves a batch out from now on.
    pub fn skip(&mut self, batch: u64) {
        if let Err(place) = self.skipped.binary_search(&batch) {
            self.skipped.insert(place, batch);
        }
    }

    /// Whether `loss` is a spike, by its robust z-score over the window.
    #[must_use]
    pub fn spike(&self, loss: f64, spec: &SpikeSpec) -> Option<Spike> {
        if self.losses.len() < WINDOW_MIN.min(spec.window as usize) {
            return None;
        }
        let median = median(self.losses.clone());
        let spread = median_of_deviations(&self.losses, median) * DEVIATION;
        let score = (loss - median) / spread.max(median.abs() * DEVIATION_SHARE_MIN).max(f64::MIN_POSITIVE);
        (score > spec.threshold).then_some(Spike { score, median })
    }

    /// Takes a loss into the window.
    pub fn accept(&mut self, loss: f64, spec: &SpikeSpec) {
        let surplus = (self.losses.len() + 1).saturating_sub(spec.window as usize);
        self.losses.drain(..surplus.min(self.losses.len()));
        self.losses.push(loss);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn median_of_deviations(values: &[f64], centre: f64) -> f64 {
    median(values.iter().map(|value| (value - centre).abs()).collect())
}

/// What is done about a spike, for people.
#[must_use]
pub fn said_of(action: SpikeAction, step: u64, batch: u64, loss: f64, spike: Spike) -> Said {
    let what = match action {
        SpikeAction::Watch => said!("spike_watch"),
        SpikeAction::Skip => said!("spike_skip"),
        SpikeAction::RollBack => said!("spike_roll_back"),
        SpikeAction::LowerRate => said!("spike_lower_rate"),
        SpikeAction::Pause => said!("spike_pause"),
    };
    let (loss, score, median) = (decimal(loss, 4), decimal(spike.score, 1), decimal(spike.median, 4));
    said!("loss_spike", step = step, loss = loss, score = score, median = median, batch = batch, what = what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(threshold: f64) -> SpikeSpec {
        serde_json::from_value(serde_json::json!({ "threshold": threshold })).unwrap()
    }

    proptest! {
        #[test]
        fn skipped_batches_are_never_trained_and_all_others_come_once(mut skipped in prop::collection::vec(0_u64..60, 0..20)) {
            let mut health = HealthState::default();
            for batch in &skipped {
                health.skip(*batch);
            }
            let batches: Vec<u64> = (0..60).map(|step| health.batch_of(step)).collect();
            skipped.sort_unstable();
            skipped.dedup();
            let mut expected = (0_u64..).filter(|batch| !skipped.contains(batch));
            prop_assert!(batches.iter().all(|batch| Some(*batch) == expected.next()));
        }

        #[test]
        fn the_window_keeps_the_last_losses(losses in prop::collection::vec(0.0..9.0_f64, 0..300)) {
            let (mut health, spec) = (HealthState::default(), spec(6.0));
            losses.iter().for_each(|loss| health.accept(*loss, &spec));
            let kept = &losses[losses.len().saturating_sub(128)..];
            prop_assert_eq!(&health.losses, kept);
        }

        #[test]
        fn a_falling_noisy_loss_has_no_spike(noise in prop::collection::vec(-1.0..1.0_f64, 200)) {
            let (mut health, spec) = (HealthState::default(), spec(8.0));
            for (noise, step) in noise.iter().zip(0_u32..) {
                let loss = 2.0 + 2.0 * (-f64::from(step) / 80.0).exp() + 0.1 * noise;
                prop_assert_eq!(health.spike(loss, &spec), None);
                health.accept(loss, &spec);
            }
        }
    }

    #[test]
    fn a_spike_stands_out() {
        let (mut health, spec) = (HealthState::default(), spec(6.0));
        assert_eq!(health.spike(99.0, &spec), None, "too few losses to say so");
        (0..40).for_each(|i| health.accept(3.0 + 0.05 * f64::from(i % 7), &spec));
        assert_eq!(health.spike(3.4, &spec), None);
        let spike = health.spike(5.0, &spec).unwrap();
        assert!(spike.score > 6.0 && (spike.median - 3.15).abs() < 0.06, "{spike:?}");
        let text = said_of(SpikeAction::Skip, 40, 40, 5.0, spike).text();
        assert!(text.contains("step 40: loss 5.0000") && text.ends_with("the step is skipped."), "{text}");
    }
}
