//! The worker protocol over HTTP: the only place that knows of reqwest. One call is one request; its failure says
//! whether asking again can help.
//!
//! Never retries by itself (the callers do, with [`Backoff`]; a 429 holds all of them back for as long as it says), never
//! decides about leases.

use crate::{config::Config, credential::Credential, spool::Record};
use anyhow::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{RequestBuilder, Response, StatusCode, header::RETRY_AFTER};
use senmon_engine::lock::lock;
use senmon_protocol::{
    address::retry_after_seconds,
    ids::{AttemptId, WorkerId},
    problem::Problem,
    readings::Readings,
    worker::{EnrolWorker, Enrolled, Heartbeat, Heartbeaten, Poll, Polled},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// Longer than any request of the worker should take; a long poll adds its wait.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, a time-out, or an answer that asks for patience (429, 5xx): ask again later.
    #[error("{0}")]
    Away(String),
    /// The attempt's fence is old: 409 `stale_fence`.
    #[error("the attempt's fence is old: {0}")]
    StaleFence(String),
    /// The worker's session is not the current one, or the server does not know the worker: enrol again.
    #[error("the session is refused: {0}")]
    Session(String),
    /// Refused for good.
    #[error("{}", described(.0))]
    Refused(Box<Problem>),
}

impl CallError {
    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }
}

fn described(problem: &Problem) -> String {
    let mut text = format!("{} {}: {}", problem.status, problem.code, problem.detail);
    for fault in &problem.faults {
        text.push_str(&format!("; {}: {}", fault.path, fault.message));
    }
    if !problem.request_id.is_empty() {
        text.push_str(&format!(" (request {})", problem.request_id));
    }
    text
}

/// A server, and what opens it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    credential: Credential,
    /// The server asked for patience until then: nothing is sent before.
    patience: Arc<Mutex<Option<Instant>>>,
}

impl Client {
    /// A client of the server of the settings.
    ///
    /// # Errors
    /// When the certificate authority cannot be read, or TLS not be set up.
    pub fn new(config: &Config, credential: &Credential) -> anyhow::Result<Self> {
        let authorities = match &config.ca_file {
            None => Vec::new(),
            Some(path) => {
                let bytes = std::fs::read(path).with_context(|| format!("ca_file: read {}", path.display()))?;
                reqwest::Certificate::from_pem_bundle(&bytes).with_context(|| format!("ca_file: {}", path.display()))?
            }
        };
        Self::of(&config.server_url, credential, authorities)
    }

    /// A client of the server at `base` that trusts these authorities beside the system's.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn of(base: &str, credential: &Credential, authorities: Vec<reqwest::Certificate>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("senmon-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // Before the server closes it, in the moment of a heartbeat.
            .pool_idle_timeout(Duration::from_secs(15))
            // The API sends nobody elsewhere; a token goes where it was meant to go.
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(authorities)
            .build()?;
        let patience = Arc::default();
        Ok(Self { http, base: format!("{base}/api/v1"), credential: credential.clone(), patience })
    }

    /// Says what this worker is, by its credential; where the server does not know that (yet), by an enrolment token.
    ///
    /// # Errors
    /// [`CallError`]; a credential that was revoked is refused for good.
    pub async fn enrol(&self, worker: &EnrolWorker, token: Option<&str>) -> Result<Enrolled, CallError> {
        let known = self.post("/workers", worker, REQUEST_MAX).await;
        match (&known, token) {
            (Err(CallError::Refused(problem)), Some(token)) if problem.code == "unauthenticated" => {
                tracing::info!("the server does not know this worker's credential: enrolling with the token");
                let request = self.http.post(format!("{}/workers", self.base)).json(worker).timeout(REQUEST_MAX);
                self.read("/workers", self.send(request, token).await?).await
            }
            _ => known,
        }
    }

    /// Asks for work and waits for it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn poll(&self, id: WorkerId, poll: &Poll) -> Result<Polled, CallError> {
        let limit = Duration::from_millis(poll.wait_ms) + REQUEST_MAX;
        self.post(&format!("/workers/{id}/poll"), poll, limit).await.map_err(session)
    }

    /// Renews leases; gives up after `limit`, because a late renewal is worth nothing.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn heartbeat(&self, id: WorkerId, beat: &Heartbeat, limit: Duration) -> Result<Heartbeaten, CallError> {
        self.post(&format!("/workers/{id}/heartbeat"), beat, limit).await.map_err(session)
    }

    /// Says how the machine was over the last minute.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn readings(&self, id: WorkerId, readings: &Readings) -> Result<(), CallError> {
        let request = self.http.post(format!("{}/workers/{id}/readings", self.base)).json(readings);
        self.send(request.timeout(REQUEST_MAX), self.credential.secret()).await.map(|_| ())
    }

    /// Delivers one record of an attempt's spool.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn deliver(&self, id: AttemptId, record: &Record) -> Result<(), CallError> {
        let url = |verb: &str| format!("{}/attempts/{id}/{verb}", self.base);
        let request = match record {
            Record::Started(body) => self.http.post(url("started")).json(body),
            Record::Metrics(body) => self.http.post(url("metrics")).json(body),
            Record::Logs(body) => self.http.post(url("logs")).json(body),
            Record::Announce(body) => self.http.post(url("announce")).json(body),
            Record::Checkpoint(body) => self.http.post(url("checkpoints")).json(body),
            Record::Complete(body) => self.http.post(url("complete")).json(body),
        };
        self.send(request.timeout(REQUEST_MAX), self.credential.secret()).await.map(|_| ())
    }

    async fn post<B: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        limit: Duration,
    ) -> Result<A, CallError> {
        let request = self.http.post(format!("{}{path}", self.base)).json(body).timeout(limit);
        self.read(path, self.send(request, self.credential.secret()).await?).await
    }

    async fn read<A: DeserializeOwned>(&self, path: &str, answer: Response) -> Result<A, CallError> {
        let answer = answer.bytes().await.map_err(|error| CallError::Away(chain(&error)))?;
        serde_json::from_slice(&answer).map_err(|error| {
            CallError::Refused(Box::new(problem(
                StatusCode::OK,
                format!("the answer to {path} is not as agreed: {error}"),
            )))
        })
    }

    async fn send(&self, request: RequestBuilder, secret: &str) -> Result<Response, CallError> {
        let until = *lock(&self.patience);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        let answer = request.bearer_auth(secret).send().await.map_err(|error| CallError::Away(chain(&error)))?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let header = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            *lock(&self.patience) = Some(Instant::now() + Duration::from_secs(retry_after_seconds(header)));
        }
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let problem = serde_json::from_str(&text).unwrap_or_else(|_| {
            problem(status, if text.is_empty() { status.to_string() } else { text.chars().take(500).collect() })
        });
        Err(classify(status, problem))
    }
}

