//! Rotary positions (Su et al. 2021) and the two ways of stretching them that are in use.

use senmon_protocol::model::{ModelSpec, RopeScaling};
use std::f64::consts::TAU;

/// Frequencies of a head's coordinates, `[d/2]`, as `transformers` computes them.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "fp32 by definition")]
fn frequencies(spec: &ModelSpec) -> Vec<f32> {
    let d = spec.head_size();
    let plain = (0..d / 2).map(|i| spec.rope_theta.powf(-2.0 * f64::from(i) / f64::from(d)));
    let scaled = |frequency: f64| match &spec.rope_scaling {
        None => frequency,
        Some(RopeScaling::Linear(scaling)) => frequency / scaling.factor,
        Some(RopeScaling::Llama3(scaling)) => {
            // Llama 3.1: long waves are stretched, short ones kept, those between are blended.
            let waves = f64::from(scaling.original_max_position_embeddings) * frequency / TAU;
            let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
            let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / scaling.factor + kept * frequency
        }
    };
    plain.map(|frequency| scaled(frequency) as f32).collect()
}

/// Cosines and sines for the positions 0..length, `[length, d/2]` each.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "fp32 by definition")]
pub fn angles(spec: &ModelSpec, length: u32) -> (Vec<f32>, Vec<f32>) {
    let frequencies = frequencies(spec);
    let angles = (0..length).flat_map(|t| frequencies.iter().map(move |f| f64::from(t as f32 * f)));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}
