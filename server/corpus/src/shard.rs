//! One input file to one shard: documents read once, assigned to domains, tokenised, split, grouped.
//!
//! Tokens are spilled to one temporary file per (domain, split) and joined at the end, so memory does not grow with
//! the file.

use crate::{
    hex, is_held_out,
    megatron::{TokenType, push_token, write_index},
    read::{Document, FileRead, Trouble, documents},
    router::Router,
    tokenizer::Tokenizer,
};
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use senmon_protocol::{
    corpus::{DocumentCounts, DocumentFields, FileProblemKind},
    job::{ShardRange, Split},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Documents vectorised and tokenised side by side.
const BATCH_DOCUMENTS: usize = 256;
/// Text of a batch: documents of books would fill the memory.
const BATCH_BYTES: usize = 16 << 20;
/// Bytes of tokens held back before they are spilled.
const BUFFER_BYTES: usize = 32 << 20;

/// What to shard.
#[derive(Debug)]
pub struct ShardInput<'a> {
    /// The file.
    pub path: &'a Path,
    /// Fields of its records.
    pub fields: &'a DocumentFields,
    /// Records to leave out (empty texts and duplicates, counted by the scan).
    pub dropped: &'a [u64],
    /// Assigns documents to domains.
    pub router: &'a Router,
    /// Hash of the router's artefact.
    pub router_sha256: &'a str,
    /// Makes tokens.
    pub tokenizer: &'a Tokenizer,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: &'a str,
    /// Share of documents held out.
    pub held_out_fraction: f64,
}

/// `shard.json`: what a reader must know beside Megatron's two files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sidecar {
    /// Version of this file: 1.
    pub format: u32,
    /// SHA-256 of `shard.bin`.
    pub bin_sha256: String,
    /// SHA-256 of `shard.idx`.
    pub idx_sha256: String,
    /// SHA-256 of the input file, of the bytes that were read.
    pub input_sha256: String,
    /// Hash of the router's artefact.
    pub router_sha256: String,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// What was read.
    pub counts: DocumentCounts,
    /// Ranges by (domain, split).
    pub ranges: Vec<ShardRange>,
    /// SHA-256 of each range's bytes, in the same order.
    pub range_sha256: Vec<String>,
}

/// One (domain, split) while it grows.
#[derive(Debug, Default)]
struct Lane {
    lengths: Vec<u64>,
    buffer: Vec<u8>,
}

/// Writes `shard.bin`, `shard.idx` and `shard.json` into `folder` and syncs them. `progress` is told the documents
/// done after each batch and answers whether to go on; None is returned when it does not.
///
/// # Errors
/// When the input cannot be opened, a text not be tokenised, or the folder not be written to.
pub fn write_shard(input: &ShardInput, folder: &Path, progress: impl FnMut(u64) -> bool) -> Result<Option<Sidecar>> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let spill = folder.join("spill");
    fs::create_dir_all(&spill)?;
    let kind = TokenType::for_vocab(input.tokenizer.vocab_size());
    let sidecar = match fill(input, kind, &spill, progress)? {
        Some((lanes, read)) => Some(join(input, folder, &spill, kind, lanes, read)?),
        None => None,
    };
    fs::remove_dir_all(&spill)?;
    Ok(sidecar)
}

type Lanes = BTreeMap<(u32, Split), Lane>;

