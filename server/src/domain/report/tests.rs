//! Reports of whole experiments, and of what is left when parts of them are missing or no numbers.

use super::*;
use chrono::DateTime;
use proptest::prelude::*;
use senmon_protocol::{
    clustering::ClusteringQuality,
    ids::{BranchId, CheckpointId, EvaluationId, ExperimentId, StorageKey},
    job::{AloneResult, Choice, Compared, EnsembleLine, Interval, ShardRange, ShardResult, SurfacePoint},
    report::{BranchCost, Contestant, HeldOutSummary, MatrixRow},
    view::BranchRole,
};

pub(super) fn scored(branch: &str, role: BranchRole, domain: Option<u32>, losses: &[Option<f64>]) -> Scored {
    let losses: Vec<DomainLoss> =
        losses.iter().zip(0..).map(|(&loss, domain)| DomainLoss { domain, documents: 2, tokens: 10, loss }).collect();
    Scored {
        row: MatrixRow {
            branch: branch.into(),
            branch_id: BranchId::new(),
            role,
            domain,
            repeat: branch.split_once('~').map_or(0, |(_, n)| n.parse::<u32>().unwrap() - 1),
            checkpoint_id: CheckpointId::new(),
            evaluation_id: EvaluationId::new(),
            domains: losses.clone(),
        },
        calibration: losses,
        parameters: Some(1000),
    }
}

fn index(held_out: &[u64]) -> ShardIndex {
    let ranges = held_out.iter().zip(0..).flat_map(|(&tokens, domain)| {
        let range =
            |split, tokens| ShardRange { domain, split, document_first: 0, documents: 4, token_first: 0, tokens };
        [range(Split::Train, 100), range(Split::HeldOut, tokens)]
    });
    let shard = ShardResult {
        folder: StorageKey::new("s").unwrap(),
        bin_sha256: String::new(),
        idx_sha256: String::new(),
        counts: Default::default(),
        ranges: ranges.collect(),
        held_out_sha256: None,
        range_sha256: Vec::new(),
    };
    ShardIndex {
        domains: u32::try_from(held_out.len()).unwrap(),
        vocab_size: 1,
        separator_id: 0,
        bos_id: None,
        shards: vec![shard],
    }
}

fn interval(nats: f64, half: f64) -> Compared {
    let found = Some(Interval { nats, nats_low: nats - half, nats_high: nats + half });
    Compared { by_share: found, alike: found, absent: None, absent_said: None }
}

fn line(top_k: u32, temperature: Option<f64>, losses: &[Option<f64>], vs_dense: Compared) -> EnsembleLine {
    let domains = scored("", BranchRole::Expert, None, losses).row.domains;
    EnsembleLine { top_k, temperature, domains, vs_dense }
}

/// Two domains with weights 0.75 and 0.25, two experts, all controls; the ensemble as chosen is top 1, though top 2
/// looks better on the reported half.
fn matrix(suffix: &str) -> Vec<Scored> {
    let named = |name: &str, role, domain, losses: [f64; 2]| {
        scored(&format!("{name}{suffix}"), role, domain, &losses.map(Some))
    };
    vec![
        named("expert-0", BranchRole::Expert, Some(0), [2.5, 4.0]),
        named("expert-1", BranchRole::Expert, Some(1), [4.0, 2.5]),
        named("dense", BranchRole::Dense, None, [3.0, 3.0]),
        named("random-0", BranchRole::Random, None, [3.1, 3.1]),
        named("average", BranchRole::Average, None, [3.2, 3.2]),
    ]
}

