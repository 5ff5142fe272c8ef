//! The learning rate as a pure function of the step. The formulas of `transformers`' schedulers, with a floor.

use senmon_protocol::spec::{ScheduleKind, TrainingSpec};
use std::f64::consts::PI;

/// Share of the steps over which a warmup-stable-decay schedule falls.
const DECAY_SHARE: f64 = 0.2;

/// Learning rate of step `step` (from 0) of `steps`, as `transformers` has it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "steps stay below 2^53")]
pub fn learning_rate(training: &TrainingSpec, step: u64, steps: u64) -> f64 {
    let (step, steps) = (step as f64, steps.max(1) as f64);
    let warmup = (steps * training.warmup_fraction).ceil().min(steps);
    let floored = |shape: f64| training.final_fraction + (1.0 - training.final_fraction) * shape;
    let progress = ((step - warmup) / (steps - warmup).max(1.0)).clamp(0.0, 1.0);
    let share = match (training.schedule, step < warmup) {
        // The one schedule whose warm-up begins at the floor.
        (ScheduleKind::WarmupStableDecay, true) => floored(step / warmup),
        (_, true) => step / warmup,
        (ScheduleKind::Linear, false) => floored(1.0 - progress),
        (ScheduleKind::Cosine, false) => floored(0.5 * (1.0 + (PI * progress).cos())),
        (ScheduleKind::WarmupStableDecay, false) => {
            floored(((steps - step) / (steps * DECAY_SHARE).ceil()).clamp(0.0, 1.0))
        }
        (ScheduleKind::Constant, false) => 1.0,
    };
    training.learning_rate * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn training(schedule: &str) -> TrainingSpec {
        serde_json::from_value(serde_json::json!({
            "batch_windows": 1, "learning_rate": 2.0, "schedule": schedule, "warmup_fraction": 0.1, "final_fraction": 0.5
        })).unwrap()
    }

    fn check(schedule: &str, expect: [f64; 4]) {
        let found = [0, 9, 55, 99].map(|step| learning_rate(&training(schedule), step, 100));
        for (found, expect) in found.iter().zip(expect) {
            assert!((found - expect).abs() < 1e-6, "{schedule}: {found}, expected {expect}");
        }
    }

    #[test]
    fn rates_by_hand() {
        check("linear", [0.0, 1.8, 1.5, 1.0 + 1.0 / 90.0]);
        check("cosine", [0.0, 1.8, 1.5, 1.0 + 0.5 * (1.0 + (PI * 89.0 / 90.0).cos())]);
        check("warmup_stable_decay", [1.0, 1.9, 2.0, 1.0 + 1.0 / 20.0]);
        check("constant", [0.0, 1.8, 2.0, 2.0]);
    }

    proptest! {
        #[test]
        fn the_rate_is_never_above_the_peak_nor_below_zero(step in 0_u64..10_000, steps in 1_u64..10_000) {
            for schedule in ["linear", "cosine", "warmup_stable_decay", "constant"] {
                let rate = learning_rate(&training(schedule), step.min(steps - 1), steps);
                prop_assert!((0.0..=2.0).contains(&rate), "{schedule}: {rate}");
            }
        }
    }
}
