//! Reads Hugging Face's `config.json`: what is not supported is refused by its key, what a family leaves out is what
//! `transformers` takes there.

use super::{LayerType, ModelSpec, ModelType};
use serde_json::{Map, Value, json};

/// Keys of `config.json` that shape a model.
const CONFIG_KEYS: [&str; 21] = [
    "model_type",
    "rope_scaling",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_local_base_freq",
    "sliding_window",
    "layer_types",
    "no_rope_layers",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "tie_word_embeddings",
    "initializer_range",
];

type Config = Map<String, Value>;

impl ModelSpec {
    /// Reads Hugging Face's `config.json`.
    ///
    /// # Errors
    /// The key that is missing or not supported, what was found and what is accepted.
    pub fn from_config_json(text: &str) -> Result<Self, String> {
        let mut config: Config = serde_json::from_str(text).map_err(|error| format!("config.json: {error}"))?;
        let found = config.get("model_type").cloned().unwrap_or_default();
        let kind = ModelType::ALL.iter().find(|(name, _)| found == *name).map(|(_, kind)| *kind);
        let kind = kind.ok_or_else(|| {
            let names: Vec<String> = ModelType::ALL.iter().map(|(name, _)| format!("{name:?}")).collect();
            refuse("model_type", &found, &format!("one of {}", names.join(", ")))
        })?;
        for (key, value) in left_out(kind) {
            config.entry(key).or_insert(value);
        }
        rotary(&mut config, kind)?;
        only(&config, kind)?;
        local_layers(&mut config, kind)?;
        config.retain(|key, value| CONFIG_KEYS.contains(&key.as_str()) && !value.is_null());
        let spec: Self = serde_json::from_value(config.into()).map_err(|error| format!("config.json: {error}"))?;
        if spec.vocab_size.is_none() {
            return Err("config.json: vocab_size is missing".to_owned());
        }
        match spec.problems().first() {
            Some((key, message)) => Err(format!("config.json: {key}: {message}")),
            None => Ok(spec.plainest()),
        }
    }

    /// The same model without what says nothing: layers that are as the family has them, a window that no layer has.
    fn plainest(self) -> Self {
        let all = 0..self.num_hidden_layers as usize;
        let bare = Self { layer_types: None, no_rope_layers: None, ..self.clone() };
        let is_local = all.clone().any(|layer| self.layer_type(layer) == LayerType::SlidingAttention);
        let as_usual = all.clone().all(|layer| self.layer_type(layer) == bare.layer_type(layer));
        let turn_as_usual = all.clone().all(|layer| self.layer_turns(layer) == bare.layer_turns(layer));
        Self {
            sliding_window: self.sliding_window.filter(|_| is_local),
            layer_types: self.layer_types.filter(|_| is_local && !as_usual),
            no_rope_layers: self.no_rope_layers.filter(|_| !turn_as_usual),
            ..bare
        }
    }
}

fn refuse(key: &str, found: &Value, expected: &str) -> String {
    format!("config.json: {key}: found {found}, expected {expected}")
}

fn is_gemma(kind: ModelType) -> bool {
    matches!(kind, ModelType::Gemma2 | ModelType::Gemma3Text)
}

/// What `transformers` takes where a family's `config.json` does not say (`LlamaConfig` and its like). A `null` is not
/// left out: key and value heads are then as many as query heads.
fn left_out(kind: ModelType) -> Vec<(&'static str, Value)> {
    let (kv_heads, positions, eps) = match kind {
        ModelType::Llama => (Value::Null, 2048, 1e-6),
        ModelType::Mistral => (json!(8), 131_072, 1e-6),
        ModelType::Qwen2 | ModelType::Qwen3 => (json!(32), 32_768, 1e-6),
        ModelType::Gemma2 => (json!(4), 8192, 1e-6),
        ModelType::Gemma3Text => (json!(4), 131_072, 1e-6),
        ModelType::Olmo2 => (Value::Null, 2048, 1e-5),
        ModelType::SmolLm3 => (json!(4), 32_768, 1e-6),
    };
    let mut keys = vec![
        ("rms_norm_eps", json!(eps)),
        ("num_key_value_heads", kv_heads),
        ("max_position_embeddings", json!(positions)),
        ("tie_word_embeddings", json!(is_gemma(kind) || kind == ModelType::SmolLm3)),
    ];
    match kind {
        ModelType::Llama | ModelType::Olmo2 => {}
        ModelType::Mistral | ModelType::Qwen2 => keys.push(("sliding_window", json!(4096))),
        ModelType::Qwen3 => keys.extend([("sliding_window", json!(4096)), ("head_dim", json!(128))]),
        ModelType::Gemma2 => {
            keys.extend([("attn_logit_softcapping", json!(50.0)), ("final_logit_softcapping", json!(30.0))]);
        }
        ModelType::Gemma3Text => keys.push(("rope_theta", json!(1e6))),
        ModelType::SmolLm3 => keys.push(("rope_theta", json!(2e6))),
    }
    if is_gemma(kind) {
        keys.extend([("head_dim", json!(256)), ("query_pre_attn_scalar", json!(256)), ("sliding_window", json!(4096))]);
    }
    keys
}

