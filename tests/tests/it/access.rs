//! Nobody gets past the table of roles, past what is theirs, or past the end of a token; and what was changed is written down.

use crate::worker_protocol::{beat, grant};
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::{
    problem::Problem,
    view::{AuditView, ExperimentView, Page, Role, WorkerView},
};
use senmon_server::domain::access::{ACCESS, Noun, Operation, Rule, Verdict, verdict};
use senmon_tests::{Pretended, World, WorldOptions, client::Api, pretended::enrolment, process::Process, spec};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);
const ROLES: [(&str, Role); 5] = [
    ("viewer", Role::Viewer),
    ("user", Role::User),
    ("admin", Role::Admin),
    ("worker", Role::Worker),
    ("enrol", Role::Enrol),
];

/// A token of a role and its client.
async fn token(world: &World, name: &str, more: Value) -> Result<(Api, String)> {
    let mut body = json!({ "name": name });
    body.as_object_mut().context("an object")?.extend(more.as_object().context("an object")?.clone());
    let made: Value = world.api.post("/api/v1/tokens", &body).await?;
    let text = |key: &str| made[key].as_str().map(str::to_owned).context("a token");
    Ok((world.api.with_token(&text("secret")?), text("id")?))
}

/// The status of an operation on something that is not there, and the body where it is a problem.
async fn status(api: &Api, operation: &Operation, id: &str) -> Result<(u16, String)> {
    let path = operation.path.replace("{id}", id).replace("{name}", "config.json");
    let request = reqwest::Client::new()
        .request(Method::from_bytes(operation.method.as_bytes())?, format!("{}/api/v1{path}", api.base()))
        .bearer_auth(api.token())
        .timeout(Duration::from_secs(30));
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    // A stream would be read for ever.
    let text = if status >= 400 { answer.text().await? } else { String::new() };
    Ok((status, text))
}

#[tokio::test]
async fn every_operation_asks_every_role_as_the_table_says() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let document: Value = world.api.get("/openapi.json").await?;
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for method in item.as_object().context("a path")?.keys() {
            described.insert(format!("{} {}", method.to_uppercase(), path.replacen("/api/v1", "", 1)));
        }
    }
    let table: BTreeSet<String> = ACCESS.iter().map(Operation::name).collect();
    assert_eq!(described, table, "the document on the left, the table of domain/access.rs on the right");

    let worker = Pretended::enrol(&world, "one").await?;
    for (word, role) in ROLES {
        let api = match role {
            Role::Admin => world.api.clone(),
            Role::Worker => worker.api.clone(),
            _ => token(&world, word, json!({ "role": word })).await?.0,
        };
        for operation in ACCESS {
            let nobody = uuid::Uuid::now_v7().to_string();
            let (status, text) = status(&api, operation, &nobody).await?;
            let expected = match verdict(operation.rule, role) {
                Verdict::No => status == 403,
                // Another worker's id.
                Verdict::IfOwn if operation.rule == Rule::Act && operation.path.starts_with("/workers") => {
                    status == 403
                }
                Verdict::Yes | Verdict::IfOwn => operation.rule == Rule::Open || (status != 401 && status != 403),
            };
            ensure!(expected, "{} by {word}: {status} {text}", operation.name());
            ensure!(status < 500, "{} by {word}: {status} {text}", operation.name());
        }
    }
    for operation in ACCESS.iter().filter(|operation| operation.rule != Rule::Open) {
        for nobody in ["", "smn_a_nonsense", "' OR 1=1 --"] {
            let (status, text) = status(&world.api.with_token(nobody), operation, "x").await?;
            ensure!(status == 401, "{} by {nobody:?}: {status} {text}", operation.name());
        }
    }
    let (status, answer) = world.api.send(Method::PUT, "/api/v1/experiments", Some(&json!({}))).await?;
    ensure!(status == 405 && answer.to_string().contains("GET, POST"), "{status} {answer}");
    Ok(())
}

