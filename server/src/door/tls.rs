//! The server's certificate: read at the start, and again when asked. One that cannot be used leaves the one before.

use crate::config::Config;
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// A certificate with its key, and the files that they come from; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    now: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// That of the settings, where there is one.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn of(config: &Config) -> Result<Option<Self>> {
        let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) else { return Ok(None) };
        let now = Arc::new(RwLock::new(Arc::new(load(certificate, key)?)));
        Ok(Some(Self { certificate: certificate.clone(), key: key.clone(), now }))
    }

    /// What new connections are shown.
    #[must_use]
    pub fn now(&self) -> Arc<ServerConfig> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again; connections that are open keep what they have.
    ///
    /// # Errors
    /// As [`Self::of`]; the certificate before stays then.
    pub fn read_again(&self) -> Result<()> {
        let new = Arc::new(load(&self.certificate, &self.key)?);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

fn load(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let of_certificate = || format!("tls_certificate: {}", certificate.display());
    let of_key = || format!("tls_key: {}", key.display());
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(of_certificate)?;
    ensure!(!chain.is_empty(), "{}: found no certificate, expected PEM", of_certificate());
    let secret = PrivateKeyDer::from_pem_file(key).with_context(of_key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("set up TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("{} with {}", of_certificate(), of_key()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
