//! Mutations of people: whichever comes twice is done once and answered alike; an edit of what was changed is refused.

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use senmon_protocol::{
    ids::{BranchId, ExperimentId},
    view::{BranchView, ExperimentSummary},
};
use senmon_tests::{World, WorldOptions, spec};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(120);

/// One request with a key: status, tag, body.
async fn send(
    world: &World,
    (method, path, body): &(Method, String, Option<Value>),
    headers: &[(&str, &str)],
) -> Result<(StatusCode, String, String)> {
    let url = format!("{}/api/v1{path}", world.api.base());
    let mut request = reqwest::Client::new().request(method.clone(), url).bearer_auth(world.api.token());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await?;
    let tag = answer.headers().get("etag").map(|tag| tag.to_str().map(str::to_owned)).transpose()?;
    Ok((answer.status(), tag.unwrap_or_default(), answer.text().await?))
}

/// Operations that say that they take a key.
async fn operations(world: &World) -> Result<BTreeSet<String>> {
    let document: Value = world.api.get("/openapi.json").await?;
    let items = document["paths"].as_object().context("paths")?.values().filter_map(Value::as_object);
    let takes = |operation: &&Value| operation["parameters"].to_string().contains("Idempotency-Key");
    let ids =
        items.flat_map(|item| item.values()).filter(takes).filter_map(|operation| operation["operationId"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

async fn training(world: &World) -> Result<(ExperimentId, BranchId)> {
    let mut long = spec::long_seed(100_000);
    long.name = "long".into();
    let id = world.submit(&long).await?.summary.id;
    let has_checkpoint = async || -> Result<Option<BranchView>> {
        let branches = world.experiment(id).await?.branches;
        Ok(branches.into_iter().find(|branch| branch.name == "seed" && branch.checkpoint_id.is_some()))
    };
    let seed = world.until(LIMIT, "the seed has a checkpoint", has_checkpoint).await?;
    Ok((id, seed.id))
}

#[tokio::test]
async fn whatever_comes_twice_is_done_once() -> Result<()> {
    let mut world = World::start(WorldOptions { documents: 60, ..WorldOptions::default() }).await?;
    let (experiment, seed) = training(&world).await?;
    let idle = world.register("idle", "corpus").await?.id;
    let all: Vec<Value> = world.api.list("/api/v1/workers").await?;
    let worker = all[0]["id"].as_str().context("a worker")?.to_owned();
    let token: Value = world.api.post("/api/v1/tokens", &json!({ "name": "spare", "role": "viewer" })).await?;
    let token = token["id"].as_str().context("an id")?;
    let alert = |name: &str| {
        let target = json!({ "kind": "webhook", "url": "http://localhost:9/hook" });
        json!({ "name": name, "on": ["finished"], "target": target })
    };
    let told: Value = world.api.post("/api/v1/alerts", &alert("one")).await?;
    let told = told["id"].as_str().context("an id")?;
    let login: Value = world.api.post("/api/v1/login", &json!({ "host": "here" })).await?;
    let code = login["user_code"].as_str().context("a code")?;
    let post = |path: String| (Method::POST, path, None);
    let branch = |verb: &str| post(format!("/branches/{seed}/{verb}"));
    // Without its seed the experiment would end.
    let fork = json!({ "name": "another", "tokens": 512_000 });
    let fork: BranchView = world.api.post(&format!("/api/v1/branches/{seed}/fork"), &fork).await?;
    let forked = |verb: &str| post(format!("/branches/{}/{verb}", fork.id));
    let steer = |verb: &str| post(format!("/experiments/{experiment}/{verb}"));
    let corpus = json!({ "name": "again", "paths": [world.path("corpus")] });
    // In an order in which each can succeed.
    let steps = [
        (
            "post_branches_id_fork",
            (Method::POST, format!("/branches/{seed}/fork"), Some(json!({ "name": "side", "tokens": 51200 }))),
        ),
        ("post_branches_id_pause", branch("pause")),
        ("post_branches_id_resume", branch("resume")),
        ("post_experiments_id_pause", steer("pause")),
        ("post_experiments_id_resume", steer("resume")),
        ("patch_experiments_id", (Method::PATCH, format!("/experiments/{experiment}"), Some(json!({ "priority": 7 })))),
        ("post_branches_id_cancel", forked("cancel")),
        ("post_branches_id_continue", forked("continue")),
        ("post_experiments", (Method::POST, "/experiments".into(), Some(spec::small_json()))),
        ("post_corpora", (Method::POST, "/corpora".into(), Some(corpus))),
        ("delete_corpora_id", (Method::DELETE, format!("/corpora/{idle}"), None)),
        ("post_tokens", (Method::POST, "/tokens".into(), Some(json!({ "name": "two", "role": "viewer" })))),
        ("post_login_id_approve", post(format!("/login/{code}/approve"))),
        ("post_alerts", (Method::POST, "/alerts".into(), Some(alert("two")))),
        ("post_alerts_id_test", post(format!("/alerts/{told}/test"))),
        ("delete_alerts_id", (Method::DELETE, format!("/alerts/{told}"), None)),
        ("delete_tokens_id", (Method::DELETE, format!("/tokens/{token}"), None)),
        ("post_workers_id_disable", post(format!("/workers/{worker}/disable"))),
        ("post_workers_id_enable", post(format!("/workers/{worker}/enable"))),
        ("post_workers_id_drain", post(format!("/workers/{worker}/drain"))),
        ("post_experiments_id_cancel", steer("cancel")),
        ("delete_experiments_id", (Method::DELETE, format!("/experiments/{experiment}"), None)),
        ("delete_workers_id", (Method::DELETE, format!("/workers/{worker}"), None)),
    ];
    let known: BTreeSet<String> = steps.iter().map(|(id, _)| (*id).to_owned()).collect();
    let documented = operations(&world).await?;
    ensure!(known == documented, "not asked twice here: {:?}", documented.symmetric_difference(&known));

    for (id, request) in &steps {
        if *id == "delete_workers_id" {
            world.kill_worker(0);
        }
        for bad in ["", "a b", "é", &"k".repeat(201)] {
            let (status, _, body) = send(&world, request, &[("idempotency-key", bad)]).await?;
            ensure!(status == 422 && body.contains("Idempotency-Key"), "{id} {bad:?}: {status} {body}");
        }
        // What refuses for now (a branch whose attempt still ends, a worker not lost yet) leaves the key free.
        let start = Instant::now();
        let answers = loop {
            let key = [("idempotency-key", *id)];
            let all = futures::future::join_all((0..6).map(|_| send(&world, request, &key))).await;
            let all = all.into_iter().collect::<Result<Vec<_>>>()?;
            if all.iter().all(|answer| answer.0 != 409) || start.elapsed() > LIMIT {
                break all;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let (status, _, body) = &answers[0];
        ensure!(status.is_success(), "{id}: {status} {body}");
        ensure!(answers.iter().all(|answer| answer == &answers[0]), "{id}: not alike: {answers:#?}");
        let other = (Method::POST, format!("/experiments/{experiment}/pause"), Some(json!({ "another": id })));
        let (status, _, body) = send(&world, &other, &[("idempotency-key", id)]).await?;
        ensure!(status == 409 && body.contains("choose a new one"), "{id}: {status} {body}");
    }
    let all: Vec<ExperimentSummary> = world.api.list("/api/v1/experiments").await?;
    ensure!(all.len() == 1 && all[0].name == "small", "{all:?}");

    // The answers outlast the server; a secret does not.
    world.kill_server();
    world.start_server().await?;
    let again = async |wanted: &str| -> Result<(StatusCode, String)> {
        let (id, request) = steps.iter().find(|(id, _)| *id == wanted).context("a step")?;
        let (status, _, body) = send(&world, request, &[("idempotency-key", id)]).await?;
        Ok((status, body))
    };
    let (status, body) = again("post_experiments").await?;
    ensure!(status == 202 && body.contains("\"small\""), "{status} {body}");
    let (status, body) = again("post_tokens").await?;
    ensure!(status == 409 && body.contains("is not kept") && !body.contains("smn_v_"), "{status} {body}");
    Ok(())
}

#[tokio::test]
async fn an_edit_of_what_was_changed_is_refused_with_what_changed() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::small()).await?.summary.id;
    let path = format!("/experiments/{id}");
    let get = (Method::GET, path.clone(), None);
    let patch = |body: Value| (Method::PATCH, path.clone(), Some(body));
    let (status, tag, _) = send(&world, &get, &[]).await?;
    ensure!(status == 200 && !tag.is_empty(), "{status} {tag}");
    let first = async || send(&world, &get, &[("if-none-match", &tag)]).await;
    // Discovery may go on meanwhile: what it changes is another answer, and no edit.
    let (status, ..) = world
        .until(LIMIT, "the answer stands still", async || {
            let (status, now, _) = first().await?;
            let (again, ..) = send(&world, &get, &[("if-none-match", &now)]).await?;
            Ok((status == 304 || again == 304).then_some((again, now)))
        })
        .await?;
    ensure!(status == 304 || status == 200, "{status}");

    let (status, next, body) = send(&world, &patch(json!({ "priority": 9 })), &[("if-match", &tag)]).await?;
    ensure!(status == 200 && next != tag, "{status} {body}");
    let (status, _, body) = send(&world, &patch(json!({ "priority": 11 })), &[("if-match", &tag)]).await?;
    ensure!(status == 412 && body.contains("priority: is 9 now") && !body.contains("deadline"), "{status} {body}");
    let (status, _, body) = send(&world, &patch(json!({ "priority": 11 })), &[("if-match", &next)]).await?;
    ensure!(status == 200, "{status} {body}");
    let (status, _, body) = send(&world, &patch(json!({ "priority": 12 })), &[("if-match", "\"nonsense\"")]).await?;
    ensure!(status == 412, "{status} {body}");

    // Edits of different fields at once: none is lost.
    let edits = [
        json!({ "priority": 33 }),
        json!({ "budget": { "slot_hours": 44.0 } }),
        json!({ "deadline": "2100-01-01T00:00:00Z" }),
    ];
    for _ in 0..5 {
        let edits = edits.each_ref().map(|edit| patch(edit.clone()));
        let all = futures::future::join_all(edits.iter().map(|edit| send(&world, edit, &[]))).await;
        for answer in all {
            ensure!(answer?.0 == 200);
        }
        let spec = world.experiment(id).await?.spec;
        ensure!(spec.priority == 33 && spec.budget.slot_hours == Some(44.0) && spec.deadline.is_some(), "{spec:?}");
        let reset = json!({ "priority": 1, "budget": { "slot_hours": 1.0 } });
        ensure!(send(&world, &patch(reset), &[]).await?.0 == 200);
    }
    Ok(())
}