/// The table for people, as docs/SECURITY.md shows it.
fn table() -> String {
    let mut text =
        "| operation | viewer | user | admin | worker | enrol |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for operation in ACCESS {
        let cells = ROLES.map(|(_, role)| match (operation.rule, verdict(operation.rule, role)) {
            (Rule::Open, _) => "no token",
            (_, Verdict::Yes) => "yes",
            (_, Verdict::IfOwn) => "own",
            (_, Verdict::No) => "",
        });
        text += &format!("| `{}` | {} |\n", operation.name(), cells.join(" | "));
    }
    text
}

#[test]
fn the_document_shows_the_table() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/SECURITY.md");
    let text = fs::read_to_string(path)?;
    let (begin, end) = ("<!-- roles -->\n", "<!-- /roles -->");
    let (before, rest) = text.split_once(begin).context("docs/SECURITY.md has no <!-- roles -->")?;
    let (shown, after) = rest.split_once(end).context("docs/SECURITY.md has no <!-- /roles -->")?;
    if std::env::var_os("SENMON_WRITE_DOCS").is_some() {
        fs::write(path, format!("{before}{begin}{}{end}{after}", table()))?;
        return Ok(());
    }
    ensure!(
        shown == table(),
        "docs/SECURITY.md is not what domain/access.rs says: run this test with SENMON_WRITE_DOCS=1"
    );
    Ok(())
}

#[tokio::test]
async fn a_worker_acts_for_itself_only_and_its_name_is_its_own_while_it_lives() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, lease_ttl_ms: 2_000, ..WorldOptions::default() }).await?;
    world.submit(&spec::small()).await?;
    let enrol = world.api.with_token(&world.worker_token()?);
    let one = Pretended::enrol(&world, "one").await?;
    let job = grant(&world, &one).await?;
    let other = Pretended::enrol(&world, "other").await?;
    // For another worker, for another's attempt, under another's name.
    let beat_as_one = other.api.refused(&format!("/api/v1/workers/{}/heartbeat", one.id()), &json!({})).await?;
    assert_eq!(beat_as_one.status, 403, "{beat_as_one:?}");
    for verb in ["started", "metrics", "logs", "announce", "checkpoints", "complete"] {
        let problem = other.api.refused(&format!("/api/v1/attempts/{}/{verb}", job.attempt_id), &json!({})).await?;
        assert_eq!(problem.status, 403, "{verb}: {problem:?}");
    }
    let problem = other.api.refused("/api/v1/workers", &enrolment("one")).await?;
    assert_eq!((problem.status, problem.code.as_str()), (409, "conflict"), "{problem:?}");
    // A second machine of the same name waits until the first is lost; then the first one's credential is over.
    let mut second = enrolment("one");
    second["credential_sha256"] = json!("ab".repeat(32));
    let problem = enrol.refused("/api/v1/workers", &second).await?;
    assert_eq!((problem.status, problem.code.as_str()), (409, "name_taken"), "{problem:?}");
    // The same machine comes back at once; moved to another host, it waits.
    let again: Value = one.api.post("/api/v1/workers", &enrolment("one")).await?;
    assert_eq!(again["session"], one.enrolled.session + 1);
    let mut moved = enrolment("one");
    moved["host"] = json!("there");
    assert_eq!(one.api.refused("/api/v1/workers", &moved).await?.code, "name_taken");
    world
        .until(LIMIT, "the first is lost, and its name free", async || {
            let (status, answer) = enrol.send(Method::POST, "/api/v1/workers", Some(&second)).await?;
            ensure!(status == 200 || answer["code"] == "name_taken", "{status} {answer}");
            Ok((status == 200).then_some(()))
        })
        .await?;
    let problem = one.api.refused(&format!("/api/v1/workers/{}/poll", one.id()), &json!({})).await?;
    assert_eq!((problem.status, problem.code.as_str()), (401, "token_over"), "{problem:?}");
    Ok(())
}

