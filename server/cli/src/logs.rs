//! The log of a branch or a job, line by line.

use crate::{client::Client, error::CliResult, output::Format, table::one_line, words};
use chrono::DateTime;
use senmon_protocol::{view::LogsView, worker::LogLine};
use std::time::Duration;

/// Shows the log of what is at `path`, all or the last lines of it; follows it until that is over, where asked to.
///
/// # Errors
/// When the server does not answer.
pub async fn show(
    client: &Client,
    format: Format,
    path: &str,
    (follow, lines): (bool, Option<usize>),
    is_over: impl AsyncFn() -> CliResult<bool>,
) -> CliResult {
    let (mut after, mut lines) = (0, lines);
    loop {
        // Asked for first: what is logged before the end is then in the answer.
        let over = is_over().await?;
        let mut news: Vec<LogLine> = Vec::new();
        loop {
            let page: LogsView = client.get(&format!("{path}/logs?after={after}")).await?;
            if page.lines.is_empty() {
                break;
            }
            after = page.next_after;
            news.extend(page.lines);
        }
        // Only what was there at the beginning can be too much.
        let most = lines.take().unwrap_or(usize::MAX);
        news.drain(..news.len().saturating_sub(most));
        if !follow && !format.is_text() {
            return format.print(&news, |_| String::new());
        }
        for entry in &news {
            format.line(entry, line)?;
        }
        if !follow || over {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn line(line: &LogLine) -> String {
    let at = DateTime::from_timestamp_millis(line.at_ms).unwrap_or_default();
    format!("{} {:<5} {}", words::at(at), line.level, one_line(&line.text))
}
