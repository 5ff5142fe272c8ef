//! S3 servers on loopback: `scripts/setup-s3` brings their programs.

use crate::process::{Process, repository};
use anyhow::{Context, Result, bail, ensure};
use senmon_store::{Bucket, S3Settings};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// A bucket on a server.
#[derive(Debug, Clone)]
pub struct Store {
    /// Name of the bucket.
    pub bucket: String,
    /// Address and key.
    pub settings: S3Settings,
}

impl Store {
    fn new(port: u16) -> Self {
        let settings = S3Settings {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: Some("us-east-1".into()),
            access_key_id: Some("key".into()),
            secret_access_key: Some("secret".into()),
        };
        Self { bucket: "models".into(), settings }
    }

    /// The same bucket through a proxy.
    #[must_use]
    pub fn through(&self, url: &str) -> Self {
        let settings = S3Settings { endpoint: Some(url.to_owned()), ..self.settings.clone() };
        Self { bucket: self.bucket.clone(), settings }
    }

    /// Port of the server.
    ///
    /// # Errors
    /// When its address has none.
    pub fn port(&self) -> Result<u16> {
        let endpoint = self.settings.endpoint.as_deref().unwrap_or_default();
        Ok(endpoint.rsplit(':').next().unwrap_or_default().parse()?)
    }

    /// `storage_url` and `[s3]` of a settings file.
    #[must_use]
    pub fn settings(&self) -> (String, String) {
        let line =
            |name: &str, value: &Option<String>| format!("{name} = {:?}\n", value.as_deref().unwrap_or_default());
        let s3 = [
            line("endpoint", &self.settings.endpoint),
            line("region", &self.settings.region),
            line("access_key_id", &self.settings.access_key_id),
            line("secret_access_key", &self.settings.secret_access_key),
        ];
        (format!("storage_url = \"s3://{}/team\"\n", self.bucket), format!("[s3]\n{}", s3.concat()))
    }

    /// The bucket, as server and workers open it.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn open(&self) -> Result<Bucket> {
        Bucket::open(&self.bucket, "team", &self.settings)
    }
}

fn program(name: &str) -> Result<PathBuf> {
    let path = repository().join(".deps/s3/bin").join(name);
    ensure!(path.exists(), "{} is missing; run scripts/setup-s3", path.display());
    Ok(path)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Starts moto: everything in memory, any key is good.
///
/// # Errors
/// When it does not answer within a minute.
pub async fn moto(folder: &Path) -> Result<(Process, Store)> {
    let port = free_port()?;
    let mut command = Command::new(program("moto_server")?);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let mut server = Process::run(command, "moto_server", &folder.join("moto.log"))?;
    let store = Store::new(port);
    let create = format!("http://127.0.0.1:{port}/{}", store.bucket);
    let start = Instant::now();
    while reqwest::Client::new().put(&create).send().await.is_err() {
        if !server.is_running() || start.elapsed() > Duration::from_secs(60) {
            bail!("moto did not come up\n{}", server.log_tail());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((server, store))
}

/// Starts `SeaweedFS`. It opens some fixed ports too: one at a time.
///
/// # Errors
/// When it does not let us in within a minute.
pub async fn seaweed(folder: &Path) -> Result<(Process, Store)> {
    let (port, data) = (free_port()?, folder.join("weed"));
    fs::create_dir_all(&data).context("the folder of SeaweedFS")?;
    let store = Store::new(port);
    let mut command = Command::new(program("weed")?);
    command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret").arg("mini");
    command.arg(format!("-dir={}", data.display())).args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
    command.arg(format!("-s3.port={port}")).args(["-master.port=19333", "-volume.port=19340", "-filer.port=18888"]);
    command.args(["-admin.ui=false", "-webdav=false"]).arg(format!("-bucket={}", store.bucket));
    let mut server = Process::run(command, "weed", &folder.join("weed.log"))?;
    let (bucket, start) = (store.open()?, Instant::now());
    let probe = senmon_protocol::ids::StorageKey::new("probe")?;
    while bucket.put(&probe, b"x".to_vec()).await.is_err() {
        if !server.is_running() || start.elapsed() > Duration::from_secs(60) {
            bail!("SeaweedFS did not come up\n{}", server.log_tail());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bucket.delete(&probe).await?;
    Ok((server, store))
}
