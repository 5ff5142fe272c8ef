//! What is said of a value that is not accepted: what was found, and what is expected in its place.

use super::{Said, SaidValue};
use crate::said;

/// `found {found}, expected {expected}`.
#[must_use]
pub fn found(found: impl Into<SaidValue>, expected: Said) -> Said {
    said!("found_expected", found = found, expected = expected)
}

/// From `low` to `high`, both accepted.
#[must_use]
pub fn range(low: impl Into<SaidValue>, high: impl Into<SaidValue>) -> Said {
    said!("expected_range", low = low, high = high)
}

/// `least` or more.
#[must_use]
pub fn at_least(least: impl Into<SaidValue>) -> Said {
    said!("expected_at_least", least = least)
}

/// `most` or less.
#[must_use]
pub fn at_most(most: impl Into<SaidValue>) -> Said {
    said!("expected_at_most", most = most)
}

/// A number above `low`.
#[must_use]
pub fn above(low: impl Into<SaidValue>) -> Said {
    said!("expected_above", low = low)
}

/// Above `low`, up to `high`.
#[must_use]
pub fn above_at_most(low: impl Into<SaidValue>, high: impl Into<SaidValue>) -> Said {
    said!("expected_above_at_most", low = low, high = high)
}

/// Above `low` and below `high`.
#[must_use]
pub fn between(low: impl Into<SaidValue>, high: impl Into<SaidValue>) -> Said {
    said!("expected_between", low = low, high = high)
}

/// From `low` on, below `high`.
#[must_use]
pub fn from_below(low: impl Into<SaidValue>, high: impl Into<SaidValue>) -> Said {
    said!("expected_from_below", low = low, high = high)
}

/// A divisor of a key's value: `batch_windows 8`.
#[must_use]
pub fn divisor(of: impl Into<SaidValue>) -> Said {
    said!("expected_divisor", of = of)
}

/// A text with what was found in quotes, at most a hundred characters of it.
#[must_use]
pub fn quoted(text: &str) -> SaidValue {
    format!("{:?}", text.chars().take(100).collect::<String>()).into()
}
