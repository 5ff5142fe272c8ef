//! Alerts: an event is told once, with what it says; what is not taken is sent again; nothing private is called.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::alert::{AlertView, DeliveryState, DeliveryView};
use senmon_tests::{World, WorldOptions, spec};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(120);

/// What arrived: the key and the body of each request.
type Arrived = Arc<Mutex<Vec<(String, Value)>>>;

/// Takes posts, but refuses the first `refusals` of them.
async fn hook(refusals: usize) -> Result<(String, Arrived)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/services/secret", listener.local_addr()?);
    let arrived = Arrived::default();
    let seen = arrived.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(request) = take(stream, &seen, refusals).await else { continue };
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
    });
    Ok((url, arrived))
}

async fn take(mut stream: TcpStream, seen: &Arrived, refusals: usize) -> Result<(String, Value)> {
    let mut reader = BufReader::new(&mut stream);
    let (mut length, mut key) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
            Some((name, value)) if name.eq_ignore_ascii_case("idempotency-key") => value.trim().clone_into(&mut key),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    let refuses = seen.lock().unwrap_or_else(PoisonError::into_inner).len() < refusals;
    let status = if refuses { "503 Service Unavailable" } else { "200 OK" };
    stream
        .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlater").as_bytes())
        .await?;
    Ok((key, serde_json::from_slice(&body)?))
}

fn arrived(seen: &Arrived) -> Vec<(String, Value)> {
    seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[tokio::test]
async fn what_happens_is_told_and_what_is_not_taken_is_sent_again() -> Result<()> {
    let options = WorldOptions {
        workers: 0,
        server_settings: "outgoing_private = true\nstalled_after_ms = 2000\n".into(),
        ..WorldOptions::default()
    };
    let world = World::start(options).await?;
    let (webhook, posted) = hook(1).await?;
    let (slack, said) = hook(0).await?;
    let id = world.submit(&spec::small()).await?.summary.id;
    let mut other = spec::small();
    other.name = "other".into();
    world.submit(&other).await?;
    let make = |name: &str, kind: &str, url: &str, of: Option<&str>| json!({ "name": name, "on": ["stalled", "stalled"], "experiment_id": of, "target": { "kind": kind, "url": url } });
    let one: AlertView =
        world.api.post("/api/v1/alerts", &make("one", "webhook", &webhook, Some(&id.to_string()))).await?;
    ensure!(one.target.address().ends_with("/…") && one.on.len() == 1 && one.last.is_none(), "{one:?}");
    let all: AlertView = world.api.post("/api/v1/alerts", &make("all", "slack", &slack, None)).await?;
    let again = world.api.refused("/api/v1/alerts", &make("all", "slack", &slack, None)).await?;
    ensure!(again.status == 409 && again.detail.contains("name: there is an alert \"all\" already"), "{again:?}");

    // Nobody is there to do anything, so both stall; the one alert is of one of them.
    world.until(LIMIT, "both are told", async || Ok((arrived(&said).len() == 2).then_some(()))).await?;
    for (_, body) in arrived(&said) {
        let text = body["text"].as_str().context("a text")?;
        ensure!(
            text.contains(": The experiment has made no progress")
                && body.as_object().map(|body| body.len()) == Some(1)
        );
    }
    // Refused once: sent again under the same key, and then it is the same message.
    world.until(LIMIT, "it is sent again", async || Ok((arrived(&posted).len() == 2).then_some(()))).await?;
    let posts = arrived(&posted);
    ensure!(posts[0] == posts[1] && !posts[0].0.is_empty(), "{posts:?}");
    let body = &posts[0].1;
    ensure!(
        body["alert"] == "one"
            && body["event"]["kind"] == "experiment_stalled"
            && body["event"]["experiment_id"] == json!(id),
        "{body}"
    );
    let deliveries: Vec<DeliveryView> = world.api.list(&format!("/api/v1/alerts/{}/deliveries", one.id)).await?;
    ensure!(deliveries.len() == 1 && deliveries[0].tries == 2, "{deliveries:?}");
    ensure!(deliveries[0].state == DeliveryState::Delivered && deliveries[0].problem.is_none(), "{deliveries:?}");

    // Tried by hand, shown in the list, and gone with its messages.
    let _: AlertView = world.api.post(&format!("/api/v1/alerts/{}/test", all.id), &json!(null)).await?;
    world.until(LIMIT, "the test arrives", async || Ok((arrived(&said).len() == 3).then_some(()))).await?;
    ensure!(arrived(&said)[2].1["text"] == "This is a test of the alert all: messages arrive.");
    let listed: Vec<AlertView> = world.api.list("/api/v1/alerts").await?;
    ensure!(listed.iter().map(|alert| alert.name.as_str()).eq(["all", "one"]), "{listed:?}");
    world.api.send::<()>(Method::DELETE, &format!("/api/v1/alerts/{}", one.id), None).await?;
    let (status, _) = world.api.send::<()>(Method::GET, &format!("/api/v1/alerts/{}/deliveries", one.id), None).await?;
    ensure!(status == 404, "{status}");
    Ok(())
}

#[tokio::test]
async fn nothing_private_is_called_unless_the_settings_say_so() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let make = |url: &str| json!({ "name": "x", "on": ["failed"], "target": { "kind": "webhook", "url": url } });
    for url in [
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "http://0x7f.1/",
        "file:///etc/passwd",
        "hook",
    ] {
        let problem = world.api.refused("/api/v1/alerts", &make(url)).await?;
        ensure!(problem.status == 422 && problem.faults[0].path == "target.url", "{url}: {problem:?}");
    }
    // Every event is held against all alerts: one person makes no more than some.
    for n in 0..100 {
        let alert = json!({ "name": format!("n{n}"), "on": ["failed"], "target": { "kind": "slack", "url": "http://localhost:9/" } });
        let _: AlertView = world.api.post("/api/v1/alerts", &alert).await?;
    }
    let more = world.api.refused("/api/v1/alerts", &make("http://localhost:9/")).await?;
    ensure!(more.status == 409 && more.detail.contains("has 100 alerts, which is the most"), "{more:?}");
    let listed: Vec<AlertView> = world.api.list("/api/v1/alerts").await?;
    let spare = listed.first().context("an alert")?.id;
    world.api.send::<()>(Method::DELETE, &format!("/api/v1/alerts/{spare}"), None).await?;
    // A name is judged by what it is found to be, when it is called.
    let (url, seen) = hook(0).await?;
    let alert: AlertView = world.api.post("/api/v1/alerts", &make(&url.replace("127.0.0.1", "localhost"))).await?;
    let _: AlertView = world.api.post(&format!("/api/v1/alerts/{}/test", alert.id), &json!(null)).await?;
    let why = world
        .until(LIMIT, "it says why", async || {
            let listed: Vec<AlertView> = world.api.list("/api/v1/alerts").await?;
            Ok(listed.into_iter().find_map(|alert| alert.last).and_then(|last| last.problem))
        })
        .await?;
    ensure!(why.contains("is no address of the public internet") && arrived(&seen).is_empty(), "{why}");
    Ok(())
}

