//! A branch from its first step to its last, with everything that may happen between.
#![cfg(feature = "torch")]

mod support;

use senmon_corpus::{
    manifest::verify, megatron::TokenType, shard_set::windows_by_domain, wanted::bytes_of, windows::WindowOrder,
};
use senmon_engine::{JobContext, MetricPoint, depot::InPlace, evaluate, session};
use senmon_protocol::{
    ids::{CheckpointId, EvaluationId, StorageKey},
    job::{
        CheckpointRef, EndedOutcome, EvaluateJob, HeldOutCurve, ShardIndex, Split, TerminationReason, TrainJob,
        TrainStart, WrittenCheckpoint,
    },
    lineage::Lineage,
    said::Said,
    worker,
};
use serde_json::json;
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use support::{Notes, job, place, store};

fn reference(written: &WrittenCheckpoint) -> CheckpointRef {
    CheckpointRef {
        id: written.id,
        folder: written.folder.clone(),
        manifest_sha256: written.manifest_sha256.clone(),
        step: written.meta.step,
    }
}

fn run(root: &Path, fence: i64, job: &TrainJob) -> (Notes, Result<(), EndedOutcome>) {
    tch::set_num_threads(1);
    let notes = Notes::default();
    let ended = session::run(job, &place(root, fence), &notes).map(drop);
    (notes, ended)
}

/// Windows drawn of all domains.
fn drawn(lineage: &Lineage) -> u64 {
    lineage.drawn.iter().map(|draws| draws.windows).sum()
}

/// Digest of weights, moments and step at the end.
fn end_state(notes: &Notes) -> String {
    notes.commits.lock().unwrap().last().unwrap().meta.state_sha256.clone()
}

#[test]
fn checkpoints_come_when_steps_or_tokens_say_so() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let (notes, ended) = run(home.path(), 1, &job(10, &json!({ "checkpoint_every_tokens": 256 })));
    ended.unwrap();
    let steps: Vec<u64> = notes.commits.lock().unwrap().iter().map(|written| written.meta.step).collect();
    assert_eq!(steps, [4, 8, 10], "64 tokens a step");
    assert!(notes.lines.lock().unwrap().iter().any(|line| line.contains("Daly")));
}

#[test]
fn held_out_loss_beside_training_is_an_evaluations_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let plain = job(10, &json!({ "log_every_steps": 3 }));
    let key = |text: &str| StorageKey::new(text).unwrap();
    let held_out = HeldOutCurve {
        list: key("held_out.json"),
        domains: vec![1, 7, 0],
        tokens_per_domain: 1 << 20,
        tokens_whole: 1 << 20,
        every_steps: 4,
    };
    let (without, ended) = run(home.path(), 1, &plain);
    ended.unwrap();
    let (with, ended) = run(home.path(), 2, &TrainJob { held_out: Some(held_out), ..plain.clone() });
    ended.unwrap();
    assert_eq!(end_state(&without), end_state(&with));
    let points = with.points.lock().unwrap().clone();
    assert_eq!(points.iter().map(|point| point.step).collect::<Vec<_>>(), [3, 4, 6, 8, 9, 10]);
    let scored = |point: &&MetricPoint| point.values.contains_key("held_out/whole");
    assert_eq!(points.iter().filter(scored).map(|point| point.step).collect::<Vec<_>>(), [4, 8, 10]);

    let evaluation = EvaluateJob {
        experiment_id: plain.experiment_id,
        evaluation_id: EvaluationId::new(),
        checkpoint: reference(with.commits.lock().unwrap().last().unwrap()),
        shards: plain.shards.clone(),
        held_out: key("held_out.json"),
        sequence_length: plain.sequence_length,
        tokens_per_document_max: 1 << 20,
        precision: plain.training.precision,
        output: key("evaluation"),
    };
    let found = evaluate::run(&evaluation, &place(home.path(), 3), &Notes::default()).unwrap().calibration;
    let last = &points.last().unwrap().values;
    let near = |name: &str, expect: f64| {
        let found = last[name].unwrap();
        assert!((found - expect).abs() < 1e-6 * expect, "{name}: {found}, an evaluation finds {expect}");
    };
    let losses: Vec<f64> = found.iter().map(|domain| domain.loss.unwrap()).collect();
    near("held_out/domain/0", losses[0]);
    near("held_out/domain/1", losses[1]);
    near("held_out/whole", losses.iter().sum::<f64>() / 2.0);
    assert!(!last.contains_key("held_out/domain/7"), "a domain without held-out text has no curve");
}

