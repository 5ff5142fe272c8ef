//! Folders with one thing wrong, each refused with the reason.

use super::*;
use crate::tokenizer::{SEPARATOR, train};
use safetensors::tensor::TensorView;
use serde_json::json;
use std::{collections::HashMap, fs, path::Path};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 0
    })
}

fn tensors(config: &Value) -> Tensors {
    let spec = ModelSpec::from_config_json(&config.to_string()).unwrap();
    let make = |(name, shape): (String, Vec<u64>)| {
        let shape: Vec<usize> = shape.into_iter().map(|n| usize::try_from(n).unwrap()).collect();
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|i| (i as f32 * 0.001 + name.len() as f32).to_le_bytes()).collect();
        (name, (Dtype::F32, shape, bytes))
    };
    spec.tensors().into_iter().map(make).collect()
}

fn write(folder: &Path, file: &str, tensors: &Tensors) {
    let views: HashMap<&str, TensorView> = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, None, &folder.join(file)).unwrap();
}

/// A good folder with one thing changed.
fn check(expect: Result<f64, &str>, change: impl FnOnce(&Path, &mut Value, &mut Tensors)) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    let mut tensors = tensors(&config);
    change(folder.path(), &mut config, &mut tensors);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    if !tensors.is_empty() {
        write(folder.path(), MODEL_FILE, &tensors);
    }
    judge(folder.path(), expect);
}

fn judge(folder: &Path, expect: Result<f64, &str>) {
    match (inspect(&Folder::own(folder)), expect) {
        (Ok(seed), Ok(eps)) => assert!((seed.spec.rms_norm_eps - eps).abs() < 1e-12, "{seed:?}"),
        (Err(found), Err(expect)) => assert!(found.contains(expect), "{found}, expected {expect}"),
        (found, expect) => panic!("{found:?}, expected {expect:?}"),
    }
}

fn part(tensors: &mut Tensors, names: &[&str]) -> Tensors {
    names.iter().map(|name| ((*name).to_owned(), tensors.remove(*name).unwrap())).collect()
}

