//! Numbers, times and counts as people read them.
//!
//! Never reads a clock: the present is an argument.

use crate::lang::{own, term};
use chrono::{DateTime, Local, TimeZone, Utc};
use senmon_protocol::{said, storage::Bytes};

/// `16.4 M`, `982`.
#[must_use]
pub fn tokens(count: u64) -> String {
    senmon_protocol::tokens::Tokens(count).to_string()
}

/// `1 234 567`: digits in groups of three from 10 000 on.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and years fit")]
    let s = seconds.round() as u64;
    let pair = |a: u64, unit_a: &str, b: u64, unit_b: &str| match b {
        0 => format!("{a} {unit_a}"),
        _ => format!("{a} {unit_a} {b} {unit_b}"),
    };
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => pair(s / 60, "min", s % 60, "s"),
        3_600..86_400 => pair(s / 3_600, "h", s % 3_600 / 60, "min"),
        _ => pair(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

/// `3 min ago`.
#[must_use]
pub fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let s = (now - then).num_seconds();
    match s {
        ..=4 => own(&said!("ago_now")),
        5..60 => own(&said!("ago_seconds", count = s.unsigned_abs())),
        60..3_600 => own(&said!("ago_minutes", count = s.unsigned_abs() / 60)),
        3_600..86_400 => own(&said!("ago_hours", count = s.unsigned_abs() / 3_600)),
        _ => own(&said!("ago_days", count = s.unsigned_abs() / 86_400)),
    }
}

/// `2026-11-27 18:30:00`, where the reader is.
#[must_use]
pub fn at(then: DateTime<Utc>) -> String {
    at_in(then, &Local)
}

/// `2026-11-27 18:30 +09:00`, where the reader is.
#[must_use]
pub fn at_zone(then: DateTime<Utc>) -> String {
    then.with_timezone(&Local).format("%Y-%m-%d %H:%M %:z").to_string()
}

fn at_in<Z: TimeZone<Offset: std::fmt::Display>>(then: DateTime<Utc>, zone: &Z) -> String {
    then.with_timezone(zone).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// `3.2 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    Bytes(count).to_string()
}

/// A rate: `12.3 K/s`.
#[must_use]
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second <= 0.0 {
        return "–".into();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and rates fit")]
    let whole = per_second.round() as u64;
    format!("{}/s", tokens(whole))
}

/// A share of one: `25 %`.
#[must_use]
pub fn share(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A signed percentage: `−3.2 %`, `+0.4 %`.
#[must_use]
pub fn percent_signed(percent: f64) -> String {
    let sign = if percent < -0.05 { "−" } else { "+" };
    format!("{sign}{:.1} %", percent.abs())
}

/// An absent value.
#[must_use]
pub fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".into())
}

/// The name of a wire enum's value: `weights` of `CheckpointKind::Weights`.
#[must_use]
pub fn name<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => term(&text.replace('_', " ")),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let cases =
            [(0.2, "0 s"), (61.0, "1 min 1 s"), (120.0, "2 min"), (7_500.0, "2 h 5 min"), (270_000.0, "3 d 3 h")];
        for (seconds, expect) in cases {
            assert_eq!(duration(seconds), expect);
        }
        assert_eq!(duration(f64::NAN), "–");
    }

    #[test]
    fn a_time_is_the_readers() {
        let tokyo = chrono::FixedOffset::east_opt(9 * 3600).unwrap();
        assert_eq!(at_in("2026-11-27T20:30:00Z".parse().unwrap(), &tokyo), "2026-11-28 05:30:00");
    }

    #[test]
    fn long_counts_are_grouped() {
        for (n, expect) in [(0, "0"), (9_999, "9999"), (12_345, "12 345"), (1_234_567, "1 234 567")] {
            assert_eq!(count(n), expect);
        }
    }

    #[test]
    fn a_percentage_has_its_sign() {
        assert_eq!(percent_signed(-3.21), "−3.2 %");
        assert_eq!(percent_signed(0.0), "+0.0 %");
    }

    #[test]
    fn sizes_have_binary_units() {
        for (n, expect) in [(12, "12 B"), (2_048, "2.0 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(bytes(n), expect);
        }
    }
}
