//! The only axum. One file per noun, `router()` first; decisions are in `domain`, SQL is in `db`.

pub mod alerts;
pub mod aside;
pub mod attempts;
pub mod audit;
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
pub mod gate;
pub mod goodput;
pub mod health;
pub mod idempotency;
pub mod jobs;
pub mod login;
pub mod params;
pub mod peer;
pub mod plan;
pub mod ranges;
pub mod readings;
pub mod session;
pub mod storage;
pub mod ui;
pub mod workers;

use crate::{app::App, db::Listed};
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::body::Incoming;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tower::{Service, util::MapRequest};
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

/// All operations, each group behind the gate: a request is timed from its first look-up on.
fn operations(app: Option<&App>) -> OpenApiRouter<App> {
    let guarded = |group: OpenApiRouter<App>| match app {
        // The gate first: a key is somebody's.
        Some(app) => group
            .route_layer(middleware::from_fn_with_state(app.clone(), idempotency::once))
            .route_layer(middleware::from_fn_with_state(app.clone(), gate::gate)),
        None => group,
    };
    let most = OpenApiRouter::new()
        .merge(session::router())
        .merge(login::router())
        .merge(audit::router())
        .merge(corpora::router())
        .merge(plan::router())
        .merge(experiments::router())
        .merge(ensemble::router())
        .merge(branches::router())
        .merge(goodput::router())
        .merge(checkpoints::router())
        .merge(workers::router())
        .merge(readings::router())
        .merge(jobs::router())
        .merge(attempts::router())
        .merge(events::router())
        .merge(aside::router())
        .merge(alerts::router());
    guarded(most)
        .layer(middleware::from_fn_with_state(ANSWER_MAX, in_time))
        .merge(guarded(workers::polling()).layer(middleware::from_fn_with_state(POLL_MAX, in_time)))
        // These list the whole store, and read every byte of a checkpoint.
        .merge(guarded(storage::router().merge(checkpoints::verifying())))
}

/// The operations, and the document that describes them.
fn api(app: Option<&App>) -> (Router<App>, serde_json::Value) {
    let (router, document) =
        OpenApiRouter::with_openapi(document::Base::openapi()).nest(gate::ROOT, operations(app)).split_for_parts();
    (router, document::finish(&document))
}

/// The OpenAPI document.
#[must_use]
pub fn openapi() -> serde_json::Value {
    api(None).1
}

/// The whole service.
pub fn router(app: App) -> Router {
    let (api, document) = api(Some(&app));
    // Shared: what a handler owns is cloned with it.
    let document = Arc::new(document);
    let describe = move |_: gate::Reader| {
        let document = document.clone();
        async move { axum::Json(&*document).into_response() }
    };
    let header = |name: &'static str, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(
            axum::http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    let tls = app.config.is_tls().then(|| header("strict-transport-security", "max-age=31536000"));
    api.route("/openapi.json", get(describe))
        .merge(health::router())
        .fallback(ui::serve)
        .with_state(app.clone())
        .layer(middleware::from_fn_with_state(app, peer::admit))
        .layer(middleware::from_fn(request_id))
        .layer(CompressionLayer::new().compress_when(worth_compressing()))
        .layer(header(
            "content-security-policy",
            "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; \
             frame-ancestors 'none'",
        ))
        .layer(tower::util::option_layer(tls))
        .layer(header("x-content-type-options", "nosniff"))
        .layer(header("referrer-policy", "no-referrer"))
        .layer(CatchPanicLayer::custom(panicked))
        // The path alone: a query may hold the code of a sign-in.
        .layer(TraceLayer::new_for_http().make_span_with(
            |request: &Request| tracing::debug_span!("request", method = %request.method(), path = request.uri().path()),
        ))
}

/// What is not compressed already, and not read in ranges.
fn worth_compressing() -> impl Predicate {
    let plain = DefaultPredicate::new().and(NotForContentType::new("application/octet-stream"));
    plain.and(NotForContentType::new("font/")).and(NotForContentType::new("application/zip"))
}

/// The whole service as connections use it: below the base path of the settings as well as without it, because a proxy
/// may take the path away or leave it.
pub fn service(
    app: App,
) -> impl Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
    let base: Arc<str> = app.config.base().into();
    // Once: every connection would clone the routes of a bare router.
    MapRequest::new(router(app).with_state(()), move |mut request: hyper::Request<Incoming>| {
        if let Some(uri) = below(&base, request.uri()) {
            *request.uri_mut() = uri;
        }
        request
    })
}

/// An address without the base path; None where it does not begin with it.
fn below(base: &str, uri: &Uri) -> Option<Uri> {
    if base.is_empty() {
        return None;
    }
    let rest = uri.path_and_query()?.as_str().strip_prefix(base)?;
    let rest = match rest.chars().next() {
        None => "/".to_owned(),
        Some('/') => rest.to_owned(),
        Some('?') => format!("/{rest}"),
        Some(_) => return None,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = rest.parse().ok();
    Uri::from_parts(parts).ok()
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    error::ApiError::Internal(anyhow::anyhow!("a handler panicked")).into_response()
}

/// Answers 503 where nothing else is answered within `limit`.
async fn in_time(State(limit): State<Duration>, request: Request, next: middleware::Next) -> Response {
    let late = |_| error::ApiError::Unavailable(anyhow::anyhow!("no answer within {limit:?}")).into_response();
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(late)
}

/// Gives each request an id, and quotes it in problem documents and in the answer's header.
async fn request_id(request: Request, next: middleware::Next) -> Response {
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
        return Response::from_parts(parts, bytes.into());
    };
    problem.request_id = id;
    parts.headers.remove("content-length");
    let bytes = serde_json::to_vec(&problem).unwrap_or_default();
    Response::from_parts(parts, bytes.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_path_is_taken_away_and_no_more() {
        let check = |base: &str, from: &str, expect: Option<&str>| {
            let found = below(base, &from.parse().unwrap());
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), expect, "{base} {from}");
        };
        check("", "/senmon/x", None);
        check("/senmon", "/senmon", Some("/"));
        check("/senmon", "/senmon?code=1", Some("/?code=1"));
        check("/senmon", "/senmon/api/v1/corpora?a=b", Some("/api/v1/corpora?a=b"));
        check("/senmon", "/senmonx/y", None);
        check("/senmon", "/api/v1/corpora", None);
    }
}
