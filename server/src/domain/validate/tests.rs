//! What a file is refused for, and where.

use super::*;
use crate::domain::{expand::tests::spec, known::KnownCorpus, planner};
use chrono::DateTime;
use proptest::prelude::*;
use senmon_protocol::{model::ModelSpec, said::Said};
use serde_json::{Value, json};

fn known() -> Known {
    Known {
        corpus: Some(KnownCorpus { ready: true, documents: 500, text_bytes: 4_000_000, files: 4 }),
        corpora: vec!["c".into()],
        seed: None,
        tokenizer: None,
        mismatch: None,
        room: None,
        fleet: vec![],
        now: None,
    }
}

fn check(pointer: &str, value: Value, path: &str) {
    let mut file = serde_json::to_value(spec()).unwrap();
    *file.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    let faults = validate(&serde_json::from_value(file).unwrap(), &known());
    assert!(faults.iter().any(|fault| fault.path == path), "{pointer}: {faults:?}");
}

#[test]
fn a_good_file_has_no_fault() {
    assert_eq!(validate(&spec(), &known()), []);
}

#[test]
fn each_fault_is_named_with_its_path() {
    check("/clustering/domains", json!(501), "clustering.domains");
    check("/clustering/domains", json!(0), "clustering.domains");
    check("/plan/1/order/domains", json!([0, 3]), "plan[1].order.domains");
    check("/plan/1/order/domains", json!([0, 0]), "plan[1].order.domains");
    check("/plan/1/replay", json!(0.95), "plan[1].replay");
    check("/plan/0/tokens", json!("900B"), "plan[0].tokens");
    check("/seed/tokens", json!("900B"), "seed.tokens");
    check("/model/vocab_size", json!(299), "model.vocab_size");
    check("/model/num_attention_heads", json!(3), "model.num_attention_heads");
    check("/data/sequence_length", json!(17), "data.sequence_length");
    check("/data/sequence_length", json!(1), "data.sequence_length");
    check("/training/micro_batch_windows", json!(3), "training.micro_batch_windows");
    check("/evaluation/top_k", json!([0]), "evaluation.top_k");
    check("/tokenizer/vocab_size", json!(100), "tokenizer.vocab_size");
    check("/resources", json!({ "memory_gib": -1 }), "resources.memory_gib");
    check("/budget", json!({ "slot_hours": 0 }), "budget.slot_hours");
    check("/plan/0/tokens", json!(u64::MAX), "plan[0].tokens");
    check("/plan/1/tokens_per_domain", json!(u64::MAX), "plan[1].tokens_per_domain");
    check("/seed/tokens", json!(u64::MAX), "seed.tokens");
    check("/retention", json!({ "keep_every_tokens": u64::MAX }), "retention.keep_every_tokens");
    check("/evaluation/documents_per_domain", json!(u32::MAX), "evaluation.documents_per_domain");
    check("/max_restarts", json!(u32::MAX), "max_restarts");
    check("/model/hidden_size", json!(u32::MAX), "model.hidden_size");
    check("/model/rms_norm_eps", json!(0), "model.rms_norm_eps");
    let nobody = Known { corpus: None, ..known() };
    let now = DateTime::from_timestamp(1_000, 0);
    let late = ExperimentSpec { deadline: DateTime::from_timestamp(999, 0), ..spec() };
    assert_eq!(validate(&late, &Known { now, ..known() })[0].path, "deadline");
    assert!(validate(&spec(), &nobody)[0].message.contains("registered corpus (c)"));
}

