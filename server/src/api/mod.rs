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
pub mod mlflow;
pub mod page;
pub mod params;
pub mod peer;
pub mod plan;
pub mod ranges;
pub mod readings;
pub mod session;
pub mod storage;
pub mod ui;
pub mod workers;

use crate::{app::App, traces};
use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, RawPathParams, Request, State},
    http::{HeaderValue, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{
    body::Incoming,
    header::{
        CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tower::{Service, ServiceBuilder};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer, Predicate,
        predicate::{DefaultPredicate, NotForContentType},
    },
    trace::TraceLayer,
};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

/// Longest time to an answer, or to the first byte of a long one, beyond what a poll waits: what a wire has lost holds
/// no request for ever. Shorter than a worker's patience (30 s), so that it hears why.
const ANSWER_MAX: Duration = Duration::from_secs(25);
const POLL_MAX: Duration = ANSWER_MAX.saturating_add(Duration::from_millis(workers::POLL_MS_MAX));

/// What stands before the operations of a group.
#[derive(Debug, Clone)]
struct Guard {
    app: App,
    /// None for as long as it takes.
    answer_max: Option<Duration>,
}

/// The gate first: a key is somebody's. One layer for all three, because the router boxes and copies what is below each.
async fn guard(
    State(Guard { app, answer_max }): State<Guard>,
    path: MatchedPath,
    params: RawPathParams,
    request: Request,
    next: middleware::Next,
) -> Response {
    let answered = gate::gate(&app, &path, &params, request, |request| idempotency::once(&app, request, next));
    let Some(limit) = answer_max else { return answered.await.into_response() };
    // A request is timed from its first look-up on.
    within(limit, answered).await.into_response()
}

/// An answer, or 503 where there is none in time.
async fn within<T>(limit: Duration, answered: impl Future<Output = error::ApiResult<T>>) -> error::ApiResult<T> {
    let late = |_| Err(error::ApiError::Unavailable(anyhow::anyhow!("no answer within {limit:?}")));
    tokio::time::timeout(limit, answered).await.unwrap_or_else(late)
}

/// All operations, each group behind its guard.
fn operations(app: Option<&App>) -> OpenApiRouter<App> {
    let guarded = |group: OpenApiRouter<App>, answer_max: Option<Duration>| match app {
        Some(app) => group.route_layer(middleware::from_fn_with_state(Guard { app: app.clone(), answer_max }, guard)),
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
    guarded(most, Some(ANSWER_MAX))
        .merge(guarded(workers::polling(), Some(POLL_MAX)))
        // These list the whole store, and read every byte of a checkpoint.
        .merge(guarded(storage::router().merge(checkpoints::verifying()), None))
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

/// Everything that has an address.
fn router(app: App) -> Router {
    let (api, document) = api(Some(&app));
    // Shared: what a handler owns is cloned with it.
    let document = Arc::new(document);
    let describe = move |_: gate::Reader| {
        let document = document.clone();
        async move { axum::Json(&*document).into_response() }
    };
    let timed = |request: Request, next: middleware::Next| within(ANSWER_MAX, async { Ok(next.run(request).await) });
    let neighbours = mlflow::router(&app).layer(middleware::from_fn(timed));
    api.route("/openapi.json", get(describe))
        .merge(health::router())
        .nest(mlflow::ROOT, neighbours)
        .fallback(ui::serve)
        .with_state(app)
}

/// What every answer says to browsers.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; \
             frame-ancestors 'none'",
        ),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];
/// What those under TLS say besides: a year.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

fn with_headers<B>(mut response: hyper::Response<B>, is_tls: bool) -> hyper::Response<B> {
    let headers = response.headers_mut();
    for (name, value) in HEADERS.into_iter().chain(is_tls.then_some((STRICT_TRANSPORT_SECURITY, HSTS))) {
        headers.entry(name).or_insert(value);
    }
    response
}

/// What is not compressed already, and not read in ranges.
fn worth_compressing() -> impl Predicate {
    let plain = DefaultPredicate::new().and(NotForContentType::new("application/octet-stream"));
    plain.and(NotForContentType::new("font/")).and(NotForContentType::new("application/zip"))
}

/// The whole service as connections use it: below the base path of the settings as well as without it, because a proxy
/// may take the path away or leave it. What all routes share is put around the router, once: as a layer of it, it would be
/// put around each route, boxed, and copied with each request.
pub fn service(
    app: App,
) -> impl Service<
    hyper::Request<Incoming>,
    Response = hyper::Response<impl hyper::body::Body<Data: Send, Error: Into<axum::BoxError>> + Send + 'static>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let (base, is_tls): (Arc<str>, _) = (app.config.base().into(), app.config.is_tls());
    ServiceBuilder::new()
        .map_request(move |mut request: hyper::Request<Incoming>| {
            if let Some(uri) = below(&base, request.uri()) {
                *request.uri_mut() = uri;
            }
            request.map(Body::new)
        })
        .layer(TraceLayer::new_for_http().make_span_with(|request: &Request| traces::request(request)).on_response(
            |response: &hyper::Response<_>, took: Duration, span: &tracing::Span| {
                traces::answered(span, response.status());
                tracing::debug!(status = response.status().as_u16(), duration_ms = took.as_millis(), "answered");
            },
        ))
        .layer(CatchPanicLayer::custom(panicked))
        .map_response(move |response| with_headers(response, is_tls))
        .layer(CompressionLayer::new().compress_when(worth_compressing()))
        .layer(middleware::from_fn_with_state(app.clone(), enter))
        .service(router(app))
}

/// Gives each request an id, and lets it in. Problem documents quote the id, and so does every answer's header.
async fn enter(State(app): State<App>, mut request: Request, next: middleware::Next) -> Response {
    let response = match peer::admit(&app, &mut request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    with_id(response).await
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

async fn with_id(mut response: Response) -> Response {
    let id = uuid::Uuid::now_v7().to_string();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    let is_problem = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    if !is_problem {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let Ok(mut problem) = serde_json::from_slice::<senmon_protocol::problem::Problem>(&bytes) else {
        return Response::from_parts(parts, bytes.into());
    };
    problem.request_id = id;
    parts.headers.remove(CONTENT_LENGTH);
    let bytes = serde_json::to_vec(&problem).unwrap_or_default();
    Response::from_parts(parts, bytes.into())
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
