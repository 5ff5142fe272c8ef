//! Rotary positions (Su et al. 2021) and the ways of stretching them that are in use.

use senmon_kernels as kernels;
use senmon_protocol::model::{
    RopeScaling, YarnScaling,
    variant::{Rotary, Variant},
};
use std::f64::consts::TAU;

/// Frequencies of a head's `d` coordinates, `[d/2]`, as `transformers` computes them.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "fp32 by definition")]
fn frequencies(rotary: &Rotary, d: u32) -> Vec<f32> {
    let plain = |i: u32| rotary.theta.powf(-2.0 * f64::from(i) / f64::from(d));
    let scaled = |i: u32| match &rotary.scaling {
        None => plain(i),
        Some(RopeScaling::Linear(scaling)) => plain(i) / scaling.factor,
        Some(RopeScaling::Llama3(scaling)) => {
            // Llama 3.1: long waves are stretched, short ones kept, those between are blended.
            let waves = f64::from(scaling.original_max_position_embeddings) * plain(i) / TAU;
            let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
            let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * plain(i) / scaling.factor + kept * plain(i)
        }
        Some(RopeScaling::Yarn(scaling)) => {
            let kept = 1.0 - stretched(scaling, rotary.theta, d, i);
            (1.0 - kept) * plain(i) / scaling.factor + kept * plain(i)
        }
    };
    (0..d / 2).map(|i| scaled(i) as f32).collect()
}

/// How far `YaRN` stretches coordinate i: 0 not at all, 1 whole (Peng et al. 2023, section 3.2, as `transformers` has it:
/// between two coordinates instead of two numbers of turns).
fn stretched(scaling: &YarnScaling, theta: f64, d: u32, i: u32) -> f64 {
    let d = f64::from(d);
    let original = f64::from(scaling.original_max_position_embeddings);
    let coordinate = |turns: f64| d * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (coordinate(scaling.beta_fast), coordinate(scaling.beta_slow));
    if scaling.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(d - 1.0));
    // A division by nothing, otherwise.
    let width = if low == high { 0.001 } else { high - low };
    ((f64::from(i) - low) / width).clamp(0.0, 1.0)
}

/// What cosines and sines are multiplied by: scores grow by its square (Peng et al. 2023, section 3.4).
fn sharpness(scaling: Option<&RopeScaling>) -> f64 {
    let Some(RopeScaling::Yarn(scaling)) = scaling else { return 1.0 };
    let factor = scaling.factor;
    let of = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scales = scaling.mscale.zip(scaling.mscale_all_dim).filter(|(one, all)| *one != 0.0 && *all != 0.0);
    scaling.attention_factor.unwrap_or_else(|| scales.map_or_else(|| of(1.0), |(one, all)| of(one) / of(all)))
}

/// Cosines and sines, `[length, d/2]` each.
pub type Angles = (Vec<f32>, Vec<f32>);

/// Cosines and sines for the positions 0..length of a head of size `d`.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "fp32 by definition")]
pub fn angles(rotary: &Rotary, d: u32, length: u32) -> Angles {
    let (frequencies, sharpness) = (frequencies(rotary, d), sharpness(rotary.scaling.as_ref()));
    let angles = (0..length).flat_map(|t| frequencies.iter().map(move |f| f64::from(t as f32 * f)));
    angles.map(|angle| ((angle.cos() * sharpness) as f32, (angle.sin() * sharpness) as f32)).unzip()
}

/// The angles of every layer of a model: those without positions turn by nothing.
#[derive(Debug)]
pub struct Turns {
    tables: Vec<Angles>,
    of_layers: Vec<usize>,
}

impl Turns {
    /// For the positions 0..length of heads of size `d`.
    #[must_use]
    pub fn new(variant: &Variant, d: u32, length: u32) -> Self {
        let mut tables: Vec<Angles> = variant.rotaries.iter().map(|rotary| angles(rotary, d, length)).collect();
        let still = tables.len();
        if variant.layers.iter().any(|layer| layer.rotary.is_none()) {
            let count = (length * (d / 2)) as usize;
            tables.push((vec![1.0; count], vec![0.0; count]));
        }
        let of_layers = variant.layers.iter().map(|layer| layer.rotary.unwrap_or(still)).collect();
        Self { tables, of_layers }
    }

    /// Every table.
    #[must_use]
    pub fn tables(&self) -> &[Angles] {
        &self.tables
    }

    /// Which table a layer's is.
    #[must_use]
    pub fn number(&self, layer: usize) -> usize {
        self.of_layers[layer]
    }

    /// The angles of a layer.
    #[must_use]
    pub fn of(&self, layer: usize) -> kernels::Rotary<'_> {
        let (cos, sin) = &self.tables[self.number(layer)];
        kernels::Rotary { cos, sin }
    }
}