#[test]
fn two_branches_of_one_name_are_refused_with_the_place() {
    let tree = |name: &str| json!({ "kind": "tree", "branches": [{ "name": name, "parent": "seed", "mixture": { "0": 1.0 }, "tokens": 640 }] });
    let chain = |name: &str| json!({ "kind": "chain", "name": name, "order": { "kind": "given", "domains": [2, 0] }, "tokens_per_domain": 640 });
    let check = |groups: &[Value], expect: Option<&str>| {
        let mut file = serde_json::to_value(spec()).unwrap();
        file["plan"].as_array_mut().unwrap().extend_from_slice(groups);
        let faults = validate(&serde_json::from_value(file).unwrap(), &known());
        assert_eq!(faults.first().map(|fault| fault.path.as_str()), expect, "{faults:?}");
    };
    check(&[tree("t"), chain("c")], None);
    check(&[tree("expert-0")], Some("plan[2].branches[0].name"));
    check(&[tree("random-2")], Some("plan[2].branches[0].name"));
    check(&[tree("ensemble")], Some("plan[2].branches[0].name"));
    check(&[chain("expert")], Some("plan[2].name"));
    check(&[chain("chain")], Some("plan[2].name"));
    check(&[tree("c-0"), chain("c")], Some("plan[3].name"));
    check(&[chain("c"), tree("c-1")], Some("plan[3].branches[0].name"));
}

fn existing_seed(known: &Known) -> Vec<Fault> {
    let mut file = serde_json::to_value(spec()).unwrap();
    file.as_object_mut().unwrap().remove("model");
    file["seed"] = json!({ "kind": "checkpoint", "path": "seed" });
    file["tokenizer"] = json!({ "kind": "file", "path": "seed/tokenizer.json" });
    validate(&serde_json::from_value(file).unwrap(), known)
}

#[test]
fn a_seed_and_a_tokenizer_that_cannot_be_used_are_said_together_with_the_place() {
    let model = || spec().model.map(|model| ModelSpec { vocab_size: Some(300), ..model }).ok_or_else(Said::default);
    let good = Known { seed: Some(model()), tokenizer: Some(Ok(300)), ..known() };
    assert_eq!(existing_seed(&good), []);
    let check = |known: Known, expect: &[&str]| {
        let found = existing_seed(&known);
        assert_eq!(found.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), expect, "{found:?}");
    };
    check(Known { seed: Some(Err(Said::verbatim("cut short"))), ..good.clone() }, &["seed.path"]);
    check(Known { mismatch: Some(Said::verbatim("other tokens")), ..good.clone() }, &["tokenizer.path"]);
    check(Known { tokenizer: Some(Ok(301)), ..good.clone() }, &["seed.path.vocab_size"]);
    let separator = Fault::said("tokenizer.separator", Said::verbatim("none"));
    check(
        Known { tokenizer: Some(Err(separator)), seed: Some(Err(Said::verbatim("gone"))), ..good },
        &["tokenizer.separator", "seed.path"],
    );
    let trained = ExperimentSpec {
        model: None,
        seed: serde_json::from_value(json!({ "kind": "checkpoint", "path": "seed" })).unwrap(),
        ..spec()
    };
    let found = validate(&trained, &Known { seed: Some(model()), ..known() });
    assert!(found[0].path == "tokenizer.kind" && found[0].message.contains("seed/tokenizer.json"), "{found:?}");
}

#[test]
fn a_number_that_no_database_keeps_is_refused_with_its_place() {
    let check = |change: fn(&mut ExperimentSpec, f64), path: &str| {
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let mut spec = spec();
            change(&mut spec, value);
            let faults = validate(&spec, &known());
            assert!(faults.iter().any(|fault| fault.path == path), "{path} {value}: {faults:?}");
        }
    };
    check(|spec, value| spec.model.as_mut().unwrap().rope_theta = value, "model.rope_theta");
    check(|spec, value| spec.model.as_mut().unwrap().initializer_range = value, "model.initializer_range");
    check(|spec, value| spec.model.as_mut().unwrap().rms_norm_eps = value, "model.rms_norm_eps");
    check(|spec, value| spec.training.learning_rate = value, "training.learning_rate");
    check(|spec, value| spec.data.epochs_max = value, "data.epochs_max");
    check(|spec, value| spec.data.held_out_fraction = value, "data.held_out_fraction");
    check(|spec, value| spec.evaluation.temperatures = vec![value], "evaluation.temperatures");
    check(|spec, value| spec.resources.memory_gib = Some(value), "resources.memory_gib");
    check(|spec, value| spec.budget.wall_hours = Some(value), "budget.wall_hours");
}

