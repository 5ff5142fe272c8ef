//! Experiments small enough for a test and complete enough to pass through every stage.

use senmon_protocol::spec::ExperimentSpec;
use serde_json::{Value, json};

/// The whole life in seconds: 3 domains, all controls, a chain of two.
#[must_use]
pub fn small_json() -> Value {
    json!({
        "name": "small",
        "corpus": "small",
        "clustering": { "domains": 3, "sample_documents": 400, "features": { "kind": "tfidf_svd", "dimensions": 16 } },
        "tokenizer": { "kind": "train", "vocab_size": 512, "sample_documents": 200 },
        "model": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 64
        },
        "data": { "sequence_length": 64, "held_out_fraction": 0.2, "epochs_max": 20.0 },
        "training": {
            "batch_windows": 8, "learning_rate": 0.003, "deterministic": true, "checkpoint_every_steps": 20,
            "log_every_steps": 5
        },
        "seed": { "kind": "train", "tokens": 40960 },
        "plan": [
            { "kind": "fan_out", "tokens": 46080 },
            { "kind": "chain", "order": { "kind": "similarity", "length": 2 }, "tokens_per_domain": 10240, "replay": 0.2 }
        ],
        "controls": { "dense": true, "random_split": true },
        "evaluation": { "documents_per_domain": 24, "top_k": [1, 2, 3], "temperatures": [0.05, 0.2, 1.0] }
    })
}

/// [`small_json`], typed.
///
/// # Panics
/// When the file above is not an experiment, which is a bug of this crate.
#[must_use]
pub fn small() -> ExperimentSpec {
    serde_json::from_value(small_json()).expect("the small experiment is one")
}

/// Tokens of one step of these experiments.
pub const STEP_TOKENS: u64 = 512;

/// Only a seed of so many steps, long enough to be killed in the middle; all its checkpoints stay, so that a test can
/// count them.
///
/// A step takes some milliseconds: what is to happen in the middle of a training needs a thousand steps to spare.
#[must_use]
pub fn long_seed(steps: u64) -> ExperimentSpec {
    let mut spec = small();
    spec.name = "long seed".into();
    spec.seed = serde_json::from_value(json!({ "kind": "train", "tokens": steps * STEP_TOKENS })).expect("a seed");
    spec.data.epochs_max = 1000.0;
    spec.plan.truncate(1);
    spec.controls = serde_json::from_value(json!({ "dense": false, "random_split": false })).expect("controls");
    spec.retention = serde_json::from_value(json!({ "keep_every_tokens": 1 })).expect("a retention");
    spec
}
