//! How much one address and one token may ask, and for how long a request may take to come: whoever asks for more is told
//! when to ask again, and nobody else notices.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_tests::{World, WorldOptions, client::Api, process::binary};
use serde_json::{Value, json};
use std::{process::Command, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn world(settings: &str) -> Result<World> {
    let server_settings = settings.to_owned();
    World::start(WorldOptions { workers: 0, documents: 0, server_settings, ..WorldOptions::default() }).await
}

/// What comes until the other side closes.
async fn read_all(stream: &mut TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_request_that_trickles_in_is_ended() -> Result<()> {
    let world = world("header_timeout_ms = 300\nbody_timeout_ms = 300\n").await?;
    let mut slow = TcpStream::connect(("127.0.0.1", world.port())).await?;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").await?;
    let answer = read_all(&mut slow).await?;
    ensure!(!answer.contains("200"), "{answer}");

    let mut idle = TcpStream::connect(("127.0.0.1", world.port())).await?;
    ensure!(read_all(&mut idle).await?.is_empty(), "a connection that says nothing is closed");

    // With a key too, whose request is read before its operation sees it.
    for key in ["", "Idempotency-Key: k\r\n"] {
        let mut slow = TcpStream::connect(("127.0.0.1", world.port())).await?;
        let head = format!(
            "POST /api/v1/corpora HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{key}Content-Length: 100\r\n\r\n{{",
            world.api.token()
        );
        slow.write_all(head.as_bytes()).await?;
        let answer = read_all(&mut slow).await?;
        ensure!(answer.starts_with("HTTP/1.1 408") && answer.contains("too_slow"), "{key}: {answer}");
    }

    let mut long = TcpStream::connect(("127.0.0.1", world.port())).await?;
    let header = format!("X-Long: {}\r\n", "x".repeat(1000)).repeat(90);
    // It may be refused before it has been sent.
    let _ = long.write_all(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{header}\r\n").as_bytes()).await;
    ensure!(read_all(&mut long).await?.starts_with("HTTP/1.1 431"), "headers have a size");
    Ok(())
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() -> Result<()> {
    let world = world("connections_per_address_max = 8\n").await?;
    let mut held = Vec::new();
    let told = loop {
        ensure!(held.len() < 20, "no connection was refused");
        let mut stream = TcpStream::connect(("127.0.0.1", world.port())).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = vec![0; 1000];
        let n = stream.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        if answer.starts_with("HTTP/1.1 429") {
            break answer;
        }
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        held.push(stream);
    };
    ensure!(told.contains("retry-after: 5") && told.contains("too_many_requests"), "{told}");
    drop(held);
    // The room is free again, as soon as the server has noticed.
    world
        .outlast(Duration::from_secs(20), "there is room again", async || {
            Ok((world.api.send::<()>(Method::GET, "/healthz", None).await?.0 == 200).then_some(()))
        })
        .await
}

#[tokio::test]
async fn streams_are_counted_by_token() -> Result<()> {
    let world = world("streams_per_token_max = 2\n").await?;
    let http = reqwest::Client::new();
    let open = async |token: &str| -> Result<reqwest::Response> {
        Ok(http.get(format!("{}/api/v1/stream", world.api.base())).bearer_auth(token).send().await?)
    };
    let first = open(world.api.token()).await?;
    let second = open(world.api.token()).await?;
    ensure!(first.status() == 200 && second.status() == 200);
    let third = open(world.api.token()).await?;
    ensure!(third.status() == 429 && third.headers().contains_key("retry-after"), "{third:?}");
    let other: Value = world.api.post("/api/v1/tokens", &json!({ "name": "x", "role": "viewer" })).await?;
    ensure!(open(other["secret"].as_str().context("a secret")?).await?.status() == 200, "another token has its own");
    drop(first);
    let again = async || Ok((open(world.api.token()).await?.status() == 200).then_some(()));
    world.until(Duration::from_secs(60), "a stream that ended makes room", again).await
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_ask_again_and_the_command_does() -> Result<()> {
    let world = world("requests_per_second_token = 2\n").await?;
    let other: Value = world.api.post("/api/v1/tokens", &json!({ "name": "x", "role": "viewer" })).await?;
    let greedy = other["secret"].as_str().context("a secret")?;
    let http = reqwest::Client::new();
    let ask = async |token: &str| -> Result<reqwest::Response> {
        Ok(http.get(format!("{}/api/v1/session", world.api.base())).bearer_auth(token).send().await?)
    };
    let mut asked = 0;
    let told = loop {
        let answer = ask(greedy).await?;
        if answer.status() == 429 {
            break answer;
        }
        asked += 1;
        ensure!(answer.status() == 200 && asked < 500, "{asked}: {answer:?}");
    };
    ensure!(asked >= 20, "a burst of {asked}");
    let seconds: u64 = told.headers()["retry-after"].to_str()?.parse()?;
    ensure!((1..=2).contains(&seconds), "{seconds}");
    ensure!(told.text().await?.contains("too_many_requests"));
    ensure!(ask(world.api.token()).await?.status() == 200, "others go on");
    let (base, greedy) = (world.api.base().to_owned(), greedy.to_owned());
    let senmon = binary("senmon")?;
    let patient = tokio::task::spawn_blocking(move || {
        Command::new(senmon).args(["--server", &base, "ls"]).env("SENMON_TOKEN", greedy).output()
    });
    let patient = patient.await??;
    ensure!(patient.status.success(), "{patient:?}");
    Ok(())
}

#[tokio::test]
async fn guesses_at_tokens_end_and_those_who_are_known_go_on() -> Result<()> {
    let world = world("").await?;
    let known: Value = world.api.get("/api/v1/session").await?;
    ensure!(known["role"] == "admin", "{known}");
    let (http, url) = (reqwest::Client::new(), format!("{}/api/v1/session", world.api.base()));
    let mut found = Vec::new();
    // A burst of 500 is let through, then fifty a second.
    for round in 0..30 {
        let guesses = (0..100).map(|i| http.get(&url).bearer_auth(format!("smn_a_{round}_{i}")).send());
        for answer in futures::future::join_all(guesses).await {
            found.push(answer?.status().as_u16());
        }
        if found.contains(&429) {
            break;
        }
    }
    ensure!(found.contains(&401) && found.contains(&429), "{found:?}");
    ensure!(found.iter().all(|status| [401, 429].contains(status)), "{found:?}");
    let (status, answer) = world.api.send::<()>(Method::GET, "/api/v1/session", None).await?;
    ensure!(status == 200, "{answer}");
    Ok(())
}

#[tokio::test]
async fn what_the_server_tells_of_itself_is_for_those_who_may_read() -> Result<()> {
    let world = world("").await?;
    let nobody = Api::new(world.api.base(), "");
    for path in ["/metrics", "/openapi.json"] {
        let (status, _) = nobody.send::<()>(Method::GET, path, None).await?;
        ensure!(status == 401, "{path}: {status}");
        let worker = Api::new(world.api.base(), &world.worker_token()?);
        ensure!(worker.send::<()>(Method::GET, path, None).await?.0 == 403, "{path}");
    }
    let viewer: Value = world.api.post("/api/v1/tokens", &json!({ "name": "x", "role": "viewer" })).await?;
    let viewer = Api::new(world.api.base(), viewer["secret"].as_str().context("a secret")?);
    let (status, text) = viewer.send::<()>(Method::GET, "/metrics", None).await?;
    ensure!(status == 200 && text.to_string().contains("senmon_slots"), "{text}");
    ensure!(viewer.send::<()>(Method::GET, "/openapi.json", None).await?.0 == 200);
    for path in ["/healthz", "/readyz"] {
        let (status, text) = nobody.send::<()>(Method::GET, path, None).await?;
        ensure!(status == 200 && text.as_str().is_some_and(|text| text.lines().count() == 1), "{path}: {text}");
    }
    Ok(())
}
