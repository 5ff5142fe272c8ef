//! Bad input: one clear message that names the field or file; nothing is half-created.

use anyhow::{Context, Result};
use senmon_corpus::tokenizer::train;
use senmon_protocol::{
    corpus::CorpusView,
    model::ModelSpec,
    plan::PlanView,
    problem::Fault,
    view::{ExperimentSummary, Page},
};
use senmon_tests::{
    World, WorldOptions,
    process::{Process, binary},
    spec,
};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command, time::Duration};

#[tokio::test]
async fn a_faulty_experiment_is_refused_with_the_path_of_each_fault() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let cases: [(&str, Value, &str); 8] = [
        ("/clustering/domains", json!(4000), "clustering.domains"),
        ("/corpus", json!("nobody"), "corpus"),
        ("/plan/1/order", json!({ "kind": "given", "domains": [0, 7] }), "plan[1].order.domains"),
        ("/plan/0/tokens", json!("900B"), "plan[0].tokens"),
        ("/model/vocab_size", json!(300), "model.vocab_size"),
        ("/training/learning_rate", json!(-1.0), "training.learning_rate"),
        ("/data/sequence_length", json!(65), "data.sequence_length"),
        ("/priority", json!(101), "priority"),
    ];
    for (pointer, value, path) in cases {
        let mut spec = spec::small_json();
        set(&mut spec, pointer, value);
        let problem = world.api.refused("/api/v1/experiments", &spec).await?;
        assert_eq!(problem.status, 422, "{problem:?}");
        assert!(problem.faults.iter().any(|fault| fault.path.starts_with(path)), "{path}: {problem:?}");
    }
    let mut two_faults = spec::small_json();
    set(&mut two_faults, "/priority", json!(101));
    set(&mut two_faults, "/corpus", json!("nobody"));
    assert!(world.api.refused("/api/v1/experiments", &two_faults).await?.faults.len() >= 2);

    let page: Page<ExperimentSummary> = world.api.get("/api/v1/experiments").await?;
    assert!(page.items.is_empty(), "a refused experiment was stored");
    Ok(())
}

/// Writes a model folder that can be a seed, with this tokenizer.
fn model_folder(folder: &Path, tokenizer: &[u8]) -> Result<()> {
    let config = json!({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0
    })
    .to_string();
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), &config)?;
    fs::write(folder.join("tokenizer.json"), tokenizer)?;
    let model = ModelSpec::from_config_json(&config).map_err(anyhow::Error::msg)?;
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in model.tensors() {
        let begin = end;
        end += 4 * shape.iter().product::<u64>();
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] }));
    }
    let header = serde_json::to_vec(&header)?;
    let zeros = vec![0; usize::try_from(end)?];
    fs::write(folder.join("model.safetensors"), [&header.len().to_le_bytes()[..], &header, &zeros].concat())?;
    Ok(())
}

