//! A plain REST client for tests: JSON in, JSON out, problems as values.

use anyhow::{Context, Result, bail};
use reqwest::Method;
use senmon_protocol::{problem::Problem, view::Page};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

/// Longer than the server takes for any answer: a client that waits for ever does not see its limit pass.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Talks to one server with one token.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Api {
    /// A client for `http://127.0.0.1:port`.
    #[must_use]
    pub fn new(base: &str, token: &str) -> Self {
        Self { http: reqwest::Client::new(), base: base.to_owned(), token: token.to_owned() }
    }

    /// A client that asks in another way: over TLS, through a proxy.
    #[must_use]
    pub fn by(http: reqwest::Client, base: &str, token: &str) -> Self {
        Self { http, base: base.to_owned(), token: token.to_owned() }
    }

    /// The same client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Base address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Sends a request; any status is an answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Result<(u16, Value)> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token).timeout(ANSWER_MAX);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("send {path}"))?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// GET, must succeed.
    ///
    /// # Errors
    /// Any other status, with the problem's text.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        Self::expect(path, self.send::<()>(Method::GET, path, None).await?)
    }

    /// GET of a list, all of its pages; must succeed.
    ///
    /// # Errors
    /// Any other status, with the problem's text.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        let path = format!("{path}{}limit=500", if path.contains('?') { '&' } else { '?' });
        loop {
            let page: Page<T> = self.get(&format!("{path}{cursor}")).await?;
            items.extend(page.items);
            let Some(next) = page.next_cursor else { return Ok(items) };
            cursor = format!("&cursor={next}");
        }
    }

    /// POST, must succeed.
    ///
    /// # Errors
    /// Any other status, with the problem's text.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        Self::expect(path, self.send(Method::POST, path, Some(body)).await?)
    }

    /// POST that must be refused.
    ///
    /// # Errors
    /// When it succeeds, or the answer is no problem document.
    pub async fn refused<B: Serialize>(&self, path: &str, body: &B) -> Result<Problem> {
        let (status, value) = self.send(Method::POST, path, Some(body)).await?;
        if status < 400 {
            bail!("{path} was accepted: {value}");
        }
        serde_json::from_value(value.clone()).with_context(|| format!("{path}: not a problem document: {value}"))
    }

    fn expect<T: DeserializeOwned>(path: &str, (status, value): (u16, Value)) -> Result<T> {
        if status >= 400 {
            bail!("{path}: {status} {value}");
        }
        serde_json::from_value(value.clone()).with_context(|| format!("{path}: unexpected answer {value}"))
    }
}
