//! `senmon open`: the dashboard's address of an experiment or branch, printed, and opened where there is a browser.

use crate::{client::Client, error::CliResult, output::out, resolve};
use clap::Args;
use std::{
    io::IsTerminal as _,
    process::{Command, Stdio},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct Open {
    /// An experiment, or EXPERIMENT/BRANCH; the dashboard's first page when absent.
    of: Option<String>,
    /// Print the address alone.
    #[arg(short, long)]
    print: bool,
}

/// Prints and opens.
///
/// # Errors
/// When there is no such experiment or branch.
pub async fn open(client: &Client, args: &Open) -> CliResult {
    let base = client.base();
    let address = match &args.of {
        None => format!("{base}/"),
        Some(text) if text.contains('/') => format!("{base}/branches/{}", resolve::branch(client, text).await?),
        Some(text) => format!("{base}/experiments/{}", resolve::experiment(client, text).await?),
    };
    out(&address);
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if !args.print
        && std::io::stdout().is_terminal()
        && let Some(program) = opener(var)
    {
        let started = Command::new(&program)
            .arg(&address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Err(error) = started {
            eprintln!("senmon: {program}: {error}");
        }
    }
    Ok(())
}

/// The program that opens addresses, where somebody sees what it opens.
fn opener(var: impl Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(browser) = var("BROWSER") {
        return Some(browser);
    }
    if cfg!(target_os = "macos") {
        return Some("open".into());
    }
    let sees = var("DISPLAY").or_else(|| var("WAYLAND_DISPLAY")).is_some();
    sees.then(|| "xdg-open".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_opened_where_nobody_sees_it() {
        assert_eq!(opener(|name| (name == "BROWSER").then(|| "lynx".into())), Some("lynx".into()));
        if cfg!(target_os = "linux") {
            assert_eq!(opener(|_| None), None);
            assert_eq!(opener(|name| (name == "DISPLAY").then(|| ":0".into())), Some("xdg-open".into()));
        }
    }
}
