//! Of every kind of claim a good one, and each way in which it may lie.

use super::*;
use serde_json::{Value, json};

const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ID: &str = "01920000-0000-7000-8000-000000000000";
const DOMAINS: u32 = 3;
const FENCE: Fence = Fence(7);

fn reference() -> Value {
    json!({ "id": ID, "folder": "checkpoints/b/00000004-f1", "manifest_sha256": SHA, "step": 4 })
}

fn train() -> JobSpec {
    serde_json::from_value(json!({
        "kind": "train", "experiment_id": ID, "branch_id": ID, "branch": "expert-0", "resume": null,
        "start": { "kind": "folder", "path": "/models/x" }, "tokenizer": "t", "shards": "s", "sequence_length": 16,
        "mixture": { "version": 1, "weights": [{ "domain": 0, "weight": 1.0 }] }, "epochs_max": 4.0, "steps": 10,
        "training": { "batch_windows": 2, "learning_rate": 0.1 }, "output": "checkpoints/b"
    }))
    .unwrap()
}

fn evaluation() -> JobSpec {
    serde_json::from_value(json!({
        "kind": "evaluate", "experiment_id": ID, "evaluation_id": ID, "checkpoint": reference(), "shards": "s",
        "sequence_length": 16, "precision": "fp32", "output": "evaluations/e"
    }))
    .unwrap()
}

fn comparison() -> JobSpec {
    serde_json::from_value(json!({
        "kind": "ensemble", "experiment_id": ID, "evaluation_id": ID, "shards": "s", "tokenizer": "t", "router": "r",
        "route_every_tokens": 8, "top_k": [1, 2], "temperatures": [0.1], "resamples": 100,
        "members": [{ "branch": "expert-0", "domain": 0, "scores": "evaluations/e/f1", "sha256": SHA }]
    }))
    .unwrap()
}

fn scan() -> JobSpec {
    let job =
        json!({ "kind": "scan", "corpus_id": ID, "path": "/x.jsonl", "fields": {}, "output": "corpora/c/scan/0" });
    serde_json::from_value(job).unwrap()
}

fn deduplication() -> JobSpec {
    let file = json!({ "folder": "corpora/c/scan/0/f1", "texts": 3 });
    let job = json!({ "kind": "deduplicate", "corpus_id": ID, "files": [file], "output": "corpora/c/dropped" });
    serde_json::from_value(job).unwrap()
}

fn shards() -> JobSpec {
    let file = json!({ "index": 0, "path": "/x.jsonl", "format": "jsonl", "bytes": 1, "sha256": SHA, "dropped": null,
        "counts": { "records": 5, "documents": 5, "empty": 0, "duplicates": 0, "broken": 0, "text_bytes": 9 } });
    serde_json::from_value(json!({
        "kind": "shard", "experiment_id": ID, "file": file, "fields": {}, "router": "r", "tokenizer": "t",
        "separator": "x", "held_out_fraction": 0.1, "output": "shards/e/0"
    }))
    .unwrap()
}

fn merge() -> JobSpec {
    serde_json::from_value(json!({
        "kind": "merge", "experiment_id": ID, "branch_id": ID, "tokenizer": "t", "output": "checkpoints/m",
        "members": [{ "checkpoint": reference(), "weight": 1.0 }]
    }))
    .unwrap()
}

fn decontamination() -> JobSpec {
    let JobSpec::Shard(job) = shards() else { unreachable!() };
    serde_json::from_value(json!({ "kind": "decontaminate", "experiment_id": ID, "file": job.file, "fields": {},
        "candidates": "c", "held_out_fraction": 0.1 }))
    .unwrap()
}

fn set(value: &mut Value, pointer: &str, to: Value) {
    *value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = to;
}

/// The good result is accepted; each change of it is refused at its path.
fn lies(job: &JobSpec, good: &Value, changes: &[(&str, Value, &str)]) {
    let check = |value: &Value| completed(job, DOMAINS, FENCE, &serde_json::from_value(value.clone()).unwrap());
    assert_eq!(check(good), Ok(()));
    for (pointer, to, path) in changes {
        let mut value = good.clone();
        set(&mut value, pointer, to.clone());
        let fault = check(&value).expect_err(pointer);
        assert_eq!(fault.path, format!("outcome.result.{path}"), "{pointer}: {}", fault.message);
        assert!(fault.message.len() < 400, "{}", fault.message);
    }
}

