//! What no retry mends.

/// What came is not what was announced: no retry mends it.
#[derive(Debug)]
pub(super) struct Differs(pub String);

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Differs {}

/// Nobody wants it any more.
#[derive(Debug)]
pub(super) struct Halted;

impl std::fmt::Display for Halted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is not wanted any more")
    }
}

impl std::error::Error for Halted {}
