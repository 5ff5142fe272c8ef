//! The engine's promises: the same numbers as always, and no damaged checkpoint is ever loaded.
#![cfg(feature = "torch")]

use safetensors::{Dtype, tensor::TensorView};
use senmon_corpus::manifest::verify;
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::{BranchId, CheckpointId, ExperimentId, Fence},
    model::ModelSpec,
    spec::TrainingSpec,
};
use senmon_worker::train::{
    checkpoint::{Snapshot, TrainerState, digest, from_host, load_trainer, save},
    health::HealthState,
    hub::load_model,
    model::{initial_weights, place_weights},
    parameters::Layout,
    trainer::{Shape, Trainer},
};
use std::{fs, path::Path};
use tch::{Device, Kind};

type NamedBytes = Vec<(String, Vec<usize>, Vec<u8>)>;

fn spec() -> ModelSpec {
    serde_json::from_value(serde_json::json!({
        "vocab_size": 17, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 8
    }))
    .unwrap()
}

fn trained(steps: usize) -> (Trainer, Vec<f64>) {
    tch::set_num_threads(1);
    let training: TrainingSpec =
        serde_json::from_value(serde_json::json!({ "batch_windows": 2, "learning_rate": 0.02 })).unwrap();
    let shape = Shape { windows: 2, micro: 2, length: 8 };
    let mut trainer = Trainer::new(spec(), &initial_weights(&spec(), 7), Device::Cpu, Kind::Float, shape);
    let batch: Vec<i64> = (0..18).map(|i| i * 5 % 17).collect();
    let losses = (0..steps)
        .map(|_| {
            let (loss, norm) = trainer.forward_backward(&batch, None);
            trainer.step(&training, 0.02, (1.0 / (norm + 1e-6)).min(1.0));
            loss
        })
        .collect();
    (trainer, losses)
}

/// The numbers of the day this test was written; any change of model, optimiser or initial weights moves them.
#[test]
fn the_loss_of_a_tiny_model_is_what_it_always_was() {
    let (_, losses) = trained(6);
    let golden: [f64; 6] = GOLDEN;
    for (found, expect) in losses.iter().zip(golden) {
        assert!((found / expect - 1.0).abs() < 1e-5, "{losses:?}, expected {golden:?}");
    }
}

const GOLDEN: [f64; 6] = [2.823_997_5, 2.667_332_65, 2.563_294_89, 2.422_447_68, 2.292_986_63, 2.164_033_89];

fn write(folder: &Path) -> String {
    let (trainer, _) = trained(2);
    let state = TrainerState {
        step: 2,
        tokens: 32,
        optimizer_steps: 2,
        next_batch_hash: Some(5),
        state_sha256: String::new(),
        health: HealthState::default(),
    };
    let Trainer { weights, optimizer, .. } = trainer;
    let snapshot = Snapshot { spec: spec(), weights, moments: Some((optimizer.first, optimizer.second)), state };
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
        state_sha256: String::new(),
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
    let layout = Layout::new(&found);
    let ((first, second), state) = load_trainer(&folder, &layout).unwrap();
    let place = |set| place_weights(&layout, &from_host(set), Device::Cpu);
    assert_eq!(found, ModelSpec { head_dim: Some(4), ..spec() });
    let state_sha256 = digest(&layout, &place(&weights), Some((&place(&first), &place(&second))), 2);
    assert_eq!((&state_sha256, &state.state_sha256), (&manifest.meta.state_sha256, &manifest.meta.state_sha256));
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
        let error = format!("{:#}", load_model(&folder).map(drop).unwrap_err());
        assert!(error.contains(expect), "{error}");
        fs::write(&path, before).unwrap();
    };
    let norm = |tensors: &NamedBytes| tensors.iter().position(|(name, ..)| name == "model.norm.weight").unwrap();
    check(&|tensors| tensors.retain(|(name, ..)| name != "model.norm.weight"), "model.norm.weight is missing");
    check(
        &|tensors| tensors.push(("model.extra.weight".into(), vec![1], vec![0; 4])),
        "model.extra.weight belongs to no model",
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
        [("model_type", "\"mixtral\""), ("rope_scaling", "{\"type\": \"yarn\"}"), ("attention_bias", "true")]
    {
        let path = folder.join("config.json");
        let before = fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&before).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        fs::write(&path, config.to_string()).unwrap();
        let error = format!("{:#}", load_model(&folder).map(drop).unwrap_err());
        assert!(error.contains(key), "{error}");
        fs::write(&path, before).unwrap();
    }
}
