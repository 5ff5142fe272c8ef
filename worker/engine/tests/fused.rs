//! The fused pass and autograd over the same model: same losses, same gradients.
#![cfg(feature = "torch")]

use senmon_engine::{
    model::initial_weights,
    trainer::{Shape, Trainer},
};
use senmon_protocol::model::ModelSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// A model with every width odd enough to leave a part of a vector, changed by `over`.
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

fn tokens(shape: Shape, vocab: i64) -> Vec<i64> {
    (0..shape.windows * (shape.length + 1)).map(|i| (i * i * 7 + i / 3) % vocab).collect()
}

/// Loss, norm and gradients.
type Seen = (f64, f64, BTreeMap<String, Tensor>);

/// What is seen with the fused pass, or with autograd.
fn seen(spec: &ModelSpec, kind: Kind, shape: Shape, documents: Option<&[i32]>, fused: bool) -> Seen {
    // Many tests at once on few cores: threads that wait for each other would take most of the time.
    tch::set_num_threads(1);
    let (weights, tokens) = (weights(spec), tokens(shape, 53));
    let mut trainer = Trainer::with_pass(spec.clone(), &weights, Device::Cpu, kind, shape, fused);
    // Twice: the second pass must not see anything of the first.
    trainer.forward_backward(&tokens, documents);
    let (loss, norm) = trainer.forward_backward(&tokens, documents);
    let copy = |(name, grad): (String, Tensor)| (name, grad.to_kind(Kind::Float).copy());
    (loss, norm, trainer.gradients().into_iter().map(copy).collect())
}

fn check(over: &Value, kind: Kind, shape: Shape, documents: Option<&[i32]>, tolerance: f64) {
    let spec = spec(over);
    let see = |kind, fused| seen(&spec, kind, shape, documents, fused);
    let ((loss, norm, grads), (loss_expected, norm_expected, expected)) = (see(kind, true), see(kind, false));
    // What bf16 leaves of a small gradient is noise, either way: both are held against fp32.
    let exact = (kind != Kind::Float).then(|| see(Kind::Float, false).2);
    assert!((loss / loss_expected - 1.0).abs() < tolerance, "{over}: loss {loss}, expected {loss_expected}");
    assert!((norm / norm_expected - 1.0).abs() < 4.0 * tolerance, "{over}: norm {norm}, expected {norm_expected}");
    for (name, expected) in expected {
        // A key's bias moves all scores of a query alike, but for the rotation: what is left of it is small and noisy.
        let tolerance = if name.ends_with("k_proj.bias") { 10.0 * tolerance } else { tolerance };
        let apart =
            |found: &Tensor, from: &Tensor| (found - from).norm().double_value(&[]) / from.norm().double_value(&[]);
        let (error, usual) = match &exact {
            Some(exact) => (apart(&grads[&name], &exact[&name]), apart(&expected, &exact[&name])),
            None => (apart(&grads[&name], &expected), 0.0),
        };
        let what = format!("gradient of {name} is off by {error:.1e} of its norm, autograd's by {usual:.1e}");
        assert!(error < 2.0 * usual + 10.0 * tolerance, "{over}: {what}");
    }
}

const SHORT: Shape = Shape { windows: 3, micro: 3, length: 21 };

fn families() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "num_key_value_heads": 2, "tie_word_embeddings": true }),
        json!({ "num_key_value_heads": 1, "head_dim": 6, "model_type": "qwen2" }),
        json!({ "rope_scaling": { "rope_type": "linear", "factor": 4.0 } }),
        json!({ "rope_theta": 500.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64
        } }),
        json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 } }),
        json!({ "model_type": "mistral", "sliding_window": 5, "num_key_value_heads": 2 }),
        json!({ "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 18 }),
        json!({ "model_type": "smollm3", "no_rope_layers": [1, 0], "num_key_value_heads": 1 }),
        json!({ "model_type": "olmo2", "num_key_value_heads": 2 }),
        json!({ "model_type": "gemma2", "sliding_window": 5, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0, "tie_word_embeddings": true }),
        json!({ "model_type": "gemma3_text", "sliding_window": 5, "num_key_value_heads": 1,
                "layer_types": ["full_attention", "sliding_attention"], "rope_scaling": { "rope_type": "linear", "factor": 2.0 } }),
    ]
}

#[test]
fn fp32_gradients_are_those_of_autograd() {
    for over in families() {
        check(&over, Kind::Float, SHORT, None, 2e-6);
    }
}

#[test]
fn bf16_gradients_are_near_those_of_autograd() {
    for over in families() {
        check(&over, Kind::BFloat16, SHORT, None, 4e-3);
    }
}

/// Longer than one block of queries, and more tokens than logits are held at once.
#[test]
fn long_windows_go_block_by_block() {
    let shape = Shape { windows: 2, micro: 2, length: 600 };
    check(&json!({ "num_key_value_heads": 2 }), Kind::Float, shape, None, 2e-6);
    check(&json!({ "num_key_value_heads": 2 }), Kind::BFloat16, shape, None, 4e-3);
}

#[test]
fn micro_batches_add_up() {
    let shape = Shape { micro: 1, ..SHORT };
    check(&json!({ "tie_word_embeddings": true }), Kind::Float, shape, None, 2e-6);
    check(&json!({ "model_type": "qwen2" }), Kind::BFloat16, shape, None, 4e-3);
    // And they are the gradients of the whole batch.
    let spec = spec(&json!({}));
    let (_, _, whole) = seen(&spec, Kind::Float, SHORT, None, true);
    let (_, _, parts) = seen(&spec, Kind::Float, shape, None, true);
    for (name, whole) in whole {
        assert!((&whole - &parts[&name]).abs().max().double_value(&[]) < 1e-5, "{name}");
    }
}

#[test]
fn attention_stays_inside_documents_where_it_should() {
    let first: Vec<i32> =
        (0..63).map(|i| [0, 0, 0, 0, 4, 4, 4, 4, 4, 9, 9, 11, 11, 11, 11, 15, 16, 16, 16, 16, 16][i % 21]).collect();
    check(&json!({ "num_key_value_heads": 2 }), Kind::Float, SHORT, Some(&first), 2e-6);
    // And inside the window, whichever is shorter.
    check(&json!({ "model_type": "mistral", "sliding_window": 3 }), Kind::Float, SHORT, Some(&first), 2e-6);
    // It is another function than without them.
    let spec = spec(&json!({}));
    let (masked, ..) = seen(&spec, Kind::Float, SHORT, Some(&first), true);
    let (open, ..) = seen(&spec, Kind::Float, SHORT, None, true);
    assert!((masked - open).abs() > 1e-4);
}

/// The same bits, whatever the number of threads of the kernels, and from run to run.
#[test]
fn a_pass_gives_the_same_bits_again() {
    let spec = spec(&json!({}));
    let (loss, norm, grads) = seen(&spec, Kind::Float, SHORT, None, true);
    let (loss_again, norm_again, again) = seen(&spec, Kind::Float, SHORT, None, true);
    assert_eq!((loss.to_bits(), norm.to_bits()), (loss_again.to_bits(), norm_again.to_bits()));
    assert!(grads.iter().all(|(name, grad)| *grad == again[name]));
}