/// Paths of all numbers in a file, defaults included.
fn places(value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Number(_) => vec![path.to_owned()],
        Value::Object(map) => map.iter().flat_map(|(key, value)| places(value, &format!("{path}/{key}"))).collect(),
        Value::Array(all) => {
            all.iter().enumerate().flat_map(|(i, value)| places(value, &format!("{path}/{i}"))).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn no_number_at_the_edge_of_its_type_wraps_or_panics() {
    let mut whole = spec();
    whole.training.checkpoint_every_tokens = Some(senmon_protocol::tokens::Tokens(100));
    whole.retention.keep_every_tokens = Some(senmon_protocol::tokens::Tokens(100));
    whole.plan.push(
        serde_json::from_value(json!({
            "kind": "tree", "branches": [{ "name": "t", "parent": "seed", "mixture": { "0": 1.0 }, "tokens": 640 }]
        }))
        .unwrap(),
    );
    // Thousands of domains squared are slow, and nothing else.
    whole.controls.random_split = false;
    let file = serde_json::to_value(&whole).unwrap();
    let places = places(&file, "");
    assert!(places.len() > 40, "{places:?}");
    let edges = [
        json!(0),
        json!(u64::MAX),
        json!(u64::MAX - 1),
        json!(i64::MAX),
        json!(u32::MAX),
        json!(65_535),
        json!(f64::MAX),
        json!(-1.0),
    ];
    for place in &places {
        for edge in &edges {
            let mut file = file.clone();
            *file.pointer_mut(place).unwrap() = edge.clone();
            let Ok(spec) = serde_json::from_value::<ExperimentSpec>(file) else { continue };
            let faults = validate(&spec, &known());
            let request = senmon_protocol::plan::PlanRequest {
                experiment: spec,
                slots: None,
                peak_flops: None,
                utilisation: None,
                tokens_per_second: Some(1000.0),
                days: None,
            };
            let plan = planner::plan(&request, &known(), &planner::Fleet::default());
            let times = plan.branches.iter().map(|line| line.seconds).chain([plan.seconds]);
            assert!(times.flatten().all(f64::is_finite), "{place}: {edge} takes for ever");
            if place.ends_with("tokens") || place.ends_with("tokens_per_domain") {
                let large = edge.as_u64().is_some_and(|count| count > 1 << 40);
                assert!(!large || !faults.is_empty(), "{place}: {edge} is accepted");
                assert!(
                    !large || place.contains("every") || plan.tokens == 0 || plan.tokens > 1 << 40,
                    "{place}: {edge} wraps to {}",
                    plan.tokens
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn no_number_makes_it_panic(
        domains: u32, length in prop_oneof![0_u32..3, any::<u32>()], batch: u32, tokens: u64, rate: f64, heads in 0_u32..9,
        foreign: bool,
    ) {
        let mut spec = spec();
        if foreign {
            // Nothing is known of its model here.
            spec.seed = serde_json::from_value(json!({ "kind": "checkpoint", "path": "x" })).unwrap();
            spec.model = None;
        }
        spec.clustering.domains = domains % 5000;
        spec.data.sequence_length = length;
        spec.training.batch_windows = batch;
        spec.training.learning_rate = rate;
        if let Some(model) = &mut spec.model {
            model.num_attention_heads = heads;
        }
        if let BranchGroup::FanOut(fan_out) = &mut spec.plan[0] {
            fan_out.tokens.0 = tokens;
        }
        let _ = validate(&spec, &known());
    }
}
