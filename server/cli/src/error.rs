//! Why a command ended without success, and the exit code that says so to scripts.

use crate::lang::{lang, own};
use senmon_protocol::{
    problem::{Fault, Problem},
    said,
    said::{Said, words},
};
use std::{
    fmt::{self, Write as _},
    path::Path,
};

/// Failures, by exit code.
#[derive(Debug)]
pub enum CliError {
    /// 1: the server failed, or what was waited for failed.
    Failed(String),
    /// 3: no server answers.
    Unreachable(String),
    /// 4: the input was refused, here or by the server.
    Refused(String),
    /// 5: the time that was given ran out.
    Late(String),
    /// 130: Ctrl-C ended the watching; what was watched goes on.
    Left(String),
}

/// Answer of every command.
pub type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    /// The input was refused: why, in the reader's language.
    #[must_use]
    pub fn refused(said: &Said) -> Self {
        Self::Refused(own(said))
    }

    /// Something failed: what, in the reader's language.
    #[must_use]
    pub fn failed(said: &Said) -> Self {
        Self::Failed(own(said))
    }

    /// A file that cannot be read.
    #[must_use]
    pub fn unread(path: &Path, error: &std::io::Error) -> Self {
        Self::refused(&said!("file_unread", path = path.display().to_string(), why = error.to_string()))
    }

    /// The stable exit code (2 is clap's, for wrong usage).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Unreachable(_) => 3,
            Self::Refused(_) => 4,
            Self::Late(_) => 5,
            Self::Left(_) => 130,
        }
    }

    /// The same failure in other words.
    #[must_use]
    pub fn said(self, words: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(words(&text)),
            Self::Unreachable(text) => Self::Unreachable(words(&text)),
            Self::Refused(text) => Self::Refused(words(&text)),
            Self::Late(text) => Self::Late(words(&text)),
            Self::Left(text) => Self::Left(words(&text)),
        }
    }

    /// The server's problem in words, every fault on its own line.
    #[must_use]
    pub fn from_problem(problem: &Problem) -> Self {
        let title = problem.title_in(lang());
        let mut text = match problem.faults.as_slice() {
            [] if problem.detail.is_empty() => title,
            [] => words(problem.said.as_ref(), &problem.detail, lang()),
            [one] => line(one),
            several => several.iter().fold(title, |text, fault| format!("{text}\n  {}", line(fault))),
        };
        if !problem.request_id.is_empty() {
            let _ = write!(text, "\n  {}", own(&said!("request_id", id = &problem.request_id)));
        }
        if problem.status >= 500 { Self::Failed(text) } else { Self::Refused(text) }
    }
}

/// `path: what is wrong`, in the reader's language.
#[must_use]
pub fn line(fault: &Fault) -> String {
    format!("{}: {}", fault.path, words(fault.said.as_ref(), &fault.message, lang()))
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text)
            | Self::Unreachable(text)
            | Self::Refused(text)
            | Self::Late(text)
            | Self::Left(text) => f.write_str(text),
        }
    }
}