#[test]
fn a_batch_that_is_computed_twice_changes_no_bit() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let end = |fence, settings| {
        let (notes, ended) = run(home.path(), fence, &job(6, &settings));
        ended.map(|()| end_state(&notes)).unwrap()
    };
    assert_eq!(end(1, json!({})), end(2, json!({ "recheck_every_steps": 2 })));
}

#[test]
fn a_list_that_cannot_be_read_ends_no_training() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let list = StorageKey::new("nowhere.json").unwrap();
    let held_out = HeldOutCurve { list, domains: vec![0], tokens_per_domain: 8, tokens_whole: 8, every_steps: 1 };
    let (notes, ended) = run(home.path(), 1, &TrainJob { held_out: Some(held_out), ..job(2, &json!({})) });
    ended.unwrap();
    assert_eq!(notes.events.lock().unwrap()[..], [("held_out_unread".to_owned(), 0)]);
    assert!(notes.points.lock().unwrap().iter().all(|point| !point.values.contains_key("held_out/whole")));
}

#[test]
fn held_out_text_that_is_damaged_ends_no_training() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let index: ShardIndex = serde_json::from_slice(&fs::read(home.path().join("index.json")).unwrap()).unwrap();
    let shard = &index.shards[0];
    let range = shard.ranges.iter().find(|range| range.split == Split::HeldOut && range.tokens > 0).unwrap();
    let path = home.path().join(shard.folder.as_str()).join("shard.bin");
    let mut bytes = fs::read(&path).unwrap();
    let at = usize::try_from(bytes_of(range, TokenType::for_vocab(index.vocab_size)).start).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let list = StorageKey::new("held_out.json").unwrap();
    let held_out = HeldOutCurve { list, domains: vec![0], tokens_per_domain: 8, tokens_whole: 8, every_steps: 1 };
    let (notes, ended) = run(home.path(), 1, &TrainJob { held_out: Some(held_out), ..job(2, &json!({})) });
    ended.unwrap();
    assert_eq!(notes.events.lock().unwrap()[..], [("held_out_unread".to_owned(), 0)]);
}

/// A spike made of a learning rate that jumps: the batch that follows a ruined step has a loss far above the others.
fn spiky(action: &str) -> serde_json::Value {
    json!({
        "checkpoint_every_steps": 5, "learning_rate": 0.02, "schedule": "constant",
        "loss_spikes": { "action": action, "window": 16, "threshold": 0.8, "roll_back_steps": 3 }
    })
}

#[test]
fn a_spike_is_noted_with_its_batch() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let (watched, ended) = run(home.path(), 1, &job(60, &spiky("watch")));
    ended.unwrap();
    let spikes: Vec<u64> = watched.events.lock().unwrap().iter().map(|(_, step)| *step).collect();
    assert!(!spikes.is_empty(), "the test needs a spike: lower its threshold");
    let lines = watched.lines.lock().unwrap();
    assert!(lines.iter().any(|line| line.contains("robust deviations") && line.contains("of the data order")));
    // Watching changes nothing, skipping does from the spike on.
    let (skipped, ended) = run(home.path(), 2, &job(60, &spiky("skip")));
    ended.unwrap();
    let first = usize::try_from(spikes[0]).unwrap();
    assert_eq!(watched.losses()[..first], skipped.losses()[..first]);
    assert_ne!(watched.losses()[first..], skipped.losses()[first..]);
}

