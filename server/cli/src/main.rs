//! The `senmon` command: the REST API in the terminal. One file a group of commands.
//!
//! Never holds state beyond its contexts, and never does anything the API cannot do.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss))]

mod alerts;
mod aside;
mod audit;
mod branches;
mod cell;
mod checkpoints;
mod client;
mod columns;
mod command;
mod compare;
mod contexts;
mod corpora;
mod curves;
mod error;
mod events;
mod examples;
mod experiments;
mod explain;
mod export;
mod faults;
mod follow;
mod goodput;
mod init;
mod jobs;
mod lang;
mod login;
mod logs;
mod manual;
mod marks;
mod moment;
mod open;
mod output;
mod place;
mod plan;
mod points;
mod report;
mod resolve;
mod schema;
mod spec_file;
mod steer;
mod storage;
mod table;
mod tensorboard;
mod term;
mod tfevents;
mod tokens;
mod wait;
mod words;
mod workers;

use client::Client;
use command::{Cli, Command};
use contexts::{Chosen, Contexts};
use error::{CliError, CliResult};
use output::Format;
use std::process::ExitCode;
use table::Look;

fn main() -> ExitCode {
    let cli = command::parse();
    lang::settle(cli.lang, matches!(cli.output, output::Form::Table), |name| std::env::var(name).ok());
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

/// How answers are written: a terminal shows tables as wide as itself, a pipe gets plain columns.
fn format(cli: &Cli) -> Format {
    let width = term::width();
    // Kept for as long as the program runs: every answer is written so.
    let columns: &'static [String] = cli.columns.clone().leak();
    let plain = width.is_none() || !columns.is_empty();
    Format::new(cli.output, Look { width, head: !cli.no_header, plain, columns })
}

async fn run(cli: Cli) -> CliResult {
    let format = format(&cli);
    // What needs no server.
    match &cli.command {
        Command::Login(args) => return login::login(&cli.reach, args).await,
        Command::Logout(args) => return login::logout(&cli.reach, args),
        Command::Context(command) => return login::context(format, command),
        Command::Explain(args) => return explain::explain(format, args),
        Command::Completion(args) => return manual::completion(args, command::whole()),
        Command::Man(args) => return manual::man(args, command::whole()),
        _ => {}
    }
    let given = cli.reach.given(std::env::var("SENMON_TOKEN").ok())?;
    let kept = match contexts::load() {
        // Whoever brings a token needs nothing of what is kept, nor that it can be read.
        Err(_) if given.token.is_some() && given.context.is_none() => Contexts::default(),
        kept => kept?,
    };
    let chosen = contexts::choose(&kept, &given).map_err(CliError::Refused)?;
    let client = Client::new(&chosen.with)?;
    // Faults of an experiment file are shown where they stand in it.
    ask(&client, format, &chosen, cli.command).await.map_err(spec_file::placed)
}

async fn ask(client: &Client, format: Format, chosen: &Chosen, command: Command) -> CliResult {
    match command {
        Command::Run(args) => experiments::run(client, format, &args).await,
        Command::Plan(args) => plan::plan(client, format, &args).await,
        Command::Init(args) => init::init(client, &args).await,
        Command::Ls(args) => experiments::list(client, format, &args).await,
        Command::Show(args) => experiments::show(client, format, &args).await,
        Command::Report(args) => report::show(client, format, &args).await,
        Command::Compare(args) => compare::compare(client, format, &args).await,
        Command::Ensemble(args) => report::ensemble(client, format, &args).await,
        Command::Follow(args) => follow::follow(client, format, &args).await,
        Command::Wait(args) => wait::wait(client, format, &args).await,
        Command::Open(args) => open::open(client, &args).await,
        Command::Export(args) => curves::export(client, &args).await,
        Command::TensorBoard(args) => tensorboard::write(client, format, &args).await,
        Command::Domains(args) => corpora::domains(client, format, &args).await,
        Command::Label(args) => marks::label(client, format, &args).await,
        Command::Note(args) => marks::note(client, format, &args).await,
        Command::Set(args) => experiments::set(client, format, &args).await,
        Command::Pause(args) => steer::experiments(client, format, &args, "pause").await,
        Command::Resume(args) => steer::experiments(client, format, &args, "resume").await,
        Command::Cancel(args) => steer::cancel(client, format, &args).await,
        Command::Delete(args) => steer::delete(client, &args).await,
        Command::Branch(command) => branches::run(client, format, command).await,
        Command::Logs(args) => branches::logs(client, format, &args).await,
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
        Command::Whoami => login::whoami(client, format, chosen).await,
        Command::Version => manual::version(client, format).await,
        // Done without a server.
        Command::Login(_)
        | Command::Logout(_)
        | Command::Context(_)
        | Command::Explain(_)
        | Command::Completion(_)
        | Command::Man(_) => Ok(()),
    }
}
