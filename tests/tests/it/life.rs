//! A full small experiment through real processes.

use anyhow::Result;
use senmon_protocol::{
    checkpoint::{CheckpointKind, Manifest},
    ensemble::Ensemble,
    plan::PlanView,
    report::Report,
    view::{BranchRole, BranchState, CheckpointView, ExperimentView, MetricsView, Page, Stage, StageState},
};
use senmon_tests::{World, WorldOptions, process::Process, spec};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test]
async fn an_experiment_passes_through_every_stage() -> Result<()> {
    let world = World::start(WorldOptions::default()).await?;
    let submitted = world.submit(&spec::small()).await?;
    let done = world.completed(submitted.summary.id, LIMIT).await?;
    check_stages(&done);
    check_branches(&done);
    check_curves(&world, &done).await?;
    check_checkpoints(&world, &done).await?;
    check_lineages(&world, &done).await?;
    let report: Report = world.api.get(&format!("/api/v1/experiments/{}/report", done.summary.id)).await?;
    check_report(&done, &report);
    check_scoring(&world, &done, &report).await?;
    check_measured(&world).await?;

    // A second experiment with other settings, while the server runs; the clustering is the first one's.
    let mut second = spec::small();
    second.name = "second".into();
    second.controls.random_split = false;
    second.weight_average = false;
    second.plan.truncate(1);
    second.training.learning_rate = 0.001;
    let second = world.submit(&second).await?;
    let second = world.completed(second.summary.id, LIMIT).await?;
    assert_eq!(second.clustering_id, done.clustering_id);
    let merge = second.summary.stages.iter().find(|s| s.stage == Stage::Merge).expect("a merge stage");
    assert_eq!(merge.state, StageState::Skipped);
    Ok(())
}

#[tokio::test]
async fn a_plan_is_shown_before_anything_runs() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, ..WorldOptions::default() }).await?;
    let request = serde_json::json!({ "experiment": spec::small(), "slots": 2, "tokens_per_second": 10_000.0 });
    let plan: PlanView = world.api.post("/api/v1/plan", &request).await?;
    assert_eq!(plan.refused, vec![]);
    let tokens: u64 = plan.branches.iter().map(|b| b.tokens).sum();
    assert_eq!(plan.tokens, tokens);
    let experts: Vec<_> = plan.branches.iter().filter(|b| b.role == BranchRole::Expert).collect();
    assert_eq!(experts.len(), 3);
    assert!(plan.seconds.is_some_and(|seconds| seconds >= 40_960.0 / 10_000.0));
    let page: Page<senmon_protocol::view::ExperimentSummary> = world.api.get("/api/v1/experiments").await?;
    assert!(page.items.is_empty(), "a plan left an experiment behind");
    Ok(())
}

/// What was measured is what the next plan stands on, stage by stage.
async fn check_measured(world: &World) -> Result<()> {
    let request = serde_json::json!({ "experiment": spec::small(), "days": 1.0 });
    let plan = world
        .until(LIMIT, "what was measured is counted", async || {
            let plan: PlanView = world.api.post("/api/v1/plan", &request).await?;
            Ok(plan.throughput_source.starts_with("measured on this very model").then_some(plan))
        })
        .await?;
    for stage in [Stage::Shard, Stage::Seed, Stage::Branches, Stage::Evaluate] {
        let planned = plan.stages.iter().find(|planned| planned.stage == stage).expect("a stage of the plan");
        assert!(planned.seconds.is_some_and(f64::is_finite), "{planned:?}");
    }
    assert!(plan.fit.is_some_and(|fit| fit.is_met() && fit.slots == Some(1)), "a day is plenty");
    Ok(())
}

/// The experts score their own corpus by text; the two nearest of three read less than all would.
async fn check_scoring(world: &World, done: &ExperimentView, report: &Report) -> Result<()> {
    let ensemble: Ensemble = world.api.get(&format!("/api/v1/experiments/{}/ensemble", done.summary.id)).await?;
    assert_eq!(ensemble.experts.len(), 3);
    let (file, log) = (world.path("ensemble.json"), world.path("score.json"));
    fs::write(&file, serde_json::to_vec(&ensemble)?)?;
    let texts = fs::read_dir(world.path("corpus"))?.next().expect("a corpus file")?.path();
    let (file, texts) = (file.display().to_string(), texts.display().to_string());
    let args = ["score", &file, &texts, "--top-k", "2", "--slot", "cpu"].map(str::to_owned);
    let status = Process::start("senmon-worker", &args, &log)?.wait(LIMIT)?;
    let text = fs::read_to_string(&log)?;
    assert!(status.success(), "{text}");
    let scored: serde_json::Value = serde_json::from_str(&text)?;
    let share = scored["share_run"].as_f64().expect("a share");
    assert!(share > 0.6 && share < 0.95, "{share}");
    let best =
        report.contestants.iter().find(|c| c.key == "ensemble_top_2").and_then(|c| c.loss).expect("checked above");
    let ratio = scored["loss"].as_f64().expect("a loss") / best;
    assert!((0.7..1.3).contains(&ratio), "loss {} by text, {best} in the report", scored["loss"]);
    Ok(())
}

