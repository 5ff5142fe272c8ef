//! A comparison from cached scores: whole, stopped in its midst, with scores that are no numbers, with models missing.
#![cfg(feature = "torch")]

mod support;

use senmon_corpus::{
    compare::{Half, mean_loss},
    held_out::HeldOutList,
};
use senmon_engine::{
    JobContext, MetricPoint, Phase, ensemble,
    evaluate::{self, Scores},
    session,
};
use senmon_protocol::{
    ids::{CheckpointId, StorageKey},
    job::{
        CheckpointRef, EndedOutcome, EnsembleJob, EnsembleMember, EnsembleResult, EvaluateJob, MemberPart,
        SurfacePoint, TerminationReason, TrainJob, WrittenCheckpoint,
    },
    said::Said,
    worker::Command,
};
use serde_json::json;
use std::{fs, path::Path, sync::Mutex};
use support::{Notes, job, place, store};

/// Listens to progress and commands a stop once so much was done.
#[derive(Default)]
struct Listener {
    stop_at: Option<u64>,
    progress: Mutex<Vec<(u64, u64)>>,
    pulses: Mutex<Vec<Phase>>,
}

impl JobContext for Listener {
    fn started(&self, _: u64, _: Option<bool>) {}
    fn metrics(&self, _: MetricPoint) {}
    fn log(&self, _: &str, _: &str) {}
    fn event(&self, _: &str, _: u64, _: &str, _: Said) {}
    fn progress(&self, done: u64, total: u64, _: f64) {
        self.progress.lock().unwrap().push((done, total));
    }
    fn pulse(&self, next: Phase) {
        self.pulses.lock().unwrap().push(next);
    }
    fn command(&self) -> Command {
        let done = self.progress.lock().unwrap().last().map_or(0, |(done, _)| *done);
        if self.stop_at.is_some_and(|stop| done >= stop) { Command::Preempt } else { Command::Continue }
    }
    fn announce(&self, _: CheckpointId, _: &StorageKey, _: u64) {}
    fn commit(&self, _: WrittenCheckpoint) {}
}

/// A model trained for some steps on one domain, or on both, and its scores.
fn member(root: &Path, name: &str, part: MemberPart, domain: Option<u32>, steps: u64) -> EnsembleMember {
    let mut training = serde_json::to_value(job(steps, &json!({}))).unwrap();
    if let Some(domain) = domain {
        training["mixture"]["weights"] = json!([{ "domain": domain, "weight": 1.0 }]);
    }
    training["output"] = json!(format!("checkpoints/{name}"));
    let training: TrainJob = serde_json::from_value(training).unwrap();
    let notes = Notes::default();
    session::run(&training, &place(root, 1), &notes).unwrap();
    let written = notes.commits.lock().unwrap().last().cloned().unwrap();
    let checkpoint = CheckpointRef {
        id: written.id,
        folder: written.folder,
        manifest_sha256: written.manifest_sha256,
        step: written.meta.step,
    };
    let evaluation: EvaluateJob = serde_json::from_value(json!({
        "experiment_id": training.experiment_id, "evaluation_id": training.branch_id, "checkpoint": checkpoint,
        "shards": "index.json", "held_out": "held_out.json", "sequence_length": 16, "tokens_per_document_max": 40,
        "precision": "fp32", "output": format!("evaluations/{name}"),
    }))
    .unwrap();
    let found = evaluate::run(&evaluation, &place(root, 1), &notes).unwrap();
    assert!(found.parameters.is_some_and(|parameters| parameters > 0));
    assert!(found.domains.iter().chain(&found.calibration).all(|domain| domain.tokens <= 40 * domain.documents));
    EnsembleMember { branch: name.into(), part, domain, scores: found.folder, sha256: found.sha256 }
}

fn comparison(members: Vec<EnsembleMember>) -> EnsembleJob {
    let text = json!({
        "experiment_id": "01a20ded-cc8c-77dc-aa0f-779d6385dfea", "evaluation_id": "01a20ded-cc8c-77dc-aa0f-779d6385dfeb",
        "members": members, "shards": "index.json", "tokenizer": "tokenizer.json", "router": "router",
        "held_out": "held_out.json", "tokens_per_document_max": 40, "route_every_tokens": 8, "top_k": [1, 2],
        "temperatures": [0.05, 0.5], "resamples": 200, "random_seed": 3,
    });
    serde_json::from_value(text).unwrap()
}

fn run(root: &Path, job: &EnsembleJob, listener: &Listener) -> Result<EnsembleResult, EndedOutcome> {
    let result = ensemble::run(job, &place(root, 1), listener)?;
    // The server reads what the worker writes, whatever the numbers are.
    let text = serde_json::to_string(&result).unwrap();
    assert_eq!(serde_json::from_str::<EnsembleResult>(&text).unwrap(), result);
    Ok(result)
}

