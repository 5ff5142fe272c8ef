//! Configurations as their makers publish them, what a family leaves out, and what is refused by its key.

use super::*;
use crate::model::variant::{QkNorm, Variant};
use crate::model::{RopeScaling, YarnScaling};

fn config(over: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64
    });
    config.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    config
}

fn spec(over: Value) -> ModelSpec {
    ModelSpec::from_config_json(&config(over).to_string()).unwrap()
}

/// Windows of the layers, and which of the rotary embeddings turns them.
fn layers(over: Value) -> Vec<(Option<u32>, Option<usize>)> {
    spec(over).variant().layers.iter().map(|layer| (layer.window, layer.rotary)).collect()
}

#[test]
fn layers_are_those_of_transformers() {
    let all = |layer| vec![layer; 8];
    assert_eq!(layers(json!({})), all((None, Some(0))));
    assert_eq!(layers(json!({ "model_type": "mistral", "sliding_window": 16 })), all((Some(16), Some(0))));
    assert_eq!(layers(json!({ "model_type": "mistral", "sliding_window": null })), all((None, Some(0))));
    assert_eq!(layers(json!({ "model_type": "mistral" })), all((Some(4096), Some(0))));
    // Written, but not used.
    assert_eq!(layers(json!({ "model_type": "qwen3", "sliding_window": 16 })), all((None, Some(0))));
    let slides = json!({
        "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 16, "max_window_layers": 6
    });
    assert_eq!(layers(slides)[5..], [(None, Some(0)), (Some(16), Some(0)), (Some(16), Some(0))]);
    let gemma = layers(json!({ "model_type": "gemma2", "sliding_window": 16 }));
    assert_eq!(gemma[..2], [(Some(16), Some(0)), (None, Some(0))]);
    let gemma = layers(json!({ "model_type": "gemma3_text", "sliding_window": 16 }));
    assert_eq!(gemma[4..7], [(Some(16), Some(1)), (None, Some(0)), (Some(16), Some(1))]);
    let gemma = layers(json!({ "model_type": "gemma3_text", "sliding_window": 16, "sliding_window_pattern": 2 }));
    assert_eq!(gemma[..2], [(Some(16), Some(1)), (None, Some(0))]);
    let bare = layers(json!({ "model_type": "smollm3" }));
    assert_eq!(bare[2..5], [(None, Some(0)), (None, None), (None, Some(0))]);
    let every = layers(json!({ "model_type": "smollm3", "no_rope_layer_interval": 2 }));
    assert_eq!(every[..2], [(None, Some(0)), (None, None)]);
    let given = json!({ "model_type": "smollm3", "no_rope_layers": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1] });
    assert_eq!(layers(given)[..2], [(None, None), (None, Some(0))]);
}

/// The keys of google/gemma-2-2b and gemma-3-1b, with fewer layers.
#[test]
fn gemma_is_read_as_its_maker_publishes_it() {
    let gemma2 = spec(json!({
        "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 256, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "sliding_window": 16, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "attention_bias": false, "cache_implementation": "hybrid"
    }));
    let Variant { attention_cap, logit_cap, query_scale, norm_offset, norms, qk_norm, .. } = gemma2.variant();
    assert_eq!((attention_cap, logit_cap, query_scale, norm_offset), (Some(50.0), Some(30.0), 1.0 / 16.0, 1.0));
    assert_eq!((norms.names().len(), qk_norm, gemma2.tie_word_embeddings), (4, QkNorm::None, true));
    let gemma3 = |rope: Value| {
        let mut over = json!({
            "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": null, "final_logit_softcapping": null, "sliding_window": 512
        });
        over.as_object_mut().unwrap().extend(rope.as_object().unwrap().clone());
        spec(over)
    };
    let old = gemma3(json!({
        "rope_theta": 1_000_000, "rope_local_base_freq": 5000, "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
        "sliding_window_pattern": 6
    }));
    let new = gemma3(json!({ "rope_parameters": {
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 5000.0 }
    } }));
    assert_eq!(old, new);
    assert_eq!((new.variant().rotaries[1].theta, new.qk_norm()), (5000.0, QkNorm::Head));
    assert!(new.variant().rotaries[0].scaling.is_some() && new.variant().rotaries[1].scaling.is_none());
}

#[test]
fn what_a_family_leaves_out_is_what_transformers_takes() {
    let spec = spec(json!({ "model_type": "smollm3" }));
    assert_eq!((spec.rope_theta, spec.tie_word_embeddings, spec.rms_norm_eps), (2e6, true, 1e-6));
    let yarn = |over: Value| {
        let mut scaling = json!({ "rope_type": "yarn", "factor": 4.0, "beta_fast": null });
        scaling.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        let spec = self::spec(json!({ "rope_scaling": scaling }));
        let Some(RopeScaling::Yarn(yarn)) = spec.rope_scaling else { panic!("{spec:?}") };
        yarn
    };
    let YarnScaling { original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } = yarn(json!({}));
    assert_eq!((original_max_position_embeddings, beta_fast, beta_slow, truncate), (64, 32.0, 1.0, true));
    assert_eq!(yarn(json!({ "original_max_position_embeddings": 16 })).original_max_position_embeddings, 16);
}

#[test]
fn what_is_not_supported_is_refused_by_its_key() {
    let check = |over: Value, expect: &str| {
        let error = ModelSpec::from_config_json(&config(over.clone()).to_string()).unwrap_err();
        assert!(error.contains(expect), "{over}: {error}, expected {expect}");
    };
    check(json!({ "model_type": "mixtral" }), "model_type: found \"mixtral\", expected one of \"llama\", \"mistral\"");
    check(json!({ "model_type": "gemma3" }), "\"gemma3_text\"");
    check(json!({ "sliding_window": 16 }), "sliding_window: found 16");
    check(json!({ "model_type": "mistral", "sliding_window": 0 }), "sliding_window: found 0");
    check(json!({ "model_type": "qwen3", "layer_types": ["sliding_attention"] }), "layer_types");
    check(json!({ "model_type": "gemma2", "layer_types": ["sliding_attention"] }), "layer_types: found 1 layers");
    check(json!({ "model_type": "gemma2", "hidden_activation": "gelu" }), "hidden_activation");
    check(json!({ "model_type": "gemma3_text", "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping");
    check(json!({ "model_type": "gemma3_text", "use_bidirectional_attention": true }), "use_bidirectional_attention");
    check(json!({ "model_type": "olmo2", "attention_bias": true }), "attention_bias");
    check(json!({ "model_type": "smollm3", "no_rope_layers": [0, 1] }), "no_rope_layers: found 2 layers");
    check(json!({ "hidden_act": "gelu_pytorch_tanh" }), "hidden_act");
    check(json!({ "rope_scaling": { "rope_type": "longrope", "factor": 4.0 } }), "rope_scaling.rope_type");
    check(json!({ "rope_scaling": { "rope_type": "yarn" } }), "rope_scaling.factor is missing");
    check(json!({ "rope_scaling": { "rope_type": "yarn", "factor": 2.0, "beta_slow": 40 } }), "beta_slow");
    check(json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor");
    check(json!({ "rope_parameters": { "rope_theta": 1e4, "partial_rotary_factor": 0.5 } }), "partial_rotary_factor");
    check(json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e4 } } }), "rope_parameters.full_attention");
    let local = json!({ "full_attention": {}, "sliding_attention": { "rope_type": "linear", "factor": 2.0 } });
    check(json!({ "model_type": "gemma3_text", "rope_parameters": local }), "rope_parameters.sliding_attention");
}
