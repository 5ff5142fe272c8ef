//! Faults as they are found.

use senmon_protocol::problem::Fault;
use std::fmt::Display;

/// What was found so far.
pub(super) struct Faults(pub Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, path: &str, message: impl Display) {
        self.0.push(Fault::new(path, message.to_string()));
    }

    pub(super) fn check(&mut self, good: bool, path: &str, found: impl Display, expected: &str) {
        if !good {
            self.add(path, format!("found {found}, expected {expected}"));
        }
    }
}
