//! Faults as they are found.

use senmon_protocol::{
    problem::Fault,
    said::{Said, SaidValue, expected},
};

/// What was found so far.
pub(super) struct Faults(pub Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, path: &str, said: Said) {
        self.0.push(Fault::said(path, said));
    }

    pub(super) fn check(&mut self, good: bool, path: &str, found: impl Into<SaidValue>, expected: Said) {
        if !good {
            self.add(path, expected::found(found, expected));
        }
    }
}
