//! Log lines: text for people, JSON for machines; `RUST_LOG` chooses what.

use crate::config::LogFormat;
use std::{
    fmt::Display,
    io::{IsTerminal, Write},
};
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Writes a line to standard output. A reader that has gone away (`| head`) is no fault of anybody's.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
