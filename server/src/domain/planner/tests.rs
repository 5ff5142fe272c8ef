//! Plans: what they count, what they refuse, what they say.

use super::*;
use crate::domain::{
    expand::tests::spec,
    known::{KnownCorpus, Room},
};
use senmon_protocol::{job::JobKind, view::Stage};

#[test]
fn twenty_h100s_in_a_month_give_a_10b_model_about_340_billion_tokens() {
    let mut experiment = spec();
    experiment.model = serde_json::from_value(serde_json::json!({
        "vocab_size": 100_000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 42,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096
    }))
    .unwrap();
    experiment.data.sequence_length = 4096;
    let request = PlanRequest {
        experiment,
        slots: Some(20),
        peak_flops: Some(989e12),
        utilisation: Some(0.4),
        tokens_per_second: None,
        days: Some(30.0),
    };
    let plan = plan(&request, &Known::default(), &Fleet::default());
    assert!((9.5e9..10.5e9).contains(&(plan.parameters as f64)), "{}", plan.parameters);
    // 6N alone would give 342 billion; attention at 4,096 tokens takes its share.
    let tokens = plan.tokens_in_days.unwrap() as f64;
    assert!((290e9..345e9).contains(&tokens), "{tokens:e}");
}

/// Nothing is scored: what is counted is training.
fn trained_alone() -> ExperimentSpec {
    let mut spec = spec();
    spec.evaluation.documents_per_domain = 0;
    spec
}

#[test]
fn wall_time_follows_slots_and_parents() {
    let check = |slots, expect: f64| {
        let request = PlanRequest {
            experiment: trained_alone(),
            slots: Some(slots),
            peak_flops: None,
            utilisation: None,
            tokens_per_second: Some(64.0),
            days: None,
        };
        let found = plan(&request, &Known::default(), &Fleet::default()).seconds.unwrap();
        assert!((found - expect).abs() < 1.0, "{slots} slots: {found}, expected {expect}");
    };
    // Seed 100 s, then experts, dense and random parts of 30 s each set, a chain of 2 x 10 s.
    check(1, 100.0 + 30.0 * 3.0 + 20.0);
    check(100, 100.0 + 30.0);
}

#[test]
fn a_plan_for_accelerators_to_come_warns_of_what_a_submission_refuses() {
    let mut experiment = spec();
    experiment.training.slots = 4;
    experiment.resources.device = Some(DeviceKind::Cuda);
    let plan = |slots| {
        let request = PlanRequest {
            experiment: experiment.clone(),
            slots,
            peak_flops: None,
            utilisation: None,
            tokens_per_second: None,
            days: None,
        };
        plan(&request, &Known::default(), &Fleet::default())
    };
    let says = |faults: &[Fault]| faults.iter().any(|fault| fault.message.contains("no engine here trains"));
    let (asked, imagined) = (plan(None), plan(Some(20)));
    assert!(says(&asked.refused) && !says(&asked.warnings), "{asked:?}");
    assert!(says(&imagined.warnings) && !says(&imagined.refused), "{imagined:?}");
}

#[test]
fn a_plan_counts_what_stays_and_stops_at_the_budget() {
    let mut experiment = spec();
    experiment.training.checkpoint_every_steps = Some(1);
    let request = |keep_latest| {
        let mut experiment = experiment.clone();
        experiment.retention.keep_latest = keep_latest;
        PlanRequest {
            experiment,
            slots: None,
            peak_flops: None,
            utilisation: None,
            tokens_per_second: None,
            days: None,
        }
    };
    let bytes = |keep_latest| plan(&request(keep_latest), &Known::default(), &Fleet::default()).checkpoint_bytes;
    assert!(bytes(2) < bytes(3) && bytes(3) < bytes(5), "{} {} {}", bytes(2), bytes(3), bytes(5));
    let corpus = KnownCorpus { ready: true, documents: 1000, text_bytes: 1 << 30, files: 4 };
    let budget = |budget: u64| {
        let room = Room { budget: Bytes(budget), used: Bytes(1000), growth: Bytes(500) };
        plan(&request(2), &Known { corpus: Some(corpus), room: Some(room), ..Known::default() }, &Fleet::default())
    };
    let tight = budget(bytes(2) + 1499);
    assert!(tight.refused.iter().any(|f| f.path == "retention" && f.message.contains("leaves")), "{:?}", tight.refused);
    let nearly = budget(bytes(2) + 1500);
    assert!(nearly.refused.is_empty() && nearly.warnings.iter().any(|f| f.path == "retention"), "{:?}", nearly.refused);
}

fn asked(experiment: ExperimentSpec) -> PlanRequest {
    PlanRequest { experiment, slots: None, peak_flops: None, utilisation: None, tokens_per_second: None, days: None }
}

#[test]
fn no_corpus_is_needed_and_nothing_is_refused_for_it() {
    let known = Known { corpora: vec!["other".into()], ..Known::default() };
    let found = plan(&asked(spec()), &known, &Fleet::default());
    assert!(found.refused.is_empty(), "{:?}", found.refused);
    assert!(found.warnings.iter().any(|fault| fault.path == "corpus"), "{:?}", found.warnings);
}

#[test]
fn what_was_measured_on_this_very_model_is_what_is_said() {
    let shape = shape(&spec(), &Known::default()).unwrap();
    let rate = |kind, key: String, units: f64| Rate {
        kind,
        shape: key,
        device: "Xeon".into(),
        slots: 1,
        parameters: shape.parameters(),
        flops: shape.flops(),
        precision: shape.precision.word().into(),
        units,
        seconds: 1.0,
        jobs: 1.0,
        overhead_seconds: 2.0,
    };
    let rates = vec![
        rate(JobKind::Train, shape.key(), 64.0),
        rate(JobKind::Evaluate, shape.key(), 1e9),
        rate(JobKind::Shard, String::new(), 1e9),
    ];
    let fleet = Fleet { slots: Slots { cpu: 100, cuda: 0 }, devices: vec![("Xeon".into(), 100)], rates };
    let found = plan(&asked(trained_alone()), &Known::default(), &fleet);
    assert!(found.throughput_source.starts_with("measured on this very model in 64 tokens, on Xeon"), "{found:?}");
    // As in `wall_time_follows_slots_and_parents`, and two seconds beside each of two trainings in a row.
    assert!((found.seconds.unwrap() - 134.0).abs() < 1.0, "{:?}", found.seconds);
    let of = |stage| found.stages.iter().find(|planned| planned.stage == stage).unwrap().seconds;
    assert_eq!(of(Stage::Discover), None, "never measured");
    assert!((of(Stage::Seed).unwrap() - 102.0).abs() < 0.1 && (of(Stage::Branches).unwrap() - 32.0).abs() < 0.1);
}
