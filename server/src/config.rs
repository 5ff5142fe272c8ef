//! Settings of the server: flags over `SENMON_*` variables over the file over defaults. An unknown key is refused.

mod load;
mod network;
pub mod secret;

use crate::domain::forwarded::ForwardedBy;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use secret::SecretUrl;
use senmon_protocol::{said::Lang, storage::Bytes};
use senmon_store::{S3Settings, StoreUrl};
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// The control plane of Senmon.
#[derive(Debug, Parser)]
#[command(name = "senmon-server", version)]
pub struct Flags {
    /// Settings file (TOML); see configs/server.toml for every key
    #[arg(long, env = "SENMON_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, env = "SENMON_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Folder of everything the server keeps
    #[arg(long, env = "SENMON_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Postgres to use instead of a private one; in the variable or the file other users of the machine do not see it
    #[arg(long, env = "SENMON_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Folder of the object store
    #[arg(long, env = "SENMON_STORAGE_DIR")]
    pub storage_dir: Option<PathBuf>,
    /// Address of the object store: <file:///folder> or <s3://bucket/prefix>
    #[arg(long, env = "SENMON_STORAGE_URL", conflicts_with = "storage_dir")]
    pub storage_url: Option<String>,
    /// Folders that corpora, tokenizers and seeds may be read from (repeatable)
    #[arg(long = "corpus-root", env = "SENMON_CORPUS_ROOTS", value_delimiter = ':')]
    pub corpus_roots: Vec<PathBuf>,
    /// What to do instead of serving
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// Instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Action {
    /// Print the OpenAPI document
    Openapi,
    /// Do what the standard input asks for: the server's own child
    #[command(hide = true)]
    Apart,
    /// Check the settings and print them
    CheckConfig,
    /// Write a new admin's token into the data folder of a server that is stopped
    NewAdminToken,
    /// Write everything that the database holds into a file, while it serves or not; not the store
    Backup {
        /// The file; it is replaced whole, and only its owner may read it
        file: PathBuf,
    },
    /// Make an empty data folder or database what a backup says, and find what the store has beyond it
    Restore {
        /// The file
        file: PathBuf,
    },
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Folder of everything the server keeps.
    pub data_dir: PathBuf,
    /// Postgres to use instead of a private one.
    pub database_url: Option<SecretUrl>,
    /// Folder with the programs of Postgres.
    pub postgres_bin: Option<PathBuf>,
    /// Folder of the object store; `<data_dir>/storage` when absent.
    pub storage_dir: Option<PathBuf>,
    /// Address of the object store, instead of a folder.
    pub storage_url: Option<String>,
    /// How a bucket is reached.
    pub s3: S3Settings,
    /// Bytes that the store may hold.
    pub storage_budget: Option<Bytes>,
    /// Bytes that the database may hold.
    pub database_budget: Option<Bytes>,
    /// Room that is held on the disk of the database for the day that it is full; 0 for none.
    pub disk_reserve: Bytes,
    /// How long the database keeps what grows.
    pub retention: Retention,
    /// Age from which what belongs to nobody in the store is removed, in milliseconds.
    pub orphan_grace_ms: u64,
    /// Folders that corpora, tokenizers and seeds may be read from.
    pub corpus_roots: Vec<PathBuf>,
    /// Life of a lease in milliseconds.
    pub lease_ttl_ms: u64,
    /// Silence beyond a lease after which a worker is lost, in milliseconds.
    pub worker_lost_ms: u64,
    /// A job gives its slots up for one of higher priority only after it ran for so long, in milliseconds.
    pub preempt_after_ms: u64,
    /// Days after which a committed checkpoint is read again; 0 for never.
    pub scrub_days: u16,
    /// Time without progress after which an experiment raises an event, in milliseconds.
    pub stalled_after_ms: u64,
    /// Memory that a fit of a clustering or a tokenizer may take.
    pub text_memory_max: Bytes,
    /// Time that a fit may take, in milliseconds.
    pub fit_time_max_ms: u64,
    /// This program, for children of its own: as it was started, whatever lies in its place now.
    #[serde(skip)]
    pub program: PathBuf,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Address of a collector of OpenTelemetry that gets spans of requests and loops.
    pub otlp_endpoint: Option<String>,
    /// Folder of the built dashboard, instead of the embedded one.
    pub ui_dir: Option<PathBuf>,
    /// PEM file of the certificate, its chain behind it.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub tls_key: Option<PathBuf>,
    /// Whether a proxy in front speaks TLS.
    pub behind_proxy: bool,
    /// Addresses and networks of proxies; loopback always is one.
    pub trusted_proxies: Vec<String>,
    /// The header in which they say for whom they ask.
    pub forwarded_by: ForwardedBy,
    /// Path below which everything is reached through the proxy.
    pub base_path: String,
    /// Time for a request's headers, and that a connection may be idle, in milliseconds.
    pub header_timeout_ms: u64,
    /// Time for a request's body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Whether the server may call addresses that are not of the public internet, for alerts.
    pub outgoing_private: bool,
    /// The mail server that alerts go through: `smtps://user:password@host`, or `smtp://host:587?tls=required`.
    pub smtp_url: Option<SecretUrl>,
    /// Who they are from: `senmon@example.com`, or `Senmon <senmon@example.com>`.
    pub smtp_from: Option<String>,
    /// Language of what alerts send: `en` or `ja`.
    pub alerts_lang: Lang,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections of one address.
    pub connections_per_address_max: usize,
    /// Streams of events in all.
    pub streams_max: usize,
    /// Streams of events of one token.
    pub streams_per_token_max: usize,
    /// Requests of one token in the long run; 0 for no limit.
    pub requests_per_second_token: u32,
    /// Requests of one worker token in the long run; 0 for no limit.
    pub requests_per_second_worker_token: u32,
    /// Requests of one address in the long run; 0 for no limit.
    pub requests_per_second_address: u32,
}

