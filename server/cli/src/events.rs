//! `senmon events`: what happened, in sentences.

use crate::{
    client::{Client, encoded},
    error::{CliError, CliResult},
    moment,
    output::Format,
    resolve,
    table::one_line,
    words,
};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use senmon_protocol::{
    said,
    view::{EventView, Page},
};
use std::time::Duration;

/// Events shown when nobody says how many.
const LINES: usize = 50;

/// Arguments.
#[derive(Debug, Args)]
pub struct Events {
    /// Only those of this experiment.
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,
    /// Only those of this branch: one of the experiment, where one is named.
    #[arg(long)]
    branch: Option<String>,
    /// Only of this level and above.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only since then: 2027-01-31T08:00:00Z, 2027-01-31, or so long ago: 90s, 15m, 6h, 7d.
    #[arg(long, value_name = "TIME", value_parser = moment::past)]
    since: Option<DateTime<Utc>>,
    /// Only up to then.
    #[arg(long, value_name = "TIME", value_parser = moment::past, conflicts_with = "follow")]
    until: Option<DateTime<Utc>>,
    /// At most so many, the newest. Without it 50, or with --since all.
    #[arg(short = 'n', long = "lines")]
    lines: Option<usize>,
    /// The newest first.
    #[arg(short, long, conflicts_with = "follow")]
    reverse: bool,
    /// Wait for more.
    #[arg(short, long)]
    follow: bool,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    /// All.
    Info,
    /// To look at.
    Warn,
    /// To do something about.
    Error,
}

/// Shows the newest events, latest last.
///
/// # Errors
/// When the server does not answer.
pub async fn events(client: &Client, format: Format, args: &Events) -> CliResult {
    let mut filter = String::new();
    if let Some(experiment) = &args.experiment {
        filter.push_str(&format!("&experiment_id={}", resolve::experiment(client, experiment).await?));
    }
    if let Some(branch) = &args.branch {
        filter
            .push_str(&format!("&branch_id={}", resolve::branch_in(client, args.experiment.as_deref(), branch).await?));
    }
    if let Some(level) = args.level {
        filter.push_str(&format!(
            "&level={}",
            level.to_possible_value().map_or("info".into(), |value| value.get_name().to_owned())
        ));
    }
    if let Some(since) = args.since {
        filter.push_str(&format!("&since={}", encoded(&since.to_rfc3339())));
    }
    if let (Some(since), Some(until)) = (args.since, args.until)
        && until < since
    {
        return Err(CliError::refused(&said!("until_before_since", found = words::at(until))));
    }
    let lines = args.lines.unwrap_or(if args.since.is_some() { usize::MAX } else { LINES });
    let mut news = newest(client, &format!("/events?sort=newest{filter}"), args.until, lines).await?;
    if !args.reverse {
        news.reverse();
    }
    if !args.follow && !format.is_text() {
        return format.print(&news, |_| String::new());
    }
    let mut last = 0;
    loop {
        last = news.last().map_or(last, |event| event.id);
        for event in &news {
            format.line(event, line)?;
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let page: Page<EventView> = client.get(&format!("/events?sort=oldest&limit=500&cursor={last}{filter}")).await?;
        news = page.items;
    }
}

/// The newest `lines` events that are not after `until`.
async fn newest(client: &Client, path: &str, until: Option<DateTime<Utc>>, lines: usize) -> CliResult<Vec<EventView>> {
    let Some(until) = until else { return client.list_up_to(path, lines).await };
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    while found.len() < lines {
        let page: Page<EventView> = client.page(path, cursor.as_deref()).await?;
        found.extend(page.items.into_iter().filter(|event| event.at <= until));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    found.truncate(lines);
    Ok(found)
}

fn line(event: &EventView) -> String {
    format!("{} {:<5} {}", words::at(event.at), event.level, one_line(&event.text))
}