fn mixed(repeat: u32, suffix: &str, chosen: f64, half: f64) -> Mixed {
    let losses = |loss: f64| [Some(loss), Some(loss)];
    let alone = |name: &str, nats| AloneResult { branch: name.to_owned(), vs_dense: interval(nats, half) };
    let point = |top_k| SurfacePoint {
        top_k,
        temperature: 0.1,
        calibration: Some(2.0),
        calibration_macro: Some(2.0),
        reported: Some(2.0),
        reported_macro: Some(2.0),
    };
    Mixed {
        repeat,
        evaluation_id: EvaluationId::new(),
        result: EnsembleResult {
            lines: vec![
                line(1, Some(0.1), &losses(chosen), interval(chosen - 3.0, half)),
                line(2, Some(0.1), &losses(chosen - 0.5), interval(chosen - 3.5, half)),
            ],
            surface: vec![point(1), point(2)],
            chosen: Some(Choice { top_k: 1, temperature: 0.1 }),
            random: Some(line(1, None, &losses(3.1), interval(0.1, half))),
            alone: vec![alone("seed", 1.0), alone(&format!("average{suffix}"), 0.2)],
            best_expert: Some(alone(&format!("expert-0{suffix}"), -0.1)),
            resamples: 2000,
        },
    }
}

fn report_of(matrix: Vec<Scored>, ensembles: Vec<Mixed>, held_out: &[u64]) -> Report {
    let costs = matrix.iter().map(|scored| BranchCost {
        branch: scored.row.branch.clone(),
        branch_id: scored.row.branch_id,
        role: scored.row.role,
        tokens: 50,
        wall_seconds: 1800.0,
        gpu_hours: 0.0,
        cpu_slot_hours: 0.5,
        tokens_per_second: None,
        fresh_share: None,
        checkpoint_bytes: 0,
        checkpoint_id: None,
    });
    let report = assemble(Input {
        experiment_id: ExperimentId::new(),
        spec: &crate::domain::expand::tests::spec(),
        now: DateTime::UNIX_EPOCH,
        quality: ClusteringQuality::default(),
        domains: &[],
        index: &index(held_out),
        costs: costs.collect(),
        matrix,
        ensembles,
        missing: Vec::new(),
        held_out: HeldOutSummary::default(),
        goodput: None,
    });
    // What is no number cannot be stored and read again.
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    report
}

fn whole() -> (Vec<Scored>, Vec<Mixed>) {
    let seed = scored("seed", BranchRole::Seed, None, &[Some(4.0), Some(4.0)]);
    ([vec![seed], matrix("")].concat(), vec![mixed(0, "", 2.8, 0.1)])
}

fn find<'a>(report: &'a Report, key: &str) -> &'a Contestant {
    report.contestants.iter().find(|contestant| contestant.key == key).unwrap_or_else(|| panic!("no {key}"))
}

#[test]
fn the_headline_is_what_the_calibration_half_chose() {
    let (rows, ensembles) = whole();
    let report = report_of(rows, ensembles, &[30, 10]);
    let keys: Vec<&str> = report.contestants.iter().map(|contestant| contestant.key.as_str()).collect();
    let expected = ["seed", "dense", "random_ensemble", "best_expert", "average", "ensemble", "ensemble_top_1"];
    assert_eq!(keys, [&expected[..], &["ensemble_all"]].concat());
    // Top 2 looks better on the reported half, and is not what the sentence is about.
    assert!(find(&report, "ensemble_all").loss < find(&report, "ensemble").loss);
    assert!(report.headline.contains("(top 1) reaches perplexity 16.44"), "{}", report.headline);
    let percent = (-0.2_f64).exp_m1() * 100.0;
    assert!(ensemble_vs_dense_percent(&report).is_some_and(|found| (found - percent).abs() < 1e-9));
    assert_eq!(report.surface.iter().map(|row| row.chosen).collect::<Vec<_>>(), [true, false]);
    assert!(report.surface.iter().all(|row| row.best_of_top_k));
}

#[test]
fn both_weightings_stand_beside_each_other_for_every_contestant() {
    let (rows, ensembles) = whole();
    let report = report_of(rows, ensembles, &[30, 10]);
    let best = find(&report, "best_expert");
    assert_eq!((best.loss, best.loss_macro), (Some(0.75 * 2.5 + 0.25 * 4.0), Some(3.25)));
    for contestant in &report.contestants {
        assert!(contestant.loss.is_some() && contestant.loss_macro.is_some(), "{contestant:?}");
        assert_eq!((contestant.documents, contestant.tokens), (4, 20), "{}", contestant.key);
        let is_dense = contestant.key == "dense";
        assert_eq!(contestant.vs_dense.is_none() && contestant.vs_dense_macro.is_none(), is_dense);
        assert!(contestant.absent.is_empty() || contestant.absent[0].contains("hours per nat"), "{contestant:?}");
    }
}

