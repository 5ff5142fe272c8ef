//! A small slice of the demo corpus: real text of four sources, English and Japanese.

use crate::process::repository;
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Writes up to `documents` documents of each of `sources` (file stems of `var/demo/corpus`) to `<folder>/<source>.jsonl`.
///
/// # Errors
/// When the demo corpus was not assembled (`scripts/setup-corpus`).
pub fn slice(folder: &Path, sources: usize, documents: usize) -> Result<Vec<PathBuf>> {
    let corpus = repository().join("var/demo/corpus");
    let mut files: Vec<_> = fs::read_dir(&corpus)
        .context("read var/demo/corpus: run scripts/setup-corpus first")?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.to_string_lossy().contains(".jsonl"));
    files.sort();
    // Two Japanese sources first, so that both languages are always there.
    files.sort_by_key(|path| !path.to_string_lossy().contains("-ja"));
    let japanese = files.iter().filter(|path| path.to_string_lossy().contains("-ja")).count();
    ensure!(japanese >= 2 && files.len() >= sources, "the demo corpus has too few sources: {files:?}");
    let picked = files.iter().take(2).chain(files.iter().skip(japanese).take(sources.saturating_sub(2)));
    fs::create_dir_all(folder)?;
    picked.map(|source| copy_head(source, folder, documents)).collect()
}

fn copy_head(source: &Path, folder: &Path, documents: usize) -> Result<PathBuf> {
    let name = source.file_name().and_then(|n| n.to_str()).context("a file name")?;
    let target = folder.join(format!("{}.jsonl", name.split('.').next().unwrap_or(name)));
    let mut out = File::create(&target)?;
    for line in reader(source)?.lines().take(documents) {
        writeln!(out, "{}", line?)?;
    }
    Ok(target)
}

fn reader(source: &Path) -> Result<Box<dyn BufRead>> {
    let tool = match source.extension().and_then(|e| e.to_str()) {
        Some("gz") => "gzip",
        Some("zst") => "zstd",
        _ => return Ok(Box::new(BufReader::new(File::open(source)?))),
    };
    let child = Command::new(tool).arg("-dc").arg(source).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    Ok(Box::new(BufReader::new(child.stdout.context("a pipe")?)))
}
