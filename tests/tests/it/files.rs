//! Corpora of files as people have them, through the server and the command.

use anyhow::{Context, Result};
use senmon_protocol::{
    corpus::{CorpusState, CorpusView, FileFormat},
    view::ExperimentState,
};
use senmon_tests::{World, WorldOptions, process::binary, spec};
use serde_json::{Value, json};
use std::{fs, io::Write, os::unix::fs::symlink, process::Command, time::Duration};

async fn register(world: &World, body: &Value) -> Result<CorpusView> {
    let corpus: CorpusView = world.api.post("/api/v1/corpora", body).await?;
    world
        .until(Duration::from_secs(30), "the corpus is scanned", async || {
            let corpus: CorpusView = world.api.get(&format!("/api/v1/corpora/{}", corpus.id)).await?;
            Ok((corpus.state != CorpusState::Scanning).then_some(corpus))
        })
        .await
}

#[tokio::test]
async fn a_file_that_is_swapped_for_a_link_out_after_its_registration_is_not_read() -> Result<()> {
    let world = World::start(WorldOptions { documents: 0, ..WorldOptions::default() }).await?;
    let path = world.path("corpus/a.jsonl");
    let line = |i: u32| json!({ "text": format!("document {i} of {}", ["birds", "metals", "rivers"][i as usize % 3]) });
    fs::write(&path, (0..300).map(|i| line(i).to_string() + "\n").collect::<String>())?;
    let registered = register(&world, &json!({ "name": "small", "paths": [path] })).await?;
    assert_eq!(registered.state, CorpusState::Ready);
    // The same bytes, so that their hash tells nothing.
    fs::rename(&path, world.path("outside.jsonl"))?;
    symlink(world.path("outside.jsonl"), &path)?;
    let id = world.submit(&spec::small()).await?.summary.id;
    let failed = world
        .until(Duration::from_secs(60), "the experiment fails", async || {
            let experiment = world.experiment(id).await?;
            Ok((experiment.summary.state == ExperimentState::Failed).then_some(experiment))
        })
        .await?;
    let problem = failed.summary.problem.context("a reason")?;
    assert!(problem.contains("no such file below the folders that may be read"), "{problem}");
    assert!(!problem.contains("outside.jsonl"), "{problem}");
    Ok(())
}

#[tokio::test]
async fn odd_files_are_taken_refused_or_left_out_in_words() -> Result<()> {
    let world = World::start(WorldOptions { documents: 0, ..WorldOptions::default() }).await?;
    let path = |name: &str| world.path("corpus").join(name);
    let lines: String =
        (0..50).map(|i| json!({ "meta": { "id": i }, "text": format!("text {i}") }).to_string() + "\n").collect();
    let mut gzip = Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(fs::File::create(path("cut.jsonl.gz"))?)
        .spawn()?;
    gzip.stdin.take().context("a pipe")?.write_all(lines.replace("text ", "other ").as_bytes())?;
    gzip.wait()?;
    let packed = fs::read(path("cut.jsonl.gz"))?;
    fs::write(path("cut.jsonl.gz"), &packed[..packed.len() / 2])?;
    fs::create_dir(world.path("corpus/blobs"))?;
    fs::write(path("blobs/0af3"), &lines)?;
    symlink("blobs/0af3", path("train.jsonl"))?;
    symlink(".", path("here"))?;
    symlink(".", path("again"))?;
    let fields = json!({ "id": "meta.id" });
    let glob = path("**/*.jsonl*");

    let refused = register(&world, &json!({ "name": "refused", "paths": [glob], "fields": fields })).await?;
    let problem = refused.problem.context("a damaged file is not tolerated unasked")?;
    assert!(problem.contains("cut.jsonl.gz") && problem.contains("tolerate_damaged_files"), "{problem}");
    assert_eq!(refused.files.len(), 2, "what was read is shown of a refused corpus too");

    let tolerated =
        json!({ "name": "taken", "paths": [world.path("corpus")], "fields": fields, "tolerate_damaged_files": true });
    let taken = register(&world, &tolerated).await?;
    assert_eq!((taken.state, taken.problem.clone()), (CorpusState::Ready, None));
    let [cut, train] = taken.files.as_slice() else { panic!("{:?}", taken.files) };
    assert!(train.path.ends_with("/train.jsonl"), "a link keeps its name: {}", train.path);
    assert_eq!((train.format, train.counts.documents, train.problem.clone()), (FileFormat::Jsonl, 50, None));
    assert!(cut.problem.is_some() && cut.counts.documents < 50 && cut.counts.broken == 0);
    let left_out: Vec<_> = taken.left_out.first.iter().map(|file| file.why.clone()).collect();
    assert_eq!(taken.left_out.count, 3, "two links to the folder and a blob without an ending: {left_out:?}");

    let output = Command::new(binary("senmon")?)
        .args(["--server", world.api.base(), "corpus", "show", "taken"])
        .env("SENMON_TOKEN", world.api.token())
        .output()?;
    let shown = String::from_utf8(output.stdout)?;
    for expect in ["damaged: ", "left out: ", "train.jsonl", "a link to a folder"] {
        assert!(shown.contains(expect), "{expect}: {shown}");
    }
    let narrow = json!({ "name": "x", "paths": [path("train.jsonl")], "fields": { "zstd_window_bytes_max": 4_294_967_296_u64 } });
    let problem = world.api.refused("/api/v1/corpora", &narrow).await?;
    assert!(problem.faults.iter().any(|fault| fault.path == "fields.zstd_window_bytes_max"), "{problem:?}");
    Ok(())
}
