//! The `senmon` command: the REST API in the terminal. One file a group of commands.
//!
//! Never holds state beyond a token, and never does anything the API cannot do.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss))]

mod alerts;
mod aside;
mod audit;
mod branches;
mod checkpoints;
mod client;
mod corpora;
mod error;
mod events;
mod experiments;
mod export;
mod follow;
mod goodput;
mod jobs;
mod lang;
mod logs;
mod output;
mod plan;
mod report;
mod resolve;
mod spec_file;
mod storage;
mod table;
mod tokens;
mod words;
mod workers;

use clap::{Parser, Subcommand};
use client::{Client, Reach};
use error::CliResult;
use output::Format;
use std::{path::PathBuf, process::ExitCode};

/// Turns a corpus and a seed model into a set of domain experts.
///
/// Exit codes: 0 done; 1 the server or the experiment failed; 2 wrong usage; 3 no server answers; 4 input refused.
/// An experiment is named by its id, a unique beginning or end of it, or its name (the latest of that name); a branch
/// by its id or as EXPERIMENT/BRANCH.
#[derive(Debug, Parser)]
#[command(name = "senmon", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    reach: Reach,
    /// File with the API token. Without it `SENMON_TOKEN` holds the token itself, or ~/.config/senmon/token, which
    /// `senmon login` writes. No flag takes the token: everybody on a machine sees the flags of its processes.
    #[arg(long, global = true)]
    token_file: Option<PathBuf>,
    /// Form of the answer.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    /// Language of tables and sentences. Without it SENMON_LANG, LC_ALL, LC_MESSAGES or LANG decides.
    #[arg(long, global = true, value_enum)]
    lang: Option<lang::Chosen>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Submit an experiment file.
    Run(experiments::Run),
    /// Show what an experiment file would do, before anything runs.
    Plan(plan::Plan),
    /// List experiments.
    Ls(experiments::List),
    /// Show an experiment: stages and branches.
    Show(experiments::Id),
    /// Show the report: did the experts beat one dense model at the same cost?
    Report(experiments::Id),
    /// Show the set of experts that an experiment made: what `senmon-worker score` needs (with --output json).
    Ensemble(experiments::Id),
    /// Watch an experiment until it ends, then show its report.
    Follow(experiments::Id),
    /// Show the domains of an experiment.
    Domains(experiments::Id),
    /// Change an experiment's priority, deadline or budget while it goes on.
    Set(experiments::Set),
    /// Pause an experiment: branches write a checkpoint and give their slots back.
    Pause(experiments::Id),
    /// Go on with a paused experiment.
    Resume(experiments::Id),
    /// Stop an experiment for good.
    Cancel(experiments::Id),
    /// Delete an experiment that is over: its checkpoints, shards and scores; its history stays.
    Delete(experiments::Id),
    /// Branches: one training lineage each.
    #[command(subcommand)]
    Branch(branches::Branch),
    /// Corpora: registered sets of documents.
    #[command(subcommand)]
    Corpus(corpora::Corpus),
    /// Checkpoints.
    #[command(subcommand)]
    Checkpoint(checkpoints::Checkpoint),
    /// Workers and their slots.
    #[command(subcommand)]
    Worker(workers::Worker),
    /// Jobs that wait or run.
    Queue,
    /// What the server's loops failed on again and again, and try again when asked.
    SetAside(aside::SetAside),
    /// Jobs of all kinds, and their logs.
    #[command(subcommand)]
    Job(jobs::Job),
    /// What happened, latest last.
    Events(events::Events),
    /// What the store holds, its budget, and what the experiments under way may still add.
    Storage,
    /// Show where the time went: goodput, and badput by cause.
    Goodput(goodput::Goodput),
    /// Alerts: who is told of what, by webhook or Slack.
    #[command(subcommand)]
    Alert(alerts::Alert),
    /// API tokens.
    #[command(subcommand)]
    Token(tokens::Token),
    /// Show who changed what, newest first.
    Audit(audit::Audit),
    /// Sign this machine in: somebody approves its code in the dashboard (or: a token on the standard input).
    Login,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    lang::settle(cli.lang, cli.output, |name| std::env::var(name).ok());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("senmon: start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("senmon: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(cli: Cli) -> CliResult {
    if matches!(cli.command, Command::Login) {
        return tokens::login(&cli.reach).await;
    }
    let token = tokens::find(std::env::var("SENMON_TOKEN").ok(), cli.token_file.as_deref())?;
    let client = &Client::new(&cli.reach, token)?;
    let format = cli.output;
    match cli.command {
        Command::Run(args) => experiments::run(client, format, &args).await,
        Command::Plan(args) => plan::plan(client, format, &args).await,
        Command::Ls(args) => experiments::list(client, format, &args).await,
        Command::Show(args) => experiments::show(client, format, &args).await,
        Command::Report(args) => report::show(client, format, &args).await,
        Command::Ensemble(args) => report::ensemble(client, format, &args).await,
        Command::Follow(args) => follow::follow(client, format, &args).await,
        Command::Domains(args) => corpora::domains(client, format, &args).await,
        Command::Set(args) => experiments::set(client, format, &args).await,
        Command::Pause(args) => experiments::steer(client, format, &args, "pause").await,
        Command::Resume(args) => experiments::steer(client, format, &args, "resume").await,
        Command::Cancel(args) => experiments::steer(client, format, &args, "cancel").await,
        Command::Delete(args) => experiments::delete(client, &args).await,
        Command::Branch(command) => branches::run(client, format, command).await,
        Command::Corpus(command) => corpora::run(client, format, command).await,
        Command::Checkpoint(command) => checkpoints::run(client, format, command).await,
        Command::Worker(command) => workers::run(client, format, command).await,
        Command::SetAside(args) => aside::run(client, format, &args).await,
        Command::Queue => jobs::queue(client, format).await,
        Command::Job(command) => jobs::run(client, format, command).await,
        Command::Events(args) => events::events(client, format, &args).await,
        Command::Storage => storage::storage(client, format).await,
        Command::Goodput(args) => goodput::show(client, format, &args).await,
        Command::Alert(command) => alerts::run(client, format, command).await,
        Command::Token(command) => tokens::run(client, format, command).await,
        Command::Audit(args) => audit::audit(client, format, &args).await,
        Command::Login => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
