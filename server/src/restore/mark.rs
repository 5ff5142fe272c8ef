//! The mark of a restore that is under way: a file in the data folder. What lies there is not to be served.

use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Name of the file.
const NAME: &str = "restoring";

/// Refuses a data folder that a restore left half done.
///
/// # Errors
/// When there is one.
pub fn check_whole(data_dir: &Path) -> Result<()> {
    let mark = data_dir.join(NAME);
    ensure!(
        !mark.exists(),
        "data_dir: a restore into {} was not finished ({} is there): run `senmon-server restore` again",
        data_dir.display(),
        mark.display()
    );
    Ok(())
}

/// The mark.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    again: bool,
}

impl Mark {
    /// The one of a data folder.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        let path = data_dir.join(NAME);
        Self { again: path.exists(), path }
    }

    /// Whether an earlier restore left it.
    #[must_use]
    pub fn again(&self) -> bool {
        self.again
    }

    /// Sets it, on the disk.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn set(&self) -> Result<()> {
        let file = File::create(&self.path).with_context(|| format!("create {}", self.path.display()))?;
        file.sync_all()?;
        self.sync()
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn unset(&self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("remove {}", self.path.display()))?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        let folder = self.path.parent().context("a mark has a folder")?;
        File::open(folder)?.sync_all().context("sync the data folder")
    }
}