#[test]
fn a_rollback_goes_on_without_the_batch() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let mut job = job(60, &spiky("roll_back"));
    let (mut ends, mut left_out) = (0, Vec::new());
    for fence in 1..40 {
        let (notes, ended) = run(home.path(), fence, &job);
        if fence > 1 {
            assert_eq!(notes.started.lock().unwrap()[0].1, Some(true), "the state resumed is not the one written");
        }
        let Err(end) = ended else {
            assert!(!left_out.is_empty(), "the test needs a spike: lower its threshold");
            assert_eq!(notes.losses().last().unwrap().0, 60);
            // What is left out was drawn.
            let end = notes.commits.lock().unwrap().last().unwrap().meta.lineage.clone();
            assert_eq!(drawn(&end), (60 + left_out.len() as u64) * 4);
            return;
        };
        if end.reason == TerminationReason::RolledBack {
            ends += 1;
            let written = notes.commits.lock().unwrap().last().cloned().unwrap();
            assert!(written.folder.as_str().contains("-s"), "{}", written.folder);
            left_out.push(written.meta.step);
            job.resume = Some(reference(&written));
        } else {
            panic!("{end:?}");
        }
        assert!(ends < 39, "it never ends");
    }
}

#[test]
fn a_child_reads_on_where_its_parent_stood() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let parent = job(6, &serde_json::json!({}));
    let (notes, ended) = run(home.path(), 1, &parent);
    ended.unwrap();
    let last = notes.commits.lock().unwrap().last().cloned().unwrap();
    let mut child = parent.clone();
    child.start = TrainStart::Checkpoint(reference(&last));
    child.lineage = last.meta.lineage.clone();
    let (notes, ended) = run(home.path(), 2, &child);
    ended.unwrap();
    let end = notes.commits.lock().unwrap().last().cloned().unwrap().meta.lineage;
    assert_eq!((drawn(&last.meta.lineage), drawn(&end)), (6 * 4, 12 * 4));

    // The windows themselves: none of the first epoch comes twice.
    let index = serde_json::from_slice(&fs::read(home.path().join("index.json")).unwrap()).unwrap();
    let windows = windows_by_domain(&index, parent.sequence_length);
    let draws = |job: &TrainJob| {
        let order = WindowOrder::new(&windows, &job.mixture, &job.lineage, job.training.random_seed).unwrap();
        order.from(0).take(24).collect::<Vec<_>>()
    };
    let all = [draws(&parent), draws(&child)].concat();
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    child.epochs_max = 1.0;
    child.steps = 1000;
    let (_, refused) = run(home.path(), 3, &child);
    let message = refused.unwrap_err().message;
    assert!(message.contains("along its lineage"), "{message}");
}

#[test]
fn a_pause_keeps_the_state_and_goes_on_when_told() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let mut job = job(60, &spiky("pause"));
    for fence in 1..40 {
        let (notes, ended) = run(home.path(), fence, &job);
        let Err(end) = ended else {
            assert!(fence > 1, "the test needs a spike: lower its threshold");
            return;
        };
        assert_eq!(end.reason, TerminationReason::LossSpike, "{end:?}");
        let commits = notes.commits.lock().unwrap();
        job.resume = commits.last().map(reference).or(job.resume);
    }
    panic!("it never ends");
}

/// Something in the way of a branch's checkpoints: no folder can be made there.
fn block(root: &Path, job: &TrainJob) -> PathBuf {
    let path = root.join(job.output.as_str());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"in the way").unwrap();
    path
}

#[test]
fn a_store_that_refuses_does_not_end_the_training() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let job = job(20, &json!({ "checkpoint_every_steps": 5 }));
    let path = block(home.path(), &job);
    let mut place = place(home.path(), 1);
    place.depot = Arc::new(InPlace { patience: Duration::from_secs(60) });
    let notes = Notes::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            fs::remove_file(&path).unwrap();
        });
        session::run(&job, &place, &notes).unwrap();
    });
    let events = notes.events.lock().unwrap();
    assert_eq!(events[0], ("checkpoint_failed".to_owned(), 5));
    let lines = notes.lines.lock().unwrap();
    assert!(
        lines.iter().any(|line| line.contains("training goes on") && line.contains("there is none yet")),
        "{lines:?}"
    );
    // The last one is tried until it is written.
    assert_eq!(notes.commits.lock().unwrap().last().unwrap().meta.step, 20);
}

