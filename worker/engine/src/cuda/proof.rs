//! Before the first step on a card: each kernel against tensor operations, and a step of a small model of the job's
//! variant against autograd, on that device and in the job's precision. What is off is named.

pub use super::checks::{Found, kernels};
use super::{checks::apart, machine::Machine, pass::Pass};
use crate::{
    clock::Clock,
    model::{Model, Use, initial_weights, place_weights},
    parameters::Layout,
    pass::{Pass as _, Windows},
    shape::Shape,
};
use senmon_protocol::model::ModelSpec;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Proves a machine for a model.
///
/// # Errors
/// A sentence that names what is off.
pub fn check(machine: &Machine, spec: &ModelSpec) -> Result<(), String> {
    let ill: Vec<String> = kernels(machine, spec.hidden_size.into())
        .iter()
        .filter(|found| !found.is_well())
        .map(|found| {
            format!("kernel {} is off by {:.1e}, at most {:.0e}", found.kernel.name(), found.error, found.error_max)
        })
        .collect();
    if !ill.is_empty() {
        return Err(ill.join("; "));
    }
    whole(machine, spec, 2)?;
    whole(machine, spec, 1)
}

/// A step of a small model of the variant of `spec`, in passes of `micro` of two windows: its loss and gradients may be
/// twice as far from autograd's in fp32 as autograd's in the job's precision are, and a little more.
///
/// # Errors
/// What differs, and by how much.
pub fn whole(machine: &Machine, spec: &ModelSpec, micro: i64) -> Result<(), String> {
    let small = small(spec);
    let shape = Shape { windows: 2, micro, length: i64::from(small.max_position_embeddings) };
    // Weights that bf16 holds as they are: the same function in both precisions.
    let held = |(name, weight): (String, Tensor)| (name, weight.to_kind(machine.kind()).to_kind(Kind::Float));
    let weights: BTreeMap<String, Tensor> = disturbed(&small).into_iter().map(held).collect();
    let vocab = i64::from(small.vocab_size.unwrap_or(0));
    let tokens: Vec<i64> = (0..2 * (shape.length + 1)).map(|i| (i * i * 7 + i / 3) % vocab).collect();
    let layout = Layout::new(&small);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred tokens")]
    let count = (2 * shape.length) as f64;
    let by_autograd = |kind: Kind| {
        let arenas = place_weights(&layout, &weights, machine.device);
        let for_what = Use { trains: true, deterministic: false };
        let model = Model::over(small.clone(), &layout, &arenas, kind, shape.length, for_what);
        let windows = Tensor::from_slice(&tokens).view([2, shape.length + 1]).to_device(machine.device);
        let part = |first: i64| windows.narrow(1, first, shape.length).contiguous();
        let loss = model.backward(&part(0), &part(1), None, count).double_value(&[]) / count;
        let gradients: BTreeMap<String, Tensor> =
            model.weights.iter().map(|(name, w)| (name.clone(), w.grad())).collect();
        (loss, gradients)
    };
    let (exact_loss, exact) = by_autograd(Kind::Float);
    let (usual_loss, usual) = by_autograd(machine.kind());
    let arenas = place_weights(&layout, &weights, machine.device);
    let mut grads = layout.zeros(if micro < 2 { Kind::Float } else { machine.kind() }, machine.device);
    let windows = Windows { tokens: &tokens, document_first: None };
    let mut pass = Pass::new(machine.clone(), &small, &arenas, &grads, shape)?;
    let loss = pass.batch(&arenas, &mut grads, windows, &mut Clock::default()).loss / count;
    let more = if machine.form.bf16 { 2e-2 } else { 1e-2 };
    let (error, usual_error) = ((loss / exact_loss - 1.0).abs(), (usual_loss / exact_loss - 1.0).abs());
    // NaN is no small error.
    if error.is_nan() || error > 2.0 * usual_error + more {
        return Err(format!("loss of a small model: found {loss}, autograd says {usual_loss}, in fp32 {exact_loss}"));
    }
    let found = layout.views(&grads);
    for (name, exact) in &exact {
        let (error, usual_error) = (apart(&found[name], exact), apart(&usual[name], exact));
        // A key's bias moves all scores of a query alike, but for the rotation: what is left is small and noisy.
        let more = if name.ends_with("k_proj.bias") { 10.0 * more } else { more };
        if error.is_nan() || error > 2.0 * usual_error + more {
            return Err(format!(
                "gradient of {name} of a small model: off by {error:.1e} of its norm, autograd by {usual_error:.1e}"
            ));
        }
    }
    Ok(())
}

/// The variant of a model with a block of each kind that it has, two at least, and less of everything that may be less.
fn small(spec: &ModelSpec) -> ModelSpec {
    let (g, rep) = (spec.kv_heads().min(2), spec.num_attention_heads / spec.kv_heads());
    let kind = |layer: &usize| (spec.layer_type(*layer), spec.layer_turns(*layer));
    let mut picked: Vec<usize> = Vec::new();
    for layer in 0..spec.num_hidden_layers as usize {
        if picked.len() < 2 || !picked.iter().any(|other| kind(other) == kind(&layer)) {
            picked.push(layer);
        }
    }
    let types = || picked.iter().map(|layer| spec.layer_type(*layer)).collect();
    let turns = || picked.iter().map(|layer| u8::from(spec.layer_turns(*layer))).collect();
    ModelSpec {
        vocab_size: spec.vocab_size.map(|v| v.min(1024)),
        hidden_size: spec.hidden_size.min(512),
        intermediate_size: spec.intermediate_size.min(1024),
        num_hidden_layers: u32::try_from(picked.len()).unwrap_or(2),
        num_attention_heads: g * rep,
        num_key_value_heads: Some(g),
        head_dim: Some(spec.head_size()),
        max_position_embeddings: 128,
        sliding_window: spec.sliding_window.map(|window| window.min(48)),
        layer_types: spec.sliding_window.map(|_| types()),
        no_rope_layers: Some(turns()),
        // Activations of about 1, whatever the width.
        initializer_range: 1.0 / f64::from(spec.hidden_size.min(512)).sqrt(),
        ..spec.clone()
    }
}

/// Initial weights with norms and biases that hide no mistake.
fn disturbed(spec: &ModelSpec) -> BTreeMap<String, Tensor> {
    let wave = |n: usize| Tensor::arange(i64::try_from(n).unwrap_or(0), (Kind::Float, Device::Cpu)).sin() * 0.3;
    let disturb = |tensor: Tensor| if tensor.dim() == 1 { &tensor + wave(tensor.numel()) } else { tensor };
    initial_weights(spec, 3).into_iter().map(|(name, tensor)| (name, disturb(tensor))).collect()
}
