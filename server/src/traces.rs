//! Spans of requests and of the loops' passes for a collector of OpenTelemetry, where the settings name one
//! (`otlp_endpoint`). Tokens, queries and bodies stand in none of them.
//!
//! Never holds anything up: spans that the collector does not take are dropped, and the log says so once.

use anyhow::{Context as _, Result};
use hyper::{HeaderMap, Method, Request, StatusCode};
use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use reqwest::Url;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tracing::{Level, Metadata, Span, Subscriber, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

/// Time for a request to the collector; and for the last one, when the server stops.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Headers in which a caller says of which trace a request is (W3C Trace Context).
const CARRIED: [&str; 2] = ["traceparent", "tracestate"];

/// The address of a collector for traces, of the address in the settings.
///
/// # Errors
/// What was found, and what is accepted.
pub fn address(text: &str) -> Result<Url, String> {
    let expected = "expected an address such as http://127.0.0.1:4318";
    let mut url = Url::parse(text).map_err(|error| format!("found {text:?}: {error}, {expected}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("found {text:?}, {expected}"));
    }
    let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// What gathers spans and sends them to an address, on a thread of its own.
///
/// # Errors
/// When HTTP cannot be set up.
pub fn provider(endpoint: &Url) -> Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint.as_str())
        .with_timeout(CALL_MAX)
        .build()
        .context("set up the exporter of traces")?;
    let resource = Resource::builder()
        .with_service_name("senmon-server")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let told = Told { to: exporter, is_away: AtomicBool::new(false) };
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(told).build())
}

/// Sends what is left, for so long as a call may take.
pub fn end(provider: &SdkTracerProvider) {
    if let Err(error) = provider.shutdown_with_timeout(CALL_MAX) {
        tracing::debug!(%error, "the last spans were not sent");
    }
}

/// The layer that makes spans of this program's own, and of what is worth a line of log in them.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S> {
    let wanted = |data: &Metadata<'_>| {
        data.target().starts_with("senmon_server") && (data.is_span() || *data.level() <= Level::INFO)
    };
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("senmon_server"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(wanted))
}

/// The span of a request, in the trace of its caller where it names one.
pub fn request<B>(request: &Request<B>) -> Span {
    // The path alone: a query may hold the code of a sign-in.
    let span = tracing::debug_span!(
        "request",
        otel.name = %request.method(),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %request.method(),
        http.route = Empty,
        url.path = request.uri().path(),
        http.response.status_code = Empty,
    );
    let carried = carried(request.headers());
    if !carried.is_empty() {
        // Without a collector there is nothing to set it on.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carried));
    }
    span
}

fn carried(headers: &HeaderMap) -> HashMap<String, String> {
    let text = |name: &str| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned()));
    CARRIED.into_iter().filter_map(text).collect()
}

/// Notes which operation a request is of: the name of its span is one of few.
pub fn routed(method: &Method, route: &str) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    span.record("http.route", route);
    // The span has begun, and a field that names it would come too late.
    span.context().span().update_name(format!("{method} {route}"));
}

/// Notes how a request was answered; what the server could not do has failed.
pub fn answered(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of one pass of a loop.
#[must_use]
pub fn pass(name: &str) -> Span {
    tracing::debug_span!("loop", otel.name = format!("loop {name}"), loop.name = name)
}

/// An exporter, and whether its collector took the last spans: it is said once when it stops to, and once when it does
/// again.
#[derive(Debug)]
struct Told<E> {
    to: E,
    is_away: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let done = self.to.export(batch).await;
        let was_away = self.is_away.swap(done.is_err(), Ordering::Relaxed);
        match &done {
            Err(error) if !was_away => {
                tracing::warn!(%error, "the collector of traces does not take spans; they are dropped");
            }
            Ok(()) if was_away => tracing::info!("the collector of traces takes spans again"),
            _ => {}
        }
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.to.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.to.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.to.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_collector_gets_the_path_of_the_protocol() {
        assert_eq!(address("http://127.0.0.1:4318").unwrap().as_str(), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(address("https://otel.example/in/").unwrap().as_str(), "https://otel.example/in/v1/traces");
        for wrong in ["127.0.0.1:4318", "grpc://127.0.0.1:4317", ""] {
            assert!(address(wrong).unwrap_err().contains("expected an address such as"), "{wrong}");
        }
    }
}