#[tokio::test]
async fn an_enrolment_token_ends_by_count_and_a_credential_by_hand() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let (once, _) = token(&world, "rack 7", json!({ "role": "enrol", "uses": 1, "days": 1 })).await?;
    let worker = Pretended::enrol_by(&once, &enrolment("first")).await?;
    let problem = once.refused("/api/v1/workers", &enrolment("second")).await?;
    assert!(problem.status == 409 && problem.detail.contains("used up"), "{problem:?}");
    // A poll that waits ends with its credential.
    let path = format!("/api/v1/workers/{}/poll", worker.id());
    let waiting = tokio::spawn({
        let (api, session) = (worker.api.clone(), worker.enrolled.session);
        async move { api.refused(&path, &json!({ "session": session, "slots_free": [0], "wait_ms": 25_000 })).await }
    });
    let all: Vec<Value> = world.api.list("/api/v1/tokens").await?;
    let own = all.iter().find(|token| token["worker_id"] == json!(worker.id())).context("its credential is listed")?;
    let path = format!("/api/v1/tokens/{}", own["id"].as_str().context("an id")?);
    assert_eq!(world.api.send::<()>(Method::DELETE, &path, None).await?.0, 204);
    assert_eq!(waiting.await??.status, 401);
    assert!(beat(&worker, &[]).await.unwrap_err().to_string().contains("was revoked on"));
    for (body, path) in [
        (json!({ "name": "x", "role": "worker" }), "role"),
        (json!({ "name": "x", "role": "user", "days": 0 }), "days"),
        (json!({ "name": "x", "role": "user", "uses": 3 }), "uses"),
        (json!({ "name": " ", "role": "user" }), "name"),
    ] {
        let problem = world.api.refused("/api/v1/tokens", &body).await?;
        assert!(problem.status == 422 && problem.faults.iter().any(|fault| fault.path == path), "{problem:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_real_worker_keeps_its_credential_and_stops_when_it_is_revoked() -> Result<()> {
    let mut world = World::start(WorldOptions { documents: 0, lease_ttl_ms: 2_000, ..WorldOptions::default() }).await?;
    let known = async |world: &World| -> Result<Vec<WorkerView>> { world.api.list("/api/v1/workers").await };
    let first = world.until(LIMIT, "it is enrolled", async || Ok(known(&world).await?.into_iter().next())).await?;
    let secret = world.credential(0)?;
    world.kill_worker(0);
    // Without any enrolment token it comes back as itself.
    fs::remove_file(world.path("server/worker-token"))?;
    fs::write(world.path("server/worker-token"), "smn_e_nonsense\n")?;
    world.start_worker(0)?;
    world
        .until(LIMIT, "it is back", async || {
            Ok(known(&world).await?.into_iter().find(|worker| worker.id == first.id && worker.seen_at > first.seen_at))
        })
        .await?;
    assert_eq!(world.credential(0)?, secret);
    let log = fs::read_to_string(world.path("worker-0.log"))?;
    assert!(!log.contains(&secret), "the log tells the secret");
    let all: Vec<Value> = world.api.list("/api/v1/tokens").await?;
    let own = all.iter().find(|token| token["worker_id"] == json!(first.id)).context("its credential is listed")?;
    world
        .api
        .send::<()>(Method::DELETE, &format!("/api/v1/tokens/{}", own["id"].as_str().context("id")?), None)
        .await?;
    world.kill_worker(0);
    world.start_worker(0)?;
    let worker = world.workers[0].as_mut().context("a worker")?;
    assert!(!worker.wait(Duration::from_secs(30))?.success());
    assert!(worker.log_tail().contains("was revoked on"), "{}", worker.log_tail());
    Ok(())
}

#[tokio::test]
async fn a_user_changes_what_is_theirs_and_every_change_is_written_down() -> Result<()> {
    let world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let (ann, _) = token(&world, "ann", json!({ "role": "user" })).await?;
    let (bob, _) = token(&world, "bob", json!({ "role": "user" })).await?;
    let made: ExperimentView = ann.post("/api/v1/experiments", &spec::long_seed(4_000)).await?;
    let id = made.summary.id;
    let branch = world
        .until(LIMIT, "there is a branch", async || Ok(world.experiment(id).await?.branches.into_iter().next()))
        .await?;
    let corpus: Value = ann.post("/api/v1/corpora", &json!({ "name": "ann", "paths": [world.path("corpus")] })).await?;
    let target = json!({ "kind": "webhook", "url": "http://localhost:9/hook" });
    let alert: Value =
        ann.post("/api/v1/alerts", &json!({ "name": "ann", "on": ["failed"], "target": target })).await?;
    for operation in ACCESS.iter().filter(|operation| operation.rule == Rule::Change) {
        let of = match operation.noun {
            Noun::Corpus => corpus["id"].as_str().unwrap_or_default().to_owned(),
            Noun::Branch => branch.id.to_string(),
            Noun::Alert => alert["id"].as_str().unwrap_or_default().to_owned(),
            _ => id.to_string(),
        };
        let (status, text) = status(&bob, operation, &of).await?;
        ensure!(status == 403 && text.contains("ann's"), "{} by bob: {status} {text}", operation.name());
    }
    let path = format!("/api/v1/experiments/{id}");
    let (status, answer) = ann.send(Method::PATCH, &path, Some(&json!({ "priority": 81 }))).await?;
    ensure!(status == 403 && answer.to_string().contains("at most 80"), "{status} {answer}");
    let (status, answer) = ann.send(Method::PATCH, &path, Some(&json!({ "priority": 70 }))).await?;
    ensure!(status == 200, "{status} {answer}");
    let (status, answer) = world.api.send(Method::PATCH, &path, Some(&json!({ "priority": 81 }))).await?;
    ensure!(status == 200, "{status} {answer}");
    let _: Value = ann.post(&format!("{path}/cancel"), &()).await?;

    let history: Page<AuditView> = world.api.get(&format!("/api/v1/audit?target={id}")).await?;
    let told: Vec<_> = history.items.iter().rev().map(|e| (e.who.as_str(), e.operation.as_str(), e.status)).collect();
    let change = "PATCH /experiments/{id}";
    let submitted = ("ann", "POST /experiments", Some(202));
    ensure!(told.first() == Some(&submitted), "{told:?}");
    ensure!(told.contains(&("ann", change, Some(403))) && told.contains(&("ann", change, Some(200))), "{told:?}");
    let last = history.items.first().context("an entry")?;
    assert_eq!((&last.before["state"], &last.after["state"]), (&json!("running"), &json!("cancelled")), "{last:?}");
    let raised = history.items.iter().find(|entry| entry.who == "admin").context("the admin's change")?;
    assert_eq!((&raised.before, &raised.after), (&json!({ "priority": 70 }), &json!({ "priority": 81 })));
    let problem: Problem = serde_json::from_value(ann.send::<()>(Method::GET, "/api/v1/audit", None).await?.1)?;
    assert_eq!(problem.status, 403);
    Ok(())
}

#[tokio::test]
async fn a_command_is_signed_in_by_a_code_that_a_person_approves() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let nobody = world.api.with_token("");
    let begun: Value = nobody.post("/api/v1/login", &json!({ "host": "ann@laptop" })).await?;
    let ask = json!({ "device_code": begun["device_code"] });
    let polled: Value = nobody.post("/api/v1/login/token", &ask).await?;
    assert_eq!(polled["secret"], Value::Null);
    let (ann, _) = token(&world, "ann", json!({ "role": "viewer" })).await?;
    let path = format!("/api/v1/login/{}", begun["user_code"].as_str().context("a code")?);
    let shown: Value = ann.get(&path).await?;
    assert_eq!(shown["host"], "ann@laptop");
    assert_eq!(nobody.refused(&format!("{path}/approve"), &()).await?.status, 401);
    let _: Value = ann.post(&format!("{path}/approve"), &()).await?;
    assert_eq!(ann.refused(&format!("{path}/approve"), &()).await?.status, 404, "approved twice");
    let polled: Value = nobody.post("/api/v1/login/token", &ask).await?;
    let who: Value =
        world.api.with_token(polled["secret"].as_str().context("a secret")?).get("/api/v1/session").await?;
    assert_eq!((&who["name"], &who["role"]), (&json!("ann"), &json!("viewer")));
    assert_eq!(nobody.refused("/api/v1/login/token", &ask).await?.status, 404, "the secret came twice");
    // One address does not fill the places of all others.
    for _ in 0..10 {
        let _: Value = nobody.post("/api/v1/login", &json!({ "host": "x" })).await?;
    }
    assert_eq!(nobody.refused("/api/v1/login", &json!({ "host": "x" })).await?.status, 429);
    Ok(())
}

