//! The engine's promises: the same numbers as always, and no damaged checkpoint is ever loaded.
#![cfg(feature = "torch")]

use proptest::{prelude::*, sample::Index};
use safetensors::{Dtype, tensor::TensorView};
use senmon_corpus::manifest::verify;
use senmon_engine::{
    checkpoint::{Snapshot, TrainerState, digest, from_host, load_trainer, save},
    health::HealthState,
    hub::load_model,
    model::place_weights,
    parameters::Layout,
    selftest::{self, Finding, STORED_LOSSES, tiny, tiny_model},
    trainer::Trainer,
};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::{BranchId, CheckpointId, ExperimentId, Fence},
    model::ModelSpec,
};
use std::{fs, path::Path, sync::LazyLock};
use tch::{Device, Kind};

type NamedBytes = Vec<(String, Vec<usize>, Vec<u8>)>;

/// Fused and autograd, fp32 and bf16: the doctor's self-test is well here.
#[test]
fn the_loss_of_a_tiny_model_is_what_it_always_was() {
    tch::set_num_threads(1);
    let (_, losses) = tiny(STORED_LOSSES.len(), Device::Cpu, Kind::Float, true);
    for (found, stored) in losses.iter().zip(STORED_LOSSES) {
        assert!((found / stored - 1.0).abs() < 1e-5, "{losses:?}, stored {STORED_LOSSES:?}");
    }
    let findings = selftest::run(Device::Cpu, false);
    assert!(findings.len() == 6 && findings.iter().all(Finding::is_well), "{findings:?}");
}

fn write(folder: &Path) -> String {
    tch::set_num_threads(1);
    let (trainer, _) = tiny(2, Device::Cpu, Kind::Float, true);
    let state = TrainerState {
        step: 2,
        tokens: 32,
        optimizer_steps: 2,
        next_batch_hash: Some(5),
        state_sha256: String::new(),
        health: HealthState::default(),
    };
    let Trainer { weights, optimizer, export, .. } = trainer;
    let snapshot = Snapshot { spec: tiny_model(), weights, moments: Some(optimizer.into_moments()), state, export };
    let mut meta = CheckpointMeta {
        kind: CheckpointKind::Resumable,
        experiment_id: ExperimentId::new(),
        branch_id: BranchId::new(),
        fence: Fence(1),
        step: 2,
        tokens: 32,
        lineage: Default::default(),
        parent_id: None,
        bytes: 0,
        loss: Some(2.0),
        config_sha256: String::new(),
        state_sha256: String::new(),
    };
    let tokenizer = folder.with_extension("tokenizer");
    fs::write(&tokenizer, r#"{"added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": true}]}"#).unwrap();
    save(folder, &snapshot, &tokenizer, CheckpointId::new(), &mut meta).unwrap().manifest_sha256
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
    assert_eq!(found, ModelSpec { head_dim: Some(4), ..tiny_model() });
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

proptest! {
    /// A header that lies about lengths, offsets, shapes or names is refused with the file's or a tensor's name.
    #[test]
    fn a_lying_safetensors_header_is_refused_or_harmless(
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<Index>()),
    ) {
        static FOLDER: LazyLock<(tempfile::TempDir, Vec<u8>)> = LazyLock::new(|| {
            let base = tempfile::tempdir().unwrap();
            write(&base.path().join("c"));
            let bytes = fs::read(base.path().join("c/model.safetensors")).unwrap();
            (base, bytes)
        });
        let header = 8 + usize::try_from(u64::from_le_bytes(FOLDER.1[..8].try_into().unwrap())).unwrap();
        let mut bytes = FOLDER.1.clone();
        for (at, byte) in damage {
            bytes[at.index(header)] = byte;
        }
        if let Some(at) = cut {
            bytes.truncate(at.index(bytes.len()));
        }
        let folder = FOLDER.0.path().join("c");
        fs::write(folder.join("model.safetensors"), bytes).unwrap();
        if let Err(error) = load_model(&folder) {
            let error = format!("{error:#}");
            prop_assert!(error.contains("model."), "{error}");
        }
    }
}
