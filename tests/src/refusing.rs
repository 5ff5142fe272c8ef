//! A store that refuses the first try of every object that a worker writes, and takes the second: an HTTP proxy before
//! a bucket.
//!
//! Never changes a request that it lets through: its signature stays good.

use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A running proxy; it ends with its value.
#[derive(Debug)]
pub struct Refusing {
    url: String,
    refused: Arc<Mutex<BTreeSet<String>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Refusing {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Refusing {
    /// A proxy before the bucket on `port`; `picks` says which paths are refused once.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn before(port: u16, picks: fn(&str) -> bool) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let refused = Arc::<Mutex<BTreeSet<String>>>::default();
        let seen = refused.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move { pass(client, port, picks, &seen).await });
            }
        });
        Ok(Self { url, refused, accepting })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Paths refused so far.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// One request of one connection, which is closed behind its answer.
async fn pass(mut client: TcpStream, port: u16, picks: fn(&str) -> bool, seen: &Mutex<BTreeSet<String>>) -> Result<()> {
    let mut request = Vec::new();
    let end = loop {
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        anyhow::ensure!(client.read_buf(&mut request).await? > 0, "closed in its head");
    };
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    };
    let body: usize = header("content-length").map_or(Ok(0), |length| length.parse()).context("a length")?;
    let mut rest = vec![0; body.saturating_sub(request.len() - end - 4)];
    client.read_exact(&mut rest).await?;
    if method == "PUT" && picks(path) && seen.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        client.write_all(answer.as_bytes()).await?;
        return Ok(client.shutdown().await?);
    }
    let mut upstream = TcpStream::connect(("127.0.0.1", port)).await?;
    upstream.write_all(&request[..end]).await?;
    upstream.write_all(b"\r\nConnection: close").await?;
    upstream.write_all(&request[end..]).await?;
    upstream.write_all(&rest).await?;
    tokio::io::copy(&mut upstream, &mut client).await?;
    Ok(client.shutdown().await?)
}
