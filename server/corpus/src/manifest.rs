//! A checkpoint folder against its manifest: what the worker asks before it loads, and the server when somebody asks.

use crate::{hex, sha256_file};
use anyhow::{Context, Result, ensure};
use senmon_protocol::checkpoint::{MANIFEST_FILE, Manifest};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

/// Checks a folder of the store against its manifest.
///
/// # Errors
/// The first file that is missing, short or altered, by name; the manifest itself when it is not the committed one.
pub fn verify(folder: &Path, manifest_sha256: &str) -> Result<Manifest> {
    let bytes =
        fs::read(folder.join(MANIFEST_FILE)).with_context(|| format!("{MANIFEST_FILE} of {}", folder.display()))?;
    let found = hex(&Sha256::digest(&bytes));
    ensure!(found == manifest_sha256, "{MANIFEST_FILE}: SHA-256 is {found}, the committed one is {manifest_sha256}");
    let manifest: Manifest = serde_json::from_slice(&bytes).context(MANIFEST_FILE)?;
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let bytes = fs::metadata(&path).with_context(|| format!("{name} is missing"))?.len();
        ensure!(bytes == entry.bytes, "{name}: {bytes} bytes, the manifest says {}", entry.bytes);
        let found = sha256_file(&path)?;
        ensure!(found == entry.sha256, "{name}: SHA-256 is {found}, the manifest says {}", entry.sha256);
    }
    Ok(manifest)
}
