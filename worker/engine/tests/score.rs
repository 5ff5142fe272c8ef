//! New text through a set of experts: the same numbers as from caches, and only the experts with a weight run.
#![cfg(feature = "torch")]

mod support;

use senmon_engine::{
    score::{Manner, Scored, score},
    session,
};
use senmon_protocol::{
    ensemble::{CalibratedTemperature, Ensemble, Expert},
    ids::{ExperimentId, StorageKey},
    job::{CheckpointRef, TrainJob},
    spec::Precision,
};
use serde_json::json;
use std::{fs, path::Path};
use support::{Notes, job, place, store};

/// Two experts of the store, each trained on its domain.
fn ensemble(root: &Path) -> Ensemble {
    let expert = |domain: u32| {
        let mut job = serde_json::to_value(job(60, &json!({}))).unwrap();
        job["mixture"]["weights"] = json!([{ "domain": domain, "weight": 1.0 }]);
        job["output"] = json!(format!("checkpoints/{domain}"));
        let job: TrainJob = serde_json::from_value(job).unwrap();
        let notes = Notes::default();
        session::run(&job, &place(root, 1), &notes).unwrap();
        let written = notes.commits.lock().unwrap().last().cloned().unwrap();
        let checkpoint = CheckpointRef {
            id: written.id,
            folder: written.folder,
            manifest_sha256: written.manifest_sha256,
            step: written.meta.step,
        };
        Expert { branch: format!("expert-{domain}"), domain, prior: [1.0, 1e-9][domain as usize], checkpoint }
    };
    Ensemble {
        experiment_id: ExperimentId::new(),
        name: "test".into(),
        storage_url: String::new(),
        router: StorageKey::new("router").unwrap(),
        separator: senmon_corpus::tokenizer::SEPARATOR.into(),
        bos: None,
        sequence_length: 16,
        route_every_tokens: 8,
        temperatures: vec![CalibratedTemperature { top_k: 2, temperature: 0.1 }],
        chosen: None,
        experts: vec![expert(0), expert(1)],
    }
}

#[test]
fn only_experts_with_a_weight_run_and_the_numbers_stay() {
    tch::set_num_threads(1);
    let home = tempfile::tempdir().unwrap();
    let root = home.path();
    store(root);
    let ensemble = ensemble(root);
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../LICENSE")).unwrap();
    let texts: Vec<&str> = text.split("\n\n").filter(|part| part.len() > 100).take(12).collect();
    let run = |ensemble: &Ensemble, top_k: u32, temperature: Option<f64>| -> Scored {
        let manner = Manner { top_k, temperature, precision: Precision::Fp32 };
        score(ensemble, root, &texts, manner, "cpu", &Notes::default()).unwrap()
    };
    let all = run(&ensemble, 2, None);
    assert!((all.share_run - 1.0).abs() < 1e-9 && (all.temperature - 0.1).abs() < 1e-12, "{all:?}");
    assert_eq!(all.tokens, all.texts.iter().map(|text| text.tokens).sum::<u64>());

    // The nearest expert alone: fewer tokens read. Sharp routing (and a sharp prior) over both gives the same mixture, so
    // the same loss.
    let nearest = run(&ensemble, 1, Some(1e-7));
    assert!(nearest.share_run < 0.95, "{}", nearest.share_run);
    let sharp = run(&ensemble, 2, Some(1e-7));
    let (near, both) = (nearest.loss.unwrap(), sharp.loss.unwrap());
    assert!((near - both).abs() < 1e-5, "{near} and {both}");

    // One expert is that expert: as an ensemble of itself it reads everything once.
    let alone = Ensemble { experts: ensemble.experts[..1].to_vec(), ..ensemble.clone() };
    assert!((run(&alone, 1, Some(1.0)).share_run - 1.0).abs() < 1e-9);

    let refused = |ensemble: &Ensemble, top_k: u32, expect: &str| {
        let manner = Manner { top_k, temperature: None, precision: Precision::Fp32 };
        let error = score(ensemble, root, &texts, manner, "cpu", &Notes::default()).unwrap_err();
        assert!(format!("{error:#}").contains(expect), "{error:#}");
    };
    refused(&ensemble, 3, "the ensemble has 2 experts");
    refused(&ensemble, 1, "no calibrated temperature");
    let model = root.join(ensemble.experts[1].checkpoint.folder.as_str()).join("model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&model, bytes).unwrap();
    refused(&ensemble, 2, "expert-1");
}
