//! Cells of tables: what a person reads, and the plain value that a script reads.
//!
//! Never reads a clock: the present is an argument.

use crate::words;
use chrono::{DateTime, SecondsFormat, Utc};

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    shown: String,
    plain: Option<String>,
}

impl Cell {
    fn new(shown: String, plain: String) -> Self {
        Self { shown, plain: Some(plain) }
    }

    /// Its text: for people, or for scripts, where nothing is `-`.
    #[must_use]
    pub fn text(&self, plain: bool) -> &str {
        match (&self.plain, plain) {
            (Some(text), true) => text,
            (None, true) if self.shown.is_empty() => "-",
            _ => &self.shown,
        }
    }
}

impl From<String> for Cell {
    fn from(shown: String) -> Self {
        Self { shown, plain: None }
    }
}

impl From<&str> for Cell {
    fn from(shown: &str) -> Self {
        Self { shown: shown.to_owned(), plain: None }
    }
}

impl<C: Into<Cell>> From<Option<C>> for Cell {
    fn from(cell: Option<C>) -> Self {
        cell.map_or_else(|| Self::new("–".into(), "-".into()), Into::into)
    }
}

/// `16.4 M`; 16400000.
#[must_use]
pub fn tokens(count: u64) -> Cell {
    Cell::new(words::tokens(count), count.to_string())
}

/// `1 234 567`; 1234567.
#[must_use]
pub fn count<N: Into<u64>>(count: N) -> Cell {
    let count = count.into();
    Cell::new(words::count(count), count.to_string())
}

/// `3.2 GiB`; bytes.
#[must_use]
pub fn bytes(count: u64) -> Cell {
    Cell::new(words::bytes(count), count.to_string())
}

/// `12.3 K/s`; a second's.
#[must_use]
pub fn rate(per_second: f64) -> Cell {
    Cell::new(words::rate(per_second), plain(per_second, 1))
}

/// `2 h 5 min`; seconds.
#[must_use]
pub fn duration(seconds: f64) -> Cell {
    Cell::new(words::duration(seconds), plain(seconds, 0))
}

/// `3 min ago`; the time.
#[must_use]
pub fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> Cell {
    Cell::new(words::ago(then, now), stamp(then))
}

/// `2026-11-27 09:30:00` where the reader is; the time in UTC.
#[must_use]
pub fn at(then: DateTime<Utc>) -> Cell {
    Cell::new(words::at(then), stamp(then))
}

/// `−3.2 %`; −3.2 as `-3.2`.
#[must_use]
pub fn percent_signed(percent: f64) -> Cell {
    Cell::new(words::percent_signed(percent), plain(percent, 2))
}

/// A share of one: `25 %`; 0.25.
#[must_use]
pub fn share(share: f64) -> Cell {
    Cell::new(words::share(share), plain(share, 4))
}

/// A number with so many digits behind the point.
#[must_use]
pub fn number(value: f64, digits: usize) -> Cell {
    Cell::new(format!("{value:.digits$}"), plain(value, 6))
}

/// Another text for scripts than for people.
#[must_use]
pub fn either(shown: impl Into<String>, plain: impl Into<String>) -> Cell {
    Cell::new(shown.into(), plain.into())
}

/// At most so many digits behind the point, and no zeros at the end.
fn plain(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn stamp(then: DateTime<Utc>) -> String {
    then.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cell: impl Into<Cell>, shown: &str, plain: &str) {
        let cell = cell.into();
        assert_eq!((cell.text(false), cell.text(true)), (shown, plain));
    }

    #[test]
    fn scripts_read_numbers_without_spaces_and_units() {
        check(tokens(3_250_000), "3.2 M", "3250000");
        check(count(1_234_567_u64), "1 234 567", "1234567");
        check(bytes(5 << 30), "5.0 GiB", "5368709120");
        check(duration(7_500.4), "2 h 5 min", "7500");
        check(percent_signed(-3.21), "−3.2 %", "-3.21");
        check(share(0.25), "25 %", "0.25");
        check(number(3.5, 3), "3.500", "3.5");
        check(rate(f64::NAN), "–", "-");
        check(None::<Cell>, "–", "-");
        check("", "", "-");
        check("demo", "demo", "demo");
    }

    #[test]
    fn scripts_read_times_that_sort() {
        let then: DateTime<Utc> = "2026-11-27T09:30:00.25Z".parse().unwrap();
        check(ago(then, then + chrono::TimeDelta::minutes(3)), "3 min ago", "2026-11-27T09:30:00Z");
        assert_eq!(at(then).text(true), "2026-11-27T09:30:00Z");
    }
}