#[test]
fn a_result_is_that_of_its_job() {
    let range = |domain: u32, split: &str, document: u64, token: u64| json!({ "domain": domain, "split": split, "document_first": document, "documents": 2, "token_first": token, "tokens": 9 });
    let shard = json!({ "kind": "shard", "folder": "shards/e/0/f7", "bin_sha256": SHA, "idx_sha256": SHA,
        "counts": { "records": 5, "documents": 4, "empty": 1, "duplicates": 0, "broken": 0, "text_bytes": 9 },
        "ranges": [range(0, "train", 0, 0), range(2, "held_out", 2, 9)], "range_sha256": [SHA, SHA] });
    lies(
        &shards(),
        &shard,
        &[
            ("/folder", json!("shards/e/0/f6"), "folder"),
            ("/folder", json!("checkpoints"), "folder"),
            ("/bin_sha256", json!(SHA.to_uppercase()), "bin_sha256"),
            ("/idx_sha256", json!("../../etc/passwd"), "idx_sha256"),
            ("/range_sha256", json!([SHA]), "range_sha256"),
            ("/range_sha256/1", json!(""), "range_sha256[1]"),
            ("/ranges/1/domain", json!(3), "ranges[1].domain"),
            ("/ranges/1/domain", json!(4_000_000_000_u32), "ranges[1].domain"),
            ("/ranges/1", range(0, "train", 2, 9), "ranges[1].domain"),
            ("/ranges/1/document_first", json!(3), "ranges[1].document_first"),
            ("/ranges/1/token_first", json!(0), "ranges[1].document_first"),
            ("/ranges/1/tokens", json!(u64::MAX), "ranges[1].tokens"),
            ("/counts/documents", json!(5), "counts.documents"),
        ],
    );
    let trained = json!({ "kind": "train", "steps": 10, "tokens": 320, "loss_last": 2.0 });
    lies(&train(), &trained, &[("/steps", json!(11), "steps"), ("/tokens", json!(321), "tokens")]);
    let evaluated = json!({ "kind": "evaluate", "folder": "evaluations/e/f7", "sha256": SHA, "calibration": [],
        "domains": [{ "domain": 0, "documents": 1, "tokens": 4, "loss": 2.0 }, { "domain": 2, "documents": 1, "tokens": 4, "loss": null }] });
    lies(
        &evaluation(),
        &evaluated,
        &[
            ("/folder", json!("evaluations/other/f7"), "folder"),
            ("/sha256", json!("x"), "sha256"),
            ("/domains/1/domain", json!(3), "domains[1].domain"),
            ("/domains/1/domain", json!(0), "domains[1].domain"),
            ("/domains/0/loss", json!(-1.0), "domains[0].loss"),
        ],
    );
    lies(&merge(), &json!({ "kind": "merge", "members": 1 }), &[("/members", json!(2), "members")]);
    let compared = json!({ "kind": "ensemble", "lines": [{ "top_k": 1, "temperature": 0.1, "domains": [] }],
        "surface": [], "chosen": { "top_k": 2, "temperature": 0.1 }, "resamples": 100,
        "alone": [{ "branch": "expert-0", "vs_dense": { "by_share": null, "alike": null, "absent": "no dense" } }] });
    lies(
        &comparison(),
        &compared,
        &[
            ("/lines/0/top_k", json!(3), "lines[0].top_k"),
            ("/lines/0/temperature", json!(0.2), "lines[0].temperature"),
            ("/chosen/top_k", json!(8), "chosen.top_k"),
            ("/alone/0/branch", json!("nobody"), "alone"),
            ("/resamples", json!(101), "resamples"),
        ],
    );
    let overlap = json!({ "candidate": 0, "share": 0.9, "document": "a" });
    let found = json!({ "kind": "decontaminate", "documents": 4, "overlaps": [overlap] });
    lies(&decontamination(), &found, &[("/overlaps/0/share", json!(0.2), "overlaps[0].share")]);
}

#[test]
fn what_a_corpus_is_said_to_be_fits_its_jobs() {
    let broken = json!({ "path": "/x.jsonl", "record": 2, "why": "no JSON" });
    let found = json!({ "kind": "scan", "folder": "corpora/c/scan/0/f7", "bytes": 9, "sha256": SHA, "broken_first": [broken],
        "counts": { "records": 5, "documents": 2, "empty": 1, "duplicates": 1, "broken": 1, "text_bytes": 9 } });
    lies(
        &scan(),
        &found,
        &[
            ("/folder", json!("corpora/c/scan"), "folder"),
            ("/folder", json!("corpora/c/scan/0/f6"), "folder"),
            ("/sha256", json!(""), "sha256"),
            ("/counts/documents", json!(3), "counts.records"),
            ("/counts/documents", json!(u64::MAX), "counts.records"),
            ("/counts/text_bytes", json!(1_u64 << 53), "counts.records"),
            ("/broken_first/0/path", json!("/etc/passwd"), "broken_first"),
            ("/broken_first/0/why", json!("x".repeat(LINE_CHARS_MAX + 1)), "broken_first"),
            ("/broken_first", json!([broken, broken]), "broken_first"),
        ],
    );
    let file = json!({ "duplicates": 1, "text_bytes": 4, "records": 2 });
    let found = json!({ "kind": "deduplicate", "folder": "corpora/c/dropped/f7", "files": [file] });
    lies(
        &deduplication(),
        &found,
        &[
            ("/folder", json!("corpora/c"), "folder"),
            ("/files", json!([]), "files"),
            ("/files/0/duplicates", json!(4), "files[0].duplicates"),
            ("/files/0/records", json!(0), "files[0].records"),
            ("/files/0/text_bytes", json!(u64::MAX), "files[0].text_bytes"),
        ],
    );
}

