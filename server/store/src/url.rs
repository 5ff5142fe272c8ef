//! Where a store is, and how it is reached.

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use std::{fmt, path::PathBuf};

/// A store's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:///folder`.
    Folder(PathBuf),
    /// `s3://bucket/prefix`.
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// What all keys begin with; may be empty.
        prefix: String,
    },
}

impl StoreUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// An unknown scheme, or a missing part, by name.
    pub fn parse(url: &str) -> Result<Self> {
        if let Some(path) = url.strip_prefix("file://") {
            ensure!(path.starts_with('/'), "found {url:?}, expected an absolute path as in file:///srv/senmon");
            return Ok(Self::Folder(path.into()));
        }
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let plain = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            let prefix = prefix.trim_end_matches('/');
            ensure!(
                !bucket.is_empty() && plain(bucket) && prefix.split('/').all(plain),
                "found {url:?}, expected s3://bucket or s3://bucket/prefix of letters, digits, -, _ and ."
            );
            return Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        let scheme = url.split_once("://").map_or(url, |(scheme, _)| scheme);
        bail!("found scheme {scheme:?}, expected file:///folder or s3://bucket/prefix")
    }
}

/// `[s3]` of the settings. What is left out is taken from the usual variables: `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, …
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// Address of the service where it is not Amazon's. Only what is named here (or in `AWS_ENDPOINT_URL`) may be
    /// spoken to without TLS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Public part of the key.
    pub access_key_id: Option<String>,
    /// Secret part of the key.
    pub secret_access_key: Option<String>,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &self.secret_access_key.as_ref().map(|_| "…"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_folder_or_a_bucket() {
        assert_eq!(StoreUrl::parse("file:///a/b").unwrap(), StoreUrl::Folder("/a/b".into()));
        let bucket = |bucket: &str, prefix: &str| StoreUrl::Bucket { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!(StoreUrl::parse("s3://b").unwrap(), bucket("b", ""));
        assert_eq!(StoreUrl::parse("s3://b/team/x/").unwrap(), bucket("b", "team/x"));
    }

    #[test]
    fn an_unknown_scheme_is_refused_by_name() {
        for (url, expect) in
            [("gs://b", "\"gs\""), ("/a/b", "file:///"), ("file://a", "absolute"), ("s3:///p", "s3://bucket")]
        {
            let error = StoreUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(expect), "{url}: {error}");
        }
    }

    #[test]
    fn the_secret_is_never_printed() {
        let settings = S3Settings { secret_access_key: Some("geheim".into()), ..S3Settings::default() };
        assert!(!format!("{settings:?}").contains("geheim"));
    }
}
