//! The REST API over HTTP: the only place that knows of reqwest.
//!
//! Never prints and never decides what a failure means for a command.

use crate::{
    error::{CliError, CliResult},
    lang::retold,
};
use futures::StreamExt;
use reqwest::{Method, RequestBuilder};
use senmon_protocol::{
    address::{is_private, refusal, retry_after_seconds},
    problem::Problem,
    view::Page,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::io::AsyncWriteExt;

/// Items asked for at once: the most that the server gives.
const PAGE_MAX: usize = 500;

/// Longest time that a command waits altogether because the server asks for patience.
const PATIENCE_SECONDS: u64 = 120;

/// How a server is reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Reach {
    /// Address of the server.
    #[arg(long, global = true, env = "SENMON_SERVER", default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// PEM file of a certificate authority to trust beside the system's own.
    #[arg(long, global = true, env = "SENMON_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Send the token over plain http to another machine.
    #[arg(long, global = true, env = "SENMON_INSECURE_HTTP")]
    pub insecure_http: bool,
}

/// A server and the token for it.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    /// A client of the server at `base`.
    ///
    /// # Errors
    /// When the address is none, or TLS cannot be set up.
    pub fn new(reach: &Reach, token: Option<String>) -> CliResult<Self> {
        let base = reach.server.as_str();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(CliError::Refused(format!(
                "--server: found {base:?}, expected an address such as http://127.0.0.1:8080"
            )));
        }
        let url =
            reqwest::Url::parse(base).map_err(|error| CliError::Refused(format!("--server: {base:?}: {error}")))?;
        if token.is_some() && !reach.insecure_http && !is_private(url.scheme(), url.host_str().unwrap_or_default()) {
            return Err(CliError::Refused(format!("--server: {}", refusal(base, "--insecure-http"))));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("senmon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            // The API sends nobody elsewhere; a token goes where it was meant to go.
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(authorities(reach.ca_file.as_deref())?)
            .build()
            .map_err(|error| CliError::Failed(format!("set up HTTP: {error}")))?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token })
    }

    /// The server's address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET.
    ///
    /// # Errors
    /// Not reachable, refused, or an answer of another shape.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> CliResult<T> {
        parse(path, &self.send(self.request(Method::GET, path)).await?)
    }

    /// GET of a list, all of its pages.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> CliResult<Vec<T>> {
        self.list_up_to(path, usize::MAX).await
    }

    /// GET of the first `items_max` items of a list.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn list_up_to<T: DeserializeOwned>(&self, path: &str, items_max: usize) -> CliResult<Vec<T>> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        let path =
            format!("{path}{}limit={}", if path.contains('?') { '&' } else { '?' }, items_max.clamp(1, PAGE_MAX));
        loop {
            let page = match &cursor {
                Some(cursor) => format!("{path}&cursor={}", encoded(cursor)),
                None => path.clone(),
            };
            let page: Page<T> = parse(&path, &self.send(self.request(Method::GET, &page)).await?)?;
            // Said beside the list, which stays readable for scripts.
            page.broken.iter().for_each(|row| eprintln!("senmon: {}", row.problem));
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() || items.len() >= items_max {
                items.truncate(items_max);
                return Ok(items);
            }
        }
    }

    /// POST with a body. The request carries a fresh `Idempotency-Key`.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> CliResult<T> {
        parse(path, &self.send(keyed(self.request(Method::POST, path)).json(body)).await?)
    }

    /// PATCH with a body. The request carries a fresh `Idempotency-Key`.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn patch<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> CliResult<T> {
        parse(path, &self.send(keyed(self.request(Method::PATCH, path)).json(body)).await?)
    }

    /// POST without a body.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn verb<T: DeserializeOwned>(&self, path: &str) -> CliResult<T> {
        parse(path, &self.send(keyed(self.request(Method::POST, path))).await?)
    }

    /// DELETE.
    ///
    /// # Errors
    /// Not reachable, or refused.
    pub async fn delete(&self, path: &str) -> CliResult {
        self.send(keyed(self.request(Method::DELETE, path))).await.map(|_| ())
    }

    /// GET, a small file.
    ///
    /// # Errors
    /// See [`CliError`].
    pub async fn bytes(&self, path: &str) -> CliResult<Vec<u8>> {
        self.send(self.request(Method::GET, path)).await
    }

    /// GET, a file of any size, to the disk.
    ///
    /// # Errors
    /// See [`CliError`].
    pub async fn download(&self, path: &str, to: &Path) -> CliResult {
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", to.display()));
        // The client's own limit is for answers, not for gigabytes.
        let request = self.request(Method::GET, path).timeout(Duration::from_secs(24 * 3600));
        let answer = patient(request).await.map_err(|error| CliError::Unreachable(cause(&error)))?;
        let answer = answer.error_for_status().map_err(|error| CliError::Failed(cause(&error)))?;
        let mut file = tokio::fs::File::create(to).await.map_err(|error| failed(&error))?;
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| CliError::Failed(cause(&error)))?;
            file.write_all(&piece).await.map_err(|error| failed(&error))?;
        }
        file.flush().await.map_err(|error| failed(&error))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> CliResult<Vec<u8>> {
        let away = |error: reqwest::Error| {
            CliError::Unreachable(format!("no server answers at {}: {}", self.base, cause(&error)))
        };
        let answer = patient(request).await.map_err(away)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(away)?;
        if status.is_success() {
            return Ok(bytes.to_vec());
        }
        let mut error = match serde_json::from_slice::<Problem>(&retold(&bytes)) {
            Ok(problem) => CliError::from_problem(&problem),
            Err(_) => CliError::Failed(format!("{} answers {status}: is it a Senmon server?", self.base)),
        };
        if status == 401
            && let CliError::Refused(text) = &mut error
        {
            let hint = if self.token.is_some() { "the token is not accepted" } else { "no token was given" };
            *text = format!("{text}\n  {hint}; give --token-file, set SENMON_TOKEN, or run senmon login");
        }
        Err(error)
    }
}

/// The certificate authorities of a file.
fn authorities(file: Option<&Path>) -> CliResult<Vec<reqwest::Certificate>> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let refused = |why: String| CliError::Refused(format!("--ca-file: {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&bytes).map_err(|error| refused(error.to_string()))?;
    if found.is_empty() { Err(refused("found no certificate, expected PEM".into())) } else { Ok(found) }
}

/// Sends a request, again when the server asks to wait.
async fn patient(request: RequestBuilder) -> reqwest::Result<reqwest::Response> {
    let mut waited = 0;
    loop {
        let again = request.try_clone();
        let answer = match again {
            Some(again) => again.send().await?,
            None => return request.send().await,
        };
        let header = answer.headers().get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let seconds = retry_after_seconds(header);
        waited += seconds;
        if answer.status() != reqwest::StatusCode::TOO_MANY_REQUESTS || waited > PATIENCE_SECONDS {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

fn keyed(request: RequestBuilder) -> RequestBuilder {
    request.header("Idempotency-Key", uuid::Uuid::now_v7().to_string())
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> CliResult<T> {
    let bytes = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(&retold(bytes)).map_err(|error| {
        CliError::Failed(format!("the answer to {path} has another shape than this version of senmon expects: {error}"))
    })
}

/// A text as one part of an address.
#[must_use]
pub fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The innermost cause says most: `connection refused` rather than `error sending request`.
fn cause(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string()
}
