//! `senmon-server`: flags in, a serving process out.

use clap::Parser;
use senmon_server::{
    api,
    config::{Action, Config, Flags},
    serve, telemetry,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.action == Some(Action::Openapi) {
        match serde_json::to_string_pretty(&api::openapi()) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("{error}"),
        }
        return ExitCode::SUCCESS;
    }
    let done = Config::load(&flags).and_then(|config| {
        if flags.action == Some(Action::CheckConfig) {
            println!("{config:#?}");
            return Ok(());
        }
        telemetry::start(config.log_format);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let done = runtime.block_on(serve::serve(config));
        // A fit may still compute; nothing waits for it, the next start fits again.
        runtime.shutdown_background();
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
