//! One bucket, below one prefix.

use crate::url::{S3Settings, StoreUrl};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    ClientOptions, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path as ObjectPath,
};
use senmon_protocol::ids::StorageKey;
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, ops::Range, path::Path, sync::Arc, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

/// Bytes of one part, up and down. The largest object then has 10,000 parts of it: 320 GiB.
const PART_BYTES: usize = 32 << 20;
/// Parts under way at a time: 128 MiB of memory.
const PARTS_AT_ONCE: usize = 4;
/// No part should take longer; a link of 1 Mbit/s cannot carry checkpoints.
const REQUEST_MAX: Duration = Duration::from_secs(300);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long one request is repeated before its caller hears of it.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: StorageKey,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// An open bucket; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Arc<AmazonS3>,
    prefix: String,
    url: String,
}

/// Whether an error says that there is no such object, and not that the store cannot be reached.
#[must_use]
pub fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::NotFound { .. }))
}

/// Whether an error says that the store cannot be reached, or refuses for now.
#[must_use]
pub fn is_away(error: &(dyn std::error::Error + 'static)) -> bool {
    let lasting = |error: &Error| {
        matches!(
            error,
            Error::NotFound { .. }
                | Error::InvalidPath { .. }
                | Error::NotSupported { .. }
                | Error::NotImplemented { .. }
        )
    };
    error.downcast_ref::<Error>().is_some_and(|error| !lasting(error))
}

impl Bucket {
    /// Opens a bucket; nothing is asked of it yet.
    ///
    /// # Errors
    /// When the settings do not make a client.
    pub fn open(bucket: &str, prefix: &str, settings: &S3Settings) -> Result<Self> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let given = [
            (AmazonS3ConfigKey::Endpoint, &settings.endpoint),
            (AmazonS3ConfigKey::Region, &settings.region),
            (AmazonS3ConfigKey::AccessKeyId, &settings.access_key_id),
            (AmazonS3ConfigKey::SecretAccessKey, &settings.secret_access_key),
        ];
        for (key, value) in given {
            if let Some(value) = value {
                builder = builder.with_config(key, value);
            }
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let options = ClientOptions::new().with_timeout(REQUEST_MAX).with_connect_timeout(CONNECT_MAX);
        let store = builder
            .with_client_options(options)
            .with_allow_http(plain)
            .with_retry(RetryConfig { retry_timeout: RETRY_MAX, ..RetryConfig::default() })
            .build()
            .with_context(|| format!("storage_url: the bucket {bucket}"))?;
        let url = format!("s3://{bucket}{}{prefix}", if prefix.is_empty() { "" } else { "/" });
        Ok(Self { store: Arc::new(store), prefix: prefix.to_owned(), url })
    }

    /// Opens what an address names, if that is a bucket.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(url: &StoreUrl, settings: &S3Settings) -> Result<Option<Self>> {
        match url {
            StoreUrl::Folder(_) => Ok(None),
            StoreUrl::Bucket { bucket, prefix } => Self::open(bucket, prefix, settings).map(Some),
        }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn at(&self, key: &StorageKey) -> ObjectPath {
        ObjectPath::from(format!("{}/{key}", self.prefix))
    }

    /// Asks the store whether it is there and lets us in.
    ///
    /// # Errors
    /// What it says.
    pub async fn probe(&self) -> Result<()> {
        let prefix = ObjectPath::from(self.prefix.as_str());
        match self.store.list(Some(&prefix)).next().await {
            Some(Err(error)) => Err(error).with_context(|| format!("the store {} cannot be read", self.url)),
            _ => Ok(()),
        }
    }

    /// Writes a small object.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put(&self, key: &StorageKey, bytes: Vec<u8>) -> Result<()> {
        self.store.put(&self.at(key), bytes.into()).await.with_context(|| format!("write {key}"))?;
        Ok(())
    }

    /// Writes a small object where there is none. The same bytes in its place are the answer of a request whose own
    /// answer was lost.
    ///
    /// # Errors
    /// When the store refuses, or holds something else there.
    pub async fn put_new(&self, key: &StorageKey, bytes: Vec<u8>) -> Result<()> {
        let payload = PutPayload::from(bytes.clone());
        match self.store.put_opts(&self.at(key), payload, PutMode::Create.into()).await {
            Ok(_) => {}
            // Some stores answer so to everybody in a race; what counts is what lies there.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Err(error) => return Err(error).with_context(|| format!("write {key}")),
        }
        let there = self.get(key).await.with_context(|| format!("read {key} back"))?;
        ensure!(there == bytes, "{key}: somebody else wrote it before");
        Ok(())
    }

    /// Reads a small object.
    ///
    /// # Errors
    /// When it is missing ([`is_missing`]) or the store refuses.
    pub async fn get(&self, key: &StorageKey) -> Result<Vec<u8>> {
        let found = self.store.get(&self.at(key)).await?;
        Ok(found.bytes().await?.to_vec())
    }

    /// Size of an object.
    ///
    /// # Errors
    /// When it is missing ([`is_missing`]) or the store refuses.
    pub async fn size(&self, key: &StorageKey) -> Result<u64> {
        Ok(self.store.head(&self.at(key)).await?.size)
    }

    /// Size and contents, as they come.
    ///
    /// # Errors
    /// When it is missing ([`is_missing`]) or the store refuses.
    pub async fn read(&self, key: &StorageKey) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        let meta = self.store.head(&self.at(key)).await?;
        // All of one version.
        Ok((meta.size, self.parts(key, 0..meta.size, meta.e_tag, 1)))
    }

    /// Bytes of an object, in order, as they come; several parts are under way at a time. The caller compares them with
    /// a hash: nothing else says that they are of one version.
    #[must_use]
    pub fn read_range(&self, key: &StorageKey, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        self.parts(key, range, None, PARTS_AT_ONCE)
    }

    /// By parts, each a request of its own: a connection that breaks costs one part.
    fn parts(
        &self,
        key: &StorageKey,
        range: Range<u64>,
        tag: Option<String>,
        at_once: usize,
    ) -> BoxStream<'static, Result<Bytes>> {
        let (store, at) = (self.store.clone(), self.at(key));
        let firsts = range.clone().step_by(PART_BYTES);
        let parts = futures::stream::iter(firsts).map(move |first| {
            let (store, at, tag) = (store.clone(), at.clone(), tag.clone());
            async move {
                let part = first..(first + PART_BYTES as u64).min(range.end);
                let options = GetOptions::new().with_range(Some(part)).with_if_match(tag);
                Ok::<_, anyhow::Error>(store.get_opts(&at, options).await?.bytes().await?)
            }
        });
        parts.buffered(at_once).boxed()
    }

    /// Size and SHA-256 of an object, read to its end.
    ///
    /// # Errors
    /// When it is missing ([`is_missing`]) or the store refuses.
    pub async fn hash(&self, key: &StorageKey) -> Result<(u64, String)> {
        let (bytes, mut parts) = self.read(key).await?;
        let mut hash = Sha256::new();
        while let Some(part) = parts.try_next().await? {
            hash.update(&part);
        }
        Ok((bytes, hex(&hash.finalize())))
    }

    /// Copies an object into a file, synced; its size and SHA-256.
    ///
    /// # Errors
    /// When it is missing ([`is_missing`]), or store or disk refuse.
    pub async fn get_file(&self, key: &StorageKey, path: &Path) -> Result<(u64, String)> {
        let (bytes, mut parts) = self.read(key).await?;
        let mut file = File::create(path).await.with_context(|| format!("create {}", path.display()))?;
        let mut hash = Sha256::new();
        while let Some(part) = parts.try_next().await? {
            hash.update(&part);
            file.write_all(&part).await.with_context(|| format!("write {}", path.display()))?;
        }
        file.flush().await.with_context(|| format!("write {}", path.display()))?;
        file.sync_all().await.with_context(|| format!("sync {}", path.display()))?;
        Ok((bytes, hex(&hash.finalize())))
    }

    /// Copies a file into an object, in parts where it is large, and asks the store for its size again; the SHA-256 of
    /// what was sent.
    ///
    /// # Errors
    /// When disk or store refuse, or the store holds something else than was sent.
    pub async fn put_file(&self, key: &StorageKey, path: &Path) -> Result<String> {
        self.put_file_telling(key, path, &|_| {}).await
    }

    /// The same; `told` hears of the bytes of each part that is handed over.
    ///
    /// # Errors
    /// As [`Self::put_file`].
    pub async fn put_file_telling(&self, key: &StorageKey, path: &Path, told: &(dyn Fn(u64) + Sync)) -> Result<String> {
        let at = self.at(key);
        let mut file = File::open(path).await.with_context(|| format!("open {}", path.display()))?;
        let (mut hash, mut sent) = (Sha256::new(), 0);
        let first = part(&mut file).await?;
        hash.update(&first);
        sent += first.len() as u64;
        if first.len() < PART_BYTES {
            self.store.put(&at, first.into()).await.with_context(|| format!("write {key}"))?;
        } else {
            let upload = self.store.put_multipart(&at).await.with_context(|| format!("begin {key}"))?;
            let mut writer = object_store::WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            writer.put(first);
            let rest = async {
                loop {
                    writer.wait_for_capacity(PARTS_AT_ONCE).await?;
                    let next = part(&mut file).await?;
                    if next.is_empty() {
                        return Ok::<_, anyhow::Error>(());
                    }
                    hash.update(&next);
                    sent += next.len() as u64;
                    told(next.len() as u64);
                    writer.put(next);
                }
            };
            if let Err(error) = rest.await {
                // Parts that stay behind cost space that no listing shows.
                let _ = writer.abort().await;
                return Err(error).with_context(|| format!("write {key}"));
            }
            writer.finish().await.with_context(|| format!("finish {key}"))?;
        }
        let there = self.store.head(&at).await.with_context(|| format!("look {key} up"))?.size;
        ensure!(there == sent, "{key}: the store holds {there} bytes of the {sent} that were sent");
        Ok(hex(&hash.finalize()))
    }

    /// All objects whose keys begin with a folder's, in no order.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn list(&self, folder: Option<&StorageKey>) -> Result<Vec<Object>> {
        let prefix = folder.map_or_else(|| ObjectPath::from(self.prefix.as_str()), |folder| self.at(folder));
        let mut found = Vec::new();
        let mut objects = self.store.list(Some(&prefix));
        while let Some(object) = objects.try_next().await.with_context(|| format!("list {prefix}"))? {
            let name = object.location.as_ref();
            let own = if self.prefix.is_empty() { Some(name) } else { name.strip_prefix(&format!("{}/", self.prefix)) };
            // A key that we could not have written belongs to somebody else.
            if let Some(key) = own.and_then(|own| StorageKey::new(own.to_owned()).ok()) {
                found.push(Object { key, bytes: object.size, modified: object.last_modified });
            }
        }
        Ok(found)
    }

    /// Deletes an object; one that is not there is deleted already.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn delete(&self, key: &StorageKey) -> Result<()> {
        match self.store.delete(&self.at(key)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => bail!(anyhow::Error::new(error).context(format!("delete {key}"))),
        }
    }
}

/// The next part of a file; empty at its end.
async fn part(file: &mut File) -> Result<Bytes> {
    let mut bytes = Vec::with_capacity(PART_BYTES.min(1 << 20));
    file.take(PART_BYTES as u64).read_to_end(&mut bytes).await.context("read the file")?;
    Ok(bytes.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
