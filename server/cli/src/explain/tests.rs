//! Tests of [`super`]: what is explained is what the types and the reference say.

use super::*;
use std::collections::BTreeSet;

const REFERENCE: &str = include_str!("../../../../docs/reference/experiment-file.md");

fn all() -> Vec<Entry> {
    entries(&Schemas::of_experiment_file())
}

fn check(text: &str, path: &str, kind: &str, default: &str, about: &str) {
    let all = all();
    let (entry, _) = find(&all, text).unwrap();
    assert_eq!((entry.path.as_str(), entry.kind.as_str(), entry.default.as_str()), (path, kind, default), "{text}");
    assert!(entry.about.contains(about), "{text}: {}", entry.about);
}

#[test]
fn a_key_has_a_type_a_default_and_a_meaning() {
    check("training.learning_rate", "training.learning_rate", "number", "must be given", "Peak");
    check("learning_rate", "training.learning_rate", "number", "must be given", "Peak");
    check("priority", "priority", "integer", "50", "higher first");
    check("training.schedule", "training.schedule", "linear, cosine, warmup_stable_decay, constant", "cosine", "Shape");
    check("plan[0].replay", "plan.chain.replay", "number", "0.0", "domains before it");
    check("plan.chain.replay", "plan.chain.replay", "number", "0.0", "domains before it");
    check("plan.fan_out.training.learning_rate", "plan.fan_out.training.learning_rate", "number", "none", "Peak");
    check("tokenizer.file.separator", "tokenizer.file.separator", "text", "<|endoftext|>", "between documents");
    check("seed.tokens", "seed.train.tokens", "tokens: 6500000, 6.5M", "must be given", "budget");
    check("deadline", "deadline", "time, as 2027-01-31T08:00:00Z", "none", "done");
    check("evaluation.top_k", "evaluation.top_k", "list of integer", "[1,2,4,4096]", "Numbers of experts");
    check("controls.dense", "controls.dense", "true or false", "true", "whole mixture");
    check("resources.labels", "resources.labels", "names with text", "empty", "Labels");
    check("training.loss_spikes.window", "training.loss_spikes.window", "integer", "128", "compared with");
    check("plan.chain", "plan.chain", "keys, see below", "none", "domain to domain");
    check("model", "model", "keys, see below", "none", "Shape of the model");
}

#[test]
fn a_key_that_is_none_is_refused_with_those_like_it() {
    let all = all();
    let why = find(&all, "training.learnig_rate").unwrap_err();
    assert!(why.contains("did you mean training.learning_rate"), "{why}");
    assert!(find(&all, "zzz").unwrap_err().contains("--recursive"));
}

#[test]
fn every_key_is_explained_and_every_default_is_read() {
    for entry in all().into_iter().filter(Entry::is_key) {
        assert!(!entry.about.is_empty(), "{} is not explained", entry.path);
        assert_ne!(entry.kind, "any", "{}", entry.path);
        let schemas = Schemas::of_experiment_file();
        let least = sample(&schemas, schemas.root(), &entry.route);
        assert!(serde_json::from_value::<ExperimentSpec>(least.clone()).is_ok(), "{}: {least}", entry.path);
    }
}

#[test]
fn the_reference_has_the_same_keys() {
    let keys = |line: &'static str| line.strip_prefix("| `").and_then(|rest| rest.split('`').next());
    let tables = REFERENCE.split("| key | type |").skip(1).map(|part| part.split("\n\n").next().unwrap_or_default());
    let theirs: BTreeSet<&str> = tables.flat_map(str::lines).filter_map(keys).collect();
    let all = all();
    let ours: BTreeSet<&str> =
        all.iter().filter(|entry| entry.is_key()).filter_map(|entry| entry.path.rsplit('.').next()).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn the_reference_has_the_same_defaults() {
    let all = all();
    let mut section = "";
    let mut compared = 0;
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading;
        }
        // Sections of plain objects are paths; the others are told by their kind.
        let path = if section == "The top level" { "" } else { section };
        let cells: Vec<&str> = line.split(" | ").collect();
        let [key, _, default, _] = cells[..] else { continue };
        let Some(key) = key.strip_prefix("| `").and_then(|rest| rest.strip_suffix('`')) else { continue };
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let Some(entry) = all.iter().find(|entry| entry.path == path) else { continue };
        let plain = |text: &str| text.replace(['`', ' '], "").trim_matches('"').to_owned();
        let number = |text: &str| text.parse::<f64>().ok();
        let (ours, theirs) = (plain(&entry.default), plain(default));
        assert!(
            ours == theirs || number(&ours).is_some() && number(&ours) == number(&theirs),
            "{path}: {ours}, {theirs}"
        );
        compared += 1;
    }
    assert!(compared > 60, "{compared}");
}
