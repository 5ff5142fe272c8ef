//! The one way out: whatever the server calls for somebody goes through here. The name is looked up once and what was found
//! is what is called; addresses that are not of the public internet are refused unless the settings allow them; nothing
//! is followed, and little is read.

use crate::domain::outgoing::is_public;
use reqwest::{Client, Url, redirect::Policy};
use senmon_protocol::{
    said,
    said::{Said, expected::quoted},
};
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};

/// Time for a name to be looked up.
const LOOK_UP_MAX: Duration = Duration::from_secs(5);
/// Time for a request, its answer included.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Characters of a refusal that are kept.
const SAID_MAX: usize = 200;

/// What may be called.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    /// Addresses within this network and this machine too.
    private: bool,
}

impl Outgoing {
    /// The public internet; with `private` everything.
    #[must_use]
    pub fn new(private: bool) -> Self {
        Self { private }
    }

    /// An address that somebody gave, as far as it can be judged before it is looked up.
    ///
    /// # Errors
    /// What was found, and what is accepted.
    pub fn check(self, text: &str) -> Result<Url, Said> {
        let url = Url::parse(text).map_err(|error| said!("url_unread", why = error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(said!("url_scheme", scheme = quoted(url.scheme())));
        }
        let host = bare(&url).ok_or_else(|| said!("url_no_host"))?;
        // Numbers in every spelling have become addresses by now; a name is judged when it is looked up.
        host.parse().map_or(Ok(()), |address| self.allows(address))?;
        Ok(url)
    }

    fn allows(self, address: std::net::IpAddr) -> Result<(), Said> {
        if self.private || is_public(address) {
            return Ok(());
        }
        Err(said!("url_private", address = address.to_string()))
    }

    /// Posts JSON; `key` tells a repeat from the first time.
    ///
    /// # Errors
    /// Why it was not taken, in a sentence without the address's secrets.
    pub async fn post(self, address: &str, body: &Value, key: &str) -> Result<(), String> {
        let url = self.check(address).map_err(|why| why.text())?;
        let (host, port) = (bare(&url).unwrap_or_default().to_owned(), url.port_or_known_default().unwrap_or(443));
        let looked_up = tokio::time::timeout(LOOK_UP_MAX, tokio::net::lookup_host((host.as_str(), port))).await;
        let found: Vec<SocketAddr> = looked_up
            .map_err(|_| format!("{host} was not found within {} s", LOOK_UP_MAX.as_secs()))?
            .map_err(|error| format!("{host} was not found: {error}"))?
            .collect();
        // One private address among them is enough: whoever answers for the name chooses which.
        found.iter().try_for_each(|found| self.allows(found.ip())).map_err(|why| why.text())?;
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(CALL_MAX)
            .user_agent(concat!("senmon-server/", env!("CARGO_PKG_VERSION")))
            .resolve_to_addrs(&host, &found)
            .build()
            .map_err(|error| error.without_url().to_string())?;
        let answer = client.post(url).header("idempotency-key", key).json(body).send().await;
        let answer = answer.map_err(|error| format!("{host} could not be reached: {}", why(&error.without_url())))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(format!("{host} answered {status}: {}", beginning(answer).await))
    }
}

/// The host of an address, an IPv6 one without its brackets.
fn bare(url: &Url) -> Option<&str> {
    Some(url.host_str()?.trim_start_matches('[').trim_end_matches(']'))
}

/// The innermost cause: the others say that something failed.
pub(crate) fn why(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), why)
}

/// The beginning of an answer; the rest is not read.
async fn beginning(mut answer: reqwest::Response) -> String {
    let mut read = Vec::new();
    while read.len() < SAID_MAX
        && let Ok(Some(piece)) = answer.chunk().await
    {
        read.extend_from_slice(&piece);
    }
    String::from_utf8_lossy(&read).chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_refused_by_what_is_wrong_with_it() {
        let check = |text: &str, expect: &str| {
            let found = Outgoing::new(false).check(text).map(|url| url.to_string());
            match found {
                Ok(url) => assert_eq!((url.as_str(), ""), (text, expect)),
                Err(why) => assert!(!expect.is_empty() && why.text().contains(expect), "{text}: {why:?}"),
            }
        };
        check("https://example.com/hook", "");
        check("ftp://example.com/", "found the scheme \"ftp\"");
        check("hook", "expected an address such as");
        check("http://127.0.0.1:9/", "127.0.0.1 is no address of the public internet");
        check("http://2130706433/", "127.0.0.1 is no address of the public internet");
        check("http://[::ffff:10.0.0.1]/", "is no address of the public internet");
        assert!(Outgoing::new(true).check("http://127.0.0.1:9/").is_ok());
    }

    #[tokio::test]
    async fn a_name_is_refused_for_what_it_is_found_to_be() {
        let said = Outgoing::new(false).post("http://localhost:9/x?token=secret", &Value::Null, "1").await.unwrap_err();
        assert!(said.contains("is no address of the public internet") && !said.contains("secret"), "{said}");
        let said = Outgoing::new(true).post("http://localhost:9/x?token=secret", &Value::Null, "1").await.unwrap_err();
        assert!(said.starts_with("localhost could not be reached: ") && !said.contains("secret"), "{said}");
    }
}
