//! Megatron-LM's indexed dataset: `.bin` (tokens) and `.idx` (lengths and places), readable by Megatron as they are.
//!
//! Index: 9 bytes `MMIDIDX\0\0`, u64 version 1, u8 type code, u64 sequences, u64 documents + 1, i32 lengths, i64 byte
//! pointers, i64 document indices starting with 0 (Megatron-LM, `indexed_dataset.py`). One sequence a document.

use anyhow::{Context, Result, ensure};
use memmap2::{Mmap, MmapMut};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER: usize = 9 + 8 + 1 + 8 + 8;
/// Vocabularies below this are written as u16 (Megatron's rule).
pub const U16_VOCAB_MAX: u32 = 65_500;

/// Number format of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// Type code 8.
    U16,
    /// Type code 4.
    I32,
}

impl TokenType {
    /// The type for a vocabulary.
    #[must_use]
    pub fn for_vocab(vocab_size: u32) -> Self {
        if vocab_size < U16_VOCAB_MAX { Self::U16 } else { Self::I32 }
    }

    /// Bytes of one token.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }
}

/// Appends a token in the file's format.
pub fn push_token(out: &mut Vec<u8>, token: u32, kind: TokenType) {
    match kind {
        TokenType::U16 => out.extend(&token.to_le_bytes()[..2]),
        TokenType::I32 => out.extend(token.to_le_bytes()),
    }
}

/// Writes the index for documents of these lengths (in tokens) and syncs it.
///
/// # Errors
/// When the file cannot be written, or a document is longer than an i32 counts.
pub fn write_index(path: &Path, lengths: &[u64], kind: TokenType) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    let documents = lengths.len() as u64;
    out.write_all(MAGIC)?;
    out.write_all(&1_u64.to_le_bytes())?;
    out.write_all(&[kind.code()])?;
    out.write_all(&documents.to_le_bytes())?;
    out.write_all(&(documents + 1).to_le_bytes())?;
    for &length in lengths {
        out.write_all(&i32::try_from(length).context("a document of more than 2^31 tokens")?.to_le_bytes())?;
    }
    let mut pointer = 0_u64;
    for &length in lengths {
        out.write_all(&pointer.to_le_bytes())?;
        pointer += length * kind.bytes() as u64;
    }
    for document in 0..=documents {
        out.write_all(&document.to_le_bytes())?;
    }
    out.into_inner().context("flush the index")?.sync_all().context("sync the index")
}

/// A mapped pair of files.
#[derive(Debug)]
pub struct IndexedDataset {
    tokens: Mmap,
    kind: TokenType,
    /// First token of each document, and the end: [documents + 1].
    starts: Vec<u64>,
}

impl IndexedDataset {
    /// Maps `<stem>.bin` and `<stem>.idx` and checks the index against the tokens.
    ///
    /// # Errors
    /// When a file is missing, cut short, of another format, or its places lie; the message names the file.
    pub fn open(stem: &Path) -> Result<Self> {
        let (bin, idx) = (stem.with_extension("bin"), stem.with_extension("idx"));
        let tokens = map(&bin)?;
        let index = std::fs::read(&idx).with_context(|| format!("read {}", idx.display()))?;
        let (kind, starts) = parse_index(&index, tokens.len() as u64).with_context(|| idx.display().to_string())?;
        Ok(Self { tokens, kind, starts })
    }

    /// A shard of which nothing is read: its files need not be there.
    ///
    /// # Errors
    /// When the system has no page left.
    pub fn unread() -> Result<Self> {
        let tokens = MmapMut::map_anon(1).and_then(MmapMut::make_read_only).context("map a page")?;
        Ok(Self { tokens, kind: TokenType::U16, starts: vec![0] })
    }

    /// Number of documents.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// First token and number of tokens of a document. None beyond the last.
    #[must_use]
    pub fn document(&self, document: u64) -> Option<(u64, u64)> {
        let i = usize::try_from(document).ok()?;
        Some((*self.starts.get(i)?, self.starts.get(i.checked_add(1)?)? - self.starts[i]))
    }

