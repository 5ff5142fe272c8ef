//! Times that people type: a moment, or how far it is from now.
//!
//! The decisions are pure: the present and the reader's zone are arguments.

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use std::time::Duration;

/// A time that has been: `2027-01-31T08:00:00Z`, `2027-01-31`, or how long ago, `6h`.
///
/// # Errors
/// When it is neither.
pub fn past(text: &str) -> Result<DateTime<Utc>, String> {
    past_at(text, Utc::now(), &Local)
}

/// A time to come: `2027-01-31T08:00:00Z`, `2027-01-31`, or from now on, `+3d`.
///
/// # Errors
/// When it is neither, or is over.
pub fn ahead(text: &str) -> Result<DateTime<Utc>, String> {
    ahead_at(text, Utc::now(), &Local)
}

/// How long: `90s`, `15m`, `1h30m`, `7d`.
///
/// # Errors
/// When it is no such text.
pub fn span(text: &str) -> Result<Duration, String> {
    let expected = || format!("found {text:?}, expected a time span such as 90s, 15m, 1h30m, 7d or 2w");
    Ok(Duration::from_secs(seconds(text).ok_or_else(expected)?))
}

fn past_at<Z: TimeZone>(text: &str, now: DateTime<Utc>, zone: &Z) -> Result<DateTime<Utc>, String> {
    let ago = || now.checked_sub_signed(TimeDelta::try_seconds(i64::try_from(seconds(text)?).ok()?)?);
    moment(text, zone).or_else(ago).ok_or_else(|| {
        format!("found {text:?}, expected a time such as 2027-01-31T08:00:00Z, 2027-01-31 or '2027-01-31 08:00' (where you are), or how long ago: 90s, 15m, 6h, 7d")
    })
}

fn ahead_at<Z: TimeZone>(text: &str, now: DateTime<Utc>, zone: &Z) -> Result<DateTime<Utc>, String> {
    let from_now =
        || now.checked_add_signed(TimeDelta::try_seconds(i64::try_from(seconds(text.strip_prefix('+')?)?).ok()?)?);
    let at = moment(text, zone).or_else(from_now).ok_or_else(|| {
        format!("found {text:?}, expected a time such as 2027-01-31T08:00:00Z, 2027-01-31 or '2027-01-31 08:00' (where you are), or from now on: +12h, +3d, +1w")
    })?;
    if at <= now { Err(format!("found {text:?}, which is over; expected a time to come")) } else { Ok(at) }
}

/// A moment: with its zone, else where the reader is; a day begins at midnight.
fn moment<Z: TimeZone>(text: &str, zone: &Z) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    let time = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|day| day.and_time(NaiveTime::MIN));
    // Of an hour that comes twice the first; one that is left out is no time.
    zone.from_local_datetime(&time.or_else(day)?).earliest().map(|at| at.to_utc())
}

/// Seconds of `1h30m`.
fn seconds(text: &str) -> Option<u64> {
    let (mut sum, mut digits) = (0_u64, String::new());
    if text.is_empty() {
        return None;
    }
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        let count: u64 = std::mem::take(&mut digits).parse().ok()?;
        sum = sum.checked_add(count.checked_mul(unit)?)?;
    }
    digits.is_empty().then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::FixedOffset;

    fn now() -> DateTime<Utc> {
        "2026-11-27T12:00:00Z".parse().unwrap()
    }

    fn tokyo() -> FixedOffset {
        FixedOffset::east_opt(9 * 3600).unwrap()
    }

    fn check(found: Result<DateTime<Utc>, String>, expect: &str) {
        assert_eq!(found.unwrap().to_rfc3339_opts(chrono::SecondsFormat::Secs, true), expect);
    }

    #[test]
    fn a_time_is_given_or_counted_back() {
        check(past_at("2026-01-31T08:00:00Z", now(), &tokyo()), "2026-01-31T08:00:00Z");
        check(past_at("2026-01-31", now(), &tokyo()), "2026-01-30T15:00:00Z");
        check(past_at("2026-01-31 08:00", now(), &tokyo()), "2026-01-30T23:00:00Z");
        check(past_at("2h", now(), &tokyo()), "2026-11-27T10:00:00Z");
        check(past_at("1d12h", now(), &tokyo()), "2026-11-26T00:00:00Z");
        for bad in ["", "h", "2", "2y", "-3h", "2日", "99999999999999999999d", "9999999999999d", "2026-13-01"] {
            assert!(past_at(bad, now(), &tokyo()).unwrap_err().contains("expected a time"), "{bad}");
        }
    }

    #[test]
    fn a_deadline_is_given_or_counted_from_now() {
        check(ahead_at("+3d", now(), &tokyo()), "2026-11-30T12:00:00Z");
        check(ahead_at("+1h30m", now(), &tokyo()), "2026-11-27T13:30:00Z");
        check(ahead_at("2027-01-31", now(), &tokyo()), "2027-01-30T15:00:00Z");
        check(ahead_at("2027-01-31T08:00:00+09:00", now(), &Utc), "2027-01-30T23:00:00Z");
        for (bad, part) in [
            ("3d", "from now on: +12h"),
            ("tomorrow", "from now on: +12h"),
            ("+", "+3d"),
            ("2026-11-01", "which is over"),
        ] {
            let why = ahead_at(bad, now(), &tokyo()).unwrap_err();
            assert!(why.contains(part), "{bad}: {why}");
        }
    }

    #[test]
    fn a_span_has_units() {
        assert_eq!(span("1h30m").unwrap(), Duration::from_secs(5_400));
        assert!(span("90").unwrap_err().contains("90s"));
    }
}
