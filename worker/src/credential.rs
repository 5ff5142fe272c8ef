//! What makes this worker somebody: a secret that it made itself, in a file of its state folder that only its owner reads.
//! The server knows its hash alone.
//!
//! Never goes anywhere but into the header of a request to the server.

use anyhow::{Context, Result, bail};
use rand::TryRngCore;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Name of the file in the state folder.
const FILE: &str = "credential";

/// A worker's secret.
#[derive(Clone)]
pub struct Credential {
    secret: String,
    path: PathBuf,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Credential {
    /// The one of a state folder; a fresh one of 256 random bits where there is none. It is on the disk before it is used,
    /// so that an enrolment whose answer was lost is not lost with it.
    ///
    /// # Errors
    /// When the folder cannot be read or written, or the file holds something else.
    pub fn of(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        let secret = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(&path)?,
            Err(error) => return Err(error).with_context(|| format!("state_dir: read {}", path.display())),
        };
        if !secret.starts_with("smn_w_") || secret.contains(char::is_whitespace) {
            bail!("state_dir: {} holds no credential (one line, smn_w_…); remove it to enrol anew", path.display());
        }
        Ok(Self { secret, path })
    }

    /// The secret, for a request's header.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Where it is kept.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the server knows of it.
    #[must_use]
    pub fn sha256(&self) -> String {
        senmon_corpus::hex(&Sha256::digest(self.secret.as_bytes()))
    }
}

fn make(path: &Path) -> Result<String> {
    let mut bytes = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).context("the system gives no random bytes")?;
    let secret = format!("smn_w_{}", senmon_corpus::hex(&bytes));
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(folder)?;
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("state_dir: write {}", path.display()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let first = Credential::of(folder.path()).unwrap();
        let again = Credential::of(folder.path()).unwrap();
        assert_eq!(first.secret(), again.secret());
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(first.secret()), "a log line would tell it");
    }

    #[test]
    fn another_file_of_that_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "hello\n").unwrap();
        assert!(Credential::of(folder.path()).unwrap_err().to_string().contains("holds no credential"));
    }
}