#[test]
fn the_sentence_is_honest_both_ways_and_where_nothing_is_shown() {
    let check = |chosen: f64, half: f64, expect: &str| {
        let (rows, _) = whole();
        let report = report_of(rows, vec![mixed(0, "", chosen, half)], &[30, 10]);
        assert!(report.headline.contains(expect), "{expect:?} is not in {}", report.headline);
    };
    check(2.8, 0.1, "18.1 % better (95 % interval: 25.9 % better to 9.5 % better)");
    check(3.2, 0.1, "22.1 % worse (95 % interval: 10.5 % worse to 35.0 % worse)");
    check(
        2.98,
        0.1,
        "no difference that these documents can show (2.0 % better; 95 % interval: 11.3 % better to 8.3 % worse)",
    );
    check(2.8, 0.1, "With every domain alike: 18.1 % better");
}

#[test]
fn an_ensemble_of_k_costs_k_forward_passes_and_all_trainings() {
    let (rows, ensembles) = whole();
    let report = report_of(rows, ensembles, &[30, 10]);
    let cost = |key: &str| {
        let cost = find(&report, key).cost;
        (cost.parameters_active, cost.forward_passes, cost.training_tokens, cost.cpu_slot_hours)
    };
    assert_eq!(cost("dense"), (Some(1000), Some(1), 50, 0.5));
    assert_eq!(cost("best_expert"), (Some(1000), Some(1), 50, 0.5));
    assert_eq!(cost("ensemble"), (Some(1000), Some(1), 100, 1.0));
    assert_eq!(cost("ensemble_all"), (Some(2000), Some(2), 100, 1.0));
    assert_eq!(cost("average"), (Some(1000), Some(1), 150, 1.5));
    let per_nat = |key: &str| find(&report, key).cost.hours_per_nat;
    assert!(per_nat("dense").is_some_and(|hours| (hours - 0.5).abs() < 1e-9));
    assert!(per_nat("ensemble").is_some_and(|hours| (hours - 1.0 / 1.2).abs() < 1e-9));
    assert_eq!(per_nat("seed"), None);
}

#[test]
fn repeats_are_compared_each_with_its_own_dense() {
    let (mut rows, mut ensembles) = whole();
    let mut second = matrix("~2");
    second[2].row.domains.iter_mut().for_each(|domain| domain.loss = Some(2.9));
    rows.extend(second);
    ensembles.push(mixed(1, "~2", 2.6, 0.1));
    let report = report_of(rows, ensembles, &[30, 10]);
    assert_eq!(report.basis.repeats, 2);
    let ensemble = find(&report, "ensemble");
    let spread = ensemble.spread.expect("a spread");
    assert_eq!((ensemble.loss, spread.repeats, spread.loss_min, spread.loss_max), (Some(2.8), 2, 2.6, 2.8));
    let expected = [(2.6_f64 - 2.9).exp_m1() * 100.0, (2.8_f64 - 3.0).exp_m1() * 100.0];
    assert!(spread.vs_dense_percent_min.is_some_and(|found| (found - expected[0]).abs() < 1e-9), "{spread:?}");
    assert!(spread.vs_dense_percent_max.is_some_and(|found| (found - expected[1]).abs() < 1e-9), "{spread:?}");
    assert!(find(&report, "seed").spread.is_none(), "the seed is trained once");
    assert_eq!(report.contestants.iter().filter(|contestant| contestant.key == "dense").count(), 1);
    assert!(report.headline.contains("Over 2 trainings with other seeds"), "{}", report.headline);
}

