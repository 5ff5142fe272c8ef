//! `senmon worker …`.

use crate::{
    cell::{self, Cell},
    client::Client,
    error::CliResult,
    lang::own,
    output::{Format, List, out},
    resolve,
    steer::together,
    table::Table,
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand};
use senmon_protocol::{
    said,
    said::decimal,
    view::{SlotView, WorkerView},
};
use std::fmt::Write as _;

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Worker {
    /// List workers and what runs on their slots.
    #[command(visible_alias = "list")]
    Ls,
    /// Give a worker no new jobs, and move what runs there elsewhere.
    Drain(Ids),
    /// Give a worker jobs again.
    Enable(Ids),
    /// Give a worker no new jobs; what runs there goes on.
    Disable(Ids),
    /// Forget a worker that is lost.
    #[command(visible_alias = "rm")]
    Delete(Id),
}

/// One worker.
#[derive(Debug, Args)]
pub struct Id {
    /// Name, id, or part of an id.
    #[arg(value_name = "WORKER")]
    id: String,
}

/// Workers.
#[derive(Debug, Args)]
pub struct Ids {
    /// Names, ids, or parts of ids.
    #[arg(value_name = "WORKER", required = true)]
    ids: Vec<String>,
}

/// Runs a command.
///
/// # Errors
/// When there is no such worker.
pub async fn run(client: &Client, format: Format, command: Worker) -> CliResult {
    match command {
        Worker::Ls => {
            let all: Vec<WorkerView> = client.list("/workers").await?;
            format.list(&all, |all| worker_table(all))
        }
        Worker::Drain(args) => steer(client, format, &args, "drain").await,
        Worker::Enable(args) => steer(client, format, &args, "enable").await,
        Worker::Disable(args) => steer(client, format, &args, "disable").await,
        Worker::Delete(args) => {
            let id = resolve::worker(client, &args.id).await?;
            client.delete(&format!("/workers/{id}")).await?;
            out(&own(&said!("worker_is_deleted", name = args.id)));
            Ok(())
        }
    }
}

async fn steer(client: &Client, format: Format, args: &Ids, verb: &str) -> CliResult {
    // All names are resolved first: a typing error in the last changes nothing about the first.
    let mut ids = Vec::new();
    for text in &args.ids {
        ids.push(resolve::worker(client, text).await?);
    }
    let mut failures = Vec::new();
    for id in &ids {
        match client.verb::<WorkerView>(&format!("/workers/{id}/{verb}")).await {
            Ok(view) => {
                let text =
                    |view: &WorkerView| own(&said!("stands", name = &view.name, state = words::name(&view.mode)));
                if ids.len() == 1 { format.print(&view, text) } else { format.line(&view, text) }?;
            }
            Err(error) => failures.push(error),
        }
    }
    together(failures)
}

/// What a slot does.
fn runs(slot: &SlotView) -> String {
    match (&slot.title, &slot.slot.set_aside) {
        (Some(title), _) => title.clone(),
        (None, Some(why)) => own(&said!("slot_aside", why = why)),
        (None, None) => own(&said!("slot_free")),
    }
}

fn worker_table(all: &[WorkerView]) -> List {
    let mut table =
        Table::new(&["worker", "state", "mode", ">slot", "device", ">threads", ">rate", ">done", "runs", "=seen"]);
    for worker in all {
        for (row, slot) in worker.slots.iter().enumerate() {
            // For people the worker stands on the first of its lines only.
            let once = |text: String| cell::either(if row == 0 { text.clone() } else { String::new() }, text);
            let seen = cell::ago(worker.seen_at, Utc::now());
            table.row::<Cell>(vec![
                once(worker.name.clone()),
                once(words::name(&worker.state)),
                once(words::name(&worker.mode)),
                slot.slot.index.to_string().into(),
                format!("{} {}", slot.slot.device, slot.slot.device_name).into(),
                slot.slot.threads.to_string().into(),
                slot.tokens_per_second.filter(|rate| *rate > 0.0).map(cell::rate).into(),
                slot.progress.map(cell::share).into(),
                runs(slot).into(),
                cell::either(if row == 0 { seen.text(false) } else { "" }, seen.text(true)),
            ]);
        }
    }
    let mut notes = String::new();
    for worker in all {
        if let Some(why) = &worker.set_aside {
            let _ = writeln!(notes, "{}", own(&said!("worker_aside_hint", name = &worker.name, why = why)));
        }
        if let Some(percent) = worker.slower_percent {
            let slower = said!("worker_slower", name = &worker.name, percent = decimal(percent, 0));
            let _ = writeln!(notes, "{}", own(&slower));
        }
    }
    List::new(table, said!("none_workers")).with_notes(notes)
}