fn classify(status: StatusCode, problem: Problem) -> CallError {
    // A name is free again when its worker is stopped or lost.
    let waits = problem.code == "name_taken";
    if waits
        || status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
    {
        CallError::Away(described(&problem))
    } else if problem.code == "stale_fence" {
        CallError::StaleFence(problem.detail)
    } else if problem.code.contains("session") && status == StatusCode::CONFLICT {
        CallError::Session(problem.detail)
    } else {
        CallError::Refused(Box::new(problem))
    }
}

/// A worker that the server does not know (any more) has no session either.
fn session(error: CallError) -> CallError {
    match error {
        CallError::Refused(problem) if problem.status == 404 || problem.status == 409 => {
            CallError::Session(problem.detail)
        }
        error => error,
    }
}

fn problem(status: StatusCode, detail: String) -> Problem {
    Problem {
        kind: "about:blank".into(),
        code: "unreadable".into(),
        title: status.canonical_reason().unwrap_or("unknown").to_owned(),
        status: status.as_u16(),
        detail,
        said: None,
        faults: Vec::new(),
        request_id: String::new(),
    }
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Growing pauses between tries, each between half of its step and all of it, so that a fleet that lost its server
/// does not come back in one moment.
#[derive(Debug)]
pub struct Backoff {
    step: Duration,
    step_max: Duration,
    random: ChaCha8Rng,
}

/// A number that tells workers apart by their names, which are unique in a fleet; process ids are not (in containers
/// all of them are 1).
#[must_use]
pub fn seed_of(name: &str) -> u64 {
    // FNV-1a.
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The first pause.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);

impl Backoff {
    /// Pauses up to `step_max`; `seed` tells workers apart.
    #[must_use]
    pub fn new(step_max: Duration, seed: u64) -> Self {
        Self { step: BACKOFF_FIRST, step_max, random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The longest pause from now on.
    pub fn limit(&mut self, step_max: Duration) {
        self.step_max = step_max.max(BACKOFF_FIRST);
        self.step = self.step.min(self.step_max);
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.step.mul_f64(self.random.random_range(0.5..=1.0));
        self.step = (self.step * 2).min(self.step_max);
        pause
    }

    /// Starts again from the first pause, after a success.
    pub fn reset(&mut self) {
        self.step = BACKOFF_FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(status: u16, code: &str, expect: fn(&CallError) -> bool) {
        let status = StatusCode::from_u16(status).unwrap();
        let mut problem = problem(status, "why".into());
        problem.code = code.into();
        let error = session(classify(status, problem));
        assert!(expect(&error), "{status} {code} became {error:?}");
    }

    #[test]
    fn an_answer_that_asks_for_patience_is_asked_again() {
        for status in [429, 500, 502, 503, 504, 408] {
            check(status, "x", CallError::is_away);
        }
    }

    #[test]
    fn a_stale_fence_is_told_from_other_refusals() {
        check(409, "stale_fence", |error| matches!(error, CallError::StaleFence(_)));
        check(409, "stale_session", |error| matches!(error, CallError::Session(_)));
        check(404, "not_found", |error| matches!(error, CallError::Session(_)));
        check(422, "invalid_input", |error| matches!(error, CallError::Refused(_)));
        check(401, "unauthenticated", |error| matches!(error, CallError::Refused(_)));
    }

    #[test]
    fn pauses_grow_to_their_limit_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(5), 1);
        let pauses: Vec<_> = (0..12).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(5)));
        assert!(pauses[11] >= Duration::from_millis(2500) && pauses[0] <= BACKOFF_FIRST);
        backoff.reset();
        assert!(backoff.pause() <= BACKOFF_FIRST);
    }

    proptest! {
        /// When each of twenty workers asks for the first time after the server is back, `away` after they lost it
        /// in one moment.
        #[test]
        fn twenty_workers_do_not_come_back_in_one_instant(fleet in "[a-z]{1,12}", away_ms in 2_000_u64..900_000) {
            let away = Duration::from_millis(away_ms);
            let back: Vec<Duration> = (0..20)
                .map(|n| {
                    let mut backoff = Backoff::new(Duration::from_secs(5), seed_of(&format!("{fleet}-{n}")));
                    let mut at = Duration::ZERO;
                    while at < away {
                        at += backoff.pause();
                    }
                    at
                })
                .collect();
            let instant = Duration::from_millis(100);
            let together = |from: &Duration| back.iter().filter(|at| *from <= **at && **at < *from + instant).count();
            prop_assert!(back.iter().all(|from| together(from) <= 10), "{back:?}");
            prop_assert!(back.iter().all(|at| *at <= away + Duration::from_secs(5)));
        }
    }
}
