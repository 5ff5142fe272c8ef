//! Memory that runs out in training: the passes become smaller, the batch does not.
#![cfg(all(feature = "torch", target_os = "linux"))]

mod support;

use senmon_engine::{session, trainer::Shape};
use senmon_protocol::job::TrainJob;
use serde_json::json;
use std::{fs, path::Path, process::Command};
use support::{Notes, job, place, store};

/// Two steps of 64 windows, `micro` of them a pass, that take a MiB each where they have 128 tokens.
fn wide(micro: u32, length: u32) -> TrainJob {
    let mut job = serde_json::to_value(job(2, &json!({ "batch_windows": 64, "micro_batch_windows": micro }))).unwrap();
    job["sequence_length"] = json!(length);
    for (key, value) in [("hidden_size", 64), ("intermediate_size", 256), ("max_position_embeddings", length)] {
        job["start"]["model"][key] = json!(value);
    }
    serde_json::from_value(job).unwrap()
}

/// Takes all but `bytes` of further address space from this process.
fn leave(bytes: u64) {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let taken = pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096;
    let limit = Command::new("prlimit")
        .args([format!("--pid={}", std::process::id()), format!("--as={}", taken + bytes)])
        .status();
    assert!(limit.unwrap().success());
}

/// The child of the next test: its own process, since the limit stays.
#[test]
fn child() {
    let Ok(root) = std::env::var("SENMON_TEST_MEMORY") else { return };
    let root = Path::new(&root);
    tch::set_num_threads(1);
    let run = |fence, job: &TrainJob| {
        let notes = Notes::default();
        let ended = session::run(job, &place(root, fence), &notes).map(drop);
        (notes, ended)
    };
    // Once without a limit: threads and libraries have what they need.
    let (calm, ended) = run(1, &wide(4, 128));
    ended.unwrap();
    leave(36 << 20);
    let (pressed, ended) = run(2, &wide(64, 128));
    ended.unwrap();
    let lines = pressed.lines.lock().unwrap();
    let halved: Vec<_> = lines.iter().filter(|line| line.contains("the batch stays at 64")).collect();
    assert!(
        !halved.is_empty() && halved[0].contains("memory ran out with 64 windows a pass; goes on with 32"),
        "{lines:?}"
    );
    assert!(pressed.events.lock().unwrap().iter().all(|event| *event == ("micro_batch_halved".to_owned(), 1)));
    for ((step, found), (_, expected)) in pressed.losses().into_iter().zip(calm.losses()) {
        assert!((found / expected - 1.0).abs() < 1e-5, "step {step}: {found}, with enough memory {expected}");
    }
    fs::write(root.join("done"), halved[0]).unwrap();
}

#[test]
fn one_window_is_the_smallest_pass() {
    let shape = |micro| Shape { windows: 12, micro, length: 8 };
    let passes: Vec<i64> = std::iter::successors(Some(shape(12)), |shape| shape.halved()).map(|s| s.micro).collect();
    assert_eq!(passes, [12, 6, 3, 1]);
    assert_eq!(shape(4).halved(), Some(shape(2)));
}

#[test]
fn passes_shrink_until_they_fit() {
    let home = tempfile::tempdir().unwrap();
    store(home.path());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("SENMON_TEST_MEMORY", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}{said}", String::from_utf8_lossy(&child.stdout));
    let said = fs::read_to_string(home.path().join("done")).unwrap();
    assert!(said.contains("can't allocate memory") && !said.contains("frame #"), "{said}");
}
