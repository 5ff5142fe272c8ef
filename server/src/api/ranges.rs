//! Parts of files (RFC 9110, section 14): one range in bytes, of the version that the reader began with.

use axum::http::{HeaderMap, header};
use std::ops::Range;

/// What of a file is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes beyond its end.
    Beyond,
}

/// What of a file of `bytes` bytes with this tag is asked for. Several ranges, or a range of another version, ask for
/// all of it.
#[must_use]
pub fn asked(headers: &HeaderMap, bytes: u64, tag: &str) -> Asked {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let is_of_this = text(header::IF_RANGE).is_none_or(|known| known == tag);
    let range = text(header::RANGE).filter(|_| is_of_this).and_then(|value| value.strip_prefix("bytes="));
    let Some((first, last)) = range.filter(|range| !range.contains(',')).and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(0) => return Asked::Beyond,
            Some(last) => bytes.saturating_sub(last)..bytes,
            None => return Asked::Whole,
        },
        (first, "") => match number(first) {
            Some(first) => first..bytes,
            None => return Asked::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..bytes.min(last.saturating_add(1)),
            _ => return Asked::Whole,
        },
    };
    if range.start >= bytes { Asked::Beyond } else { Asked::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_the_standard_says() {
        for (range, if_range, expected) in [
            ("bytes=0-0", "", Asked::Part(0..1)),
            ("bytes=0-99999", "", Asked::Part(0..10)),
            ("bytes=3-", "", Asked::Part(3..10)),
            ("bytes=-4", "", Asked::Part(6..10)),
            ("bytes=-40", "", Asked::Part(0..10)),
            ("bytes=10-", "", Asked::Beyond),
            ("bytes=-0", "", Asked::Beyond),
            ("bytes=18446744073709551615-18446744073709551615", "", Asked::Beyond),
            ("bytes=5-3", "", Asked::Whole),
            ("bytes=0-1,3-4", "", Asked::Whole),
            ("bytes=a-b", "", Asked::Whole),
            ("bytes=-", "", Asked::Whole),
            ("lines=0-1", "", Asked::Whole),
            ("bytes=3-4", "\"t\"", Asked::Part(3..5)),
            ("bytes=3-4", "\"another\"", Asked::Whole),
            ("bytes=3-4", "W/\"t\"", Asked::Whole),
        ] {
            let mut headers = HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]);
            if !if_range.is_empty() {
                headers.insert(header::IF_RANGE, if_range.parse().unwrap());
            }
            assert_eq!(asked(&headers, 10, "\"t\""), expected, "{range} {if_range}");
        }
        assert_eq!(asked(&HeaderMap::new(), 10, "\"t\""), Asked::Whole);
        let any = HeaderMap::from_iter([(header::RANGE, "bytes=0-".parse().unwrap())]);
        assert_eq!(asked(&any, 0, "\"t\""), Asked::Beyond);
    }
}
