//! Spans reach a collector of OpenTelemetry: requests in the trace of their caller, passes of loops, and nothing that is
//! secret. (The real schema reads them in tests/interop.)

use anyhow::{Context, Result, ensure};
use senmon_tests::{World, WorldOptions};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(60);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What arrived: the head and the body of each request.
type Arrived = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

async fn collector() -> Result<(String, Arrived)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (url, arrived) = (format!("http://{}", listener.local_addr()?), Arrived::default());
    let seen = arrived.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(request) = take(stream).await else { continue };
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
    });
    Ok((url, arrived))
}

async fn take(mut stream: TcpStream) -> Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(&mut stream);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).await? > 0 && !line.trim().is_empty() {
        head.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("a length")?;
    let mut body = vec![0; length.trim().parse()?];
    reader.read_exact(&mut body).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
    Ok((head, body))
}

fn has(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn spans_of_requests_and_loops_reach_a_collector() -> Result<()> {
    let (url, arrived) = collector().await?;
    let server_settings = format!("otlp_endpoint = \"{url}\"\n");
    let world =
        World::start(WorldOptions { workers: 0, documents: 0, server_settings, ..WorldOptions::default() }).await?;
    let asked = reqwest::Client::new()
        .get(format!("{}/api/v1/corpora/nowhere?secret=secret", world.api.base()))
        .bearer_auth(world.api.token())
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
    ensure!(asked.send().await?.status().is_client_error());
    let trace: Vec<u8> =
        (0..TRACE.len()).step_by(2).map(|i| u8::from_str_radix(&TRACE[i..i + 2], 16)).collect::<Result<_, _>>()?;
    let all = || arrived.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let came = async || -> Result<Option<()>> {
        let all = all();
        let is_there = |part: &[u8]| all.iter().any(|(_, body)| has(body, part));
        let request = is_there(b"GET /api/v1/corpora/{id}") && is_there(&trace);
        Ok((request && is_there(b"loop schedule") && is_there(b"senmon-server")).then_some(()))
    };
    world.until(LIMIT, "spans of a request and of a loop", came).await?;
    for (head, body) in all() {
        ensure!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
        ensure!(!has(&body, b"secret=") && !has(&body, world.api.token().as_bytes()), "a span has a secret");
    }
    Ok(())
}
