//! A store with shards of real text, and a context that notes what a job says.
#![allow(dead_code, reason = "each test takes what it needs")]

use senmon_corpus::{
    discover::discover,
    held_out::{Candidate, HELD_OUT_FILE, HeldOutList},
    read::Document,
    roots::Roots,
    shard::{ShardInput, write_shard},
    tokenizer::{SEPARATOR, Tokenizer, train},
};
use senmon_engine::{JobContext, MetricPoint, Place, depot::InPlace};
use senmon_protocol::{
    corpus::DocumentFields,
    ids::{CheckpointId, Fence, StorageKey},
    job::{ShardIndex, ShardResult, TrainJob, WrittenCheckpoint},
    said::Said,
    worker::Command,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

/// Paragraphs of the project's own English and Japanese pages.
fn paragraphs() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let text = read("LICENSE") + "\n\n" + &read("README.ja.md");
    text.split("\n\n").map(str::trim).filter(|paragraph| paragraph.len() > 80).map(str::to_owned).collect()
}

/// Writes tokenizer, shards of two domains, their index and the list of what is scored below `root`.
pub fn store(root: &Path) {
    let texts = paragraphs();
    let record = |(id, text): (usize, &String)| json!({ "id": id, "text": text }).to_string() + "\n";
    let input = root.join("in.jsonl");
    fs::write(&input, texts.iter().enumerate().map(record).collect::<String>()).unwrap();
    let document = |(text, record): (&String, u64)| Document {
        record,
        id: record.to_string(),
        group: None,
        source: None,
        text: text.clone(),
    };
    let sample: Vec<Document> = texts.iter().zip(0..).map(document).collect();
    let router = discover(&sample, &serde_json::from_value(json!({ "domains": 2 })).unwrap()).unwrap().router;
    router.save(&root.join("router")).unwrap();
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let bytes = train(&borrowed, 300).unwrap();
    fs::write(root.join("tokenizer.json"), &bytes).unwrap();
    let tokenizer = Tokenizer::from_bytes(&bytes, SEPARATOR, None).unwrap();
    let fields = DocumentFields { id: Some("id".into()), ..DocumentFields::default() };
    let input = ShardInput {
        roots: &Roots::whole_disk(),
        path: &input,
        fields: &fields,
        dropped: &[],
        router: &router,
        router_sha256: "r",
        tokenizer: &tokenizer,
        tokenizer_sha256: "t",
        held_out_fraction: 0.25,
        documents_per_domain: 100,
    };
    let folder = StorageKey::new("shards/0/f1").unwrap();
    let sidecar = write_shard(&input, &root.join(folder.as_str()), |_| true).unwrap().unwrap();
    let shard = ShardResult {
        folder,
        bin_sha256: sidecar.bin_sha256,
        idx_sha256: sidecar.idx_sha256,
        held_out_sha256: Some(sidecar.held_out_sha256),
        counts: sidecar.counts,
        ranges: sidecar.ranges,
        range_sha256: sidecar.range_sha256,
    };
    let index = ShardIndex {
        domains: 2,
        vocab_size: tokenizer.vocab_size(),
        separator_id: 0,
        bos_id: tokenizer.bos_id(),
        shards: vec![shard],
    };
    fs::write(root.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    let candidates = fs::read(root.join("shards/0/f1").join(HELD_OUT_FILE)).unwrap();
    let candidates: Vec<Candidate> = serde_json::from_slice(&candidates).unwrap();
    let list = HeldOutList::new(candidates.iter());
    fs::write(root.join("held_out.json"), serde_json::to_vec(&list).unwrap()).unwrap();
}

/// A small branch over the store; `training` is laid over its settings.
pub fn job(steps: u64, training: &Value) -> TrainJob {
    let mut settings =
        json!({ "batch_windows": 4, "micro_batch_windows": 2, "learning_rate": 0.01, "log_every_steps": 1 });
    settings.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "experiment_id": "01a20ded-cc8c-77dc-aa0f-779d6385dfea", "branch_id": "01a20ded-cc8c-77dc-aa0f-779d6385dfeb",
        "branch": "test", "tokenizer": "tokenizer.json", "shards": "index.json", "sequence_length": 16, "epochs_max": 1000.0,
        "start": { "kind": "init", "model": {
            "vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16
        } },
        "resume": null, "mixture": { "version": 1, "weights": [{ "domain": 0, "weight": 2.0 }, { "domain": 1, "weight": 1.0 }] },
        "steps": steps, "training": settings, "output": "checkpoints"
    }))
    .unwrap()
}

/// A place on one CPU thread.
pub fn place(root: &Path, fence: i64) -> Place {
    Place {
        storage: root.to_owned(),
        depot: Arc::new(InPlace::default()),
        roots: Roots::whole_disk(),
        fence: Fence(fence),
        device: "cpu".into(),
        threads: 1,
    }
}

/// What a job said.
#[derive(Debug, Default)]
pub struct Notes {
    pub points: Mutex<Vec<MetricPoint>>,
    pub lines: Mutex<Vec<String>>,
    pub events: Mutex<Vec<(String, u64)>>,
    pub started: Mutex<Vec<(u64, Option<bool>)>>,
    pub commits: Mutex<Vec<WrittenCheckpoint>>,
    /// Checkpoints announced.
    pub announced: Mutex<Vec<CheckpointId>>,
}

impl JobContext for Notes {
    fn started(&self, step_start: u64, resume_verified: Option<bool>) {
        self.started.lock().unwrap().push((step_start, resume_verified));
    }
    fn metrics(&self, point: MetricPoint) {
        self.points.lock().unwrap().push(point);
    }
    fn log(&self, _: &str, text: &str) {
        self.lines.lock().unwrap().push(text.to_owned());
    }
    fn event(&self, kind: &str, step: u64, _: &str, said: Said) {
        self.events.lock().unwrap().push((kind.to_owned(), step));
        self.lines.lock().unwrap().push(said.text());
    }
    fn progress(&self, _: u64, _: u64, _: f64) {}
    fn command(&self) -> Command {
        Command::Continue
    }
    fn announce(&self, id: CheckpointId, _: &StorageKey, _: u64) {
        self.announced.lock().unwrap().push(id);
    }
    fn commit(&self, checkpoint: WrittenCheckpoint) {
        self.commits.lock().unwrap().push(checkpoint);
    }
}

impl Notes {
    /// Losses by step.
    pub fn losses(&self) -> Vec<(u64, f64)> {
        let points = self.points.lock().unwrap();
        points.iter().map(|point| (point.step, point.values["train/loss"].unwrap())).collect()
    }
}
