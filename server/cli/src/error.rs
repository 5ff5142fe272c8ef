//! Why a command ended without success, and the exit code that says so to scripts.

use senmon_protocol::problem::Problem;
use std::fmt::{self, Write as _};

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
        let mut text = if problem.detail.is_empty() { problem.title.clone() } else { problem.detail.clone() };
        for fault in &problem.faults {
            let line = format!("{}: {}", fault.path, fault.message);
            // A single fault is the detail already.
            if line != problem.detail {
                let _ = write!(text, "\n  {line}");
            }
        }
        if !problem.request_id.is_empty() {
            let _ = write!(text, "\n  request {}", problem.request_id);
        }
        if problem.status >= 500 { Self::Failed(text) } else { Self::Refused(text) }
    }
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
