//! Certificates of a test's own authority, and a proxy in front of the server that speaks TLS with one of them.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// An authority and a certificate for 127.0.0.1 and localhost, as files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The authority.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes new ones in a folder, over those that are there.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn make(folder: &Path) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let ca = authority.self_signed(&authority_key)?;
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &Issuer::new(authority, authority_key))?;
        let made = Self {
            ca: folder.join("ca.pem"),
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
        };
        fs::write(&made.ca, ca.pem())?;
        fs::write(&made.certificate, certificate.pem())?;
        fs::write(&made.key, key.serialize_pem())?;
        Ok(made)
    }

    /// Lines of the server's settings.
    #[must_use]
    pub fn settings(&self) -> String {
        format!("tls_certificate = {:?}\ntls_key = {:?}\n", self.certificate, self.key)
    }

    /// A client that trusts the authority and no other.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn client(&self) -> Result<reqwest::Client> {
        let ca = reqwest::Certificate::from_pem(&fs::read(&self.ca)?)?;
        Ok(reqwest::Client::builder().tls_certs_only([ca]).build()?)
    }
}

/// A proxy that speaks TLS and passes each request on with the headers of a proxy; `strip` is taken from the path.
///
/// # Errors
/// When it cannot listen, or the certificate cannot be used.
pub async fn front(certificate: &Certificate, upstream: u16, strip: &'static str) -> Result<SocketAddr> {
    let chain = CertificateDer::pem_file_iter(&certificate.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&certificate.key)?;
    let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, from)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // One that hangs up early is no failure of the proxy.
                let _ = pass(acceptor, client, from, upstream, strip).await;
            });
        }
    });
    Ok(address)
}

/// One request a connection: its head is written anew, what follows is passed on as it comes.
async fn pass(acceptor: TlsAcceptor, client: TcpStream, from: SocketAddr, upstream: u16, strip: &str) -> Result<()> {
    let mut client = acceptor.accept(client).await?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let (line, headers) = head.split_once("\r\n").context("a request")?;
    let line = line.replacen(&format!(" {strip}/"), " /", 1);
    let kept = headers.lines().filter(|header| !header.to_ascii_lowercase().starts_with("connection:"));
    let kept: Vec<&str> = kept.filter(|header| !header.is_empty()).collect();
    let added = format!("X-Forwarded-For: {}\r\nX-Forwarded-Proto: https\r\nConnection: close", from.ip());
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).await?;
    server.write_all(format!("{line}\r\n{}\r\n{added}\r\n\r\n", kept.join("\r\n")).as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
