//! The object store: a folder that server and workers share, or a bucket. Never interprets what it keeps.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use senmon_protocol::ids::StorageKey;
pub use senmon_store::Object;
use senmon_store::{Bucket, S3Settings, StoreUrl, is_missing};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    ops::Range,
    path::{Path, PathBuf},
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// A store.
#[derive(Debug, Clone)]
pub struct Storage {
    place: Place,
    /// Where folders of a bucket are put together or looked at.
    scratch: PathBuf,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
}

/// A folder of the store on this machine: in place, or a copy that goes when it is dropped.
#[derive(Debug)]
pub struct Local {
    /// Where.
    pub path: PathBuf,
    is_copy: bool,
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.is_copy {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Bytes of an object as they come.
pub type Chunks = BoxStream<'static, Result<bytes::Bytes>>;

impl Storage {
    /// Opens the store; a folder is created, a bucket must be there. `scratch` is emptied.
    ///
    /// # Errors
    /// When the folder cannot be made, or the bucket does not let us in.
    pub async fn open(url: &StoreUrl, s3: &S3Settings, scratch: PathBuf) -> Result<Self> {
        let place = match (url, Bucket::of(url, s3)?) {
            (_, Some(bucket)) => {
                bucket.probe().await?;
                let _ = fs::remove_dir_all(&scratch);
                Place::Bucket(bucket)
            }
            (StoreUrl::Folder(root), None) => {
                fs::create_dir_all(root).with_context(|| format!("create the store {}", root.display()))?;
                Place::Folder(root.canonicalize()?)
            }
            (StoreUrl::Bucket { .. }, None) => unreachable!("a bucket's address opens a bucket"),
        };
        Ok(Self { place, scratch })
    }

    /// Where workers find it.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.place {
            Place::Folder(root) => format!("file://{}", root.display()),
            Place::Bucket(bucket) => bucket.url().to_owned(),
        }
    }

    /// The folder that it is; None for a bucket.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(root) => Some(root),
            Place::Bucket(_) => None,
        }
    }

    /// Writes an object whole: temporary file, sync, rename.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put(&self, key: &StorageKey, bytes: Vec<u8>) -> Result<()> {
        match &self.place {
            Place::Bucket(bucket) => bucket.put(key, bytes).await,
            Place::Folder(root) => {
                let path = root.join(key.as_str());
                blocking(move || write_whole(&path, &bytes)).await
            }
        }
    }

    /// Reads a small object; None where there is none.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn get(&self, key: &StorageKey) -> Result<Option<Vec<u8>>> {
        let read = match &self.place {
            Place::Bucket(bucket) => bucket.get(key).await,
            Place::Folder(root) => tokio::fs::read(root.join(key.as_str())).await.map_err(Into::into),
        };
        there(read, key)
    }

    /// Size and contents; None where there is no such object.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn read(&self, key: &StorageKey) -> Result<Option<(u64, Chunks)>> {
        let opened = match &self.place {
            Place::Bucket(bucket) => bucket.read(key).await,
            Place::Folder(root) => open_file(&root.join(key.as_str())).await.map_err(Into::into),
        };
        there(opened, key)
    }

    /// Bytes of an object from the first to before the last; None where there is no such object.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn read_range(&self, key: &StorageKey, range: Range<u64>) -> Result<Option<Chunks>> {
        let opened = match &self.place {
            Place::Bucket(bucket) => Ok(bucket.read_range(key, range)),
            Place::Folder(root) => open_range(&root.join(key.as_str()), range).await.map_err(Into::into),
        };
        there(opened, key)
    }

    /// Size of an object; None where there is none.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn size(&self, key: &StorageKey) -> Result<Option<u64>> {
        let size = match &self.place {
            Place::Bucket(bucket) => bucket.size(key).await,
            Place::Folder(root) => {
                let found = tokio::fs::metadata(root.join(key.as_str())).await;
                found.map(|meta| meta.len()).map_err(Into::into)
            }
        };
        there(size, key)
    }

    /// Size and SHA-256; None where there is no such object, or the disk has lost it.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn hash(&self, key: &StorageKey) -> Result<Option<(u64, String)>> {
        let hashed = match &self.place {
            Place::Bucket(bucket) => bucket.hash(key).await,
            Place::Folder(root) => {
                let path = root.join(key.as_str());
                blocking(move || {
                    // One pass: the size is that of the bytes that were hashed, unless somebody writes to them now.
                    let sha256 = senmon_corpus::sha256_file(&path)?;
                    Ok((fs::metadata(&path)?.len(), sha256))
                })
                .await
            }
        };
        there(hashed, key)
    }

    /// A folder of the store, to be read here.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn local(&self, key: &StorageKey) -> Result<Local> {
        let Place::Bucket(bucket) = &self.place else { return self.local_new(key) };
        let local = self.local_new(key)?;
        for object in bucket.list(Some(key)).await? {
            let name = object.key.as_str().rsplit('/').next().unwrap_or_default();
            bucket.get_file(&object.key, &local.path.join(name)).await?;
        }
        Ok(local)
    }

    /// A new folder of the store, to be written here; [`Self::publish`] makes it part of the store.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn local_new(&self, key: &StorageKey) -> Result<Local> {
        match &self.place {
            Place::Folder(root) => Ok(Local { path: root.join(key.as_str()), is_copy: false }),
            Place::Bucket(_) => {
                let path = self.scratch.join(uuid::Uuid::now_v7().to_string());
                fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
                Ok(Local { path, is_copy: true })
            }
        }
    }

    /// Sends what was written to a new folder.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn publish(&self, key: &StorageKey, local: &Local) -> Result<()> {
        let Place::Bucket(bucket) = &self.place else { return Ok(()) };
        for entry in fs::read_dir(&local.path)? {
            let entry = entry?;
            bucket.put_file(&key.join(entry.file_name().to_string_lossy())?, &entry.path()).await?;
        }
        Ok(())
    }

    /// All objects below a folder, or of the whole store, in no order.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn list(&self, folder: Option<&StorageKey>) -> Result<Vec<Object>> {
        match &self.place {
            Place::Bucket(bucket) => bucket.list(folder).await,
            Place::Folder(root) => {
                let (root, from) = (root.clone(), folder.map_or(root.clone(), |key| root.join(key.as_str())));
                blocking(move || {
                    let mut found = Vec::new();
                    walk(&root, &from, &mut found).with_context(|| format!("list {}", from.display()))?;
                    Ok(found)
                })
                .await
            }
        }
    }

    /// Deletes a folder. The manifest goes first: half a checkpoint is none. Repeating it is harmless.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn delete_folder(&self, key: &StorageKey) -> Result<()> {
        let manifest = key.join(senmon_protocol::checkpoint::MANIFEST_FILE)?;
        match &self.place {
            Place::Bucket(bucket) => {
                bucket.delete(&manifest).await?;
                for object in bucket.list(Some(key)).await? {
                    bucket.delete(&object.key).await?;
                }
                Ok(())
            }
            Place::Folder(root) => {
                let (folder, manifest) = (root.join(key.as_str()), root.join(manifest.as_str()));
                blocking(move || {
                    gone(fs::remove_file(&manifest))?;
                    gone(fs::remove_dir_all(&folder)).with_context(|| format!("delete {}", folder.display()))
                })
                .await
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread of the store panicked")?
}

/// What is not there for good, told from what cannot be read now: an outage must not pass for a loss.
fn there<T>(read: Result<T>, key: &StorageKey) -> Result<Option<T>> {
    let lost = |error: &anyhow::Error| {
        let of_disk = error.downcast_ref::<io::Error>();
        // EIO: the disk has the file's name, and not its bytes any more.
        is_missing(error)
            || of_disk.is_some_and(|e| e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::EIO))
    };
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if lost(&error) => Ok(None),
        Err(error) => Err(error.context(format!("read {key} from the store"))),
    }
}