#[tokio::test]
async fn whoever_owns_the_machine_has_a_way_back() -> Result<()> {
    let mut world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let before = world.api.token().to_owned();
    let config = world.server_config()?.display().to_string();
    let folder = world.path("");
    let run = |log: &str| {
        let args = ["--config".to_owned(), config.clone(), "new-admin-token".to_owned()];
        Process::start("senmon-server", &args, &folder.join(log))
    };
    let mut refused = run("beside.log")?;
    assert!(!refused.wait(LIMIT)?.success() && refused.log_tail().contains("is in use"), "{}", refused.log_tail());
    world.server.as_mut().context("a server")?.stop(LIMIT)?;
    assert!(run("way-back.log")?.wait(LIMIT)?.success());
    world.start_server().await?;
    ensure!(world.api.token() != before, "the file holds the old token");
    let all: Vec<Value> = world.api.list("/api/v1/tokens").await?;
    assert_eq!(all.iter().filter(|token| token["role"] == "admin").count(), 2, "{all:?}");
    Ok(())
}

#[tokio::test]
async fn a_revoked_token_ends_its_streams_and_sessions() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let (reader, id) = token(&world, "reader", json!({ "role": "viewer" })).await?;
    let http = reqwest::Client::new();
    let session = format!("{}/api/v1/session", world.api.base());
    let sign_in = async || {
        let answer = http.post(&session).json(&json!({ "token": reader.token() })).send().await?;
        let cookie = answer.headers()["set-cookie"].to_str()?.split(';').next().context("a cookie")?.to_owned();
        anyhow::Ok(cookie)
    };
    let cookie = sign_in().await?;
    let open = |kind: &'static str, value: String| {
        http.get(format!("{}/api/v1/stream", world.api.base())).header(kind, value).timeout(LIMIT).send()
    };
    // Signed out of one browser, its stream ends; the other one's goes on until the token is revoked.
    let other = sign_in().await?;
    let streams =
        [open("authorization", format!("Bearer {}", reader.token())).await?, open("cookie", cookie.clone()).await?];
    let ends = open("cookie", other.clone()).await?;
    let signed_out = http.delete(&session).header("cookie", &other).header("x-senmon", "1").send().await?;
    assert_eq!((signed_out.status(), ends.status()), (reqwest::StatusCode::NO_CONTENT, reqwest::StatusCode::OK));
    ends.text().await.context("the stream of a session that is over goes on")?;
    assert_eq!(open("cookie", other).await?.status(), 401);
    assert_eq!(open("cookie", cookie.clone()).await?.status(), 200, "the other session is over too");
    assert_eq!(world.api.send::<()>(Method::DELETE, &format!("/api/v1/tokens/{id}"), None).await?.0, 204);
    for stream in streams {
        assert_eq!(stream.status(), 200);
        stream.text().await.context("the stream goes on")?;
    }
    assert_eq!(open("cookie", cookie).await?.status(), 401);
    let (status, answer) = reader.send::<()>(Method::GET, "/api/v1/experiments", None).await?;
    ensure!(status == 401 && answer["code"] == "token_over", "{status} {answer}");
    Ok(())
}
