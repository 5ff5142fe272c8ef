//! Shard jobs: what is sharded is what was registered, to the byte.

mod support;

use senmon_corpus::{
    roots::Roots,
    scan::{DROPPED_FILE, scan_file},
};
use senmon_engine::{Place, shard};
use senmon_protocol::{
    corpus::{CorpusFile, DocumentFields},
    job::{ShardJob, TerminationReason},
};
use serde_json::json;
use std::{fs, os::unix::fs::symlink};
use support::{Notes, place, store};

#[test]
fn a_file_that_changed_after_its_registration_is_found_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    store(root);
    let path = root.join("in.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let registered = |text: &str| {
        fs::write(&path, text).unwrap();
        let fields = DocumentFields { id: Some("id".into()), ..DocumentFields::default() };
        let found = scan_file(&Roots::new([root]), &path, &fields, &root.join("work"), &mut |_| true).unwrap().unwrap();
        let file: CorpusFile = serde_json::from_value(json!({
            "index": 0, "path": path, "format": "jsonl", "bytes": found.bytes, "sha256": found.sha256,
            "counts": found.counts, "dropped": null, "problem": found.problem
        }))
        .unwrap();
        assert!(fs::read(root.join("work").join(DROPPED_FILE)).unwrap().is_empty());
        serde_json::from_value::<ShardJob>(json!({
            "experiment_id": "01a20ded-cc8c-77dc-aa0f-779d6385dfea", "file": file, "fields": fields, "router": "router",
            "tokenizer": "tokenizer.json", "separator": "<|endoftext|>", "held_out_fraction": 0.1, "output": "out"
        }))
        .unwrap()
    };
    let run = |job: &ShardJob, fence| {
        shard::run(job, &Place { roots: Roots::new([root]), ..place(root, fence) }, &Notes::default())
    };
    let check = |job: &ShardJob, fence, expect: &str| {
        let ended = run(job, fence).unwrap_err();
        assert_eq!(ended.reason, TerminationReason::CorruptData, "{}", ended.message);
        assert!(ended.message.contains("in.jsonl") && ended.message.contains(expect), "{}", ended.message);
    };
    let job = registered(&text);
    let shard = run(&job, 1).unwrap();
    assert_eq!(shard.counts, job.file.counts);

    fs::write(&path, text.replacen("the", "teh", 1)).unwrap();
    check(&job, 2, "changed after its registration");
    fs::write(&path, text.clone() + "\n").unwrap();
    check(&job, 3, "bytes, its snapshot");
    fs::write(&path, &text).unwrap();
    // The same bytes, but outside: whoever may write below a root must not have other files read.
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("in.jsonl"), &text).unwrap();
    fs::remove_file(&path).unwrap();
    symlink(outside.path().join("in.jsonl"), &path).unwrap();
    check(&job, 6, "no such file below");
    fs::remove_file(&path).unwrap();
    fs::write(root.join("elsewhere"), &text).unwrap();
    symlink("elsewhere", &path).unwrap();
    assert_eq!(run(&job, 7).unwrap().counts, job.file.counts);
    fs::remove_file(&path).unwrap();
    fs::write(&path, &text).unwrap();

    let mut other = job;
    other.file.counts.documents += 1;
    check(&other, 4, "at its registration");

    // A damaged file that was tolerated is read as far as it was.
    let cut = registered(text.strip_suffix("}\n").unwrap());
    assert!(cut.file.problem.is_some());
    assert_eq!(run(&cut, 5).unwrap().counts, cut.file.counts);
}