#[tokio::test]
async fn a_seed_or_tokenizer_that_cannot_be_used_is_said_by_plan_and_at_submission() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let folder = world.path("corpus/model");
    let own = train(&["the kernel maps the page into memory and the driver asks the kernel"], 300)?;
    let other = train(&["醤油と砂糖を鍋に入れて煮る料理、醤油と出汁の料理"], 300)?;
    let mut spec = spec::small_json();
    spec.as_object_mut().context("an object")?.remove("model");
    set(&mut spec, "/seed", json!({ "kind": "checkpoint", "path": "model" }));
    set(&mut spec, "/tokenizer", json!({ "kind": "file", "path": "model/tokenizer.json" }));

    let check = async |path: &str, spec: &Value, expect: &str| -> Result<()> {
        let said = |faults: &[Fault]| faults.iter().any(|f| f.path == path && f.message.contains(expect));
        let plan: PlanView = world.api.post("/api/v1/plan", &json!({ "experiment": spec })).await?;
        assert!(said(&plan.refused), "{path}, {expect}: {:?}", plan.refused);
        let problem = world.api.refused("/api/v1/experiments", spec).await?;
        assert!(said(&problem.faults), "{path}, {expect}: {problem:?}");
        Ok(())
    };
    model_folder(&folder, &own)?;
    let plan: PlanView = world.api.post("/api/v1/plan", &json!({ "experiment": spec })).await?;
    assert!(plan.refused.iter().all(|fault| fault.path.starts_with("plan")), "{:?}", plan.refused);

    let whole = fs::read(folder.join("model.safetensors"))?;
    fs::write(folder.join("model.safetensors"), &whole[..whole.len() / 2])?;
    check("seed.path", &spec, "cut short").await?;
    fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin"))?;
    check("seed.path", &spec, "pickled weights").await?;

    model_folder(&folder, &own)?;
    fs::write(world.path("corpus/other.json"), &other)?;
    let with = |pointer: &str, value: Value| {
        let mut spec = spec.clone();
        set(&mut spec, pointer, value);
        spec
    };
    check("tokenizer.path", &with("/tokenizer/path", json!("other.json")), "is not the model's").await?;
    check("tokenizer.separator", &with("/tokenizer/separator", json!("</s>")), "<|endoftext|>").await?;
    check("tokenizer.bos", &with("/tokenizer/bos", json!("<s>")), "<|endoftext|>").await?;
    let trained = json!({ "kind": "train", "vocab_size": 300 });
    check("tokenizer.kind", &with("/tokenizer", trained), "kind: file").await
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_path() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let mut spec = spec::small_json();
    set(&mut spec, "/training/lerning_rate", json!(0.1));
    let problem = world.api.refused("/api/v1/experiments", &spec).await?;
    assert!(format!("{problem:?}").contains("lerning_rate"), "{problem:?}");

    let file = world.path("typo.yaml");
    fs::write(&file, serde_json::to_string(&spec)?)?;
    let output = Command::new(binary("senmon")?)
        .args(["--server", world.api.base(), "run"])
        .env("SENMON_TOKEN", world.api.token())
        .arg(&file)
        .output()?;
    assert_eq!(output.status.code(), Some(4));
    let message = String::from_utf8(output.stderr)?;
    assert!(message.contains("training") && message.contains("lerning_rate"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_corpus_outside_the_roots_is_refused() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    std::os::unix::fs::symlink("/etc", world.path("corpus/link"))?;
    let inside = world.path("corpus");
    let paths = [
        json!("/etc/passwd"),
        json!("/etc/no-such-file"),
        json!(inside.join("../server/admin-token")),
        json!(inside.join("link/hostname")),
        json!(inside.join("link/no-such-file")),
        json!(inside.join("missing.jsonl")),
    ];
    let mut said = Vec::new();
    for path in paths {
        let problem = world.api.refused("/api/v1/corpora", &json!({ "name": "x", "paths": [path] })).await?;
        assert_eq!(problem.faults[0].path, "paths[0]", "{problem:?}");
        said.push(problem.faults[0].message.replace(&path.to_string(), "PATH"));
    }
    for glob in ["/**/*.jsonl", "/etc/*.conf", "/etc/**", "/*/passwd"] {
        let problem = world.api.refused("/api/v1/corpora", &json!({ "name": "x", "paths": [glob] })).await?;
        assert!(problem.faults[0].message.contains("matches no"), "{problem:?}");
        assert!(!problem.detail.contains("passwd:") && !problem.detail.contains(".conf:"), "{problem:?}");
    }
    // Nobody learns from a message what there is outside.
    assert!(said.iter().all(|message| *message == said[0] && message.contains("PATH")), "{said:#?}");
    let mut spec = spec::small_json();
    let mut faults = Vec::new();
    for path in ["/etc/passwd", "/etc/no-such-file", "link/hostname", "missing"] {
        set(&mut spec, "/tokenizer", json!({ "kind": "file", "path": path }));
        let problem = world.api.refused("/api/v1/experiments", &spec).await?;
        let fault =
            problem.faults.iter().find(|fault| fault.path == "tokenizer.path").context("a fault of the path")?;
        faults.push(fault.message.replace(path, "PATH"));
    }
    assert!(faults.iter().all(|message| *message == faults[0] && message.contains("PATH")), "{faults:#?}");
    let page: Page<CorpusView> = world.api.get("/api/v1/corpora").await?;
    assert!(page.items.is_empty(), "a refused corpus was stored");
    Ok(())
}

#[tokio::test]
async fn a_text_that_cannot_be_stored_is_refused() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, ..WorldOptions::default() }).await?;
    let mut spec = spec::small_json();
    set(&mut spec, "/description", json!("a\0b"));
    let problem = world.api.refused("/api/v1/experiments", &spec).await?;
    assert!(problem.status == 422 && problem.detail.contains("NUL"), "{problem:?}");
    Ok(())
}