#[test]
fn a_comparison_chooses_on_one_half_judges_on_the_other_and_can_be_stopped() {
    tch::set_num_threads(1);
    let home = tempfile::tempdir().unwrap();
    let root = home.path();
    store(root);
    let members = vec![
        member(root, "seed", MemberPart::Alone, None, 5),
        member(root, "dense", MemberPart::Dense, None, 40),
        member(root, "expert-0", MemberPart::Expert, Some(0), 40),
        member(root, "expert-1", MemberPart::Expert, Some(1), 40),
        member(root, "random-0", MemberPart::Random, None, 20),
        member(root, "random-1", MemberPart::Random, None, 20),
    ];
    let job = comparison(members);
    let listener = Listener::default();
    let whole = run(root, &job, &listener).unwrap();

    // Every point of the surface has both halves; what was chosen is its lowest point on the calibration half.
    assert_eq!((whole.surface.len(), whole.lines.len()), (4, 2));
    let lowest = whole.surface.iter().min_by(|a, b| a.calibration.unwrap().total_cmp(&b.calibration.unwrap())).unwrap();
    let chosen = whole.chosen.unwrap();
    assert_eq!((chosen.top_k, chosen.temperature), (lowest.top_k, lowest.temperature));
    let line = whole.lines.iter().find(|line| line.top_k == chosen.top_k).unwrap();
    assert_eq!(line.temperature, Some(chosen.temperature));

    // Differences are those of the caches, summed by hand.
    let load = |name: &str| {
        let member = job.members.iter().find(|member| member.branch == name).unwrap();
        Scores::load(&root.join(member.scores.as_str()), &member.sha256).unwrap()
    };
    let (dense, seed) = (load("dense"), load("seed"));
    let alike =
        |scores: &Scores| mean_loss(&scores.documents.losses(&scores.nats(), Half::Reported, 2), &[1.0, 1.0]).unwrap();
    let found = whole.alone[0].vs_dense.alike.expect("documents of both domains");
    assert!((found.nats - (alike(&seed) - alike(&dense))).abs() < 1e-9, "{found:?}");
    let all = whole.lines.iter().map(|line| &line.vs_dense).chain(whole.random.iter().map(|line| &line.vs_dense));
    for compared in all.chain(whole.best_expert.iter().map(|best| &best.vs_dense)) {
        let by_share = compared.by_share.expect("an interval");
        assert!(by_share.nats_low <= by_share.nats_high && compared.absent.is_none(), "{compared:?}");
    }

    // It says how far it is and gives signs of life; stopped anywhere, it ends as it was asked to.
    let progress = listener.progress.lock().unwrap().clone();
    let (_, total) = progress[0];
    assert!(progress.windows(2).all(|pair| pair[0].0 <= pair[1].0) && progress.iter().all(|(done, _)| *done <= total));
    assert!(progress.len() > 30 && listener.pulses.lock().unwrap().len() > 30);
    for stop_at in (0..total).step_by(7) {
        let stopped = Listener { stop_at: Some(stop_at), ..Listener::default() };
        let end = run(root, &job, &stopped).unwrap_err();
        assert_eq!(end.reason, TerminationReason::Preempted);
        let heard = stopped.progress.lock().unwrap().len();
        let last = stopped.progress.lock().unwrap().last().map_or(0, |(done, _)| *done);
        assert!(heard <= progress.len() && last <= stop_at.max(1) + 12);
    }
    assert_eq!(run(root, &job, &Listener::default()).unwrap(), whole, "the same again");

    // Without dense there is no difference, and the rest stands.
    let without = |part: MemberPart| {
        let kept = job.members.iter().filter(|member| member.part != part).cloned().collect();
        EnsembleJob { members: kept, ..job.clone() }
    };
    let alone = run(root, &without(MemberPart::Dense), &Listener::default()).unwrap();
    assert_eq!((alone.chosen, alone.resamples), (whole.chosen, 0));
    assert!(alone.lines.iter().all(|line| line.vs_dense.absent.as_deref().is_some_and(|why| why.contains("no dense"))));
    let controls = run(root, &without(MemberPart::Expert), &Listener::default()).unwrap();
    assert!(controls.lines.is_empty() && controls.chosen.is_none() && controls.best_expert.is_none());
    assert_eq!(controls.alone, whole.alone, "a contestant is judged by itself");

    // An expert whose scores are no numbers spoils no other contestant, and nothing is chosen by them.
    let mut spoilt = load("expert-0");
    spoilt.logprobs.fill(f32::NAN);
    let folder = root.join("evaluations/spoilt");
    fs::create_dir_all(&folder).unwrap();
    let sha256 = spoilt.save(&folder).unwrap();
    let mut spoilt_job = job.clone();
    let member = spoilt_job.members.iter_mut().find(|member| member.branch == "expert-0").unwrap();
    (member.scores, member.sha256) = (StorageKey::new("evaluations/spoilt").unwrap(), sha256.clone());
    let spoilt = run(root, &spoilt_job, &Listener::default()).unwrap();
    assert_eq!(spoilt.alone, whole.alone);
    assert!(spoilt.best_expert.is_some_and(|best| best.branch == "expert-1"));
    // Where it runs, that is: with one expert a token, whose turn it is on which half is the clustering's affair.
    let (alone, both): (Vec<&SurfacePoint>, Vec<&SurfacePoint>) =
        spoilt.surface.iter().partition(|point| point.top_k == 1);
    assert!(both.iter().all(|point| point.calibration.is_none() && point.reported.is_none()), "{both:?}");
    assert!(alone.iter().all(|point| point.calibration.is_none() || point.reported.is_none()), "{alone:?}");
    assert_ne!(spoilt.chosen.map(|chosen| chosen.top_k), Some(2));
    let why = spoilt.lines[1].vs_dense.absent.clone().unwrap();
    assert!(why.contains("not finite"), "{why}");

    // Scores of other documents are refused by name.
    let mut list: HeldOutList = serde_json::from_slice(&fs::read(root.join("held_out.json")).unwrap()).unwrap();
    list.documents.pop();
    fs::write(root.join("fewer.json"), serde_json::to_vec(&list).unwrap()).unwrap();
    let other = EnsembleJob { held_out: StorageKey::new("fewer.json").unwrap(), ..job };
    let end = run(root, &other, &Listener::default()).unwrap_err();
    assert!(
        end.reason == TerminationReason::CorruptData && end.message.contains("scores of dense are of other documents"),
        "{end:?}"
    );
}
