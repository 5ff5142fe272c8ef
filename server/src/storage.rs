//! The object store: a folder that server and workers share. Never interprets what it keeps.

use anyhow::{Context, Result};
use senmon_protocol::ids::StorageKey;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// A store below one folder.
#[derive(Debug, Clone)]
pub struct Storage {
    root: PathBuf,
}

impl Storage {
    /// Opens the store, creating its folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("create the store {}", root.display()))?;
        Ok(Self { root: root.canonicalize()? })
    }

    /// Where workers find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("file://{}", self.root.display())
    }

    /// Path of a key.
    #[must_use]
    pub fn path(&self, key: &StorageKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Writes an object whole: temporary file, sync, rename.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, key: &StorageKey, bytes: &[u8]) -> Result<()> {
        let path = self.path(key);
        let folder = path.parent().context("a key has a folder")?;
        fs::create_dir_all(folder)?;
        let temporary = path.with_extension("writing");
        let mut file = File::create(&temporary).with_context(|| format!("create {}", temporary.display()))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all().context("sync the folder")
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub fn get(&self, key: &StorageKey) -> Result<Vec<u8>> {
        fs::read(self.path(key)).with_context(|| format!("read {key} from the store"))
    }
}
