//! A window of 32,768 tokens: trained and scored, and nothing of its square is ever held.
#![cfg(feature = "torch")]

use senmon_engine::{
    model::{Model, initial_weights},
    trainer::{Shape, Trainer},
};
use senmon_protocol::model::ModelSpec;
use serde_json::json;
use std::fs;
use tch::{Device, Kind, Tensor, no_grad};

const LENGTH: i64 = 32_768;
/// One score of each pair of tokens, in fp32.
const SQUARE_BYTES: u64 = 4 << 30;

/// The most memory that this process had.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_window_of_32_k_is_trained_and_scored_in_bounded_memory() {
    let spec: ModelSpec = serde_json::from_value(json!({
        "model_type": "gemma3_text", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 1, "head_dim": 8, "max_position_embeddings": LENGTH, "sliding_window": 100,
        "layer_types": ["sliding_attention", "full_attention"], "initializer_range": 0.2
    }))
    .unwrap();
    let tokens: Vec<i64> = (0..=LENGTH).map(|i| i * 7 % 40).collect();
    let weights = initial_weights(&spec, 1);
    // Threads that wait for others on a busy machine would take most of the time.
    tch::set_num_threads(1);
    let before = peak_bytes();
    let shape = Shape { windows: 1, micro: 1, length: LENGTH };
    let mut trainer = Trainer::new(spec.clone(), &weights, Device::Cpu, Kind::Float, shape);
    let (first, norm) = trainer.forward_backward(&tokens, None);
    assert!(norm.is_finite() && norm > 0.0, "gradient norm {norm}");
    // The loss again, by the way that scores.
    let model = Model::new(spec, &weights, Device::Cpu, Kind::Float, LENGTH, false);
    let part = |first: i64| Tensor::from_slice(&tokens).narrow(0, first, LENGTH).view([1, LENGTH]);
    let scored = no_grad(|| -model.log_probabilities(&part(0), &part(1)).mean(Kind::Double).double_value(&[]));
    assert!((scored / first - 1.0).abs() < 1e-5, "trained at {first}, scored {scored}");
    let more = peak_bytes() - before;
    assert!(more < SQUARE_BYTES / 4, "{more} bytes");
}