/// How long the database keeps what grows, in days; 0 for ever.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Every metric point; then buckets of 16 and more.
    pub points_days: u16,
    /// Those; then the tops of the curves alone.
    pub curves_days: u16,
    /// Lines of logs.
    pub logs_days: u16,
    /// Events.
    pub events_days: u16,
    /// How workers' machines and devices were.
    pub readings_days: u16,
    /// Who changed what.
    pub audit_days: u16,
    /// How jobs of experiments that are over, workers and removed checkpoints came to their end.
    pub history_days: u16,
    /// Keys of requests that may be repeated.
    pub keys_days: u16,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            points_days: 30,
            curves_days: 365,
            logs_days: 30,
            events_days: 365,
            readings_days: 30,
            audit_days: 730,
            history_days: 365,
            keys_days: 1,
        }
    }
}

impl Retention {
    fn check(&self) -> Result<()> {
        let (points, curves) = (self.points_days, self.curves_days);
        ensure!(
            curves == 0 || (1..=curves).contains(&points),
            "retention.points_days: found {points}, expected 1 to retention.curves_days ({curves})"
        );
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data_dir: PathBuf::from("var/senmon"),
            database_url: None,
            postgres_bin: None,
            storage_dir: None,
            storage_url: None,
            s3: S3Settings::default(),
            storage_budget: None,
            database_budget: None,
            disk_reserve: Bytes(256 << 20),
            retention: Retention::default(),
            orphan_grace_ms: 86_400_000,
            corpus_roots: Vec::new(),
            lease_ttl_ms: 15_000,
            worker_lost_ms: 14_000,
            preempt_after_ms: 60_000,
            scrub_days: 7,
            stalled_after_ms: 3_600_000,
            text_memory_max: Bytes(8 << 30),
            fit_time_max_ms: 14_400_000,
            program: PathBuf::from("/proc/self/exe"),
            log_format: LogFormat::Text,
            otlp_endpoint: None,
            ui_dir: None,
            tls_certificate: None,
            tls_key: None,
            behind_proxy: false,
            trusted_proxies: Vec::new(),
            forwarded_by: ForwardedBy::XForwarded,
            base_path: String::new(),
            header_timeout_ms: 30_000,
            body_timeout_ms: 20_000,
            outgoing_private: false,
            smtp_url: None,
            smtp_from: None,
            alerts_lang: Lang::English,
            connections_max: 16_384,
            connections_per_address_max: 8_192,
            streams_max: 2_000,
            streams_per_token_max: 200,
            requests_per_second_token: 200,
            requests_per_second_worker_token: 5_000,
            requests_per_second_address: 10_000,
        }
    }
}

impl Config {
    /// Where the object store is.
    ///
    /// # Errors
    /// When `storage_url` is no address of one.
    pub fn store(&self) -> Result<StoreUrl> {
        match &self.storage_url {
            Some(url) => StoreUrl::parse(url).context("storage_url"),
            None => Ok(StoreUrl::Folder(self.storage_dir.clone().unwrap_or_else(|| self.data_dir.join("storage")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = toml::from_str::<Config>("lisen = 1").unwrap_err().to_string();
        assert!(error.contains("lisen") && error.contains("listen"), "{error}");
    }

    #[test]
    fn a_store_of_an_unknown_kind_is_refused_by_name() {
        let flags = |args: &[&str]| Flags::try_parse_from(["senmon-server"].iter().chain(args)).unwrap();
        let error = Config::load(&flags(&["--storage-url=gs://bucket"])).unwrap_err();
        assert!(format!("{error:#}").contains("storage_url: found scheme \"gs\""), "{error:#}");
        let config = Config::load(&flags(&["--storage-url=s3://bucket/team"])).unwrap();
        let expect = StoreUrl::Bucket { bucket: "bucket".into(), prefix: "team".into() };
        assert_eq!(config.store().unwrap(), expect);
    }

    #[test]
    fn the_shipped_settings_are_the_defaults() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/server.toml")).unwrap();
        let shipped: Config = toml::from_str(&text).unwrap();
        assert_eq!(format!("{shipped:?}"), format!("{:?}", Config::default()));
    }
}
