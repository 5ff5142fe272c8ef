//! `senmon completion`, `man` and `version`: the command about itself.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::{Format, out},
};
use clap::Args;
use senmon_protocol::{said, view::SessionView};
use serde::Serialize;
use std::{fs, path::PathBuf};

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder; it is made where it is missing.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// `senmon completion`.
///
/// # Errors
/// None: the shell is known.
pub fn completion(args: &Completion, mut whole: clap::Command) -> CliResult {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut whole, "senmon", &mut text);
    out(&String::from_utf8_lossy(&text));
    Ok(())
}

/// `senmon man`: a page for the command and one for each of its commands.
///
/// # Errors
/// When the disk refuses.
pub fn man(args: &Man, whole: clap::Command) -> CliResult {
    let failed = |error: std::io::Error| {
        let path = args.folder.display().to_string();
        CliError::failed(&said!("file_unwritten", path = path, why = error.to_string()))
    };
    fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(whole.disable_help_subcommand(true), &args.folder).map_err(failed)?;
    let shown = args.folder.join("senmon.1");
    let page = fs::canonicalize(&shown).unwrap_or(shown).display().to_string();
    out(&own(&said!("man_pages_written", page = page)));
    Ok(())
}

/// What `version` says.
#[derive(Debug, Serialize)]
struct Versions {
    command: &'static str,
    server: Option<String>,
}

/// `senmon version`: this command's, and the server's where one answers.
///
/// # Errors
/// When the answer cannot be written.
pub async fn version(client: &Client, format: Format) -> CliResult {
    let asked = client.get::<SessionView>("/session").await;
    let why = asked.as_ref().err().map(ToString::to_string);
    let versions = Versions { command: env!("CARGO_PKG_VERSION"), server: asked.ok().map(|found| found.version) };
    format.print(&versions, |versions| {
        let why = why.as_deref().and_then(|why| why.lines().next()).unwrap_or_default();
        let server = versions.server.clone().unwrap_or_else(|| own(&said!("version_unknown", why = why)));
        format!("senmon {}\nserver {server}", versions.command)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::whole;

    #[test]
    fn every_command_has_a_man_page() {
        let folder = std::env::temp_dir().join(format!("senmon-man-{}", uuid::Uuid::now_v7()));
        man(&Man { folder: folder.clone() }, whole()).unwrap();
        let page = fs::read_to_string(folder.join("senmon-branch-fork.1")).unwrap();
        assert!(page.contains("Its token budget") && page.contains("senmon branch fork first"), "{page}");
        assert!(fs::read_dir(&folder).unwrap().count() > 60);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn shells_complete_commands_and_flags() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut whole(), "senmon", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("set-aside") && text.contains("no-header"), "{shell}");
        }
    }
}