#[test]
fn a_branch_whose_last_checkpoint_cannot_be_written_says_why() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let job = job(6, &json!({}));
    block(home.path(), &job);
    let (notes, ended) = run(home.path(), 1, &job);
    let end = ended.unwrap_err();
    assert_eq!(end.reason, TerminationReason::StorageFailure);
    assert!(end.message.contains("checkpoint at step 6 could not be written"), "{}", end.message);
    assert_eq!(notes.announced.lock().unwrap().len(), 1, "it is announced before it is written");
    assert!(notes.commits.lock().unwrap().is_empty());
}

#[test]
fn a_manifest_lists_what_was_written_and_not_what_lay_there() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let job = job(6, &json!({}));
    // What an earlier try of the same save may have left.
    let folder = home.path().join("checkpoints/00000006-f1");
    fs::create_dir_all(&folder).unwrap();
    for name in ["manifest.json", "model.safetensors", "leftover"] {
        fs::write(folder.join(name), b"half").unwrap();
    }
    let (notes, ended) = run(home.path(), 1, &job);
    ended.unwrap();
    let written = notes.commits.lock().unwrap()[0].clone();
    let manifest = verify(&home.path().join(written.folder.as_str()), &written.manifest_sha256).unwrap();
    let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
    assert!(!names.contains(&"manifest.json") && !names.contains(&"leftover"), "{names:?}");
    assert!(names.contains(&"model.safetensors") && names.contains(&"trainer.json"), "{names:?}");
}

/// Asks to end once a checkpoint is announced.
struct Releasing<'a>(&'a Notes);

impl JobContext for Releasing<'_> {
    fn started(&self, step: u64, verified: Option<bool>) {
        self.0.started(step, verified);
    }
    fn metrics(&self, point: MetricPoint) {
        self.0.metrics(point);
    }
    fn log(&self, level: &str, text: &str) {
        self.0.log(level, text);
    }
    fn event(&self, kind: &str, step: u64, level: &str, said: Said) {
        self.0.event(kind, step, level, said);
    }
    fn progress(&self, _: u64, _: u64, _: f64) {}
    fn command(&self) -> worker::Command {
        let announced = !self.0.announced.lock().unwrap().is_empty();
        if announced { worker::Command::Release } else { worker::Command::Continue }
    }
    fn announce(&self, id: CheckpointId, folder: &StorageKey, step: u64) {
        self.0.announce(id, folder, step);
    }
    fn commit(&self, written: WrittenCheckpoint) {
        self.0.commit(written);
    }
}

#[test]
fn a_stop_waits_for_the_save_under_way_and_saves_where_it_stands() {
    // Longer than a save in the middle of a training may keep it waiting.
    const SLOW: Duration = Duration::from_secs(32);
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let mut job = job(10_000, &json!({ "checkpoint_every_steps": 5 }));
    // A disk that takes its time: a pipe in the place of a file that every save reads.
    let (pipe, tokenizer) = (home.path().join("slow.json"), fs::read(home.path().join("tokenizer.json")).unwrap());
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    job.tokenizer = StorageKey::new("slow.json").unwrap();
    tch::set_num_threads(1);
    let notes = Notes::default();
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The start reads it too, at once; the next reader opens it anew.
            fs::write(&pipe, &tokenizer).unwrap();
            std::thread::sleep(SLOW);
            for _ in 0..2 {
                fs::write(&pipe, &tokenizer).unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        session::run(&job, &place(home.path(), 1), &Releasing(&notes)).map(drop)
    });
    assert_eq!(ended.unwrap_err().reason, TerminationReason::Released);
    let steps: Vec<u64> = notes.commits.lock().unwrap().iter().map(|written| written.meta.step).collect();
    assert!(steps.len() == 2 && steps[0] == 5 && steps[1] > 5, "{steps:?}");
    assert_eq!(steps[1], notes.losses().last().unwrap().0, "steps were lost");
}