fn fill(
    input: &ShardInput,
    kind: TokenType,
    spill: &Path,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<Option<(Lanes, FileRead)>> {
    let dropped: HashSet<u64> = input.dropped.iter().copied().collect();
    let mut lanes = Lanes::new();
    let mut counts = DocumentCounts::default();
    let mut buffered = 0;
    let mut items = documents(input.path, input.fields)?;
    loop {
        let (mut batch, mut batch_bytes) = (Vec::with_capacity(BATCH_DOCUMENTS), 0);
        for item in items.by_ref() {
            match item {
                Ok(document) if dropped.contains(&document.record) && document.text.trim().is_empty() => {
                    counts.empty += 1
                }
                Ok(document) if dropped.contains(&document.record) => counts.duplicates += 1,
                Ok(document) => {
                    batch_bytes += document.text.len();
                    batch.push(document);
                }
                Err(Trouble::File(problem)) if problem.kind == FileProblemKind::Unreadable => {
                    bail!("from record {} on: {}", problem.record, problem.why)
                }
                // Counted by the reader; a damaged file ends here as it did when it was registered.
                Err(_) => {}
            }
            if batch.len() == BATCH_DOCUMENTS || batch_bytes >= BATCH_BYTES {
                break;
            }
        }
        if batch.is_empty() {
            break;
        }
        buffered += append(input, kind, &batch, &mut lanes)?;
        counts.documents += batch.len() as u64;
        counts.text_bytes += batch_bytes as u64;
        if buffered > BUFFER_BYTES {
            lanes.iter_mut().try_for_each(|(key, lane)| spill_lane(spill, *key, lane))?;
            buffered = 0;
        }
        if !progress(counts.documents) {
            return Ok(None);
        }
    }
    let mut read = items.end()?;
    read.counts.add(&counts);
    Ok(Some((lanes, read)))
}

fn append(input: &ShardInput, kind: TokenType, batch: &[Document], lanes: &mut Lanes) -> Result<usize> {
    let texts: Vec<&str> = batch.iter().map(|document| document.text.as_str()).collect();
    let domains: Vec<u32> = texts.par_iter().map(|text| input.router.assign(text)).collect();
    let mut bytes = 0;
    for ((document, tokens), domain) in batch.iter().zip(input.tokenizer.encode(&texts)?).zip(domains) {
        let split =
            if is_held_out(document.split_key(), input.held_out_fraction) { Split::HeldOut } else { Split::Train };
        let lane = lanes.entry((domain, split)).or_default();
        lane.lengths.push(tokens.len() as u64);
        tokens.iter().for_each(|&token| push_token(&mut lane.buffer, token, kind));
        bytes += tokens.len() * kind.bytes();
    }
    Ok(bytes)
}

fn spill_path(spill: &Path, (domain, split): (u32, Split)) -> PathBuf {
    spill.join(format!("{domain}-{split:?}"))
}

fn spill_lane(spill: &Path, key: (u32, Split), lane: &mut Lane) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(spill_path(spill, key))?;
    file.write_all(&lane.buffer)?;
    lane.buffer.clear();
    Ok(())
}

fn join(
    input: &ShardInput,
    folder: &Path,
    spill: &Path,
    kind: TokenType,
    lanes: Lanes,
    read: FileRead,
) -> Result<Sidecar> {
    let mut out = BufWriter::new(File::create(folder.join("shard.bin"))?);
    let mut whole = Sha256::new();
    let (mut lengths, mut ranges, mut range_sha256) = (Vec::new(), Vec::new(), Vec::new());
    let mut token_first = 0;
    for (key, lane) in lanes {
        let mut hash = Sha256::new();
        let mut write = |bytes: &[u8]| {
            hash.update(bytes);
            whole.update(bytes);
            out.write_all(bytes)
        };
        if let Ok(mut file) = File::open(spill_path(spill, key)) {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = file.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                write(&buffer[..n])?;
            }
        }
        write(&lane.buffer)?;
        let tokens = lane.lengths.iter().sum();
        ranges.push(ShardRange {
            domain: key.0,
            split: key.1,
            document_first: lengths.len() as u64,
            documents: lane.lengths.len() as u64,
            token_first,
            tokens,
        });
        range_sha256.push(hex(&hash.finalize()));
        token_first += tokens;
        lengths.extend(lane.lengths);
    }
    out.into_inner().context("flush shard.bin")?.sync_all().context("sync shard.bin")?;
    let idx = folder.join("shard.idx");
    write_index(&idx, &lengths, kind)?;
    let sidecar = Sidecar {
        format: 1,
        bin_sha256: hex(&whole.finalize()),
        idx_sha256: crate::sha256_file(&idx)?,
        input_sha256: read.sha256,
        router_sha256: input.router_sha256.to_owned(),
        tokenizer_sha256: input.tokenizer_sha256.to_owned(),
        counts: read.counts,
        ranges,
        range_sha256,
    };
    let mut file = File::create(folder.join("shard.json"))?;
    file.write_all(&serde_json::to_vec_pretty(&sidecar)?)?;
    file.sync_all().context("sync shard.json")?;
    File::open(folder)?.sync_all().context("sync the shard's folder")?;
    Ok(sidecar)
}
