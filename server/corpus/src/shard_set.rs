//! All shards of an experiment as one mapped corpus: windows to train on, documents to score.

use crate::{megatron::IndexedDataset, sha256_file};
use anyhow::{Context, Result, ensure};
use senmon_protocol::job::{ShardIndex, ShardRange, Split};
use std::path::Path;

/// Mapped shards.
#[derive(Debug)]
pub struct ShardSet {
    index: ShardIndex,
    data: Vec<IndexedDataset>,
    /// Training ranges by domain: (shard, range), in shard order.
    train: Vec<Vec<(usize, ShardRange)>>,
    /// Held-out ranges by domain, likewise.
    held_out: Vec<Vec<(usize, ShardRange)>>,
}

impl ShardSet {
    /// Maps the shards of `index` below the store's root and checks the ranges against them.
    ///
    /// # Errors
    /// When a shard is missing, damaged, or its ranges reach beyond it; the message names the folder.
    pub fn open(index: ShardIndex, root: &Path) -> Result<Self> {
        let domains = index.domains as usize;
        let mut set =
            Self { data: Vec::new(), train: vec![Vec::new(); domains], held_out: vec![Vec::new(); domains], index };
        for (number, shard) in set.index.shards.iter().enumerate() {
            let name = || format!("shard {}", shard.folder);
            let data = IndexedDataset::open(&root.join(shard.folder.as_str()).join("shard")).with_context(name)?;
            for range in &shard.ranges {
                let inside = range.token_first + range.tokens <= data.tokens()
                    && range.document_first + range.documents <= data.documents()
                    && (range.domain as usize) < domains;
                ensure!(inside, "{}: range {range:?} reaches beyond {} tokens", name(), data.tokens());
                let side = match range.split {
                    Split::Train => &mut set.train,
                    Split::HeldOut => &mut set.held_out,
                };
                side[range.domain as usize].push((number, *range));
            }
            set.data.push(data);
        }
        Ok(set)
    }

    /// Compares each shard's files with the hashes of the index.
    ///
    /// # Errors
    /// The first file that differs, with both hashes.
    pub fn verify(&self, root: &Path) -> Result<()> {
        for shard in &self.index.shards {
            for (name, expected) in [("shard.bin", &shard.bin_sha256), ("shard.idx", &shard.idx_sha256)] {
                let path = root.join(shard.folder.as_str()).join(name);
                let found = sha256_file(&path).with_context(|| path.display().to_string())?;
                ensure!(found == *expected, "{}/{name}: SHA-256 is {found}, the index says {expected}", shard.folder);
            }
        }
        Ok(())
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &ShardIndex {
        &self.index
    }

    /// Training windows of `sequence_length` tokens (plus the one after, a target only) by domain.
    #[must_use]
    pub fn windows(&self, sequence_length: u32) -> Vec<u64> {
        windows_by_domain(&self.index, sequence_length)
    }

    /// Fills `out` (sequence length + 1 tokens) with a window of a domain.
    ///
    /// # Errors
    /// When the domain has no such window, or a token is beyond the vocabulary.
    pub fn window(&self, domain: u32, window: u64, out: &mut [u32]) -> Result<()> {
        let length = out.len() as u64 - 1;
        let mut left = window;
        for (shard, range) in self.train.get(domain as usize).map_or(&[][..], Vec::as_slice) {
            let held = windows_of(range.tokens, length);
            if left < held {
                self.data[*shard].read(range.token_first + left * length, out)?;
                return self.check_tokens(*shard, out);
            }
            left -= held;
        }
        anyhow::bail!("domain {domain} has no window {window}")
    }

    /// The first `limit` held-out documents of a domain, each closed by the separator.
    ///
    /// # Errors
    /// When a token is beyond the vocabulary.
    pub fn held_out(&self, domain: u32, limit: u32) -> Result<Vec<Vec<u32>>> {
        let mut documents = Vec::new();
        for (shard, range) in self.held_out.get(domain as usize).map_or(&[][..], Vec::as_slice) {
            for document in range.document_first..range.document_first + range.documents {
                if documents.len() == limit as usize {
                    return Ok(documents);
                }
                let (first, length) = self.data[*shard].document(document).context("a document of the index")?;
                let mut tokens = vec![0; usize::try_from(length)?];
                self.data[*shard].read(first, &mut tokens)?;
                self.check_tokens(*shard, &tokens)?;
                documents.push(tokens);
            }
        }
        Ok(documents)
    }

    fn check_tokens(&self, shard: usize, tokens: &[u32]) -> Result<()> {
        let vocab = self.index.vocab_size;
        match tokens.iter().find(|token| **token >= vocab) {
            None => Ok(()),
            Some(token) => {
                let folder = &self.index.shards[shard].folder;
                anyhow::bail!("shard {folder}: found token {token}, the vocabulary has {vocab} entries")
            }
        }
    }
}

/// Training windows by domain, from the index alone.
#[must_use]
pub fn windows_by_domain(index: &ShardIndex, sequence_length: u32) -> Vec<u64> {
    let mut windows = vec![0; index.domains as usize];
    for range in index.shards.iter().flat_map(|shard| &shard.ranges).filter(|range| range.split == Split::Train) {
        windows[range.domain as usize] += windows_of(range.tokens, sequence_length.into());
    }
    windows
}

fn windows_of(tokens: u64, length: u64) -> u64 {
    tokens.saturating_sub(1) / length.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discover::discover,
        read::Document,
        shard::{ShardInput, write_shard},
        tokenizer::{SEPARATOR, Tokenizer, train},
    };
    use senmon_protocol::{corpus::DocumentFields, ids::StorageKey, job::ShardResult};
    use std::fs;

