//! The terminal: whether there is one, how wide it is, and questions that a person answers there.

use std::io::{IsTerminal as _, Write as _};

/// Columns of the terminal that standard output is; none for a pipe or a file.
#[must_use]
pub fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    Some(columns).filter(|columns| *columns > 0).or_else(told)
}

/// Asks a person; yes where nobody sits there, as a script means what it says.
#[must_use]
pub fn confirmed(question: &str) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return true;
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
