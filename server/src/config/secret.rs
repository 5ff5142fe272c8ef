//! Settings that hold a secret: never printed.

use serde::Deserialize;
use std::{fmt, ops::Deref};

/// The address of a Postgres or of a mail server, with its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl From<&str> for SecretUrl {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Deref for SecretUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretUrl {
    /// The scheme, the host and the path: user, password and parameters may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let plain = rest.split('?').next().unwrap_or_default();
        // The last @: a password may hold one that was not encoded.
        let shown = match plain.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://…@{host}"),
            None => format!("{scheme}://{plain}"),
        };
        let parameters = if plain.len() < rest.len() { "?…" } else { "" };
        write!(f, "\"{shown}{parameters}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, expect) in [
            ("postgres://senmon:geheim@db.example/senmon", "postgres://…@db.example/senmon"),
            ("postgres://senmon:ge@heim@db.example/senmon", "postgres://…@db.example/senmon"),
            ("postgres://db/senmon?password=geheim", "postgres://db/senmon?…"),
            ("postgres://db/senmon", "postgres://db/senmon"),
        ] {
            assert_eq!(format!("{:?}", SecretUrl::from(url)), format!("\"{expect}\""));
        }
    }
}
