//! The worker's own log: lines for people or JSON for collectors, level by `RUST_LOG` (default `info`).
//!
//! Never carries an attempt's log lines to the server; the spool does.

use crate::config::LogFormat;
use std::{fmt::Display, io::Write};
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging to standard error. The second call does nothing.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

/// Writes a line to standard output. A reader that has gone away (`| head`) is no fault of anybody's.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