fn check_stages(done: &ExperimentView) {
    for stage in &done.summary.stages {
        assert_eq!(stage.state, StageState::Done, "{stage:?}");
    }
    assert_eq!(done.summary.tokens_done, done.summary.tokens_total);
    assert!(done.summary.ensemble_vs_dense_percent.is_some());
}

fn check_branches(done: &ExperimentView) {
    let mut roles = BTreeMap::new();
    for branch in &done.branches {
        assert_eq!(branch.state, BranchState::Completed, "{}", branch.name);
        assert!(branch.checkpoint_id.is_some(), "{} left no checkpoint", branch.name);
        *roles.entry(branch.role).or_insert(0) += 1;
    }
    let expected = [
        (BranchRole::Seed, 1),
        (BranchRole::Expert, 3),
        (BranchRole::Dense, 1),
        (BranchRole::Random, 3),
        (BranchRole::Chain, 2),
        (BranchRole::Average, 1),
    ];
    assert_eq!(roles, BTreeMap::from(expected));
}

async fn check_curves(world: &World, done: &ExperimentView) -> Result<()> {
    for branch in done.branches.iter().filter(|b| b.role != BranchRole::Average) {
        let metrics: MetricsView = world.api.get(&format!("/api/v1/branches/{}/metrics", branch.id)).await?;
        let expected: Vec<u64> = (1..=branch.steps).filter(|s| s % 5 == 0 || *s == branch.steps).collect();
        assert_eq!(metrics.steps, expected, "{}: one value a reported step", branch.name);
        let loss = &metrics.series["train/loss"].mean;
        assert!(loss.iter().all(Option::is_some), "{}: {loss:?}", branch.name);
        if branch.role == BranchRole::Seed {
            let [first, last] = [loss[0], loss[loss.len() - 1]].map(|l| l.expect("checked above"));
            assert!(last < first, "the seed's loss did not fall: {first} → {last}");
        }
    }
    Ok(())
}

/// Every committed folder is whole: sizes and hashes as its manifest says, and the manifest's hash as the row says.
async fn check_checkpoints(world: &World, done: &ExperimentView) -> Result<()> {
    let path = format!("/api/v1/checkpoints?experiment_id={}&limit=200", done.summary.id);
    let page: Page<CheckpointView> = world.api.get(&path).await?;
    assert!(page.items.len() >= done.branches.len());
    for checkpoint in &page.items {
        let folder = world.path("server/storage").join(checkpoint.folder.as_str());
        let text = fs::read(folder.join("manifest.json"))?;
        assert_eq!(hex(&text), checkpoint.manifest_sha256);
        let manifest: Manifest = serde_json::from_slice(&text)?;
        assert_eq!(manifest.meta, checkpoint.meta);
        for (name, entry) in &manifest.files {
            let bytes = fs::read(folder.join(name))?;
            assert_eq!((bytes.len() as u64, hex(&bytes)), (entry.bytes, entry.sha256.clone()), "{name}");
        }
        let needed: &[&str] = match checkpoint.kind {
            CheckpointKind::Resumable => &["config.json", "tokenizer.json", "model.safetensors", "trainer.json"],
            CheckpointKind::Weights => &["config.json", "tokenizer.json", "model.safetensors"],
        };
        for name in needed {
            assert!(Path::new(&folder).join(name).exists(), "{name} is missing in {}", checkpoint.folder);
        }
    }
    Ok(())
}

/// A branch reads on where its parent's last checkpoint stood; the random parts stand at most where dense does.
async fn check_lineages(world: &World, done: &ExperimentView) -> Result<()> {
    let mut ends = BTreeMap::new();
    for branch in &done.branches {
        let id = branch.checkpoint_id.expect("checked above");
        let end: CheckpointView = world.api.get(&format!("/api/v1/checkpoints/{id}")).await?;
        ends.insert(branch.name.as_str(), end.meta.lineage);
    }
    let sum = |name: &str| ends[name].drawn.iter().map(|draws| draws.windows).sum::<u64>();
    for branch in &done.branches {
        let parent = done.branches.iter().find(|b| Some(b.id) == branch.parent_id);
        let before = parent.map_or(0, |parent| sum(&parent.name));
        match branch.role {
            BranchRole::Average => assert_eq!(sum(&branch.name), sum("dense"), "the experts together"),
            BranchRole::Random => assert!((before..=sum("dense")).contains(&sum(&branch.name)), "{}", branch.name),
            _ => assert_eq!(sum(&branch.name), before + branch.steps * 8, "{}", branch.name),
        }
    }
    for (draws, seed) in ends["expert-1"].drawn.iter().zip(&ends["seed"].drawn) {
        assert_eq!(draws.windows > seed.windows, draws.domain == 1, "expert-1 reads its own domain alone");
    }
    Ok(())
}

