//! The worker's command line: `run` (the default), `doctor` and `score`.
//!
//! Never holds logic of its own; see the library.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use senmon_engine::tune;
use senmon_worker::{
    agent::{self, End},
    config::{Config, Flags},
    doctor, slot_faults, telemetry,
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Rust's own memory: work on text allocates on all cores at once. libtorch's buffers stay in glibc's one arena, whose
/// settings [`tune`] makes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Signals closer than this are one wish: `timeout` and terminals signal a process and its group.
const STOP_APART: Duration = Duration::from_secs(1);

/// Leases jobs from a Senmon server and runs them on this machine's devices.
#[derive(Debug, Parser)]
#[command(name = "senmon-worker", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Work until stopped (the default). SIGTERM and SIGINT hand the work back; a second one ends at once.
    Run,
    /// Say what this machine can run, and check that it computes.
    Doctor {
        /// Look at this slot alone.
        #[arg(long, value_name = "SLOT")]
        only: Option<u16>,
    },
    /// Score texts with a set of experts, of which only the nearest run. Needs no server.
    #[cfg(feature = "torch")]
    Score(senmon_worker::scoring::Score),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("senmon-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> Result<()> {
    let config = Config::load(&cli.flags, || std::env::vars().collect())?;
    tune::restart_if_needed(config.tf32);
    telemetry::start(config.log_format);
    match &cli.command {
        Some(Verb::Doctor { only }) => return doctor::run(&config, *only),
        #[cfg(feature = "torch")]
        Some(Verb::Score(args)) => return senmon_worker::scoring::run(&config, args),
        Some(Verb::Run) | None => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // the daemon waits, mostly; the cores belong to the attempts
        .enable_all()
        .build()
        .context("start the runtime")?;
    let end = runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            let mut first: Option<Instant> = None;
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.send_replace(true);
                if first.get_or_insert_with(Instant::now).elapsed() > STOP_APART {
                    eprintln!("senmon-worker: asked twice to stop; what is not delivered lies in the spool");
                    std::process::exit(130);
                }
            }
        });
        agent::run(config, stopping).await
    })?;
    if let End::Anew(faults) = end {
        // Nobody waits for the thread that hangs; the new program begins when the last thread of the old one is gone.
        runtime.shutdown_background();
        return Err(tune::restart(vec![(slot_faults::VARIABLE, faults.text())])).context("start this program anew");
    }
    Ok(())
}
