//! The door for bodies: whatever operation is asked, a body that cannot be read is refused in words, and nothing falls over.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::{problem::Problem, view::ExperimentSummary, view::Page};
use senmon_tests::{Pretended, World, WorldOptions, pretended::credential, spec};
use serde_json::Value;

const EXPERIMENTS: &str = "/api/v1/experiments";

/// Operations with a body, from the API's own description.
async fn operations(world: &World, worker: &Pretended) -> Result<Vec<(Method, String)>> {
    let document: Value = world.api.get("/openapi.json").await?;
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("a path")? {
            if operation.get("requestBody").is_some() {
                let is_worker = path.contains("/workers/")
                    && ["/poll", "/heartbeat", "/readings"].iter().any(|verb| path.contains(verb));
                let id = if is_worker { worker.id().0 } else { uuid::Uuid::now_v7() };
                let path = path.replace("{id}", &id.to_string());
                found.push((Method::from_bytes(method.to_uppercase().as_bytes())?, path));
            }
        }
    }
    ensure!(found.len() > 12, "found {} operations with a body", found.len());
    Ok(found)
}

async fn send(world: &World, method: &Method, path: &str, kind: &str, body: Vec<u8>) -> Result<(u16, String)> {
    // The worker protocol wants a worker's credential, and to become one an enrolment token.
    let token = match path {
        "/api/v1/workers" => world.worker_token()?,
        path if path.contains("/attempts/") || path.contains("/workers/") => credential("door"),
        _ => world.api.token().to_owned(),
    };
    let request = reqwest::Client::new()
        .request(method.clone(), format!("{}{path}", world.api.base()))
        .bearer_auth(token)
        .header("content-type", kind)
        .body(body);
    let response = request.send().await?;
    let (status, text) = (response.status().as_u16(), response.text().await?);
    Ok((status, text))
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_by_every_operation() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let bodies: [(&str, Vec<u8>); 9] = [
        ("nothing", Vec::new()),
        ("no JSON", b"{ not json".to_vec()),
        ("half a value", b"{\"name\": \"x\"".to_vec()),
        ("another type", b"[1, 2, 3]".to_vec()),
        ("no UTF-8", b"{\"name\": \"\xff\xfe\"}".to_vec()),
        ("a number beyond all", b"{\"fence\": 1e999, \"tokens\": 1e999, \"session\": 1e999}".to_vec()),
        (
            "a number beyond 64 bits",
            b"{\"fence\": 99999999999999999999999, \"session\": 99999999999999999999999}".to_vec(),
        ),
        ("a deep body", [vec![b'['; 200_000], vec![b']'; 200_000]].concat()),
        ("a large body", vec![b' '; 17 << 20]),
    ];
    let worker = Pretended::enrol(&world, "door").await?;
    for (method, path) in operations(&world, &worker).await? {
        for (what, body) in &bodies {
            // A refusal may come while the body is still on its way; then the connection ends with it.
            let Ok((status, text)) = send(&world, &method, &path, "application/json", body.clone()).await else {
                ensure!(body.len() > 1 << 20, "{method} {path}: {what}: no answer");
                continue;
            };
            let problem: Problem =
                serde_json::from_str(&text).with_context(|| format!("{method} {path}: {what}: {text}"))?;
            ensure!((400..500).contains(&status), "{method} {path}: {what}: {status} {problem:?}");
            ensure!(problem.detail.len() < 2_000, "{method} {path}: {what}: {} characters", problem.detail.len());
        }
        if path != EXPERIMENTS {
            let (status, text) = send(&world, &method, &path, "application/yaml", b"name: x".to_vec()).await?;
            ensure!(status == 415 && text.contains("only experiment files may be YAML"), "{method} {path}: {text}");
            let (status, text) = send(&world, &method, &path, "text/plain", b"{}".to_vec()).await?;
            ensure!(status == 415 && text.contains("text/plain"), "{method} {path}: {text}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_file_is_measured_before_it_is_read() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let good = serde_json::to_string(&spec::small_json())?;
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1).into_bytes()
    };
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let row = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb += &format!("a{i}: &a{i} [{row}]\n");
    }
    let cases = [
        (with("\"model\":{", "\"model\":{\"rope_theta\":.inf,"), 422, "model.rope_theta: found the number inf"),
        (with("\"model\":{", "\"model\":{\"rope_theta\":.nan,"), 422, "model.rope_theta: found the number NaN"),
        (bomb.into_bytes(), 422, "aliases counted in full"),
        (b"name: !!binary x".to_vec(), 422, ""),
        (b"\xff\xfe".to_vec(), 422, "no UTF-8"),
        (vec![b'#'; (256 << 10) + 1], 413, "more than 262144 bytes"),
    ];
    for (body, expected, says) in cases {
        let (status, text) = send(&world, &Method::POST, EXPERIMENTS, "application/yaml", body).await?;
        ensure!(status == expected && text.contains(says), "{says}: {status} {text}");
    }
    let page: Page<ExperimentSummary> = world.api.get(EXPERIMENTS).await?;
    ensure!(page.items.is_empty() && page.broken.is_empty(), "a refused file was stored");
    let (status, text) = send(&world, &Method::POST, EXPERIMENTS, "application/yaml", good.into_bytes()).await?;
    ensure!(status == 202, "{text}");
    Ok(())
}

