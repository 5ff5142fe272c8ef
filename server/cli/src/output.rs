//! Writing answers: a table for people, JSON or YAML for scripts.
//!
//! Never formats a number itself; see [`crate::words`].

use crate::{
    error::{CliError, CliResult},
    lang::term,
};
use clap::ValueEnum;
use serde::Serialize;
use std::io::Write as _;

/// Form of the answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Table,
    /// What the API answered.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Format {
    /// Writes `value` as asked; `table` makes the text for people.
    ///
    /// # Errors
    /// When the value cannot be written in that form.
    pub fn print<T: Serialize + ?Sized>(self, value: &T, table: impl FnOnce(&T) -> String) -> CliResult {
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(format!("write the answer: {error}"));
        match self {
            // One sentence alone is a term; a table is none.
            Self::Table => out(&term(&table(value))),
            Self::Json => {
                let text = serde_json::to_string_pretty(value).map_err(|error| failed(&error))?;
                out(&text);
            }
            Self::Yaml => out(&serde_yaml_ng::to_string(value).map_err(|error| failed(&error))?),
        }
        Ok(())
    }
}

/// Writes text and a line end to standard output. A reader that has gone away (`| head`) ends the program in peace.
pub fn out(text: &str) {
    let text = text.trim_end_matches('\n');
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}
