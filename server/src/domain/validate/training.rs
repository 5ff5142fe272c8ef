//! Training settings, of an experiment and of a group that differs from it.

use super::faults::Faults;
use senmon_protocol::{
    said::expected::{above, above_at_most, at_least, between, divisor, from_below, range},
    spec::{SpikeSpec, TrainingOverride, TrainingSpec},
};

fn rate(value: f64, path: &str, faults: &mut Faults) {
    faults.check(value.is_finite() && value > 0.0 && value <= 10.0, path, value, above_at_most(0, 10));
}

fn share(value: f64, path: &str, faults: &mut Faults) {
    faults.check((0.0..=1.0).contains(&value), path, value, range(0, 1));
}

pub(super) fn training(training: &TrainingSpec, path: &str, faults: &mut Faults) {
    let at = |key: &str| format!("{path}.{key}");
    faults.check(
        (1..=65_536).contains(&training.batch_windows),
        &at("batch_windows"),
        training.batch_windows,
        range(1, 65536),
    );
    if let Some(micro) = training.micro_batch_windows {
        let divides = micro > 0 && training.batch_windows.is_multiple_of(micro);
        faults.check(
            divides,
            &at("micro_batch_windows"),
            micro,
            divisor(format!("batch_windows {}", training.batch_windows)),
        );
    }
    rate(training.learning_rate, &at("learning_rate"), faults);
    share(training.warmup_fraction, &at("warmup_fraction"), faults);
    share(training.final_fraction, &at("final_fraction"), faults);
    for (key, beta) in [("beta1", training.beta1), ("beta2", training.beta2)] {
        faults.check((0.0..1.0).contains(&beta), &at(key), beta, from_below(0, 1));
    }
    faults.check(training.epsilon > 0.0 && training.epsilon < 1.0, &at("epsilon"), training.epsilon, between(0, 1));
    share(training.weight_decay, &at("weight_decay"), faults);
    faults.check(
        training.clip_norm.is_finite() && training.clip_norm > 0.0,
        &at("clip_norm"),
        training.clip_norm,
        above(0),
    );
    faults.check(training.log_every_steps > 0, &at("log_every_steps"), 0, at_least(1));
    faults.check(training.recheck_every_steps != Some(0), &at("recheck_every_steps"), 0, at_least(1));
    faults.check(training.checkpoint_every_steps != Some(0), &at("checkpoint_every_steps"), 0, at_least(1));
    let tokens = training.checkpoint_every_tokens.map(|every| every.0);
    faults.check(tokens != Some(0), &at("checkpoint_every_tokens"), 0, at_least(1));
    let minutes = training.checkpoint_every_minutes.unwrap_or(1.0);
    faults.check(minutes.is_finite() && minutes > 0.0, &at("checkpoint_every_minutes"), minutes, above(0));
    spikes(&training.loss_spikes, &at("loss_spikes"), faults);
    faults.check((1..=64).contains(&training.slots), &at("slots"), training.slots, range(1, 64));
}

fn spikes(spikes: &SpikeSpec, path: &str, faults: &mut Faults) {
    let at = |key: &str| format!("{path}.{key}");
    faults.check((8..=4096).contains(&spikes.window), &at("window"), spikes.window, range(8, 4096));
    let threshold = spikes.threshold;
    faults.check(threshold.is_finite() && threshold > 0.0, &at("threshold"), threshold, above(0));
    let factor = spikes.rate_factor;
    faults.check(factor > 0.0 && factor < 1.0, &at("rate_factor"), factor, between(0, 1));
    faults.check(spikes.roll_back_steps > 0, &at("roll_back_steps"), 0, at_least(1));
}

pub(super) fn over(over: &TrainingOverride, path: &str, faults: &mut Faults) {
    if let Some(value) = over.learning_rate {
        rate(value, &format!("{path}.learning_rate"), faults);
    }
    for (key, value) in [("warmup_fraction", over.warmup_fraction), ("final_fraction", over.final_fraction)] {
        if let Some(value) = value {
            share(value, &format!("{path}.{key}"), faults);
        }
    }
    faults.check(over.checkpoint_every_steps != Some(0), &format!("{path}.checkpoint_every_steps"), 0, at_least(1));
    if let Some(over) = &over.loss_spikes {
        spikes(over, &format!("{path}.loss_spikes"), faults);
    }
    faults.check(
        over.slots.is_none_or(|slots| (1..=64).contains(&slots)),
        &format!("{path}.slots"),
        over.slots.unwrap_or(0),
        range(1, 64),
    );
}