#[tokio::test]
async fn many_at_once_with_one_key_make_one_thing() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let send = async |path: &str, key: &str, body: &Value| -> Result<(u16, Value)> {
        let request = reqwest::Client::new()
            .post(format!("{}{path}", world.api.base()))
            .bearer_auth(world.api.token())
            .header("idempotency-key", key)
            .json(body);
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    };
    let corpus = serde_json::json!({ "name": "again", "paths": [world.path("corpus")] });
    for (path, body) in [(EXPERIMENTS, &spec::small_json()), ("/api/v1/corpora", &corpus)] {
        for key in [String::new(), "k".repeat(201), "é".into()] {
            let (status, answer) = send(path, &key, body).await?;
            ensure!(status == 422 && answer.to_string().contains("Idempotency-Key"), "{path} {key:?}: {answer}");
        }
        let all = futures::future::join_all((0..8).map(|_| send(path, path, body))).await;
        let all = all.into_iter().collect::<Result<Vec<_>>>()?;
        ensure!(all.iter().all(|(status, answer)| *status == 202 && answer["id"] == all[0].1["id"]), "{path}: {all:?}");
        let other = serde_json::json!({ "name": "other", "paths": [world.path("corpus")] });
        let mut changed = spec::small_json();
        changed["priority"] = 7.into();
        let other = if path == EXPERIMENTS { changed } else { other };
        let (status, answer) = send(path, path, &other).await?;
        ensure!(status == 409 && answer.to_string().contains("choose a new one"), "{path}: {answer}");
    }
    let page: Page<ExperimentSummary> = world.api.get(EXPERIMENTS).await?;
    ensure!(page.items.len() == 1, "{} experiments", page.items.len());
    let corpora: Page<Value> = world.api.get("/api/v1/corpora").await?;
    ensure!(corpora.items.len() == 2, "{} corpora", corpora.items.len());
    Ok(())
}

#[tokio::test]
async fn a_token_is_known_however_its_scheme_is_written_and_the_last_admins_stays() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let http = reqwest::Client::new();
    let tokens = format!("{}/api/v1/tokens", world.api.base());
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let value = format!("{scheme} {}", world.api.token());
        ensure!(http.get(&tokens).header("authorization", value).send().await?.status() == 200, "{scheme}");
    }
    // A proxy signs in for itself; the browser's session counts.
    let session = format!("{}/api/v1/session", world.api.base());
    let body = serde_json::json!({ "token": world.api.token() });
    let signed_in = http.post(&session).json(&body).send().await?;
    let cookie = signed_in.headers()["set-cookie"].to_str()?.split(';').next().context("a cookie")?.to_owned();
    let behind = http.get(&session).header("authorization", "Basic cHJveHk6eA==").header("cookie", cookie);
    ensure!(behind.send().await?.status() == 200);
    ensure!(http.get(&session).header("authorization", "Basic cHJveHk6eA==").send().await?.status() == 401);

    let all: Vec<Value> = world.api.list("/api/v1/tokens").await?;
    let admin = all.iter().find(|token| token["role"] == "admin").context("an admin")?;
    let path = format!("/api/v1/tokens/{}", admin["id"].as_str().context("an id")?);
    let (status, answer) = world.api.send::<()>(Method::DELETE, &path, None).await?;
    ensure!(status == 409 && answer.to_string().contains("last admin"), "{answer}");
    let second: Value =
        world.api.post("/api/v1/tokens", &serde_json::json!({ "name": "two", "role": "admin" })).await?;
    ensure!(second["secret"].is_string(), "{second}");
    let (status, answer) = world.api.send::<()>(Method::DELETE, &path, None).await?;
    ensure!(status == 204, "{answer}");
    Ok(())
}
