//! The settings file, with flags and variables laid over it.

use super::{Config, Flags, network, secret::SecretUrl};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

impl Config {
    /// Reads the file and lays flags and variables over it.
    ///
    /// # Errors
    /// When the file is missing, has an unknown key, or a value cannot work; the message names the key.
    pub fn load(flags: &Flags) -> Result<Self> {
        let mut config: Self = match &flags.config {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("read the settings {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("settings file {}", path.display()))?
            }
            None => Self::default(),
        };
        if let Some(listen) = flags.listen {
            config.listen = listen;
        }
        if let Some(folder) = &flags.data_dir {
            config.data_dir.clone_from(folder);
        }
        if let Some(url) = &flags.database_url {
            let password = url
                .split_once("://")
                .and_then(|(_, rest)| rest.rsplit_once('@'))
                .is_some_and(|(who, _)| who.contains(':'));
            let is_flag = std::env::args().any(|arg| arg.contains(url.as_str()));
            ensure!(
                !(password && is_flag),
                "database_url: found a password in a flag, which everybody on this machine can read; expected it in the settings file or in SENMON_DATABASE_URL"
            );
            config.database_url = flags.database_url.as_deref().map(SecretUrl::from);
        }
        if flags.storage_dir.is_some() || flags.storage_url.is_some() {
            config.storage_dir.clone_from(&flags.storage_dir);
            config.storage_url.clone_from(&flags.storage_url);
        }
        if !flags.corpus_roots.is_empty() {
            config.corpus_roots.clone_from(&flags.corpus_roots);
        }
        ensure!(
            (500..=3_600_000).contains(&config.lease_ttl_ms),
            "lease_ttl_ms: found {}, expected 500 to 3600000",
            config.lease_ttl_ms
        );
        ensure!(
            config.worker_lost_ms <= 3_600_000,
            "worker_lost_ms: found {}, expected at most 3600000",
            config.worker_lost_ms
        );
        ensure!(
            config.storage_dir.is_none() || config.storage_url.is_none(),
            "storage_url: found together with storage_dir, expected one of them"
        );
        ensure!(
            config.orphan_grace_ms >= config.lease_ttl_ms,
            "orphan_grace_ms: found {}, expected at least lease_ttl_ms ({})",
            config.orphan_grace_ms,
            config.lease_ttl_ms
        );
        config.retention.check()?;
        if let Some(text) = &config.otlp_endpoint {
            crate::traces::address(text).map_err(|why| anyhow::anyhow!("otlp_endpoint: {why}"))?;
        }
        config.store()?;
        network::check(&config)?;
        if let Some(url) = &config.database_url {
            let known = url.starts_with("postgres://") || url.starts_with("postgresql://");
            ensure!(known, "database_url: expected an address that begins with postgres://");
        }
        config.data_dir = absolute(&config.data_dir)?;
        Ok(config)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("data_dir: {}", path.display()))
}
