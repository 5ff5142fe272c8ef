//! `senmon-server`: flags in, a serving process out.

use clap::Parser;
use senmon_protocol::storage::Bytes;
use senmon_server::{
    apart, api,
    backup::backup,
    config::{Action, Config, Flags},
    mail::Mail,
    restore::restore,
    serve, telemetry, traces,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.action == Some(Action::Apart) {
        return apart::child();
    }
    if flags.action == Some(Action::Openapi) {
        match serde_json::to_string_pretty(&api::openapi()) {
            Ok(text) => telemetry::say(text),
            Err(error) => eprintln!("{error}"),
        }
        return ExitCode::SUCCESS;
    }
    let done = Config::load(&flags).and_then(|config| {
        Mail::of(&config)?;
        if flags.action == Some(Action::CheckConfig) {
            telemetry::say(format_args!("{config:#?}"));
            return Ok(());
        }
        let spans = telemetry::start(&config)?;
        if let Some(Action::Backup { file }) = &flags.action {
            let bytes = Bytes(backup(&config, file)?);
            telemetry::say(format_args!("{}: {bytes}. The store is not in it.", file.display()));
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        if flags.action == Some(Action::NewAdminToken) {
            return runtime.block_on(serve::new_admin_token(config));
        }
        if let Some(Action::Restore { file }) = &flags.action {
            telemetry::say(runtime.block_on(restore(&config, file))?);
            return Ok(());
        }
        let done = runtime.block_on(serve::serve(config));
        // Something may still be computed for a request; nobody waits for it.
        runtime.shutdown_background();
        spans.iter().for_each(traces::end);
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("senmon-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
