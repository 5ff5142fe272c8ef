//! Settings of the way in, held against each other: nothing but loopback is listened on without TLS.

use super::Config;
use crate::domain::forwarded::{Proxies, network};
use anyhow::{Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Config {
    /// The proxies in front, where there are any: those named, and loopback.
    #[must_use]
    pub fn proxies(&self) -> Option<Proxies> {
        if !self.behind_proxy {
            return None;
        }
        let named = self.trusted_proxies.iter().filter_map(|text| network(text).ok());
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        Some(Proxies { trusted: named.chain(loopback.map(Into::into)).collect(), speak: self.forwarded_by })
    }

    /// Where everything lies: empty, or a path that begins with a slash and ends without one.
    #[must_use]
    pub fn base(&self) -> &str {
        self.base_path.trim_end_matches('/')
    }

    /// Whether this server itself speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls_certificate.is_some()
    }
}

/// Refuses what cannot work or would be open to a network.
pub(super) fn check(config: &Config) -> Result<()> {
    match (&config.tls_certificate, &config.tls_key) {
        (Some(_), None) => bail!("tls_key: found none, expected the file of the key that belongs to tls_certificate"),
        (None, Some(_)) => bail!("tls_certificate: found none, expected the file of the certificate of tls_key"),
        _ => {}
    }
    for text in &config.trusted_proxies {
        network(text).map_err(|why| anyhow::anyhow!("trusted_proxies: {why}"))?;
    }
    ensure!(
        config.behind_proxy || config.trusted_proxies.is_empty(),
        "trusted_proxies: found without behind_proxy = true, which it is for"
    );
    if !config.listen.ip().is_loopback() && !config.is_tls() && !config.behind_proxy {
        bail!(
            "listen: found {}, an address that other machines reach, without TLS: anybody on the way could read tokens. \
             Set tls_certificate and tls_key; or behind_proxy = true with trusted_proxies, where a proxy in front speaks \
             TLS; or listen on 127.0.0.1",
            config.listen
        );
    }
    let base = config.base();
    let plain = |part: &str| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !matches!(part, "" | "." | "..") && part.chars().all(is_name)
    };
    ensure!(
        base.is_empty() || base.strip_prefix('/').is_some_and(|path| path.split('/').all(plain)),
        "base_path: found {:?}, expected a path such as \"/senmon\"",
        config.base_path
    );
    let header_ms = config.header_timeout_ms;
    ensure!((100..=600_000).contains(&header_ms), "header_timeout_ms: found {header_ms}, expected 100 to 600000");
    let body_ms = config.body_timeout_ms;
    ensure!((100..=20_000).contains(&body_ms), "body_timeout_ms: found {body_ms}, expected 100 to 20000");
    let counts = [
        ("connections_max", config.connections_max),
        ("connections_per_address_max", config.connections_per_address_max),
        ("streams_max", config.streams_max),
        ("streams_per_token_max", config.streams_per_token_max),
    ];
    for (key, found) in counts {
        ensure!((1..=1_000_000).contains(&found), "{key}: found {found}, expected 1 to 1000000");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_toml(text: &str, expect: Result<(), &str>) {
        let config: Config = toml::from_str(text).unwrap();
        match (check(&config), expect) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{text}: {error}"),
            (found, expect) => panic!("{text}: {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn nothing_but_loopback_is_listened_on_in_the_clear() {
        check_toml("", Ok(()));
        check_toml("listen = \"[::1]:80\"", Ok(()));
        for listen in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080"] {
            let listen = format!("listen = \"{listen}\"\n");
            for way in ["tls_certificate", "behind_proxy = true", "127.0.0.1"] {
                check_toml(&listen, Err(way));
            }
            check_toml(&format!("{listen}tls_certificate = \"c\"\ntls_key = \"k\""), Ok(()));
            check_toml(&format!("{listen}behind_proxy = true\ntrusted_proxies = [\"10.0.0.0/8\"]"), Ok(()));
        }
        check_toml("tls_certificate = \"c\"", Err("tls_key: found none"));
        check_toml("tls_key = \"c\"", Err("tls_certificate: found none"));
        check_toml("behind_proxy = true\ntrusted_proxies = [\"10.0.0.0/8/1\"]", Err("trusted_proxies: found"));
        check_toml("trusted_proxies = [\"10.0.0.1\"]", Err("without behind_proxy"));
        check_toml("connections_max = 0", Err("connections_max: found 0"));
        check_toml("body_timeout_ms = 60000", Err("body_timeout_ms: found 60000"));
    }

    #[test]
    fn a_base_is_a_plain_path() {
        for (text, base) in [("", ""), ("/", ""), ("/senmon", "/senmon"), ("/a/b/", "/a/b")] {
            let config = Config { base_path: text.into(), ..Config::default() };
            check(&config).unwrap();
            assert_eq!(config.base(), base);
        }
        for text in ["senmon", "/a//b", "/..", "/a b", "/\"x", "/a?b"] {
            check(&Config { base_path: text.into(), ..Config::default() }).unwrap_err();
        }
    }
}
