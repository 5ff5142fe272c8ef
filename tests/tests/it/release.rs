//! Upgrades: a server starts on the database of every release, reads all of it and goes on; what landed is not edited.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::view::{ExperimentState, ExperimentSummary, Page};
use senmon_server::postgres::Cluster;
use senmon_tests::{World, WorldOptions, corpus, process::repository, spec};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(240);
/// What the secrets begin with that the test adds to a release's tokens.
const SECRET: &str = "of-the-upgrade-test";

fn releases() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository().join("tests/fixtures"))? {
        found.push(entry?.path());
    }
    found.retain(|path| path.to_string_lossy().ends_with(".sql.zst"));
    found.sort();
    Ok(found)
}

#[test]
fn migrations_that_landed_are_not_edited() -> Result<()> {
    let folder = repository().join("migrations");
    let landed = fs::read_to_string(folder.join("LANDED"))?;
    for line in landed.lines() {
        let (hash, name) = line.split_once("  ").context("expected a hash and a name")?;
        let bytes = fs::read(folder.join(name)).with_context(|| format!("{name} landed and is gone"))?;
        let found = senmon_corpus::hex(&Sha256::digest(&bytes));
        ensure!(found == hash, "{name} landed and was edited: add a migration instead");
    }
    for release in releases()? {
        let name = release.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.split('.').next().unwrap_or_default();
        ensure!(landed.contains(&format!("  {number}_")), "{name} is of a migration that LANDED does not list");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_starts_on_every_release() -> Result<()> {
    let releases = releases()?;
    ensure!(!releases.is_empty(), "there is no release to start on");
    for release in releases {
        starts_on(&release).await.with_context(|| format!("on {}", release.display()))?;
    }
    Ok(())
}

async fn starts_on(release: &Path) -> Result<()> {
    // Its checkpoints are not there, so nobody shall look for them.
    let server_settings = "scrub_days = 0\n".into();
    let options = WorldOptions { documents: 0, server_settings, ..WorldOptions::default() };
    let mut world = World::empty(options)?;
    load(&world, release).await?;
    world.begin().await?;

    let page: Page<ExperimentSummary> = world.api.get("/api/v1/experiments").await?;
    let of = |state| page.items.iter().filter(move |experiment| experiment.state == state).count();
    let states = [ExperimentState::Completed, ExperimentState::Running, ExperimentState::Cancelled].map(of);
    ensure!(states == [1, 1, 1], "{page:?}");
    let read = read_all(&world).await?;
    println!("read {read} answers");
    // And it goes on: what trained when the release ended is ended, a new experiment runs to its end.
    for experiment in &page.items {
        if experiment.state != ExperimentState::Running {
            continue;
        }
        let _: Value = world.api.post(&format!("/api/v1/experiments/{}/cancel", experiment.id), &()).await?;
    }
    let mut spec = spec::small();
    spec.name = "after the upgrade".into();
    spec.corpus = "fresh".into();
    corpus::slice(&world.path("corpus"), 4, 120)?;
    world.register("fresh", "corpus").await?;
    let id = world.submit(&spec).await?.summary.id;
    world.completed(id, LIMIT).await?;
    Ok(())
}

/// Asks for everything that can be read, of every thing that there is; nothing is broken. How many answers there were.
async fn read_all(world: &World) -> Result<usize> {
    let document = fs::read_to_string(repository().join("server/openapi.json"))?;
    let document: Value = serde_json::from_str(&document)?;
    let paths = document["paths"].as_object().context("there are paths")?;
    let of = paths
        .iter()
        .filter(|(path, of)| of.get("get").is_some() && !path.ends_with("/stream") && !path.contains("/login/"));
    let mut read = 0;
    for (path, _) in of {
        let ids = match path.split("/{id}").next().filter(|_| path.contains("/{id}")) {
            _ if path.contains("{name}") => continue,
            Some(list) => ids(world, list).await?,
            None => vec![String::new()],
        };
        for id in ids {
            let path = path.replace("{id}", &id);
            let (status, answer) = world.api.send::<()>(Method::GET, &path, None).await?;
            // What is not over has no report.
            let absent = status == 404 && (path.ends_with("/report") || path.ends_with("/ensemble"));
            ensure!(status == 200 || absent, "{path}: {status} {answer}");
            ensure!(!is_broken(&answer), "{path}: {answer}");
            read += 1;
        }
    }
    Ok(read)
}

/// Ids of everything in a list; branches and clusterings are named by their experiments.
async fn ids(world: &World, list: &str) -> Result<Vec<String>> {
    let (list, within) = match list.rsplit('/').next() {
        Some("branches") => ("/api/v1/experiments", Some("branches")),
        Some("clusterings") => ("/api/v1/experiments", Some("clustering_id")),
        _ => (list, None),
    };
    let answer: Value = world.api.get(&format!("{list}?limit=200")).await?;
    let items = answer.get("items").unwrap_or(&answer).as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found: Vec<String> = items.iter().filter_map(|item| text(&item["id"])).collect();
    let Some(within) = within else { return Ok(found) };
    let mut inside = Vec::new();
    for id in found {
        let experiment: Value = world.api.get(&format!("{list}/{id}")).await?;
        match &experiment[within] {
            Value::Array(items) => inside.extend(items.iter().filter_map(|item| text(&item["id"]))),
            value => inside.extend(text(value)),
        }
    }
    Ok(inside)
}

fn is_broken(answer: &Value) -> bool {
    match answer {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            name == "broken" && value.as_array().is_some_and(|rows| !rows.is_empty()) || is_broken(value)
        }),
        Value::Array(items) => items.iter().any(is_broken),
        _ => false,
    }
}

/// Makes the world's database that of a release, with a token of ours and a store that is the release's, but empty.
async fn load(world: &World, release: &Path) -> Result<()> {
    let data_dir = world.path("server");
    let mut cluster = tokio::task::spawn_blocking({
        let data_dir = data_dir.clone();
        move || Cluster::start(&data_dir, None)
    })
    .await??;
    let mut psql = Command::new("psql");
    psql.args(["-U", "senmon", "-d", "postgres", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h"]).arg(cluster.socket());
    let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("start psql")?;
    psql.stdin.take().context("its input")?.write_all(&zstd::decode_all(fs::File::open(release)?)?)?;
    ensure!(psql.wait()?.success(), "the release cannot be loaded");
    let mut db = PgConnection::connect_with(&cluster.options()).await?;
    for role in ["admin", "worker"] {
        let secret = format!("{SECRET}-{role}");
        sqlx::query("INSERT INTO tokens (id, name, role, prefix, secret_sha256) VALUES (gen_random_uuid(), 'test', $1, 'senmon', $2)")
            .bind(role)
            .bind(Sha256::digest(&secret).to_vec())
            .execute(&mut db)
            .await?;
        fs::write(data_dir.join(format!("{role}-token")), secret)?;
    }
    let store: uuid::Uuid = sqlx::query_scalar("SELECT id FROM store_identity").fetch_one(&mut db).await?;
    db.close().await?;
    fs::create_dir_all(data_dir.join("storage"))?;
    fs::write(data_dir.join("storage/senmon-store.json"), format!("{{\"id\":\"{store}\"}}"))?;
    tokio::task::spawn_blocking(move || cluster.stop()).await?;
    Ok(())
}
