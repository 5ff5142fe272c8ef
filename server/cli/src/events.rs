//! `senmon events`: what happened, in sentences.

use crate::{
    client::{Client, encoded},
    error::CliResult,
    output::{Format, out},
    resolve,
    table::one_line,
};
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use senmon_protocol::view::{EventView, Page};
use std::time::Duration;

/// Events shown when nobody says how many.
const LINES: usize = 50;

/// Arguments.
#[derive(Debug, Args)]
pub struct Events {
    /// Only those of this experiment.
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,
    /// Only those of this branch.
    #[arg(long)]
    branch: Option<String>,
    /// Only of this level and above.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only since then: 2027-01-31T08:00:00Z, or so long ago: 90s, 15m, 6h, 7d.
    #[arg(long, value_parser = since)]
    since: Option<DateTime<Utc>>,
    /// At most so many, the newest. Without it 50, or with --since all.
    #[arg(short = 'n', long = "lines")]
    lines: Option<usize>,
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

/// A time, or how long ago.
fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let expected = || format!("found {text:?}, expected a time such as 2027-01-31T08:00:00Z, or 90s, 15m, 6h or 7d");
    let unit = text.chars().last().ok_or_else(expected)?;
    let count: u32 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| expected())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(expected()),
    };
    Ok(Utc::now() - TimeDelta::seconds(seconds * i64::from(count)))
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
        filter.push_str(&format!("&branch_id={}", resolve::branch(client, branch).await?));
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
    let lines = args.lines.unwrap_or(if args.since.is_some() { usize::MAX } else { LINES });
    let mut news: Vec<EventView> = client.list_up_to(&format!("/events?sort=newest{filter}"), lines).await?;
    news.reverse();
    let mut last = 0;
    loop {
        last = news.last().map_or(last, |event| event.id);
        match format {
            Format::Table => news.iter().for_each(|event| out(&line(event))),
            _ => format.print(&news, |_| String::new())?,
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let page: Page<EventView> = client.get(&format!("/events?sort=oldest&limit=500&cursor={last}{filter}")).await?;
        news = page.items;
    }
}

fn line(event: &EventView) -> String {
    format!("{} {:<5} {}", event.at.format("%Y-%m-%d %H:%M:%S"), event.level, one_line(&event.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_or_counted_back() {
        assert_eq!(since("2027-01-31T08:00:00Z").unwrap().to_rfc3339(), "2027-01-31T08:00:00+00:00");
        let ago = Utc::now() - since("2h").unwrap();
        assert!((7199..7300).contains(&ago.num_seconds()), "{ago}");
        for bad in ["", "h", "2", "2y", "-3h", "2日", "99999999999d"] {
            assert!(since(bad).unwrap_err().contains("expected a time"), "{bad}");
        }
    }
}
