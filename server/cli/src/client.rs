//! The REST API over HTTP: the only place that knows of reqwest.
//!
//! Never prints and never decides what a failure means for a command.

use crate::{
    contexts::{Context, Given},
    error::{CliError, CliResult},
    lang::{own, retold},
};
use futures::StreamExt;
use reqwest::{Method, RequestBuilder};
use senmon_protocol::{
    address::{is_private, refusal, retry_after_seconds},
    problem::Problem,
    said,
    said::{Said, expected::quoted},
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

/// Heading of the options that every command knows.
pub const COMMON: &str = "Common options";

/// How a server is reached, and by whom.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Reach {
    /// Server and token to use, by the name that `senmon login NAME` kept them under. `SENMON_CONTEXT` names one too;
    /// without both the current one is used (senmon context use).
    #[arg(long, global = true, value_name = "NAME", help_heading = COMMON)]
    pub context: Option<String>,
    /// Address of the server, instead of the context's; `http://127.0.0.1:8080` where there is no context.
    #[arg(long, global = true, env = "SENMON_SERVER", value_name = "ADDRESS", help_heading = COMMON)]
    pub server: Option<String>,
    /// File with the API token, instead of the context's; `SENMON_TOKEN` holds the token itself. No flag takes the
    /// token: everybody on a machine sees the flags of its processes.
    #[arg(long, global = true, value_name = "FILE", help_heading = COMMON)]
    pub token_file: Option<PathBuf>,
    /// PEM file of a certificate authority to trust beside the system's own.
    #[arg(long, global = true, env = "SENMON_CA_FILE", value_name = "FILE", help_heading = COMMON)]
    pub ca_file: Option<PathBuf>,
    /// Send the token over plain http to another machine.
    #[arg(long, global = true, env = "SENMON_INSECURE_HTTP", help_heading = COMMON)]
    pub insecure_http: bool,
}

impl Reach {
    /// What was given by flags, environment, and the text of `SENMON_TOKEN`.
    ///
    /// # Errors
    /// When the file with the token cannot be read.
    pub fn given(&self, token: Option<String>) -> CliResult<Given> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| CliError::unread(path, &error));
        let filled = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let token = match &self.token_file {
            Some(path) => filled(read(path)?),
            None => token.and_then(filled),
        };
        Ok(Given {
            context: self.context.clone(),
            context_of_environment: std::env::var("SENMON_CONTEXT").ok().and_then(filled),
            server: self.server.clone().and_then(filled),
            token,
            ca_file: self.ca_file.clone(),
            insecure_http: self.insecure_http,
        })
    }
}

