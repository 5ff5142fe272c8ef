//! Where a token may be sent.

use std::net::IpAddr;

/// Whether what is sent to a host by this scheme stays unread on the way: it is encrypted, or never leaves the machine.
#[must_use]
pub fn is_private(scheme: &str, host: &str) -> bool {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    scheme == "https"
        || plain.eq_ignore_ascii_case("localhost")
        || plain.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Why a token is not sent to `url`, and what to do; `how` names the setting that allows it.
#[must_use]
pub fn refusal(url: &str, how: &str) -> String {
    format!(
        "found {url:?}: over plain http to another machine, anybody on the way can read the token. Use https, or {how} where \
         the network itself is trusted"
    )
}

/// Seconds of a `Retry-After`, at most a minute; one where it says nothing that can be read.
#[must_use]
pub fn retry_after_seconds(header: Option<&str>) -> u64 {
    header.and_then(|text| text.trim().parse().ok()).unwrap_or(1).clamp(1, 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback() {
        for (scheme, host) in [("https", "a.example"), ("http", "127.0.0.1"), ("http", "localhost"), ("http", "[::1]")]
        {
            assert!(is_private(scheme, host), "{scheme} {host}");
        }
        for host in ["a.example", "10.0.0.1", "0.0.0.0", "[::]", "localhost.example", "[2001:db8::1]", ""] {
            assert!(!is_private("http", host), "{host}");
        }
        assert_eq!([None, Some("7"), Some("0"), Some("9999"), Some("soon")].map(retry_after_seconds), [1, 7, 1, 60, 1]);
    }
}