/// A mail server that takes everything: what it was told, whole messages.
async fn mail_server() -> Result<(u16, Arc<Mutex<Vec<String>>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (port, seen) = (listener.local_addr()?.port(), Arc::<Mutex<Vec<String>>>::default());
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                if let Ok(message) = speak(stream).await {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                }
            });
        }
    });
    Ok((port, seen))
}

/// One conversation (RFC 5321), up to the first message.
async fn speak(stream: TcpStream) -> Result<String> {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"220 here\r\n").await?;
    let mut told = String::new();
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "it hung up");
        told.push_str(&line);
        let answer: &[u8] = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
            "EHLO" => b"250 here\r\n",
            "DATA" => b"354 go on\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        stream.get_mut().write_all(answer).await?;
        while answer.starts_with(b"354") {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line).await? > 0, "it hung up");
            if line == ".\r\n" {
                stream.get_mut().write_all(b"250 taken\r\n").await?;
                return Ok(told);
            }
            told.push_str(&line);
        }
    }
}

#[tokio::test]
async fn mail_goes_through_the_server_of_the_settings() -> Result<()> {
    let make =
        |address: &str| json!({ "name": "m", "on": ["failed"], "target": { "kind": "mail", "address": address } });
    let without = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let problem = without.api.refused("/api/v1/alerts", &make("a@example.org")).await?;
    ensure!(
        problem.faults[0].path == "target.address" && problem.faults[0].message.contains("smtp_url"),
        "{problem:?}"
    );
    drop(without);
    let (port, seen) = mail_server().await?;
    let settings = format!("smtp_url = \"smtp://127.0.0.1:{port}\"\nsmtp_from = \"Senmon <s@example.com>\"\n");
    let options = WorldOptions { workers: 0, documents: 0, server_settings: settings, ..WorldOptions::default() };
    let world = World::start(options).await?;
    let problem = world.api.refused("/api/v1/alerts", &make("nobody")).await?;
    ensure!(problem.faults[0].message.contains("expected an address such as"), "{problem:?}");
    let alert: AlertView = world.api.post("/api/v1/alerts", &make("a@example.org")).await?;
    ensure!(alert.target.address() == "a@example.org", "{alert:?}");
    let _: AlertView = world.api.post(&format!("/api/v1/alerts/{}/test", alert.id), &json!(null)).await?;
    let last = world
        .until(LIMIT, "it is taken", async || {
            let listed: Vec<AlertView> = world.api.list("/api/v1/alerts").await?;
            let last = listed.into_iter().find_map(|alert| alert.last);
            Ok(last.filter(|last| last.state == DeliveryState::Delivered))
        })
        .await?;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(last.tries == 1 && seen.len() == 1, "{last:?}: {seen:?}");
    for part in ["RCPT TO:<a@example.org>", "Message-ID: <", "Subject: [Senmon] This is a test of the alert m"] {
        ensure!(seen[0].contains(part), "{part:?} is not in\n{}", seen[0]);
    }
    Ok(())
}