/// A server and the token for it.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    /// A client of the server of a context.
    ///
    /// # Errors
    /// When the address is none, or TLS cannot be set up.
    pub fn new(with: &Context) -> CliResult<Self> {
        let base = with.server.as_str();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(CliError::refused(&said!("server_address", found = quoted(base))));
        }
        let url =
            reqwest::Url::parse(base).map_err(|error| CliError::Refused(format!("--server: {base:?}: {error}")))?;
        if with.token.is_some() && !with.insecure_http && !is_private(url.scheme(), url.host_str().unwrap_or_default())
        {
            return Err(CliError::Refused(format!("--server: {}", refusal(base, "--insecure-http"))));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("senmon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            // The API sends nobody elsewhere; a token goes where it was meant to go.
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(authorities(with.ca_file.as_deref())?)
            .build()
            .map_err(|error| CliError::failed(&said!("http_set_up", why = error.to_string())))?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token: with.token.clone() })
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
        loop {
            let page: Page<T> = self.part(path, items_max.clamp(1, PAGE_MAX), cursor.as_deref()).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() || items.len() >= items_max {
                items.truncate(items_max);
                return Ok(items);
            }
        }
    }

    /// GET of one page of a list, the one after `cursor`.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn page<T: DeserializeOwned>(&self, path: &str, cursor: Option<&str>) -> CliResult<Page<T>> {
        self.part(path, PAGE_MAX, cursor).await
    }

    async fn part<T: DeserializeOwned>(&self, path: &str, limit: usize, cursor: Option<&str>) -> CliResult<Page<T>> {
        let cursor = cursor.map(|cursor| format!("&cursor={}", encoded(cursor))).unwrap_or_default();
        let whole = format!("{path}{}limit={limit}{cursor}", if path.contains('?') { '&' } else { '?' });
        let page: Page<T> = parse(path, &self.send(self.request(Method::GET, &whole)).await?)?;
        // Said beside the list, which stays readable for scripts.
        page.broken.iter().for_each(|row| eprintln!("senmon: {}", row.problem));
        Ok(page)
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

    /// GET of what is edited: the answer, and the tag that an edit of it names.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn tagged<T: DeserializeOwned>(&self, path: &str) -> CliResult<(T, String)> {
        let (tag, bytes) = self.read(self.sent(self.request(Method::GET, path)).await?).await?;
        Ok((parse(path, &bytes)?, tag))
    }

    /// PATCH with a body, of what nobody edited since `tag`; none where somebody did.
    ///
    /// # Errors
    /// See [`Client::get`].
    pub async fn patch_since<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        tag: &str,
        body: &B,
    ) -> CliResult<Option<T>> {
        let request = keyed(self.request(Method::PATCH, path)).header(reqwest::header::IF_MATCH, tag);
        let answer = self.sent(request.json(body)).await?;
        if answer.status() == reqwest::StatusCode::PRECONDITION_FAILED {
            return Ok(None);
        }
        let (_, bytes) = self.read(answer).await?;
        parse(path, &bytes).map(Some)
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
        self.read(self.sent(request).await?).await.map(|(_, bytes)| bytes)
    }

    fn away(&self, error: &reqwest::Error) -> CliError {
        let cause = cause(error);
        let away = own(&said!("no_server_answers", address = &self.base, why = &cause));
        let hint = other_scheme(&self.base, &cause).map(|hint| format!("\n  {}", own(&hint)));
        CliError::Unreachable(format!("{away}{}", hint.unwrap_or_default()))
    }

    async fn sent(&self, request: RequestBuilder) -> CliResult<reqwest::Response> {
        patient(request).await.map_err(|error| self.away(&error))
    }

    /// The tag of an answer, and its body; the server's problem where it is one.
    async fn read(&self, answer: reqwest::Response) -> CliResult<(String, Vec<u8>)> {
        let status = answer.status();
        let tag = answer.headers().get(reqwest::header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let bytes = answer.bytes().await.map_err(|error| self.away(&error))?;
        if status.is_success() {
            return Ok((tag.unwrap_or_default(), bytes.to_vec()));
        }
        let mut error = match serde_json::from_slice::<Problem>(&retold(&bytes)) {
            Ok(problem) => CliError::from_problem(&problem),
            Err(_) => CliError::failed(&said!("no_senmon_answers", address = &self.base, status = status.to_string())),
        };
        if status == 401
            && let CliError::Refused(text) = &mut error
        {
            let hint = if self.token.is_some() { said!("token_not_accepted") } else { said!("token_not_given") };
            *text = format!("{text}\n  {}", own(&hint));
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
    if found.is_empty() { Err(refused(own(&said!("no_certificate")))) } else { Ok(found) }
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
    serde_json::from_slice(&retold(bytes))
        .map_err(|error| CliError::failed(&said!("answer_unread", path = path, why = error.to_string())))
}

/// A text as one part of an address.
#[must_use]
pub fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A server that does not speak what its address says.
fn other_scheme(base: &str, cause: &str) -> Option<Said> {
    let (scheme, rest) = base.split_once("://")?;
    let cause = cause.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    match scheme {
        // What rustls says of an answer that is no TLS.
        "https" if has(&["invalidcontenttype", "corrupt message", "wrong version number"]) => {
            Some(said!("speaks_http", rest = rest))
        }
        // What hyper says of one that is TLS.
        "http" if has(&["invalid http version", "before message completed", "reset by peer"]) => {
            Some(said!("speaks_https", rest = rest))
        }
        _ => None,
    }
}

/// The innermost cause says most: `connection refused` rather than `error sending request`.
fn cause(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_the_other_scheme_is_hinted_at() {
        let hint = |base, cause| other_scheme(base, cause).unwrap_or_default().text();
        assert!(hint("https://a:1", "received corrupt message of type InvalidContentType").contains("http://a:1"));
        assert!(hint("http://a:1", "connection closed before message completed").contains("https://a:1"));
        assert_eq!(other_scheme("http://a:1", "Connection refused (os error 111)"), None);
    }
}
