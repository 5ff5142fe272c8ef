//! Writing answers: tables for people, plain columns for pipes, JSON or YAML for scripts.
//!
//! Never formats a number itself; see [`crate::words`] and [`crate::cell`].

use crate::{
    error::{CliError, CliResult},
    lang::own,
    table::{Look, Table},
};
use clap::ValueEnum;
use senmon_protocol::{said, said::Said};
use serde::Serialize;
use std::io::Write as _;

/// Form of the answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Tables and sentences; on a pipe, lists with plain numbers.
    #[default]
    Table,
    /// What the API answered; one object a line while something is followed.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How answers are written: the form, and the look of tables.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    form: Form,
    look: Look,
}

/// An answer that is a list.
#[derive(Debug)]
pub struct List {
    table: Table,
    none: Said,
    notes: String,
}

impl List {
    /// A list, and what is said where it is empty.
    #[must_use]
    pub fn new(table: Table, none: Said) -> Self {
        Self { table, none, notes: String::new() }
    }

    /// Sentences below it, for people.
    #[must_use]
    pub fn with_notes(self, notes: String) -> Self {
        Self { notes, ..self }
    }
}

impl Format {
    /// A form and a look.
    #[must_use]
    pub fn new(form: Form, look: Look) -> Self {
        Self { form, look }
    }

    /// Whether people read it.
    #[must_use]
    pub fn is_text(self) -> bool {
        self.form == Form::Table
    }

    /// Columns of the terminal, where there is one.
    #[must_use]
    pub fn width(self) -> Option<usize> {
        self.look.width
    }

    /// Writes `value` as asked; `text` makes the text for people.
    ///
    /// # Errors
    /// When the value cannot be written in that form.
    pub fn print<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce(&T) -> String) -> CliResult {
        match self.form {
            Form::Table => out(&text(value)),
            Form::Json => out(&serde_json::to_string_pretty(value).map_err(failed)?),
            Form::Yaml => out(&serde_yaml_ng::to_string(value).map_err(failed)?),
        }
        Ok(())
    }

    /// Writes a list as asked: its columns, with or without their names, for people or for a pipe.
    ///
    /// # Errors
    /// When there is no column of that name, or the value cannot be written in that form.
    pub fn list<T: Serialize + ?Sized>(self, value: &T, list: impl FnOnce(&T) -> List) -> CliResult {
        if !self.is_text() {
            return self.print(value, |_| String::new());
        }
        let List { table, none, notes } = list(value);
        let text = table.render_as(&self.look).map_err(CliError::Refused)?;
        match (table.is_empty(), self.look.plain) {
            (false, _) => out(&text),
            (true, false) => out(&own(&none)),
            // Beside the list, which is empty: a script counts lines.
            (true, true) => eprintln!("{}", own(&none)),
        }
        if !self.look.plain && !notes.is_empty() {
            out(&notes);
        }
        Ok(())
    }

    /// Writes one of many values that come one after the other: a line of text, a line of JSON, a document of YAML.
    ///
    /// # Errors
    /// When the value cannot be written in that form.
    pub fn line<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce(&T) -> String) -> CliResult {
        match self.form {
            Form::Table => out(&text(value)),
            Form::Json => out(&serde_json::to_string(value).map_err(failed)?),
            Form::Yaml => out(&format!("---\n{}", serde_yaml_ng::to_string(value).map_err(failed)?)),
        }
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::failed(&said!("answer_unwritten", why = error.to_string()))
}

/// Writes text and a line end to standard output. A reader that has gone away (`| head`) ends the program in peace.
pub fn out(text: &str) {
    let text = text.trim_end_matches('\n');
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}