#[test]
fn a_report_says_what_is_missing_and_why() {
    let check = |rows: Vec<Scored>, ensembles: Vec<Mixed>, held_out: &[u64], headline: &str, absent: (&str, &str)| {
        let report = report_of(rows, ensembles, held_out);
        assert!(report.headline.contains(headline), "{headline:?} is not in {}", report.headline);
        if !absent.0.is_empty() {
            let found = &find(&report, absent.0).absent;
            assert!(found.iter().any(|why| why.contains(absent.1)), "{:?} is not in {found:?}", absent.1);
        }
        report
    };
    // Without dense.
    let (mut rows, mut ensembles) = whole();
    rows.retain(|scored| scored.row.role != BranchRole::Dense);
    let no_dense = Compared { absent: Some("there is no dense model to compare with".into()), ..Compared::default() };
    for line in &mut ensembles[0].result.lines {
        line.vs_dense = no_dense.clone();
    }
    let report = check(rows, ensembles, &[30, 10], "there is no dense control", ("ensemble", "no dense model"));
    assert_eq!(ensemble_vs_dense_percent(&report), None);
    // Without the comparison: the single models have figures, and no intervals.
    let (rows, _) = whole();
    check(rows, vec![], &[30, 10], "No experts were compared", ("seed", "the comparison did not finish"));
    // A domain without documents is left out of the means, by name.
    let (mut rows, ensembles) = whole();
    for scored in &mut rows {
        scored.row.domains[1] = DomainLoss { domain: 1, documents: 0, tokens: 0, loss: None };
    }
    let report = check(rows, ensembles, &[30, 10], "perplexity", ("", ""));
    assert_eq!(find(&report, "dense").loss, Some(3.0));
    assert!(report.method.iter().any(|text| text.contains("left out: domain 1.")), "{:?}", report.method);
    // Nothing held out at all.
    let (mut rows, _) = whole();
    for scored in &mut rows {
        scored.row.domains = vec![];
        scored.calibration = vec![];
    }
    let report = check(rows, vec![], &[0, 0], "No experts", ("dense", "no held-out document was scored"));
    assert_eq!((report.basis.documents_reported, find(&report, "dense").perplexity), (0, None));
    // Losses that are no numbers.
    let (mut rows, mut ensembles) = whole();
    rows.iter_mut().filter(|scored| scored.row.role == BranchRole::Dense).for_each(|s| s.row.domains[0].loss = None);
    let why = "the loss on domain 0 is not finite";
    check(
        rows.clone(),
        ensembles.clone(),
        &[30, 10],
        &format!("the dense model has no figure: loss: {why}"),
        ("dense", why),
    );
    ensembles[0].result.chosen = None;
    ensembles[0].result.lines.iter_mut().for_each(|line| line.domains[1].loss = None);
    check(
        rows,
        ensembles,
        &[30, 10],
        "no ensemble of them has a finite loss",
        ("ensemble_top_1", "domain 1 is not finite"),
    );
    // Nothing at all.
    check(vec![], vec![], &[], "No experts were compared", ("", ""));
}

proptest! {
    /// Whatever is missing or no number: a report comes of it, it can be stored, and a figure is absent with a reason.
    #[test]
    fn any_rows_give_a_report(
        kept in prop::collection::vec(any::<bool>(), 6),
        losses in prop::collection::vec(prop_oneof![Just(None), Just(Some(1e308)), (0.0..20.0_f64).prop_map(Some)], 12),
        held_out in prop::collection::vec(0_u64..3, 2),
        with_mixed: bool,
    ) {
        let (mut rows, mut ensembles) = whole();
        for (scored, losses) in rows.iter_mut().zip(losses.chunks(2)) {
            scored.row.domains.iter_mut().zip(losses).for_each(|(domain, loss)| domain.loss = *loss);
        }
        for line in &mut ensembles[0].result.lines {
            line.domains.iter_mut().zip(&losses).for_each(|(domain, loss)| domain.loss = *loss);
        }
        let mut keep = kept.iter();
        rows.retain(|_| *keep.next().unwrap());
        let report = report_of(rows, if with_mixed { ensembles } else { vec![] }, &held_out);
        for contestant in &report.contestants {
            let figures = [contestant.loss, contestant.perplexity, contestant.loss_macro, contestant.perplexity_macro];
            prop_assert!(figures.iter().flatten().all(|figure| figure.is_finite()));
            prop_assert!(figures.iter().all(Option::is_some) || !contestant.absent.is_empty());
        }
    }
}