/// Keys that have one value here.
fn only(config: &Config, kind: ModelType) -> Result<(), String> {
    let (activation, name) =
        if is_gemma(kind) { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    let only = [
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
        (activation, json!(name)),
        ("pretraining_tp", json!(1)),
        ("use_bidirectional_attention", json!(false)),
        // Mixtures of experts inside one model.
        ("num_local_experts", json!(null)),
        ("num_experts", json!(null)),
        ("n_routed_experts", json!(null)),
        ("quantization_config", json!(null)),
    ];
    for (key, expected) in only {
        if let Some(found) = config.get(key).filter(|found| !found.is_null() && **found != expected) {
            let note = if key == "quantization_config" { ": weights are read as F32, BF16 or F16" } else { "" };
            return Err(refuse(key, found, &format!("{expected}{note}")));
        }
    }
    // transformers does not compute it either.
    let cap = config.get("attn_logit_softcapping").filter(|found| kind == ModelType::Gemma3Text && !found.is_null());
    match cap {
        Some(found) => Err(refuse("attn_logit_softcapping", found, "null in Gemma 3")),
        None => Ok(()),
    }
}

/// Base and scaling of the rotary embedding, which `transformers` 5 keeps in one table, Gemma 3 in one for each kind
/// of layer.
fn rotary(config: &mut Config, kind: ModelType) -> Result<(), String> {
    let part = |name: &str, table: &mut Config| match table.remove(name) {
        Some(Value::Object(part)) => Some(part),
        _ => None,
    };
    let (mut table, mut key) = (part("rope_parameters", config).unwrap_or_default(), "rope_parameters");
    if kind == ModelType::Gemma3Text {
        let mut local = part("sliding_attention", &mut table).unwrap_or_default();
        if let Some(theta) = local.get("rope_theta") {
            config.insert("rope_local_base_freq".into(), theta.clone());
        }
        if let Some(scaling) = scaling("rope_parameters.sliding_attention", &mut local, config)? {
            return Err(refuse("rope_parameters.sliding_attention", &scaling, "rope_type \"default\""));
        }
        if let Some(full) = part("full_attention", &mut table) {
            (table, key) = (full, "rope_parameters.full_attention");
        }
    }
    if let Some(scaling) = part("rope_scaling", config) {
        (table, key) = (scaling, "rope_scaling");
    }
    if let Some(theta) = table.get("rope_theta").filter(|theta| !theta.is_null()) {
        config.insert("rope_theta".into(), theta.clone());
    }
    let factor = [&*config, &table].into_iter().find_map(|keys| keys.get("partial_rotary_factor"));
    if let Some(found) = factor.filter(|found| !found.is_null() && found.as_f64() != Some(1.0)) {
        return Err(refuse("partial_rotary_factor", found, "1: all of a head turns"));
    }
    if let Some(scaling) = scaling(key, &mut table, config)? {
        config.insert("rope_scaling".into(), scaling);
    }
    Ok(())
}

/// Reads a table of the rotary embedding; None where it is not stretched.
fn scaling(key: &str, table: &mut Config, config: &Config) -> Result<Option<Value>, String> {
    table.retain(|_, value| !value.is_null());
    let kind = table.remove("rope_type").or_else(|| table.remove("type")).unwrap_or_else(|| json!("default"));
    let positions = ["original_max_position_embeddings", "max_position_embeddings"];
    let positions = positions.into_iter().find_map(|key| config.get(key)).cloned().unwrap_or_default();
    let (keys, optional): (&[&str], &[&str]) = match kind.as_str().unwrap_or_default() {
        "default" => return nested(key, table).map_or(Ok(None), Err),
        "linear" => (&["factor"], &[]),
        "llama3" => (&["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"], &[]),
        "yarn" => {
            table.entry("original_max_position_embeddings").or_insert(positions);
            (
                &["factor", "original_max_position_embeddings"],
                &["attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"],
            )
        }
        _ => {
            let expected = "\"default\", \"linear\", \"llama3\" or \"yarn\"";
            return Err(refuse(&format!("{key}.rope_type"), &kind, expected));
        }
    };
    table.retain(|name, _| keys.contains(&name.as_str()) || optional.contains(&name.as_str()));
    if let Some(missing) = keys.iter().find(|name| !table.contains_key(**name)) {
        return Err(format!("config.json: {key}.{missing} is missing"));
    }
    table.insert("rope_type".into(), kind);
    Ok(Some(Value::Object(std::mem::take(table))))
}

/// A complaint where a table holds tables, one for each kind of layer.
fn nested(key: &str, table: &Config) -> Option<String> {
    let (name, found) = table.iter().find(|(_, value)| value.is_object())?;
    Some(refuse(&format!("{key}.{name}"), found, "one table for all layers"))
}

/// Windows and which layers have them, from each family's own keys.
fn local_layers(config: &mut Config, kind: ModelType) -> Result<(), String> {
    let count = usize::try_from(config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0)).unwrap_or(0);
    if count > 1 << 14 {
        return Ok(());
    }
    let number = |key: &str| config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let is_given = config.get("layer_types").is_some_and(|types| !types.is_null());
    let named = |local: &dyn Fn(usize) -> bool| -> Value {
        (0..count).map(|layer| if local(layer) { "sliding_attention" } else { "full_attention" }).collect()
    };
    let mut turns: Option<Vec<Value>> = config.get("no_rope_layers").and_then(Value::as_array).cloned();
    let asked = config.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(false);
    let window = number("sliding_window");
    let positions = number("max_position_embeddings").unwrap_or(0);
    let slides = asked && window.is_some();
    let types = match kind {
        ModelType::Qwen2 | ModelType::Qwen3 if slides => {
            let first = number("max_window_layers").unwrap_or(28);
            Some(named(&|layer| layer >= first))
        }
        ModelType::SmolLm3 => {
            let every = number("no_rope_layer_interval").unwrap_or(4).max(1);
            let derived = || (0..count).map(|layer| json!(u8::from(!(layer + 1).is_multiple_of(every)))).collect();
            let mut found = turns.unwrap_or_else(derived);
            found.truncate(count);
            let types = slides.then(|| named(&|layer| found.get(layer) == Some(&json!(0))));
            turns = Some(found);
            types
        }
        ModelType::Gemma3Text => {
            let every = number("sliding_window_pattern").or_else(|| number("_sliding_window_pattern"));
            every.filter(|every| *every > 0).map(|every| named(&|layer| !(layer + 1).is_multiple_of(every)))
        }
        _ => None,
    };
    let has_windows = slides || is_gemma(kind);
    if !has_windows {
        for found in config.get("layer_types").and_then(Value::as_array).into_iter().flatten() {
            if found != "full_attention" {
                return Err(refuse("layer_types", found, "\"full_attention\" throughout"));
            }
        }
        config.remove("layer_types");
    }
    match kind {
        ModelType::Llama | ModelType::Olmo2 => {
            if asked {
                return Err(refuse("use_sliding_window", &json!(true), "false"));
            }
            if let Some(found) = window.filter(|window| *window < positions) {
                return Err(refuse("sliding_window", &json!(found), "null, or at least max_position_embeddings"));
            }
            config.remove("sliding_window");
        }
        // These write their window even where they do not use it.
        ModelType::Qwen2 | ModelType::Qwen3 | ModelType::SmolLm3 if !slides => drop(config.remove("sliding_window")),
        _ => {}
    }
    if let Some(types) = types.filter(|_| !is_given) {
        config.insert("layer_types".into(), types);
    }
    if let Some(turns) = turns.filter(|_| kind == ModelType::SmolLm3) {
        config.insert("no_rope_layers".into(), turns.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