#[test]
fn a_folder_that_cannot_be_a_seed_is_refused_with_the_reason() {
    check(Ok(1e-6), |_, _, _| {});
    check(Ok(1e-6), |_, config, _| drop(config.as_object_mut().unwrap().remove("rms_norm_eps")));
    check(Err("pickled weights"), |folder, _, tensors| {
        tensors.clear();
        fs::write(folder.join("pytorch_model.bin"), b"PK\x03\x04").unwrap();
    });
    check(Err("model.safetensors is missing"), |_, _, tensors| tensors.clear());
    check(Err("quantization_config"), |_, config, _| config["quantization_config"] = json!({ "quant_method": "fp8" }));
    check(Err("tensor model.norm.weight is F8_E4M3, expected F32, BF16 or F16"), |_, _, tensors| {
        tensors.insert("model.norm.weight".into(), (Dtype::F8_E4M3, vec![8], vec![0; 8]));
    });
    check(Err("tensor model.layers.0.mlp.down_proj.weight_scale belongs to no model"), |_, _, tensors| {
        tensors.insert("model.layers.0.mlp.down_proj.weight_scale".into(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    check(Err("tensor model.norm.weight is missing"), |_, _, tensors| drop(tensors.remove("model.norm.weight")));
    check(Err("has shape [9], config.json asks for [8]"), |_, _, tensors| {
        tensors.insert("model.norm.weight".into(), (Dtype::F32, vec![9], vec![0; 36]));
    });
    check(Ok(1e-6), |_, _, tensors| {
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (Dtype::F32, vec![2], vec![0; 8]));
    });
    check(Err("is not model.embed_tokens.weight"), |_, config, _| config["tie_word_embeddings"] = json!(true));
    check(Ok(1e-6), |_, config, tensors| {
        config["tie_word_embeddings"] = json!(true);
        tensors.insert(HEAD.into(), tensors[EMBEDDING].clone());
    });
}

#[test]
fn weights_that_are_cut_or_lack_a_part_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(MODEL_FILE);
    fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
    write(folder.path(), MODEL_FILE, &tensors(&config()));
    let whole = fs::read(&path).unwrap();
    for (keep, expect) in
        [(whole.len() / 2, "cut short"), (whole.len() - 1, "cut short"), (100, "cut short"), (3, MODEL_FILE)]
    {
        fs::write(&path, &whole[..keep]).unwrap();
        judge(folder.path(), Err(expect));
    }
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    judge(folder.path(), Err("damaged"));
    fs::write(&path, [&whole[..8], b"oops", &whole[12..]].concat()).unwrap();
    judge(folder.path(), Err("no safetensors header"));
    fs::remove_file(&path).unwrap();

    let mut rest = tensors(&config());
    let first = part(&mut rest, &["model.norm.weight", EMBEDDING]);
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    write(folder.path(), one, &first);
    let map: BTreeMap<&String, &str> =
        first.keys().map(|name| (name, one)).chain(rest.keys().map(|name| (name, two))).collect();
    fs::write(folder.path().join(INDEX_FILE), json!({ "weight_map": map }).to_string()).unwrap();
    judge(folder.path(), Err("model-00002-of-00002.safetensors is missing"));
    write(folder.path(), two, &rest);
    judge(folder.path(), Ok(1e-6));
    rest.extend(first);
    write(folder.path(), two, &rest);
    judge(folder.path(), Err("is in model-0000"));
    fs::write(folder.path().join(INDEX_FILE), json!({ "weight_map": { "a": "../b" } }).to_string()).unwrap();
    judge(folder.path(), Err("expected a file of this folder"));
}

#[test]
fn a_family_that_leaves_a_key_out_means_what_transformers_takes() {
    let spec = |change: Value| {
        let mut config = config();
        for key in ["rms_norm_eps", "max_position_embeddings"] {
            config.as_object_mut().unwrap().remove(key);
        }
        config["num_attention_heads"] = json!(32);
        config["hidden_size"] = json!(64);
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        ModelSpec::from_config_json(&config.to_string()).unwrap()
    };
    let check = |change: Value, expect: (u32, u32)| {
        let found = spec(change.clone());
        assert_eq!((found.kv_heads(), found.max_position_embeddings), expect, "{change}");
        assert!((found.rms_norm_eps - 1e-6).abs() < 1e-12, "{change}");
    };
    check(json!({}), (32, 2048));
    check(json!({ "model_type": "mistral" }), (8, 131_072));
    check(json!({ "model_type": "mistral", "num_key_value_heads": null }), (32, 131_072));
    check(json!({ "model_type": "qwen2", "num_key_value_heads": 4 }), (4, 32_768));
}

#[test]
fn a_tokenizer_that_is_not_the_models_is_refused_with_the_reason() {
    let text = "the kernel maps the page and the driver asks the kernel for memory";
    let own = train(&[text], 280).unwrap();
    let check = |config: Value, kept: Option<&[u8]>, given: &[u8], expect: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        if let Some(kept) = kept {
            fs::write(folder.path().join("tokenizer.json"), kept).unwrap();
        }
        let tokenizer = Tokenizer::from_bytes(given, SEPARATOR, None).unwrap();
        match (belongs(&Folder::own(folder.path()), &tokenizer), expect) {
            (Ok(()), None) => {}
            (Err(why), Some(expect)) => assert!(why.contains(expect), "{why}, expected {expect}"),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    };
    let edit = |change: &dyn Fn(&mut Value)| {
        let mut file: Value = serde_json::from_slice(&own).unwrap();
        change(&mut file);
        serde_json::to_vec(&file).unwrap()
    };
    check(config(), Some(&own), &own, None);
    let other = train(&["醤油と砂糖を鍋に入れて煮る料理、醤油と出汁"], 280).unwrap();
    check(config(), Some(&own), &other, Some("tokens differ"));
    let swapped = edit(&|file| {
        let vocab = &mut file["model"]["vocab"];
        let (a, b) = (vocab["a"].clone(), vocab["b"].clone());
        (vocab["a"], vocab["b"]) = (b, a);
    });
    check(config(), Some(&own), &swapped, Some("2 of"));
    let unmerged = edit(&|file| file["model"]["merges"] = json!([]));
    check(config(), Some(&own), &unmerged, Some("other tokens"));
    let with_more = edit(&|file| {
        let mut token = file["added_tokens"][0].clone();
        (token["id"], token["content"]) = (json!(280), json!("<|more|>"));
        file["added_tokens"].as_array_mut().unwrap().push(token);
    });
    check(config(), Some(&own), &with_more, None);
    // Without a tokenizer of its own.
    check(config(), None, &own, None);
    let mut wrong = config();
    wrong["eos_token_id"] = json!([0, 7]);
    check(wrong.clone(), None, &own, Some("eos_token_id is 7, the token"));
    check(wrong.clone(), Some(&own), &own, None);
    wrong["eos_token_id"] = json!(5000);
    check(wrong, None, &own, Some("no token"));
}
