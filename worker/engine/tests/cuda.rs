//! The fused pass for cards, its kernels compiled for this CPU: the same losses and gradients as autograd and as the
//! CPU's own kernels, for odd shapes; and a self-proof that names a wrong kernel.
#![cfg(feature = "torch")]

use senmon_engine::{
    cuda::{Machine, proof},
    model::initial_weights,
    trainer::{Shape, Trainer},
};
use senmon_kernels::{self as kernels, Gate, Gradient, Heads, device::Kernel};
use senmon_protocol::{model::ModelSpec, spec::TrainingSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

fn spec(over: &Value) -> ModelSpec {
    let mut spec = json!({
        "vocab_size": 53, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 4096, "initializer_range": 0.15
    });
    spec.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

/// Weights without a value that hides a mistake: norms and biases are no ones and zeros.
fn weights(spec: &ModelSpec) -> BTreeMap<String, Tensor> {
    let disturbed = |(name, tensor): (String, Tensor)| {
        let wave = Tensor::arange(i64::try_from(tensor.numel()).unwrap(), (Kind::Float, Device::Cpu)).sin() * 0.3;
        let tensor = if tensor.dim() == 1 { tensor + wave } else { tensor };
        (name, tensor)
    };
    initial_weights(spec, 3).into_iter().map(disturbed).collect()
}

fn machine(kind: Kind, spec: &ModelSpec) -> Machine {
    tch::set_num_threads(1);
    Machine::of_cpu(kind, spec).unwrap()
}

/// Losses and norms of two steps, and gradients of the first.
type Seen = (Vec<(f64, f64)>, BTreeMap<String, Tensor>);

/// What is seen with a card's kernels, or with autograd.
fn seen(spec: &ModelSpec, kind: Kind, shape: Shape, documents: Option<&[i32]>, card: bool) -> Seen {
    let training: TrainingSpec = serde_json::from_value(json!({ "batch_windows": 3, "learning_rate": 1e-3 })).unwrap();
    let vocab = i64::from(spec.vocab_size.unwrap());
    let tokens: Vec<i64> = (0..shape.windows * (shape.length + 1)).map(|i| (i * i * 7 + i / 3) % vocab).collect();
    tch::set_num_threads(1);
    let mut trainer = Trainer::with_pass(spec.clone(), &weights(spec), Device::Cpu, kind, shape, card);
    if card {
        trainer.run_on(machine(kind, spec));
    }
    let first = trainer.forward_backward(&tokens, documents);
    // Before the step: AdamW's first one is the sign of the gradient, noise and all.
    let copy = |(name, grad): (String, Tensor)| (name, grad.to_kind(Kind::Float).copy());
    let gradients = trainer.gradients().into_iter().map(copy).collect();
    trainer.step(&training, 1e-3, 0.5);
    (vec![first, trainer.forward_backward(&tokens, documents)], gradients)
}

fn check(over: &Value, kind: Kind, shape: Shape, documents: Option<&[i32]>) {
    let tolerance = if kind == Kind::Float { 4e-6 } else { 5e-3 };
    let see = |kind, card| seen(&spec(over), kind, shape, documents, card);
    let ((steps, grads), (steps_expected, expected)) = (see(kind, true), see(kind, false));
    // What bf16 leaves of a small gradient is noise, either way: both are held against fp32.
    let exact = (kind != Kind::Float).then(|| see(Kind::Float, false).1);
    // One token alone moves no score: what is left of a query's and a key's gradient is rounding.
    let least = 1e-2 * steps_expected[0].1;
    for ((loss, norm), (loss_expected, norm_expected)) in steps.iter().zip(steps_expected) {
        assert!((loss / loss_expected - 1.0).abs() < tolerance, "{over}: loss {loss}, expected {loss_expected}");
        assert!((norm / norm_expected - 1.0).abs() < 4.0 * tolerance, "{over}: norm {norm}, expected {norm_expected}");
    }
    for (name, expected) in expected {
        // A key's bias moves all scores of a query alike, but for the rotation: what is left of it is small and noisy.
        let tolerance = if name.ends_with("k_proj.bias") { 10.0 * tolerance } else { tolerance };
        let apart = |found: &Tensor, from: &Tensor| {
            (found - from).norm().double_value(&[]) / from.norm().double_value(&[]).max(least)
        };
        let (error, usual) = match &exact {
            Some(exact) => (apart(&grads[&name], &exact[&name]), apart(&expected, &exact[&name])),
            None => (apart(&grads[&name], &expected), 0.0),
        };
        let what = format!("gradient of {name} is off by {error:.1e} of its norm, autograd's by {usual:.1e}");
        assert!(error < 2.0 * usual + 10.0 * tolerance, "{over} {kind:?}: {what}");
    }
}

const SHORT: Shape = Shape { windows: 3, micro: 3, length: 21 };

/// Widths that are multiples of 8 run the packed form of the kernels, the others the single one.
#[test]
fn the_pass_for_cards_is_that_of_autograd_for_every_variant() {
    let heads = |d: u32, n: u32, g: u32| json!({ "head_dim": d, "num_attention_heads": n, "num_key_value_heads": g });
    let packed = json!({ "vocab_size": 64, "head_dim": 16, "num_key_value_heads": 2, "model_type": "qwen2" });
    for over in [
        json!({}),
        json!({ "num_key_value_heads": 2, "tie_word_embeddings": true }),
        json!({ "num_key_value_heads": 1, "head_dim": 6, "model_type": "qwen2" }),
        json!({ "rope_scaling": { "rope_type": "linear", "factor": 4.0 } }),
        packed,
        json!({ "vocab_size": 64, "head_dim": 16, "tie_word_embeddings": true }),
        heads(32, 2, 1),
        heads(256, 2, 2),
        json!({ "model_type": "qwen3", "num_key_value_heads": 2 }),
        json!({ "model_type": "qwen3", "vocab_size": 64, "head_dim": 16, "num_key_value_heads": 1 }),
        json!({ "model_type": "mistral", "sliding_window": 5 }),
        json!({ "model_type": "smollm3", "no_rope_layers": [1, 0] }),
        json!({ "model_type": "olmo2", "num_key_value_heads": 2 }),
        json!({ "model_type": "olmo2", "vocab_size": 64, "head_dim": 16 }),
        json!({ "model_type": "gemma3_text", "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"],
                "query_pre_attn_scalar": 7, "tie_word_embeddings": true }),
        json!({ "model_type": "gemma2", "vocab_size": 64, "head_dim": 16, "sliding_window": 5 }),
        json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 } }),
    ] {
        check(&over, Kind::Float, SHORT, None);
        check(&over, Kind::BFloat16, SHORT, None);
    }
}

