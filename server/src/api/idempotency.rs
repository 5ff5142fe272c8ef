//! `Idempotency-Key`: a mutation that comes twice is done once, whichever it is, and answered alike.
//!
//! Requests with one key follow each other; the first one's transaction reserves it (`db::begin`), and its answer is
//! kept for a day. An answer with a secret (`Cache-Control: no-store`) is kept in this process alone, for an hour.

use crate::{
    api::{auth::Watched, body::read, error::ApiError},
    app::App,
    db::{
        self,
        idempotency::{Answer, Found, Key},
    },
    keys::is_fresh,
};
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use senmon_protocol::said;
use sha2::{Digest, Sha256};
use std::time::Instant;

/// Longest key.
const CHARS_MAX: usize = 200;
/// Largest body of a mutation.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Largest answer that is kept; of a larger one only that it was done.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Headers of an answer that describe its body.
const KEPT: [header::HeaderName; 2] = [header::CONTENT_TYPE, header::ETAG];

/// Lets a request with a key through once; the others get the same answer.
pub async fn once(app: &App, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match of(request.headers()) {
        Ok(None) => next.run(request).await,
        Ok(Some(key)) => with_key(app, key, request, next).await.unwrap_or_else(IntoResponse::into_response),
        Err(refused) => refused.into_response(),
    }
}

/// The key of a request, checked before anything else is done.
fn of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let bytes = value.as_bytes();
    if (1..=CHARS_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) {
        return Ok(Some(String::from_utf8_lossy(bytes).into_owned()));
    }
    Err(ApiError::invalid("Idempotency-Key", said!("refused_key", bytes = bytes.len(), most = CHARS_MAX)))
}

async fn with_key(app: &App, key: String, request: Request, next: Next) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    // Nobody: it is how one gets in.
    let Some(token) = parts.extensions.get::<Watched>().map(|watched| watched.who.id) else {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    let body = read(app, Request::from_parts(parts.clone(), body), BODY_BYTES_MAX).await?;
    let words = [parts.method.as_str(), parts.uri.path(), parts.uri.query().unwrap_or_default()].join("\0");
    let request_sha256 = Sha256::new().chain_update(words).chain_update([0]).chain_update(&body).finalize().to_vec();
    let key = Key { token, key, request_sha256 };

    let turn = app.keys.turn(&key);
    let mut secret = turn.lock().await;
    match db::idempotency::find(&app.db, &key).await? {
        Found::Nothing => *secret = None,
        Found::Answered(answer) => return Ok(again(answer)),
        Found::Another => {
            return Err(ApiError::Conflict(said!("refused_key_of_another")));
        }
        Found::Done(at) => {
            let answer = secret.as_ref().filter(|_| is_fresh(&secret)).map(|(answer, _)| answer.clone());
            return answer.map(again).ok_or_else(|| {
                ApiError::Conflict(said!("refused_key_done", when = at.format("%Y-%m-%d %H:%M:%S").to_string()))
            });
        }
    }
    let request = Request::from_parts(parts, Body::from(body));
    let response = db::idempotency::within(key.clone(), next.run(request)).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let is_secret = response.headers().get(header::CACHE_CONTROL).is_some_and(|value| value == "no-store");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(|error| ApiError::Internal(error.into()))?;
    match kept(parts.status, &parts.headers, &body) {
        Some(answer) if is_secret => *secret = Some((answer, Instant::now())),
        Some(answer) => {
            if let Err(error) = db::idempotency::answered(&app.db, &key, &answer).await {
                tracing::warn!(%error, "an answer is not kept for repeats");
            }
        }
        None => {}
    }
    Ok(Response::from_parts(parts, body.into()))
}

fn kept(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Option<Answer> {
    let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= ANSWER_BYTES_MAX)?;
    let value = |name: &header::HeaderName| Some((name.to_string(), headers.get(name)?.to_str().ok()?.to_owned()));
    Some(Answer { status: status.as_u16(), headers: KEPT.iter().filter_map(value).collect(), body: text.to_owned() })
}

fn again(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    for name in KEPT {
        if let Some(value) = answer.headers.get(name.as_str()).and_then(|value| value.parse().ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