/// The child of the next test: trains from the last commit on, and notes every commit on the disk.
#[test]
fn child() {
    let Ok(root) = std::env::var("SENMON_TEST_STORE") else { return };
    let root = Path::new(&root);
    let fence = std::env::var("SENMON_TEST_FENCE").unwrap().parse().unwrap();
    let job: TrainJob = serde_json::from_slice(&fs::read(root.join("job.json")).unwrap()).unwrap();
    let (notes, ended) = run_noting(root, fence, &job);
    ended.unwrap();
    let (start, verified) = notes.started.lock().unwrap()[0];
    assert!(start == 0 || verified == Some(true), "resumed at {start} with another state than was written");
    fs::write(root.join("done"), end_state(&notes)).unwrap();
}

/// As `run`, every commit and every verdict written to the disk when it happens.
fn run_noting(root: &Path, fence: i64, job: &TrainJob) -> (Notes, Result<(), EndedOutcome>) {
    struct Noting<'a>(&'a Notes, &'a Path);
    impl JobContext for Noting<'_> {
        fn started(&self, step: u64, verified: Option<bool>) {
            note(&self.1.join("verdicts"), &format!("{step} {verified:?}"));
            self.0.started(step, verified);
        }
        fn metrics(&self, point: MetricPoint) {
            self.0.metrics(point);
        }
        fn log(&self, _: &str, _: &str) {}
        fn event(&self, _: &str, _: u64, _: &str, _: Said) {}
        fn progress(&self, _: u64, _: u64, _: f64) {}
        fn command(&self) -> worker::Command {
            worker::Command::Continue
        }
        fn announce(&self, _: CheckpointId, _: &StorageKey, _: u64) {}
        fn commit(&self, written: WrittenCheckpoint) {
            note(&self.1.join("commits"), &serde_json::to_string(&written).unwrap());
            self.0.commit(written);
        }
    }
    tch::set_num_threads(1);
    let notes = Notes::default();
    let ended = session::run(job, &place(root, fence), &Noting(&notes, root)).map(drop);
    (notes, ended)
}

fn note(path: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The last whole line: the one under way when the process was killed may be half.
fn last_commit(root: &Path) -> Option<WrittenCheckpoint> {
    let text = fs::read_to_string(root.join("commits")).ok()?;
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).next_back()
}

#[test]
fn fifty_kills_change_no_bit() {
    const KILLS: i64 = 50;
    let home = tempfile::tempdir().unwrap();
    let (calm, killed) = (home.path().join("calm"), home.path().join("killed"));
    for root in [&calm, &killed] {
        fs::create_dir_all(root).unwrap();
        store(root);
    }
    // Long enough that fifty kills fall into it: every attempt gets a few checkpoints further.
    let job = job(
        8000,
        &json!({ "checkpoint_every_steps": 10, "deterministic": true, "learning_rate": 0.003, "batch_windows": 2 }),
    );
    let (notes, ended) = run(&calm, 1, &job);
    ended.unwrap();
    let mut kills = 0;
    for fence in 1.. {
        let resume = last_commit(&killed).as_ref().map(reference);
        fs::write(killed.join("job.json"), serde_json::to_vec(&TrainJob { resume, ..job.clone() }).unwrap()).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env("SENMON_TEST_STORE", &killed)
            .env("SENMON_TEST_FENCE", fence.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        if kills < KILLS {
            // The first sign of life, then a moment that differs from kill to kill.
            let lives = || fs::read_to_string(killed.join("verdicts")).unwrap_or_default().lines().count() as i64;
            while lives() < fence && process.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_micros((fence * 7919 % 97).unsigned_abs() * 700));
            let _ = process.kill();
            kills += i64::from(!process.wait().unwrap().success());
            assert!(
                !killed.join("done").exists() || kills == KILLS,
                "it ended after {kills} kills: give it more steps"
            );
        } else {
            assert!(process.wait().unwrap().success());
            break;
        }
    }
    assert_eq!(fs::read_to_string(killed.join("done")).unwrap(), end_state(&notes));
    let verdicts = fs::read_to_string(killed.join("verdicts")).unwrap();
    let resumed: Vec<&str> = verdicts.lines().filter(|line| !line.starts_with("0 ")).collect();
    assert!(resumed.len() > 25, "only {} attempts resumed", resumed.len());
    assert!(resumed.iter().all(|line| line.ends_with("Some(true)")), "{resumed:?}");
    println!("{kills} kills, {} resumes, each verified; state {}", resumed.len(), end_state(&notes));
}