    fn build(root: &Path) -> ShardIndex {
        let texts: Vec<String> = (0..90)
            .map(|i| {
                if i % 3 == 0 {
                    format!("料理の醤油と砂糖 {i}")
                } else {
                    format!("kernel page memory driver {i}")
                }
            })
            .collect();
        let lines: String = texts
            .iter()
            .enumerate()
            .map(|(i, text)| serde_json::json!({ "id": i, "text": text }).to_string() + "\n")
            .collect();
        let path = root.join("in.jsonl");
        fs::write(&path, lines).unwrap();
        let sample: Vec<Document> = texts
            .iter()
            .zip(0..)
            .map(|(text, i)| Document { record: i, id: i.to_string(), group: None, source: None, text: text.clone() })
            .collect();
        let spec = serde_json::from_value(serde_json::json!({ "domains": 2 })).unwrap();
        let router = discover(&sample, &spec).unwrap().router;
        let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
        let tokenizer = Tokenizer::from_bytes(&train(&borrowed, 280).unwrap(), SEPARATOR).unwrap();
        let fields = DocumentFields { id: Some("id".into()), ..DocumentFields::default() };
        let input = ShardInput {
            path: &path,
            fields: &fields,
            dropped: &[4],
            router: &router,
            router_sha256: "r",
            tokenizer: &tokenizer,
            tokenizer_sha256: "t",
            held_out_fraction: 0.2,
        };
        let key = StorageKey::new("shards/0/f1").unwrap();
        let sidecar = write_shard(&input, &root.join(key.as_str()), |_| true).unwrap().unwrap();
        assert_eq!(sidecar.counts.documents, 89);
        assert_eq!(sidecar.counts.duplicates, 1);
        let shard = ShardResult {
            folder: key,
            bin_sha256: sidecar.bin_sha256,
            idx_sha256: sidecar.idx_sha256,
            counts: sidecar.counts,
            ranges: sidecar.ranges,
        };
        ShardIndex { domains: 2, vocab_size: tokenizer.vocab_size(), separator_id: 0, shards: vec![shard] }
    }

    #[test]
    fn a_shard_is_read_back_by_domain_and_split() {
        let folder = tempfile::tempdir().unwrap();
        let index = build(folder.path());
        let set = ShardSet::open(index.clone(), folder.path()).unwrap();
        set.verify(folder.path()).unwrap();
        let documents: u64 = index.shards[0].ranges.iter().map(|range| range.documents).sum();
        assert_eq!(documents, 89);
        let held: Vec<_> = (0..2).map(|domain| set.held_out(domain, 1000).unwrap()).collect();
        assert!(held.iter().flatten().all(|document| document.last() == Some(&0)));
        assert!((5..40).contains(&held.iter().flatten().count()));
        let windows = set.windows(8);
        let mut window = vec![0; 9];
        for (domain, count) in windows.iter().zip(0..).map(|(count, domain)| (domain, *count)) {
            (0..count).for_each(|w| set.window(domain, w, &mut window).unwrap());
            assert!(set.window(domain, count, &mut window).is_err());
        }
    }

    #[test]
    fn an_altered_shard_and_a_wild_token_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let index = build(folder.path());
        let mut small = index.clone();
        small.vocab_size = 5;
        let set = ShardSet::open(small, folder.path()).unwrap();
        assert!(set.held_out(0, 10).or(set.held_out(1, 10)).unwrap_err().to_string().contains("vocabulary has 5"));
        let path = folder.path().join("shards/0/f1/shard.bin");
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
        let set = ShardSet::open(index, folder.path()).unwrap();
        assert!(set.verify(folder.path()).unwrap_err().to_string().contains("shard.bin: SHA-256"));
    }
}
