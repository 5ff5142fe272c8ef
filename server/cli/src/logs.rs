//! The log of a branch or a job, line by line.

use crate::{
    client::Client,
    error::CliResult,
    output::{Format, out},
    table::one_line,
};
use chrono::DateTime;
use senmon_protocol::{view::LogsView, worker::LogLine};
use std::time::Duration;

/// Shows the log of what is at `path`; follows it until that is over, where asked to.
///
/// # Errors
/// When the server does not answer.
pub async fn show(
    client: &Client,
    format: Format,
    path: &str,
    follow: bool,
    is_over: impl AsyncFn() -> CliResult<bool>,
) -> CliResult {
    let mut after = 0;
    loop {
        // Asked for first: what is logged before the end is then in the answer.
        let over = is_over().await?;
        loop {
            let page: LogsView = client.get(&format!("{path}/logs?after={after}")).await?;
            if page.lines.is_empty() {
                break;
            }
            after = page.next_after;
            match format {
                Format::Table => page.lines.iter().for_each(|text| out(&line(text))),
                _ => format.print(&page.lines, |_| String::new())?,
            }
        }
        if !follow || over {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn line(line: &LogLine) -> String {
    let at = DateTime::from_timestamp_millis(line.at_ms).unwrap_or_default();
    format!("{} {:<5} {}", at.format("%Y-%m-%d %H:%M:%S"), line.level, one_line(&line.text))
}