async fn open_file(path: &Path) -> io::Result<(u64, Chunks)> {
    let file = tokio::fs::File::open(path).await?;
    let bytes = file.metadata().await?.len();
    Ok((bytes, tokio_util::io::ReaderStream::new(file).map_err(Into::into).boxed()))
}

async fn open_range(path: &Path, range: Range<u64>) -> io::Result<Chunks> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(io::SeekFrom::Start(range.start)).await?;
    let part = file.take(range.end.saturating_sub(range.start));
    Ok(tokio_util::io::ReaderStream::new(part).map_err(Into::into).boxed())
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a key has a folder")?;
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("writing");
    let mut file = File::create(&temporary).with_context(|| format!("create {}", temporary.display()))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all().context("sync the folder")
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Files below `from`. What disappears meanwhile is not there.
fn walk(root: &Path, from: &Path, found: &mut Vec<Object>) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_dir() {
            walk(root, &path, found)?;
        } else if let Some(key) = key_of(root, &path).filter(|_| meta.is_file()) {
            found.push(Object { key, bytes: meta.len(), modified: meta.modified()?.into() });
        }
    }
    Ok(())
}

fn key_of(root: &Path, path: &Path) -> Option<StorageKey> {
    StorageKey::new(path.strip_prefix(root).ok()?.to_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn folder(home: &Path) -> Storage {
        Storage::open(&StoreUrl::Folder(home.join("store")), &S3Settings::default(), home.join("scratch"))
            .await
            .unwrap()
    }

    fn key(text: &str) -> StorageKey {
        StorageKey::new(text).unwrap()
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_from_what_cannot_be_read() {
        let home = tempfile::tempdir().unwrap();
        let store = folder(home.path()).await;
        assert!(store.get(&key("a/b")).await.unwrap().is_none());
        assert!(store.hash(&key("a/b")).await.unwrap().is_none());
        assert!(store.size(&key("a/b")).await.unwrap().is_none());
        store.put(&key("a/b"), b"x".to_vec()).await.unwrap();
        assert_eq!(store.get(&key("a/b")).await.unwrap().unwrap(), b"x");
        assert_eq!(store.size(&key("a/b")).await.unwrap(), Some(1));
        assert!(store.get(&key("a")).await.is_err(), "a folder in an object's place is no loss");
    }

    #[tokio::test]
    async fn a_deleted_folder_stays_deleted() {
        let home = tempfile::tempdir().unwrap();
        let store = folder(home.path()).await;
        for name in ["c/1/manifest.json", "c/1/model", "c/2/model"] {
            store.put(&key(name), vec![0; 3]).await.unwrap();
        }
        for _ in 0..2 {
            store.delete_folder(&key("c/1")).await.unwrap();
        }
        let left = store.list(None).await.unwrap();
        assert_eq!(left.iter().map(|o| (o.key.as_str(), o.bytes)).collect::<Vec<_>>(), [("c/2/model", 3)]);
    }
}