fn check_report(done: &ExperimentView, report: &Report) {
    let keys: Vec<_> = report.contestants.iter().map(|c| c.key.as_str()).collect();
    let ensembles = ["ensemble", "ensemble_top_1", "ensemble_top_2", "ensemble_all"];
    assert_eq!(keys, [&["seed", "dense", "random_ensemble", "best_expert", "average"], &ensembles[..]].concat());
    let weights: f64 = report.domains.iter().map(|domain| domain.weight).sum();
    assert!((weights - 1.0).abs() < 1e-9, "{weights}");
    for contestant in &report.contestants {
        let key = &contestant.key;
        let loss = |domain: usize| contestant.domains[domain].loss.expect("every domain is scored");
        let (mut mean, mut mean_macro) = (0.0, 0.0);
        for domain in &report.domains {
            mean += domain.weight * loss(domain.index as usize);
            mean_macro += loss(domain.index as usize) / 3.0;
        }
        let near = |found: Option<f64>, expect: f64| found.is_some_and(|found| (found - expect).abs() < 1e-6);
        assert!(near(contestant.loss, mean) && near(contestant.loss_macro, mean_macro), "{contestant:?}");
        assert!(near(contestant.perplexity.map(f64::ln), mean), "{contestant:?}");
        let differences = [contestant.vs_dense, contestant.vs_dense_macro].into_iter().flatten().count();
        assert_eq!(differences, if key == "dense" { 0 } else { 2 }, "{contestant:?}");
        for found in [contestant.vs_dense, contestant.vs_dense_macro].into_iter().flatten() {
            assert!(found.nats_low <= found.nats && found.nats <= found.nats_high, "{key}: {found:?}");
        }
        let percent = contestant.vs_dense.map(|found| found.percent);
        assert!(percent.is_none_or(|percent| near(contestant.vs_dense_percent, percent)), "{contestant:?}");
        let cost = &contestant.cost;
        assert!(cost.parameters_active.is_some_and(|n| n > 0) && cost.cpu_slot_hours > 0.0 && cost.gpu_hours == 0.0);
        assert_eq!(cost.forward_passes, Some(contestant.top_k.unwrap_or(1)), "{key}");
    }
    let chosen: Vec<_> = report.surface.iter().filter(|row| row.chosen).collect();
    assert_eq!((report.surface.len(), chosen.len()), (9, 1), "three numbers of experts, three temperatures");
    let lowest = report.surface.iter().filter_map(|row| row.point.calibration).reduce(f64::min);
    assert_eq!(chosen[0].point.calibration, lowest);
    assert_eq!(report.contestants[5].top_k, Some(chosen[0].point.top_k));
    assert!(chosen[0].point.reported.zip(report.contestants[5].loss).is_some_and(|(a, b)| (a - b).abs() < 1e-9));
    assert_eq!(report.basis.resamples, 2000);
    assert!(report.headline.contains("95 % interval"), "{}", report.headline);
    // All were scored on the same tokens.
    let tokens = |c: &senmon_protocol::report::Contestant| c.domains.iter().map(|d| d.tokens).collect::<Vec<_>>();
    assert!(report.contestants.windows(2).all(|pair| tokens(&pair[0]) == tokens(&pair[1])));
    let scored = done.branches.len();
    assert_eq!(report.matrix.len(), scored, "every branch is a row of the matrix");
    assert!(report.matrix.iter().all(|row| row.domains.len() == 3));
    assert_eq!(report.domains.len(), 3);
    assert!(report.clustering.source_nmi.is_some());
    assert_eq!(report.chains.len(), 1);
    assert_eq!(report.chains[0].links.len(), 2);
    for cost in report.costs.iter().filter(|c| c.role != BranchRole::Average) {
        let fresh = cost.fresh_share.expect("every trained branch drew");
        assert!((0.0..=1.0).contains(&fresh) && (cost.role != BranchRole::Seed || fresh > 0.0), "{cost:?}");
    }
    assert!(
        report.costs.iter().filter(|c| c.role != BranchRole::Average).all(|c| c.tokens > 0 && c.wall_seconds > 0.0)
    );
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
