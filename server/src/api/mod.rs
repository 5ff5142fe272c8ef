//! The only axum. One file per noun, `router()` first; decisions are in `domain`, SQL is in `db`.

pub mod attempts;
pub mod auth;
pub mod body;
pub mod branches;
pub mod checkpoints;
pub mod corpora;
pub mod document;
pub mod ensemble;
pub mod error;
pub mod etag;
pub mod events;
pub mod experiments;
pub mod goodput;
pub mod health;
pub mod idempotency;
pub mod jobs;
pub mod params;
pub mod plan;
pub mod ranges;
pub mod session;
pub mod storage;
pub mod ui;
pub mod workers;

use crate::{app::App, db::Listed};
use axum::{Router, extract::State, http::HeaderValue, middleware, response::IntoResponse, routing::get};
use std::{sync::Arc, time::Duration};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer, Predicate,
        predicate::{DefaultPredicate, NotForContentType},
    },
    set_header::SetResponseHeaderLayer,
    trace::TraceLayer,
};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

/// Longest time to an answer, or to the first byte of a long one, beyond what a poll waits: what a wire has lost holds
/// no request for ever. Shorter than a worker's patience (30 s), so that it hears why.
const ANSWER_MAX: Duration = Duration::from_secs(25);
const POLL_MAX: Duration = ANSWER_MAX.saturating_add(Duration::from_millis(workers::POLL_MS_MAX));

fn api() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(document::Base::openapi()).nest(
        "/api/v1",
        OpenApiRouter::new()
            .merge(session::router())
            .merge(corpora::router())
            .merge(plan::router())
            .merge(experiments::router())
            .merge(ensemble::router())
            .merge(branches::router())
            .merge(goodput::router())
            .merge(checkpoints::router())
            .merge(workers::router())
            .merge(jobs::router())
            .merge(attempts::router())
            .merge(events::router())
            .layer(middleware::from_fn_with_state(ANSWER_MAX, in_time))
            .merge(workers::polling().layer(middleware::from_fn_with_state(POLL_MAX, in_time)))
            // These list the whole store, and read every byte of a checkpoint.
            .merge(storage::router())
            .merge(checkpoints::verifying()),
    )
}

/// The OpenAPI document.
#[must_use]
pub fn openapi() -> serde_json::Value {
    document::finish(&api().split_for_parts().1)
}

/// The whole service.
pub fn router(app: App) -> Router {
    let (api, document) = api().split_for_parts();
    // Shared: what a handler owns is cloned with it.
    let document = Arc::new(document::finish(&document));
    let describe = move || {
        let document = document.clone();
        async move { axum::Json(&*document).into_response() }
    };
    let header = |name: &'static str, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(
            axum::http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    api.layer(middleware::from_fn_with_state(app.clone(), idempotency::once))
        .route("/openapi.json", get(describe))
        .merge(health::router())
        .method_not_allowed_fallback(no_such_method)
        .fallback(ui::serve)
        .with_state(app)
        .layer(middleware::from_fn(request_id))
        .layer(CompressionLayer::new().compress_when(worth_compressing()))
        .layer(header(
            "content-security-policy",
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:",
        ))
        .layer(header("x-content-type-options", "nosniff"))
        .layer(header("referrer-policy", "no-referrer"))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TraceLayer::new_for_http())
}

/// What is not compressed already, and not read in ranges.
fn worth_compressing() -> impl Predicate {
    let plain = DefaultPredicate::new().and(NotForContentType::new("application/octet-stream"));
    plain.and(NotForContentType::new("font/")).and(NotForContentType::new("application/zip"))
}

async fn no_such_method(method: axum::http::Method) -> error::ApiError {
    error::ApiError::MethodNotAllowed(method.to_string())
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    error::ApiError::Internal(anyhow::anyhow!("a handler panicked")).into_response()
}

/// Answers 503 where nothing else is answered within `limit`.
async fn in_time(
    State(limit): State<Duration>,
    request: axum::extract::Request,
    next: middleware::Next,
) -> axum::response::Response {
    let late = |_| error::ApiError::Unavailable(anyhow::anyhow!("no answer within {limit:?}")).into_response();
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(late)
}

/// Gives each request an id, and quotes it in problem documents and in the answer's header.
async fn request_id(request: axum::extract::Request, next: middleware::Next) -> axum::response::Response {
    let id = uuid::Uuid::now_v7().to_string();
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let is_problem = response.headers().get("content-type").is_some_and(|kind| kind == "application/problem+json");
    if !is_problem {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let Ok(mut problem) = serde_json::from_slice::<senmon_protocol::problem::Problem>(&bytes) else {
        return axum::response::Response::from_parts(parts, bytes.into());
    };
    problem.request_id = id;
    parts.headers.remove("content-length");
    let bytes = serde_json::to_vec(&problem).unwrap_or_default();
    axum::response::Response::from_parts(parts, bytes.into())
}

/// A page of at most `limit` of the items, of which one more than `limit` was read.
fn page<T>(listed: Listed<T>, limit: i64, cursor: impl Fn(&T) -> String) -> senmon_protocol::view::Page<T> {
    let Listed { rows: mut items, broken } = listed;
    let limit = usize::try_from(limit).unwrap_or(1);
    let more = items.len() + broken.len() > limit;
    items.truncate(limit);
    let last = items.last().map(cursor).or_else(|| broken.last().map(|row| row.id.clone()));
    senmon_protocol::view::Page { items, next_cursor: last.filter(|_| more), broken }
}
