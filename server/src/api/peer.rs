//! Who is at the other end: the address that a request is counted for, and whether it came encrypted.

use crate::{api::error::ApiError, app::App, config::Config, domain::forwarded::Peer, door::Wire};
use axum::{extract::Request, http::HeaderMap};
use senmon_protocol::said;
use std::net::{IpAddr, Ipv4Addr};

/// Paths that anybody may ask, past the proxy too: they say whether it lives, and nothing else.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// Lets a request in that its address may make, with a note of who makes it.
///
/// # Errors
/// 403 for what comes past the proxy; 429 for an address that asks too often.
pub fn admit(app: &App, request: &mut Request) -> Result<(), ApiError> {
    let peer = peer(&app.config, request.extensions().get(), request.uri().path(), request.headers())?;
    app.limits.address(peer.address)?;
    request.extensions_mut().insert(peer);
    Ok(())
}

fn peer(config: &Config, wire: Option<&Wire>, path: &str, headers: &HeaderMap) -> Result<Peer, ApiError> {
    let from = wire.map_or(IpAddr::from(Ipv4Addr::LOCALHOST), |wire| wire.from.ip());
    let is_tls = wire.is_some_and(|wire| wire.is_tls);
    match config.proxies() {
        Some(proxies) if proxies.trust(from) => {
            let peer = proxies.peer(from, |name| values(headers, name));
            Ok(Peer { is_https: peer.is_https || is_tls, ..peer })
        }
        // Encrypted by us it may come past the proxy.
        Some(_) if !is_tls && !OPEN.contains(&path) => {
            Err(ApiError::Forbidden(said!("refused_past_proxy", from = from.to_string())))
        }
        _ => Ok(Peer { address: from, is_https: is_tls }),
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
}

/// Who asks, of a request that was let in.
#[must_use]
pub fn of(extensions: &axum::http::Extensions) -> Peer {
    let nobody = Peer { address: Ipv4Addr::LOCALHOST.into(), is_https: false };
    extensions.get::<Peer>().copied().unwrap_or(nobody)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_proxy_nobody_comes_in_the_clear() {
        let mut config = Config { behind_proxy: true, ..Config::default() };
        config.trusted_proxies = vec!["10.0.0.0/8".into()];
        let headers = HeaderMap::from_iter([
            ("x-forwarded-for".parse().unwrap(), "1.2.3.4".parse().unwrap()),
            ("x-forwarded-proto".parse().unwrap(), "https".parse().unwrap()),
        ]);
        let of = |config: &Config, from: &str, is_tls, path: &str| {
            let wire = Wire { from: from.parse().unwrap(), is_tls };
            peer(config, Some(&wire), path, &headers).ok().map(|peer| (peer.address.to_string(), peer.is_https))
        };
        let some = |address: &str, is_https| Some((address.to_owned(), is_https));
        assert_eq!(of(&config, "10.1.1.1:5", false, "/x"), some("1.2.3.4", true));
        assert_eq!(of(&config, "127.0.0.1:5", false, "/x"), some("1.2.3.4", true));
        assert_eq!(of(&config, "9.9.9.9:5", false, "/x"), None);
        assert_eq!(of(&config, "9.9.9.9:5", false, "/healthz"), some("9.9.9.9", false));
        assert_eq!(of(&config, "9.9.9.9:5", true, "/x"), some("9.9.9.9", true));
        // Without a proxy the headers are anybody's words.
        assert_eq!(of(&Config::default(), "127.0.0.1:5", false, "/x"), some("127.0.0.1", false));
    }
}
