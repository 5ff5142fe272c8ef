//! What scripts need: lists that are filtered and read in pages, deletes that say what is in the way, events, logs of
//! every job, parts of files.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::{
    checkpoint::Manifest,
    ids::ExperimentId,
    view::{BranchView, CheckpointView, EvaluationView, EventView, ExperimentSummary, JobView, LogsView, Page},
};
use senmon_tests::{World, WorldOptions, process::binary, spec};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, process::Command, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);

async fn submit(world: &World, name: &str, labels: &[&str]) -> Result<ExperimentId> {
    let mut small = spec::small();
    small.name = name.into();
    small.labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Ok(world.submit(&small).await?.summary.id)
}

async fn names(world: &World, query: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<ExperimentSummary> =
            world.api.get(&format!("/api/v1/experiments?limit=2{query}{cursor}")).await?;
        ensure!(page.items.len() <= 2, "{page:?}");
        found.extend(page.items.into_iter().map(|item| item.name));
        let Some(next) = page.next_cursor else { return Ok(found) };
        cursor = format!("&cursor={next}");
    }
}

async fn refused(world: &World, path: &str) -> Result<(u16, String)> {
    let (status, answer) = world.api.send::<()>(Method::DELETE, path, None).await?;
    Ok((status, answer.to_string()))
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_read_in_pages() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    for (name, labels) in
        [("delta", &["x", "y"][..]), ("Alpha one", &["x"]), ("beta", &[]), ("alpha two", &["y"]), ("50%_off", &["x"])]
    {
        submit(&world, name, labels).await?;
    }
    let cancelled = submit(&world, "gone", &[]).await?;
    let _: Value = world.api.post(&format!("/api/v1/experiments/{cancelled}/cancel"), &()).await?;
    for (query, expected) in [
        ("", &["gone", "50%_off", "alpha two", "beta", "Alpha one", "delta"][..]),
        ("&sort=oldest", &["delta", "Alpha one", "beta", "alpha two", "50%_off", "gone"]),
        ("&q=ALPHA", &["alpha two", "Alpha one"]),
        ("&q=%25_", &["50%_off"]),
        ("&labels=x,y", &["delta"]),
        ("&labels=x&sort=oldest", &["delta", "Alpha one", "50%_off"]),
        ("&state=cancelled", &["gone"]),
        ("&state=cancelled,running&q=e", &["gone", "beta", "Alpha one", "delta"]),
        ("&owner=nobody", &[]),
        ("&archived=true", &[]),
    ] {
        ensure!(names(&world, query).await? == expected, "{query}: {:?}", names(&world, query).await?);
    }
    let sorted = names(&world, "&sort=name").await?;
    ensure!(sorted.len() == 6 && sorted.iter().collect::<BTreeSet<_>>().len() == 6, "{sorted:?}");
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("state=lost", "state"),
        ("state=", "state"),
        ("sort=size", "sort"),
        ("archived=perhaps", "archived"),
        ("limt=3", "limt"),
        ("q=%00", "q"),
    ] {
        let (status, answer) = world.api.send::<()>(Method::GET, &format!("/api/v1/experiments?{query}"), None).await?;
        ensure!(status == 422 && answer["faults"][0].to_string().contains(named), "{query}: {status} {answer}");
    }
    let (status, answer) = world.api.send::<()>(Method::GET, "/api/v1/experiments/x", None).await?;
    ensure!(status == 422 && answer["faults"][0]["path"] == "id", "{status} {answer}");

    let out = Command::new(binary("senmon")?)
        .args(["--server", world.api.base(), "-o", "json", "ls", "alpha", "--label", "x"])
        .env("SENMON_TOKEN", world.api.token())
        .output()?;
    let listed: Vec<ExperimentSummary> =
        serde_json::from_slice(&out.stdout).with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())?;
    ensure!(listed.len() == 1 && listed[0].name == "Alpha one", "{listed:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_in_use_is_not_deleted_and_says_by_what() -> Result<()> {
    let mut world = World::start(WorldOptions { documents: 60, ..WorldOptions::default() }).await?;
    let mut small = spec::small();
    (small.controls.random_split, small.controls.dense, small.weight_average) = (false, false, false);
    small.plan.truncate(1);
    let id = world.submit(&small).await?.summary.id;
    let path = format!("/api/v1/experiments/{id}");
    let (status, answer) = refused(&world, &path).await?;
    ensure!(status == 409 && answer.contains("cancel it"), "{status} {answer}");
    let (status, answer) = refused(&world, "/api/v1/corpora/small").await?;
    ensure!(status == 409 && answer.contains("small (running)"), "{status} {answer}");
    let done = world.completed(id, LIMIT).await?;
    let workers: Vec<Value> = world.api.list("/api/v1/workers").await?;
    let worker = format!("/api/v1/workers/{}", workers[0]["id"].as_str().context("an id")?);
    let (status, answer) = refused(&world, &worker).await?;
    ensure!(status == 409 && answer.contains("was heard of"), "{status} {answer}");

    let checkpoints = world.path("server/storage/checkpoints");
    ensure!(checkpoints.join(done.branches[0].id.to_string()).exists());
    ensure!(refused(&world, &path).await?.0 == 204);
    ensure!(world.api.send::<()>(Method::GET, &path, None).await?.0 == 404);
    ensure!(refused(&world, &path).await?.0 == 404);
    ensure!(names(&world, "").await?.is_empty() && names(&world, "&archived=true").await? == ["small"]);
    let folder = checkpoints.join(done.branches[0].id.to_string());
    let left = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    world.until(LIMIT, "its checkpoints are gone", async || Ok((left() == 0).then_some(()))).await?;

    // The corpus is free, and its name.
    ensure!(refused(&world, "/api/v1/corpora/small").await?.0 == 204);
    ensure!(world.api.send::<()>(Method::GET, "/api/v1/corpora/small", None).await?.0 == 404);
    let problem = world.api.refused("/api/v1/experiments", &small).await?;
    ensure!(problem.faults[0].path == "corpus", "{problem:?}");
    world.register("small", "corpus").await?;

    // A worker that is lost goes, and its credential with it; an enrolment token brings it back.
    world.kill_worker(0);
    world
        .until(LIMIT, "the worker is lost", async || Ok((refused(&world, &worker).await?.0 == 204).then_some(())))
        .await?;
    ensure!(world.api.list::<Value>("/api/v1/workers").await?.is_empty());
    std::fs::remove_file(world.path("worker-0/credential"))?;
    world.start_worker(0)?;
    let back = async || Ok(world.api.list::<Value>("/api/v1/workers").await?.pop());
    world.until(LIMIT, "the worker is back", back).await?;
    Ok(())
}

