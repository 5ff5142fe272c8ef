//! One input file to one shard: documents read once, assigned to domains, tokenised, split, grouped.
//!
//! Tokens are spilled to one temporary file per (domain, split) and joined at the end, so memory does not grow with
//! the file.

use crate::{
    held_out::{HELD_OUT_FILE, Smallest, is_held_out},
    hex,
    megatron::{TokenType, push_token, write_index},
    read::{Document, FileRead, documents},
    roots::Roots,
    router::Router,
    tokenizer::Tokenizer,
};
use anyhow::{Context, Result};
use rayon::prelude::*;
use senmon_protocol::{
    corpus::{DocumentCounts, DocumentFields},
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

/// Bytes of tokens held back before they are spilled.
const BUFFER_BYTES: usize = 32 << 20;

/// The files of a shard.
pub const SHARD_FILES: [&str; 4] = ["shard.bin", "shard.idx", "shard.json", HELD_OUT_FILE];

/// What to shard.
#[derive(Debug)]
pub struct ShardInput<'a> {
    /// Where files may be read.
    pub roots: &'a Roots,
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
    /// Held-out documents of each domain that an evaluation may ask for.
    pub documents_per_domain: u32,
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
    /// SHA-256 of `held_out.json`.
    pub held_out_sha256: String,
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

/// What a pass over the file leaves.
struct Filled {
    lanes: Lanes,
    read: FileRead,
    /// Candidates, placed inside their lanes.
    held_out: Smallest,
}

/// Writes `shard.bin`, `shard.idx`, `held_out.json` and `shard.json` into `folder` and syncs them. `progress` is told
/// the documents done after each batch and answers whether to go on; None is returned when it does not.
///
/// # Errors
/// When the input cannot be opened, a text not be tokenised, or the folder not be written to.
pub fn write_shard(input: &ShardInput, folder: &Path, progress: impl FnMut(u64) -> bool) -> Result<Option<Sidecar>> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let spill = folder.join("spill");
    fs::create_dir_all(&spill)?;
    let kind = TokenType::for_vocab(input.tokenizer.vocab_size());
    let sidecar = match fill(input, kind, &spill, progress)? {
        Some(filled) => Some(join(input, folder, &spill, kind, filled)?),
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
) -> Result<Option<Filled>> {
    let dropped: HashSet<u64> = input.dropped.iter().copied().collect();
    let (mut lanes, mut held_out) = (Lanes::new(), Smallest::new(input.documents_per_domain));
    let (mut counts, mut empty, mut duplicates) = (DocumentCounts::default(), 0, 0);
    let mut buffered = 0;
    let mut items = documents(input.roots, input.path, input.fields)?;
    let mut next_batch = || {
        items.next_batch(|document| {
            let is_dropped = dropped.contains(&document.record);
            let count = if document.text.trim().is_empty() { &mut empty } else { &mut duplicates };
            *count += u64::from(is_dropped);
            !is_dropped
        })
    };
    let mut batch = next_batch()?;
    while !batch.is_empty() {
        // A file is unpacked and read by one thread: it does so while the others work on what it read before.
        let (next, appended) = rayon::join(&mut next_batch, || append(input, kind, &batch, &mut lanes, &mut held_out));
        buffered += appended?;
        counts.documents += batch.len() as u64;
        counts.text_bytes += batch.iter().map(|document| document.text.len() as u64).sum::<u64>();
        if buffered > BUFFER_BYTES {
            lanes.iter_mut().try_for_each(|(key, lane)| spill_lane(spill, *key, lane))?;
            buffered = 0;
        }
        if !progress(counts.documents) {
            return Ok(None);
        }
        batch = next?;
    }
    (counts.empty, counts.duplicates) = (empty, duplicates);
    let mut read = items.end()?;
    read.counts.add(&counts);
    Ok(Some(Filled { lanes, read, held_out }))
}

fn append(
    input: &ShardInput,
    kind: TokenType,
    batch: &[Document],
    lanes: &mut Lanes,
    held_out: &mut Smallest,
) -> Result<usize> {
    let one = |document: &Document| {
        let tokens = input.tokenizer.encode(&document.text)?;
        anyhow::Ok((input.router.assign(&document.text), tokens))
    };
    let done: Vec<(u32, Vec<u32>)> = batch.par_iter().map(one).collect::<Result<_>>()?;
    let mut bytes = 0;
    for (document, (domain, tokens)) in batch.iter().zip(done) {
        let is_held_out = is_held_out(document.split_key(), input.held_out_fraction);
        let lane = lanes.entry((domain, if is_held_out { Split::HeldOut } else { Split::Train })).or_default();
        if is_held_out {
            held_out.see(document, domain, lane.lengths.len() as u64);
        }
        let opened = input.tokenizer.bos_id().into_iter().chain(tokens);
        let before = lane.buffer.len();
        opened.for_each(|token| push_token(&mut lane.buffer, token, kind));
        lane.lengths.push(((lane.buffer.len() - before) / kind.bytes()) as u64);
        bytes += lane.buffer.len() - before;
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
    Filled { lanes, read, held_out }: Filled,
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
    let mut candidates = held_out.into_candidates();
    for candidate in &mut candidates {
        let of = |range: &&ShardRange| (range.domain, range.split) == (candidate.domain, Split::HeldOut);
        candidate.document += ranges.iter().find(of).context("a lane of held-out documents")?.document_first;
    }
    write_synced(&folder.join(HELD_OUT_FILE), &serde_json::to_vec(&candidates)?)?;
    let idx = folder.join("shard.idx");
    write_index(&idx, &lengths, kind)?;
    let sidecar = Sidecar {
        format: 1,
        bin_sha256: hex(&whole.finalize()),
        idx_sha256: crate::sha256_file(&idx)?,
        input_sha256: read.sha256,
        held_out_sha256: crate::sha256_file(&folder.join(HELD_OUT_FILE))?,
        router_sha256: input.router_sha256.to_owned(),
        tokenizer_sha256: input.tokenizer_sha256.to_owned(),
        counts: read.counts,
        ranges,
        range_sha256,
    };
    write_synced(&folder.join("shard.json"), &serde_json::to_vec_pretty(&sidecar)?)?;
    File::open(folder)?.sync_all().context("sync the shard's folder")?;
    Ok(sidecar)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("write {}", path.display()))?;
    file.sync_all().with_context(|| format!("sync {}", path.display()))
}