#[tokio::test]
async fn broken_records_are_counted_and_shown() -> Result<()> {
    let world = World::start(WorldOptions { documents: 0, ..WorldOptions::default() }).await?;
    let line = |id: &str, text: &str| json!({ "id": id, "text": text }).to_string();
    let mut bytes = [line("a", "one"), line("b", "one"), line("c", "  "), "{\"id\": \"d\"}".into(), "{oops".into()]
        .join("\n")
        .into_bytes();
    bytes.extend(b"\n{\"text\": \"\xff\"}\n");
    fs::write(world.path("corpus/bad.jsonl"), bytes)?;
    let body = json!({ "name": "bad", "paths": [world.path("corpus/bad.jsonl")], "tolerated_broken_share": 0.9 });
    let corpus: CorpusView = world.api.post("/api/v1/corpora", &body).await?;
    let corpus = world
        .until(Duration::from_secs(30), "the corpus is scanned", async || {
            let corpus: CorpusView = world.api.get(&format!("/api/v1/corpora/{}", corpus.id)).await?;
            Ok((corpus.state != senmon_protocol::corpus::CorpusState::Scanning).then_some(corpus))
        })
        .await?;
    let counts = corpus.counts;
    assert_eq!((counts.records, counts.documents, counts.duplicates, counts.empty, counts.broken), (6, 1, 1, 1, 3));
    let records: Vec<_> = corpus.broken_first.iter().map(|broken| broken.record).collect();
    assert_eq!(records, [4, 5, 6]);
    Ok(())
}

#[tokio::test]
async fn a_second_server_on_the_same_data_folder_is_refused() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let args = ["--config".to_owned(), world.server_config()?.display().to_string()];
    let mut second = Process::start("senmon-server", &args, &world.path("second.log"))?;
    let status = second.wait(Duration::from_secs(20))?;
    assert!(!status.success());
    let message = second.log_tail();
    assert!(message.contains(&world.path("server").display().to_string()), "{message}");
    let page: Page<CorpusView> = world.api.get("/api/v1/corpora").await.context("the first server still serves")?;
    assert!(page.items.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_unknown_configuration_key_is_refused_with_its_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for program in ["senmon-server", "senmon-worker"] {
        let config = folder.path().join("bad.toml");
        fs::write(&config, "lisen = \"127.0.0.1:1\"\n")?;
        let args = ["--config".to_owned(), config.display().to_string()];
        let mut process = Process::start(program, &args, &folder.path().join("log"))?;
        assert!(!process.wait(Duration::from_secs(20))?.success(), "{program}");
        assert!(process.log_tail().contains("lisen"), "{program}: {}", process.log_tail());
    }
    Ok(())
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_or_past_its_role() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let with = |token: &str| senmon_tests::client::Api::new(world.api.base(), token);
    let get = async |token: &str, path: &str| with(token).send::<()>(reqwest::Method::GET, path, None).await;
    for token in ["", "smn_a_nonsense", "' OR 1=1 --"] {
        assert_eq!(get(token, "/api/v1/experiments").await?.0, 401, "{token:?}");
    }
    let worker = world.worker_token()?;
    assert_eq!(get(&worker, "/api/v1/experiments").await?.0, 403);
    let viewer: Value = world.api.post("/api/v1/tokens", &json!({ "name": "reader", "role": "viewer" })).await?;
    let viewer = viewer["secret"].as_str().context("a secret")?.to_owned();
    assert_eq!(get(&viewer, "/api/v1/experiments").await?.0, 200);
    assert_eq!(get(&viewer, "/api/v1/tokens").await?.0, 403);
    let problem = with(&viewer).refused("/api/v1/experiments", &spec::small_json()).await?;
    assert_eq!(problem.status, 403);
    Ok(())
}

fn set(spec: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = spec.pointer_mut(parent).expect("the parent exists");
    match parent {
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        parent => parent[key] = value,
    }
}
