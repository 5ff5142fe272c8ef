//! The engine's promises: the same numbers as always, and no damaged checkpoint is ever loaded.
#![cfg(feature = "torch")]

use safetensors::{Dtype, tensor::TensorView};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::{BranchId, CheckpointId, ExperimentId, Fence},
    model::ModelSpec,
    spec::TrainingSpec,
};
use senmon_worker::train::{
    checkpoint::{Snapshot, TrainerState, digest, load_model, load_trainer, save, to_host, verify},
    model::{Model, initial_weights},
    optimizer::{AdamW, clear_gradients, gradient_norm},
};
use std::{fs, path::Path};
use tch::{Device, Kind, Tensor};

type NamedBytes = Vec<(String, Vec<usize>, Vec<u8>)>;

fn spec() -> ModelSpec {
    serde_json::from_value(serde_json::json!({
        "vocab_size": 17, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 8
    }))
    .unwrap()
}

fn trained(steps: usize) -> (Model, AdamW, Vec<f64>) {
    tch::set_num_threads(1);
    let training: TrainingSpec =
        serde_json::from_value(serde_json::json!({ "batch_windows": 2, "learning_rate": 0.02 })).unwrap();
    let mut model = Model::new(spec(), initial_weights(&spec(), 7), Device::Cpu, Kind::Float, 8, true);
    let mut optimizer = AdamW::new(&model.weights);
    let batch = (Tensor::arange(18, (Kind::Int64, Device::Cpu)) * 5).remainder(17).view([2, 9]);
    let losses = (0..steps)
        .map(|_| {
            let loss = model.loss_sum(&batch.narrow(1, 0, 8), &batch.narrow(1, 1, 8)) / 16.0;
            loss.backward();
            let norm = gradient_norm(&model.weights, Device::Cpu);
            optimizer.step(&mut model.weights, &training, 0.02, (1.0 / (norm + 1e-6)).min(1.0));
            clear_gradients(&mut model.weights);
            loss.double_value(&[])
        })
        .collect();
    (model, optimizer, losses)
}

/// The numbers of the day this test was written; any change of model, optimiser or initial weights moves them.
#[test]
fn the_loss_of_a_tiny_model_is_what_it_always_was() {
    let (_, _, losses) = trained(6);
    let golden: [f64; 6] = GOLDEN;
    for (found, expect) in losses.iter().zip(golden) {
        assert!((found / expect - 1.0).abs() < 1e-5, "{losses:?}, expected {golden:?}");
    }
}

const GOLDEN: [f64; 6] = [2.823_997_5, 2.667_332_65, 2.563_294_89, 2.422_447_68, 2.292_986_63, 2.164_033_89];

fn write(folder: &Path) -> String {
    let (model, optimizer, _) = trained(2);
    let weights = to_host(&model.weights).unwrap();
    let moments = (to_host(&optimizer.first).unwrap(), to_host(&optimizer.second).unwrap());
    let state_sha256 = digest(&weights, Some(&moments), 2);
    let state = TrainerState {
        step: 2,
        tokens: 32,
        optimizer_steps: 2,
        next_batch_hash: Some(5),
        state_sha256: state_sha256.clone(),
    };
    let snapshot = Snapshot { spec: spec(), weights, moments: Some(moments), state };
    let mut meta = CheckpointMeta {
        kind: CheckpointKind::Resumable,
        experiment_id: ExperimentId::new(),
        branch_id: BranchId::new(),
        fence: Fence(1),
        step: 2,
        tokens: 32,
        parent_id: None,
        bytes: 0,
        loss: Some(2.0),
        config_sha256: String::new(),
        state_sha256,
    };
    let tokenizer = folder.with_extension("tokenizer");
    fs::write(&tokenizer, r#"{"added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": true}]}"#).unwrap();
    save(folder, &snapshot, &tokenizer, CheckpointId::new(), &mut meta).unwrap()
}

#[test]
fn a_checkpoint_comes_back_as_it_went() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("c");
    let sha256 = write(&folder);
    let manifest = verify(&folder, &sha256).unwrap();
    let (found, weights) = load_model(&folder).unwrap();
    let (moments, state) = load_trainer(&folder, &weights).unwrap();
    assert_eq!(found, ModelSpec { head_dim: Some(4), ..spec() });
    assert_eq!(digest(&weights, Some(&moments), 2), manifest.meta.state_sha256);
    assert_eq!((state.step, state.next_batch_hash), (2, Some(5)));
}

#[test]
fn a_flipped_bit_a_short_file_and_a_missing_one_are_named() {
    let base = tempfile::tempdir().unwrap();
    let check = |name: &str, damage: &dyn Fn(&Path), expect: &str| {
        let folder = base.path().join(format!("{name}-{expect}"));
        let sha256 = write(&folder);
        damage(&folder.join(name));
        let error = format!("{:#}", verify(&folder, &sha256).unwrap_err());
        assert!(error.contains(name) && error.contains(expect), "{error}");
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    for name in
        ["model.safetensors", "trainer.safetensors", "trainer.json", "config.json", "tokenizer.json", "manifest.json"]
    {
        check(name, &flip, "SHA-256");
    }
    check("model.safetensors", &|path| fs::write(path, b"short").unwrap(), "bytes");
    check("trainer.safetensors", &|path| fs::remove_file(path).unwrap(), "missing");
}

#[test]
fn tensors_and_keys_that_do_not_fit_are_named() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("c");
    write(&folder);
    let check = |change: &dyn Fn(&mut NamedBytes), expect: &str| {
        let (_, weights) = load_model(&folder).unwrap();
        let path = folder.join("model.safetensors");
        let before = fs::read(&path).unwrap();
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors =
            weights.iter().map(|(name, (shape, values))| (name.clone(), shape.clone(), bytes(values))).collect();
        change(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let error = format!("{:#}", load_model(&folder).unwrap_err());
        assert!(error.contains(expect), "{error}");
        fs::write(&path, before).unwrap();
    };
    let norm = |tensors: &NamedBytes| tensors.iter().position(|(name, ..)| name == "model.norm.weight").unwrap();
    check(&|tensors| tensors.retain(|(name, ..)| name != "model.norm.weight"), "model.norm.weight is missing");
    check(
        &|tensors| tensors.push(("model.extra.weight".into(), vec![1], vec![0; 4])),
        "model.extra.weight belongs to no Llama",
    );
    check(
        &|tensors| {
            let i = norm(tensors);
            tensors[i].1 = vec![2, 4];
        },
        "model.norm.weight has shape [2, 4]",
    );
    check(
        &|tensors| {
            let i = norm(tensors);
            tensors[i].2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        "not finite",
    );
    for (key, value) in
        [("model_type", "\"mistral\""), ("rope_scaling", "{\"type\": \"linear\"}"), ("attention_bias", "true")]
    {
        let path = folder.join("config.json");
        let before = fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&before).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        fs::write(&path, config.to_string()).unwrap();
        let error = format!("{:#}", load_model(&folder).unwrap_err());
        assert!(error.contains(key), "{error}");
        fs::write(&path, before).unwrap();
    }
}
