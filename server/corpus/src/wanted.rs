//! Which ranges of the shards a job reads, where their bytes lie, and whether they are what was written.
//!
//! Never maps a file and never looks at a range that is not wanted.

use crate::{hex, megatron::TokenType, sha256_file};
use anyhow::{Context, Result, ensure};
use senmon_protocol::job::{Mixture, ShardIndex, ShardRange, ShardResult, Split};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

/// Bytes read between two words to whoever waits.
const PIECE_BYTES: usize = 4 << 20;

/// What a job reads of the shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// Training text of these domains.
    Train(BTreeSet<u32>),
    /// Held-out text of every domain.
    HeldOut,
}

impl Wanted {
    /// What a branch with this mixture reads.
    #[must_use]
    pub fn of(mixture: &Mixture) -> Self {
        Self::Train(mixture.weights.iter().map(|entry| entry.domain).collect())
    }

    /// Whether a range is read.
    #[must_use]
    pub fn takes(&self, range: &ShardRange) -> bool {
        match self {
            Self::All => true,
            Self::Train(domains) => range.split == Split::Train && domains.contains(&range.domain),
            Self::HeldOut => range.split == Split::HeldOut,
        }
    }

    /// Whether anything of a shard is read. `All` takes shards without a range too: their files must be there.
    #[must_use]
    pub fn takes_of(&self, shard: &ShardResult) -> bool {
        *self == Self::All || shard.ranges.iter().any(|range| self.takes(range))
    }
}

/// Where the bytes of a range lie in `shard.bin`.
#[must_use]
pub fn bytes_of(range: &ShardRange, kind: TokenType) -> Range<u64> {
    let width = kind.bytes() as u64;
    range.token_first * width..(range.token_first + range.tokens) * width
}

/// Bytes of the whole `shard.bin`.
#[must_use]
pub fn bin_bytes(shard: &ShardResult, kind: TokenType) -> u64 {
    shard.ranges.iter().map(|range| bytes_of(range, kind).end).max().unwrap_or(0)
}

/// Compares what is wanted with the hashes of the index: each shard's `.idx`, and its wanted ranges (the whole `.bin`
/// where the hashes of ranges were not kept). `told` hears of the bytes read, and answers whether to go on; false is
/// given back where it does not.
///
/// # Errors
/// The first file or range that is missing or differs, with both hashes.
pub fn verify(index: &ShardIndex, root: &Path, wanted: &Wanted, told: &dyn Fn(u64) -> bool) -> Result<bool> {
    let kind = TokenType::for_vocab(index.vocab_size);
    for shard in index.shards.iter().filter(|shard| wanted.takes_of(shard)) {
        let folder = root.join(shard.folder.as_str());
        let whole = |name: &str, expected: &str| -> Result<()> {
            let path = folder.join(name);
            let found = sha256_file(&path).with_context(|| path.display().to_string())?;
            ensure!(found == expected, "{}/{name}: SHA-256 is {found}, the index says {expected}", shard.folder);
            Ok(())
        };
        whole("shard.idx", &shard.idx_sha256)?;
        let Some(ranges) = shard.hashed_ranges() else {
            whole("shard.bin", &shard.bin_sha256)?;
            if !told(bin_bytes(shard, kind)) {
                return Ok(false);
            }
            continue;
        };
        let path = folder.join("shard.bin");
        let mut file = File::open(&path).with_context(|| path.display().to_string())?;
        for (range, expected) in ranges.filter(|(range, _)| wanted.takes(range)) {
            let hashed = hash_range(&mut file, bytes_of(range, kind), told);
            let Some(found) = hashed.with_context(|| path.display().to_string())? else { return Ok(false) };
            ensure!(
                found == *expected,
                "{}/shard.bin: SHA-256 of {} is {found}, the index says {expected}",
                shard.folder,
                named(range)
            );
        }
    }
    Ok(true)
}

/// SHA-256 of a range of a file; None where `told` says to stop.
///
/// # Errors
/// When the file cannot be read, or ends inside the range.
pub fn hash_range(file: &mut File, range: Range<u64>, told: &dyn Fn(u64) -> bool) -> io::Result<Option<String>> {
    file.seek(SeekFrom::Start(range.start))?;
    let (mut hash, mut left) = (Sha256::new(), range.end - range.start);
    let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
    while left > 0 {
        let n = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut piece[..n])?;
        hash.update(&piece[..n]);
        left -= n as u64;
        if !told(n as u64) {
            return Ok(None);
        }
    }
    Ok(Some(hex(&hash.finalize())))
}

/// A range, in words.
#[must_use]
pub fn named(range: &ShardRange) -> String {
    let side = match range.split {
        Split::Train => "training",
        Split::HeldOut => "held-out",
    };
    format!("the {side} text of domain {}", range.domain)
}
