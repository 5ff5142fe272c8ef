//! `senmon worker …`.

use crate::{
    client::Client,
    error::CliResult,
    lang::own,
    output::{Format, out},
    resolve,
    table::{Table, fit},
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand};
use senmon_protocol::{said, said::decimal, view::WorkerView};
use std::fmt::Write as _;

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Worker {
    /// List workers and what runs on their slots.
    Ls,
    /// Give a worker no new jobs, and move what runs there elsewhere.
    Drain(Id),
    /// Give a worker jobs again.
    Enable(Id),
    /// Give a worker no new jobs; what runs there goes on.
    Disable(Id),
    /// Forget a worker that is lost.
    Delete(Id),
}

/// One worker.
#[derive(Debug, Args)]
pub struct Id {
    /// Name, id, or part of an id.
    #[arg(value_name = "WORKER")]
    id: String,
}

/// Runs a command.
///
/// # Errors
/// When there is no such worker.
pub async fn run(client: &Client, format: Format, command: Worker) -> CliResult {
    match command {
        Worker::Ls => {
            let all: Vec<WorkerView> = client.list("/workers").await?;
            format.print(&all, |all| worker_table(all))
        }
        Worker::Drain(args) => steer(client, format, &args, "drain").await,
        Worker::Enable(args) => steer(client, format, &args, "enable").await,
        Worker::Disable(args) => steer(client, format, &args, "disable").await,
        Worker::Delete(args) => {
            let id = resolve::worker(client, &args.id).await?;
            client.delete(&format!("/workers/{id}")).await?;
            out(&format!("deleted {}", args.id));
            Ok(())
        }
    }
}

async fn steer(client: &Client, format: Format, args: &Id, verb: &str) -> CliResult {
    let id = resolve::worker(client, &args.id).await?;
    let view: WorkerView = client.verb(&format!("/workers/{id}/{verb}")).await?;
    format.print(&view, |view| own(&said!("stands", name = &view.name, state = words::name(&view.mode))))
}

fn worker_table(all: &[WorkerView]) -> String {
    let mut table =
        Table::new(&["worker", "state", "mode", ">slot", "device", ">threads", ">rate", ">done", "runs", "seen"]);
    for worker in all {
        for (row, slot) in worker.slots.iter().enumerate() {
            // The worker stands on the first of its lines only.
            let once = |text: String| if row == 0 { text } else { String::new() };
            table.row(vec![
                once(worker.name.clone()),
                once(words::name(&worker.state)),
                once(words::name(&worker.mode)),
                slot.slot.index.to_string(),
                fit(&format!("{} {}", slot.slot.device, slot.slot.device_name), 32),
                slot.slot.threads.to_string(),
                words::or_dash(slot.tokens_per_second.filter(|rate| *rate > 0.0).map(words::rate)),
                words::or_dash(slot.progress.map(|share| format!("{:.0} %", share * 100.0))),
                slot.title.clone().unwrap_or_else(|| own(&said!("slot_free"))),
                once(words::ago(worker.seen_at, Utc::now())),
            ]);
        }
    }
    let mut text = table.render();
    for worker in all {
        if let Some(why) = &worker.set_aside {
            let _ = writeln!(text, "{}", own(&said!("worker_aside_hint", name = &worker.name, why = why)));
        }
        if let Some(percent) = worker.slower_percent {
            let slower = said!("worker_slower", name = &worker.name, percent = decimal(percent, 0));
            let _ = writeln!(text, "{}", own(&slower));
        }
    }
    if table.is_empty() { "no workers yet; start one with: senmon-worker --config worker.toml".into() } else { text }
}