#[test]
fn one_row_several_passes_and_documents_are_no_other_case() {
    for kind in [Kind::Float, Kind::BFloat16] {
        check(&json!({}), kind, Shape { windows: 1, micro: 1, length: 1 }, None);
        check(&json!({ "tie_word_embeddings": true }), kind, Shape { micro: 1, ..SHORT }, None);
        check(
            &json!({ "model_type": "qwen2", "vocab_size": 64, "head_dim": 16 }),
            kind,
            Shape { micro: 1, ..SHORT },
            None,
        );
        let first: Vec<i32> = (0..63)
            .map(|i| [0, 0, 0, 0, 4, 4, 4, 4, 4, 9, 9, 11, 11, 11, 11, 15, 16, 16, 16, 16, 16][i % 21])
            .collect();
        check(&json!({ "num_key_value_heads": 2 }), kind, SHORT, Some(&first));
        check(&json!({ "num_key_value_heads": 2 }), kind, Shape { micro: 1, ..SHORT }, Some(&first));
    }
}

#[test]
fn every_kernel_proves_itself_in_every_form() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for over in [
            json!({}),
            json!({ "vocab_size": 64, "head_dim": 16 }),
            json!({ "model_type": "qwen3", "vocab_size": 64, "head_dim": 16 }),
            json!({ "model_type": "gemma3_text", "sliding_window": 9 }),
        ] {
            let spec = spec(&over);
            let machine = machine(kind, &spec);
            for found in proof::kernels(&machine, 40) {
                assert!(found.is_well(), "{over} {kind:?}: {found:?}");
            }
            proof::whole(&machine, &spec, 2).unwrap();
        }
    }
}

#[test]
fn a_wrong_kernel_is_named() {
    let spec = spec(&json!({ "vocab_size": 64, "head_dim": 16 }));
    let machine = machine(Kind::BFloat16, &spec);
    for &planted in Kernel::ALL {
        let found = proof::kernels(&machine.clone().without(planted), 40);
        let ill: Vec<_> = found.into_iter().filter(|found| !found.is_well()).collect();
        assert!(ill.iter().any(|found| found.kernel == planted), "{planted:?} is not named: {ill:?}");
        // What runs behind it may be off too, and nothing else.
        assert!(ill.len() <= 2, "{planted:?}: {ill:?}");
    }
    let said = proof::check(&machine.without(Kernel::Swiglu), &spec).unwrap_err();
    assert!(said.starts_with("kernel swiglu is off by"), "{said}");
}

