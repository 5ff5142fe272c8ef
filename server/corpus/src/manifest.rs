//! A checkpoint folder against its manifest: what the worker asks before it loads, and the server when somebody asks.

use crate::{hex, sha256_file};
use anyhow::{Context, Result, ensure};
use senmon_protocol::checkpoint::{FileEntry, MANIFEST_FILE, Manifest};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

/// Checks a folder of the store against its manifest.
///
/// # Errors
/// The first file that is missing, short or altered, by name; the manifest itself when it is not the committed one.
pub fn verify(folder: &Path, manifest_sha256: &str) -> Result<Manifest> {
    let bytes =
        fs::read(folder.join(MANIFEST_FILE)).with_context(|| format!("{MANIFEST_FILE} of {}", folder.display()))?;
    let manifest = parse(&bytes, manifest_sha256)?;
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let bytes = fs::metadata(&path).with_context(|| format!("{name} is missing"))?.len();
        // A short file is not read to its end to say so.
        let sha256 = if bytes == entry.bytes { sha256_file(&path)? } else { String::new() };
        compare(name, entry, bytes, &sha256)?;
    }
    Ok(manifest)
}

/// Reads a manifest.
///
/// # Errors
/// When it is not the committed one, or none at all.
pub fn parse(bytes: &[u8], manifest_sha256: &str) -> Result<Manifest> {
    let found = hex(&Sha256::digest(bytes));
    ensure!(found == manifest_sha256, "{MANIFEST_FILE}: SHA-256 is {found}, the committed one is {manifest_sha256}");
    serde_json::from_slice(bytes).context(MANIFEST_FILE)
}

/// Compares what was found of a file with what the manifest says.
///
/// # Errors
/// The difference, with the file's name.
pub fn compare(name: &str, entry: &FileEntry, bytes: u64, sha256: &str) -> Result<()> {
    ensure!(bytes == entry.bytes, "{name}: {bytes} bytes, the manifest says {}", entry.bytes);
    ensure!(sha256 == entry.sha256, "{name}: SHA-256 is {sha256}, the manifest says {}", entry.sha256);
    Ok(())
}