#[tokio::test]
async fn events_logs_and_parts_of_files_can_be_read() -> Result<()> {
    let world = World::start(WorldOptions { documents: 60, ..WorldOptions::default() }).await?;
    let mut small = spec::small();
    (small.controls.random_split, small.controls.dense, small.weight_average) = (false, false, false);
    small.plan.truncate(1);
    let id = world.submit(&small).await?.summary.id;
    let done = world.completed(id, LIMIT).await?;

    // Every job of every kind has a log.
    let states = "state=queued,running,paused,completed,failed,cancelled";
    let jobs: Vec<JobView> = world.api.list(&format!("/api/v1/jobs?{states}&experiment_id={id}")).await?;
    let kinds: BTreeSet<&str> = jobs.iter().map(|job| job.kind.word()).collect();
    ensure!(["shard", "train", "evaluate"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    let open: Vec<JobView> = world.api.list("/api/v1/jobs").await?;
    ensure!(open.is_empty(), "{open:?}");
    let trained: Vec<JobView> = world.api.list(&format!("/api/v1/jobs?{states}&kind=train")).await?;
    ensure!(trained.len() == done.branches.len(), "{trained:?}");
    for job in &trained {
        let log: LogsView = world.api.get(&format!("/api/v1/jobs/{}/logs", job.id)).await?;
        ensure!(!log.lines.is_empty(), "{} has no log", job.title);
        let out = Command::new(binary("senmon")?)
            .args(["--server", world.api.base(), "job", "logs", &job.id.to_string()])
            .env("SENMON_TOKEN", world.api.token())
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        ensure!(text.lines().count() >= log.lines.len(), "{text} {}", String::from_utf8_lossy(&out.stderr));
    }
    let branches: Page<BranchView> =
        world.api.get(&format!("/api/v1/experiments/{id}/branches?limit=1&state=completed")).await?;
    ensure!(branches.items.len() == 1 && branches.next_cursor.is_some(), "{branches:?}");
    let all: Vec<BranchView> = world.api.list(&format!("/api/v1/experiments/{id}/branches?q=EXPERT")).await?;
    ensure!(all.len() == 3, "{all:?}");
    let evaluations: Page<EvaluationView> =
        world.api.get(&format!("/api/v1/experiments/{id}/evaluations?limit=1")).await?;
    ensure!(evaluations.items.len() == 1 && evaluations.next_cursor.is_some(), "{evaluations:?}");

    // The newest events come first; followed, the next ones in their order.
    let newest: Page<EventView> = world.api.get("/api/v1/events?limit=3").await?;
    ensure!(newest.items.windows(2).all(|pair| pair[0].id > pair[1].id) && newest.items.len() == 3, "{newest:?}");
    let after = newest.items[2].id;
    let next: Page<EventView> = world.api.get(&format!("/api/v1/events?sort=oldest&cursor={after}&limit=500")).await?;
    ensure!(next.items.len() >= 2 && next.items[0].id == newest.items[1].id, "{next:?}");
    let warned: Vec<EventView> = world.api.list("/api/v1/events?level=warn").await?;
    ensure!(warned.iter().all(|event| event.level != "info"), "{warned:?}");
    let none: Page<EventView> = world.api.get("/api/v1/events?since=2100-01-01T00:00:00Z").await?;
    ensure!(none.items.is_empty(), "{none:?}");
    let shown = |args: &[&str]| -> Result<String> {
        let out = Command::new(binary("senmon")?)
            .args(["--server", world.api.base(), "events"])
            .env("SENMON_TOKEN", world.api.token())
            .args(args)
            .output()?;
        Ok(String::from_utf8(out.stdout)?)
    };
    ensure!(shown(&["-n", "2"])?.lines().count() == 2);

    // What a real run says is known as kinds and values; people read it in their language, scripts in English.
    let all: Vec<EventView> = world.api.list("/api/v1/events?sort=oldest").await?;
    let wordless: Vec<&EventView> = all.iter().filter(|event| event.said.is_none()).collect();
    ensure!(wordless.is_empty(), "{wordless:?}");
    let unlike: Vec<&EventView> =
        all.iter().filter(|event| event.said.as_ref().is_some_and(|said| said.text() != event.text)).collect();
    ensure!(unlike.is_empty(), "{unlike:?}");
    let japanese_both = |args: &[&str]| -> Result<(String, String)> {
        let out = Command::new(binary("senmon")?)
            .args(["--server", world.api.base()])
            .args(args)
            .env("SENMON_TOKEN", world.api.token())
            .env_remove("SENMON_LANG")
            .env_remove("LC_ALL")
            .env_remove("LC_MESSAGES")
            .env("LANG", "ja_JP.UTF-8")
            .output()?;
        Ok((String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?))
    };
    let japanese = |args: &[&str]| japanese_both(args).map(|(told, _)| told);
    let told = japanese(&["events", "-n", "500"])?;
    for part in [
        "シードモデル」が完了しました。",
        "seed の学習を開始しました。",
        "実験が完了しました。ルーティングしたアンサンブル",
    ] {
        ensure!(told.contains(part), "{part} is not in\n{told}");
    }
    ensure!(!told.contains(" began.") && !told.contains("is done."), "{told}");
    let report = japanese(&["report", &id.to_string()])?;
    ensure!(report.contains("パープレキシティは") && report.contains("確率を混合します。"), "{report}");
    // What the command refuses itself, what the server refuses, and each fault of an input.
    let name = id.to_string();
    for (args, part) in [
        (vec!["show", "nowhere"], "実験 \"nowhere\" はありません"),
        (vec!["pause", &name], "この操作には、実行中の実験が必要です"),
        (vec!["token", "create", "x", "--days", "9999"], "days: 1〜3650 の値を指定してください（指定値: 9999）"),
    ] {
        let (_, refused) = japanese_both(&args)?;
        ensure!(refused.contains(part), "{part} is not in\n{refused}");
    }
    let scripts = japanese(&["--output", "json", "events", "-n", "1"])?;
    ensure!(serde_json::from_str::<Vec<EventView>>(&scripts)?[0].text == newest.items[0].text, "{scripts}");
    ensure!(shown(&["--since", "1h", "--level", "error"])?.lines().count() == 0);
    parts(&world, &done.branches[0]).await
}

/// Ranges of a checkpoint's file, each as the standard says, and none of them compressed.
async fn parts(world: &World, branch: &BranchView) -> Result<()> {
    let path = format!("/api/v1/checkpoints?branch_id={}&limit=1", branch.id);
    let page: Page<CheckpointView> = world.api.get(&path).await?;
    let base = format!("{}/api/v1/checkpoints/{}/files", world.api.base(), page.items[0].id);
    let get = |name: &str, headers: &[(&'static str, String)]| {
        let mut request = reqwest::Client::new().get(format!("{base}/{name}")).bearer_auth(world.api.token());
        request = request.header("accept-encoding", "gzip");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send()
    };
    let manifest: Manifest = get("manifest.json", &[]).await?.json().await?;
    let (name, entry) = manifest.files.iter().max_by_key(|(_, entry)| entry.bytes).context("a file")?;
    let tag = format!("\"{}\"", entry.sha256);
    let whole = get(name, &[]).await?;
    let header = |answer: &reqwest::Response, name: &str| {
        answer
            .headers()
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    };
    ensure!(header(&whole, "etag") == tag && header(&whole, "accept-ranges") == "bytes");
    ensure!(header(&whole, "content-encoding").is_empty(), "weights are not compressed");
    let whole = whole.bytes().await?;
    ensure!(whole.len() as u64 == entry.bytes && format!("{:x}", Sha256::digest(&whole)) == entry.sha256);
    let last = entry.bytes - 1;
    for (range, expected) in [
        ("bytes=0-9".to_owned(), &whole[..10]),
        ("bytes=10-".into(), &whole[10..]),
        ("bytes=-5".into(), &whole[whole.len() - 5..]),
        (format!("bytes={last}-{}", last + 100), &whole[whole.len() - 1..]),
    ] {
        let part = get(name, &[("range", range.clone()), ("if-range", tag.clone())]).await?;
        ensure!(
            part.status() == 206 && header(&part, "content-range").ends_with(&format!("/{}", entry.bytes)),
            "{range}"
        );
        ensure!(part.bytes().await? == expected, "{range}");
    }
    let other = get(name, &[("range", "bytes=0-9".into()), ("if-range", "\"another\"".into())]).await?;
    ensure!(other.status() == 200 && other.bytes().await?.len() == whole.len());
    let beyond = get(name, &[("range", format!("bytes={}-", entry.bytes))]).await?;
    ensure!(beyond.status() == 416 && header(&beyond, "content-range") == format!("bytes */{}", entry.bytes));
    let known = get(name, &[("if-none-match", tag)]).await?;
    ensure!(known.status() == 304 && known.bytes().await?.is_empty());
    for bad in ["nothing", "..%2f..%2fadmin-token", "%2e%2e", "a%00b", "a%5cb"] {
        let status = get(bad, &[]).await?.status().as_u16();
        ensure!([404, 422].contains(&status), "{bad}: {status}");
    }
    Ok(())
}
