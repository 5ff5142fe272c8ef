//! `senmon events`: what happened, in sentences.

use crate::{
    client::Client,
    error::CliResult,
    output::{Format, out},
    resolve,
    table::one_line,
};
use clap::Args;
use senmon_protocol::view::EventView;
use std::time::Duration;

/// Arguments.
#[derive(Debug, Args)]
pub struct Events {
    /// Only those of this experiment.
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,
    /// Only those of this branch.
    #[arg(long)]
    branch: Option<String>,
    /// Wait for more.
    #[arg(short, long)]
    follow: bool,
}

/// Shows events, latest last.
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
    let mut after = 0;
    loop {
        let mut news: Vec<EventView> = client.list(&format!("/events?after={after}{filter}")).await?;
        news.sort_by_key(|event| event.id);
        news.retain(|event| event.id > after);
        after = news.last().map_or(after, |event| event.id);
        match format {
            Format::Table => news.iter().for_each(|event| out(&line(event))),
            _ => format.print(&news, |_| String::new())?,
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn line(event: &EventView) -> String {
    format!("{} {:<5} {}", event.at.format("%Y-%m-%d %H:%M:%S"), event.level, one_line(&event.text))
}
