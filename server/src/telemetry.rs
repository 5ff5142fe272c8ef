//! Log lines: text for people, JSON for machines; `RUST_LOG` chooses what. And spans, where a collector is named.

use crate::{
    config::{Config, LogFormat},
    traces,
};
use anyhow::Result;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::{
    fmt::Display,
    io::{IsTerminal, Write},
};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _,
};

/// Starts logging to standard error; not to be called where a runtime is. What it returns sends spans until it is ended.
///
/// # Errors
/// When the settings name a collector, and HTTP cannot be set up.
pub fn start(config: &Config) -> Result<Option<SdkTracerProvider>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let Some(endpoint) = &config.otlp_endpoint else {
        // What no line is written of costs nothing.
        tracing_subscriber::registry().with(filter).with(lines(config.log_format)).init();
        return Ok(None);
    };
    let provider = traces::provider(&traces::address(endpoint).map_err(anyhow::Error::msg)?)?;
    let lines = lines::<Registry>(config.log_format).with_filter(filter);
    tracing_subscriber::registry().with(lines).with(traces::layer(&provider)).init();
    Ok(Some(provider))
}

/// Lines of log to standard error.
fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync> {
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}

/// Writes a line to standard output. A reader that has gone away (`| head`) is no fault of anybody's.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
