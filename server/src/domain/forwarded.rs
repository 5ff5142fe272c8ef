//! Who really asks: a connection's own address, or what a proxy that is trusted says of it.

use ipnet::IpNet;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

/// Headers in which a proxy says for whom it asks. One kind alone is read: a proxy that writes the one passes on what its
/// clients put into the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The proxies in front of a server, and how they speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses.
    pub trusted: Vec<IpNet>,
    /// Their headers.
    pub speak: ForwardedBy,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client's address.
    pub address: IpAddr,
    /// Whether the client speaks TLS, to us or to the proxy.
    pub is_https: bool,
}

/// Reads a network, or one address as the network of itself.
///
/// # Errors
/// What is expected.
pub fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse()).map_err(|_| format!("found {text:?}, expected an address or a network (10.0.0.0/8)"))
}

/// An address as one key: one machine has many IPv6 addresses, of one network of 64 bits.
#[must_use]
pub fn machine(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
        address => address,
    }
}

impl Proxies {
    /// Whether an address is a proxy's.
    #[must_use]
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Who asks through the proxy at `from`: the last address of the list that is no proxy's. `values` gives the values of
    /// a header, in their order.
    #[must_use]
    pub fn peer<'a>(&self, from: IpAddr, values: impl Fn(&str) -> Vec<&'a str>) -> Peer {
        let (chain, proto) = match self.speak {
            ForwardedBy::XForwarded => {
                let chain: Vec<_> = parts(&values("x-forwarded-for"), ',').map(address).collect();
                let protos = values("x-forwarded-proto");
                (chain, parts(&protos, ',').next_back().map(str::to_owned))
            }
            ForwardedBy::Forwarded => {
                let said = values("forwarded");
                let elements: Vec<_> = parts(&said, ',').collect();
                let chain = elements.iter().map(|element| pair(element, "for").and_then(|text| address(&text)));
                (chain.collect(), elements.last().and_then(|element| pair(element, "proto")))
            }
        };
        let mut found = from.to_canonical();
        for said in chain.into_iter().rev() {
            match said {
                Some(address) if self.trust(found) => found = address,
                // What cannot be read was said by a proxy that is trusted: the client is somewhere behind it.
                _ => break,
            }
        }
        Peer { address: found, is_https: proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https")) }
    }
}

fn parts<'a>(values: &[&'a str], at: char) -> impl DoubleEndedIterator<Item = &'a str> {
    let all: Vec<&str> = values.iter().flat_map(|value| value.split(at)).map(str::trim).collect();
    all.into_iter().filter(|part| !part.is_empty())
}

/// The value of a name in `for=…;proto=…`.
fn pair(element: &str, name: &str) -> Option<String> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// An address with or without a port and brackets.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    let found = text.parse::<SocketAddr>().map(|address| address.ip());
    found.or_else(|_| plain.parse()).ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(speak: ForwardedBy, from: &str, headers: &[(&str, &str)], expect: (&str, bool)) {
        let trusted = ["10.0.0.0/8", "::1", "127.0.0.1"].map(|text| network(text).unwrap()).to_vec();
        let values = |name: &str| {
            headers.iter().filter(|(found, _)| *found == name).map(|(_, value)| *value).collect::<Vec<_>>()
        };
        let peer = Proxies { trusted, speak }.peer(from.parse().unwrap(), values);
        assert_eq!((peer.address.to_string().as_str(), peer.is_https), expect, "{from} {headers:?}");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_proxys() {
        let x = ForwardedBy::XForwarded;
        check(x, "10.0.0.1", &[], ("10.0.0.1", false));
        check(x, "10.0.0.1", &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")], ("1.2.3.4", true));
        check(x, "10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.1.1.1")], ("1.2.3.4", false));
        check(x, "10.0.0.1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")], ("1.2.3.4", false));
        check(x, "::ffff:10.0.0.1", &[("x-forwarded-for", "1.2.3.4:5678")], ("1.2.3.4", false));
        check(x, "::1", &[("x-forwarded-for", "2001:db8::7")], ("2001:db8::7", false));
        check(x, "10.0.0.1", &[("x-forwarded-for", "1.2.3.4, unknown")], ("10.0.0.1", false));
        check(x, "9.9.9.9", &[("x-forwarded-for", "1.2.3.4")], ("9.9.9.9", false));
        check(x, "10.0.0.1", &[("x-forwarded-proto", "https, http")], ("10.0.0.1", false));
        check(x, "10.0.0.1", &[("forwarded", "for=1.2.3.4;proto=https")], ("10.0.0.1", false));
        let f = ForwardedBy::Forwarded;
        check(f, "10.0.0.1", &[("forwarded", "for=6.6.6.6, For=\"1.2.3.4:80\";Proto=https;by=x")], ("1.2.3.4", true));
        check(f, "10.0.0.1", &[("forwarded", "for=\"[2001:db8::7]:4711\"")], ("2001:db8::7", false));
        check(f, "10.0.0.1", &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")], ("10.0.0.1", false));
        check(f, "10.0.0.1", &[("forwarded", "for=_hidden, for=10.2.2.2")], ("10.2.2.2", false));
    }

    #[test]
    fn a_machine_is_one_key() {
        let same = |a: &str, b: &str| machine(a.parse().unwrap()) == machine(b.parse().unwrap());
        assert!(same("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::1") && same("::ffff:1.2.3.4", "1.2.3.4"));
        assert!(!same("2001:db8:1:2::4", "2001:db8:1:3::4") && !same("1.2.3.4", "1.2.3.5"));
        assert!(network("10.0.0.0/33").unwrap_err().contains("10.0.0.0/33"));
    }
}