#[test]
fn no_job_takes_the_result_of_another_kind() {
    let result = JobResult::Merge(senmon_protocol::job::MergeResult { members: 1 });
    for job in [scan(), deduplication(), shards(), train(), evaluation(), comparison(), decontamination()] {
        assert_eq!(completed(&job, DOMAINS, FENCE, &result).unwrap_err().path, "outcome.result.kind");
    }
}

#[test]
fn a_checkpoint_lies_in_its_attempts_own_folder() {
    let place = |key: &str, step: u64| checkpoint_place(&train(), FENCE, &StorageKey::new(key).unwrap(), step);
    assert_eq!(place("checkpoints/b/00000004-f7", 4), Ok(()));
    assert_eq!(place("checkpoints/b/00000004-f7-s2", 4), Ok(()), "after a rollback");
    for other in [
        "checkpoints",
        "checkpoints/b",
        "checkpoints/b/00000004-f6",
        "checkpoints/b/00000004-f77",
        "checkpoints/b/00000003-f7",
        "checkpoints/b/00000004-f7/x",
        "checkpoints/b/00000004-f7-s",
        "checkpoints/b/00000004-f7-s1/x",
        "checkpoints/c/00000004-f7",
        "evaluations/e/f7",
    ] {
        assert_eq!(place(other, 4).expect_err(other).path, "folder");
    }
    assert_eq!(place("checkpoints/b/00000011-f7", 11).unwrap_err().path, "step");
    assert!(checkpoint_place(&shards(), FENCE, &StorageKey::new("shards/e/0/f7").unwrap(), 0).is_err());
    assert_eq!(started(&train(), 11).unwrap_err().path, "step_start");
    assert_eq!(started(&train(), 10), Ok(()));
}

#[test]
fn a_committed_checkpoint_says_nothing_of_other_domains() {
    let good = json!({ "id": ID, "folder": "checkpoints/b/00000004-f7", "manifest_sha256": SHA, "meta": {
        "kind": "resumable", "experiment_id": ID, "branch_id": ID, "fence": 7, "step": 4, "tokens": 128,
        "lineage": { "drawn": [{ "domain": 0, "windows": 8 }] }, "parent_id": null, "bytes": 1, "loss": 2.0,
        "config_sha256": SHA, "state_sha256": SHA } });
    let check = |value: &Value| committed(&train(), DOMAINS, FENCE, &serde_json::from_value(value.clone()).unwrap());
    assert_eq!(check(&good), Ok(()));
    let changes = [
        ("/folder", json!("checkpoints"), "checkpoint.folder"),
        ("/meta/step", json!(11), "checkpoint.step"),
        ("/manifest_sha256", json!("0"), "checkpoint.manifest_sha256"),
        ("/meta/state_sha256", json!("0"), "checkpoint.meta.state_sha256"),
        ("/meta/tokens", json!(129), "checkpoint.meta.tokens"),
        ("/meta/lineage/drawn/0/domain", json!(3), "checkpoint.meta.lineage.drawn"),
    ];
    for (pointer, to, path) in changes {
        let mut value = good.clone();
        set(&mut value, pointer, to);
        assert_eq!(check(&value).expect_err(pointer).path, path);
    }
}

#[test]
fn names_lines_and_columns_have_limits() {
    let column = |name: &str, n: usize| series(&BTreeMap::from([(name.to_owned(), vec![Some(1.0); n])]), 2);
    assert_eq!(column("train/loss", 2), Ok(()));
    assert_eq!(column("train/loss", 3).unwrap_err().path, "series.train/loss");
    for name in ["", "a b", "a\n", "é", &"x".repeat(101)] {
        assert_eq!(column(name, 2).expect_err(name).path, "series");
    }
    let many = (0..=SERIES_MAX).map(|i| (format!("s{i}"), vec![None; 2])).collect();
    assert!(series(&many, 2).is_err());

    let batch = |level: &str, text: &str, kind: &str| -> Checked {
        let line = json!({ "at_ms": 1, "level": level, "text": text, "event": { "kind": kind, "step": 1 } });
        lines(&serde_json::from_value(json!({ "fence": 7, "line_first": 0, "lines": [line] })).unwrap())
    };
    assert_eq!(batch("warn", "é", "loss_spike"), Ok(()));
    assert_eq!(batch("shout", "x", "k").unwrap_err().path, "lines[0].level");
    assert_eq!(batch("info", &"é".repeat(LINE_CHARS_MAX + 1), "k").unwrap_err().path, "lines[0].text");
    assert_eq!(batch("info", "x", "").unwrap_err().path, "lines[0].event.kind");
}