/// The bodies for cards beside those for CPUs, on the same numbers.
#[test]
fn kernels_for_cards_and_for_cpus_agree() {
    fn held<T: kernels::Element + tch::kind::Element + Copy + Default>(tensor: &Tensor) -> Vec<T> {
        Vec::<T>::try_from(&tensor.contiguous().view(-1)).unwrap()
    }
    let spec = spec(&json!({}));
    let machine = machine(Kind::Float, &spec);
    let _guard = tch::no_grad_guard();
    let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
    let close = |name: &str, found: &Tensor, expected: &[f32]| {
        let expected = Tensor::from_slice(expected).view_as(found);
        let error = ((found - &expected).norm() / expected.norm()).double_value(&[]);
        assert!(error < 2e-6, "{name} is off by {error:.1e}");
    };
    let (rows, h) = (29, 40);
    let (x, y, w) = (random(&[rows, h]), random(&[rows, h]), random(&[h]));
    let (sum, normed, rstd) = (random(&[rows, h]), random(&[rows, h]), random(&[rows]));
    machine.add_rms_norm(&x, Some((&y, &sum)), &w, 1e-5, &normed, &rstd);
    let size = usize::try_from(rows * h).unwrap();
    let (mut s, mut n, mut r) = (vec![0.0; size], vec![0.0; size], vec![0.0; 29]);
    kernels::add_rms_norm(&held::<f32>(&x), Some((&held::<f32>(&y), &mut s)), &held::<f32>(&w), 1e-5, &mut n, &mut r);
    close("sum", &sum, &s);
    close("normed", &normed, &n);
    close("rstd", &rstd, &r);
    let (gate_up, dout) = (random(&[rows, 2 * h]), random(&[rows, h]));
    let (mut ours, mut back) = (held::<f32>(&gate_up), held::<f32>(&dout));
    for gate in [Gate::Silu, Gate::GeluTanh] {
        machine.gated(gate, &gate_up, &normed);
        kernels::gated(gate, &ours, &mut n, 40);
        close("gated unit", &normed, &n);
        machine.gated_backward(gate, &gate_up, &dout);
        kernels::gated_backward(gate, &mut ours, &mut back, 40);
        close("gradient of gate and up", &gate_up, &ours);
        close("gated unit again", &dout, &back);
    }
    let (logits, losses) = (random(&[rows, 53]), random(&[rows]));
    let targets: Vec<i64> = (0..rows).map(|i| if i == 3 { -1 } else { i * 7 % 53 }).collect();
    let mut ours = held::<f32>(&logits);
    machine.cross_entropy(&logits, &Tensor::from_slice(&targets).to_kind(Kind::Int), &losses, 0.5);
    kernels::cross_entropy(&mut ours, &targets, &mut r, Some(0.5), 0.0);
    close("losses", &losses, &r);
    close("gradient of logits", &logits, &ours);
    let heads = Heads { b: 1, t: rows, n: 2, g: 1, d: 10 };
    let (qkv, cos, sin) = (random(&[rows, 40]), random(&[rows, 5]), random(&[rows, 5]));
    let ours = held::<f32>(&qkv);
    let (mut q, mut k, mut v) = (vec![0.0; 580], vec![0.0; 290], vec![0.0; 290]);
    let angles = (held::<f32>(&cos), held::<f32>(&sin));
    let rotary = kernels::Rotary { cos: &angles.0, sin: &angles.1 };
    kernels::split_heads(&ours, None, rotary, (&mut q, &mut k, &mut v), heads);
    machine.rotate(&qkv, None, (&cos, &sin), heads);
    // With one key head the CPU's [g, t, n, d] is the card's rows of tokens.
    close("queries", &qkv.narrow(1, 0, 20).contiguous(), &q);
    close("keys", &qkv.narrow(1, 20, 10).contiguous(), &k);
    close("values", &qkv.narrow(1, 30, 10).contiguous(), &v);
    let (dx, grad) = (random(&[rows, h]), random(&[53, h]));
    let tokens: Vec<i64> = (0..rows).map(|i| i * i % 11).collect();
    let mut ours = held::<f32>(&grad);
    kernels::embed_backward(&held::<f32>(&dx), &tokens, Gradient::Same(&mut ours), 40);
    let (sorted, order) = Tensor::from_slice(&tokens).to_kind(Kind::Int).sort_stable(true, 0, false);
    let sorted = senmon_engine::cuda::Sorted { tokens: sorted, order };
    machine.embed_backward(&dx, &sorted, &grad, &random(&[rows, h]));
    close("gradient of the embedding", &grad, &ours);
}