    /// Copies `out.len()` tokens from number `first` on.
    ///
    /// # Errors
    /// When they reach beyond the end.
    pub fn read(&self, first: u64, out: &mut [u32]) -> Result<()> {
        let width = self.kind.bytes();
        let is_there = first.checked_add(out.len() as u64).is_some_and(|end| end <= self.tokens());
        ensure!(is_there, "{} tokens from {first} of a shard with {}", out.len(), self.tokens());
        let first = usize::try_from(first)? * width;
        let bytes = &self.tokens[first..first + out.len() * width];
        match self.kind {
            TokenType::U16 => {
                let (words, _) = bytes.as_chunks::<2>();
                out.iter_mut().zip(words).for_each(|(out, word)| *out = u16::from_le_bytes(*word).into());
            }
            TokenType::I32 => {
                let (words, _) = bytes.as_chunks::<4>();
                out.iter_mut().zip(words).for_each(|(out, word)| *out = u32::from_le_bytes(*word));
            }
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "a mapped file is unsafe by nature; shards are immutable once their folder is named")]
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    // SAFETY: nobody writes to a shard after its folder became known (a folder belongs to one fence); a copy of one may
    // still be given ranges that no job that maps it reads.
    unsafe { Mmap::map(&file) }.with_context(|| format!("map {}", path.display()))
}

fn parse_index(index: &[u8], bin_bytes: u64) -> Result<(TokenType, Vec<u64>)> {
    ensure!(index.len() >= HEADER && index.starts_with(MAGIC), "no Megatron index");
    let word = |at: usize| u64::from_le_bytes(index[at..at + 8].try_into().expect("eight bytes"));
    ensure!(word(9) == 1, "index version {}, expected 1", word(9));
    let kind = match index[17] {
        8 => TokenType::U16,
        4 => TokenType::I32,
        code => anyhow::bail!("token type code {code}, expected 8 (u16) or 4 (i32)"),
    };
    let (sequences, documents) = (word(18), word(26));
    ensure!(documents == sequences.wrapping_add(1), "{documents} document indices for {sequences} sequences");
    let n = usize::try_from(sequences)?;
    let size = n.checked_mul(20).and_then(|size| size.checked_add(HEADER + 8));
    ensure!(size == Some(index.len()), "{} bytes, expected {size:?} for {n} documents", index.len());
    let mut starts = Vec::with_capacity(n + 1);
    let mut start = 0_u64;
    for i in 0..n {
        let length = i32::from_le_bytes(index[HEADER + 4 * i..][..4].try_into().expect("four bytes"));
        let length = u64::try_from(length).with_context(|| format!("document {i} has length {length}"))?;
        let pointer = word(HEADER + 4 * n + 8 * i);
        ensure!(
            pointer == start * kind.bytes() as u64,
            "document {i} starts at byte {pointer}, expected {}",
            start * kind.bytes() as u64
        );
        starts.push(start);
        start += length;
    }
    starts.push(start);
    ensure!(start * kind.bytes() as u64 == bin_bytes, "{start} tokens indexed, the .bin has {bin_bytes} bytes");
    Ok((kind, starts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(folder: &Path, documents: &[Vec<u32>], kind: TokenType) {
        let mut bytes = Vec::new();
        documents.iter().flatten().for_each(|&token| push_token(&mut bytes, token, kind));
        std::fs::write(folder.join("shard.bin"), bytes).unwrap();
        let lengths: Vec<u64> = documents.iter().map(|document| document.len() as u64).collect();
        write_index(&folder.join("shard.idx"), &lengths, kind).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn documents_survive(documents in prop::collection::vec(prop::collection::vec(0_u32..60_000, 1..20), 1..20), wide: bool) {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &documents, if wide { TokenType::I32 } else { TokenType::U16 });
            let set = IndexedDataset::open(&folder.path().join("shard")).unwrap();
            prop_assert_eq!(set.documents(), documents.len() as u64);
            for (document, i) in documents.iter().zip(0..) {
                let (first, length) = set.document(i).unwrap();
                let mut tokens = vec![0; usize::try_from(length).unwrap()];
                set.read(first, &mut tokens).unwrap();
                prop_assert_eq!(&tokens, document);
            }
            prop_assert!(set.read(set.tokens(), &mut [0]).is_err());
        }

        #[test]
        fn a_damaged_index_is_refused_or_reads_inside(place in 0_usize..94, value: u8) {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &[vec![1, 2, 3], vec![4], vec![5, 6]], TokenType::U16);
            let path = folder.path().join("shard.idx");
            let mut bytes = std::fs::read(&path).unwrap();
            prop_assert_eq!(bytes.len(), 34 + 3 * 20 + 8);
            bytes[place] = value;
            std::fs::write(&path, &bytes[..bytes.len() - usize::from(value % 3 == 0)]).unwrap();
            if let Ok(set) = IndexedDataset::open(&folder.path().join("shard")) {
                prop_assert_eq!(set.tokens(), 6);
            }
        }
    }
}
