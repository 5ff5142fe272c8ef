//! All shards of an experiment as one mapped corpus: windows to train on, documents to score.
//!
//! The training tokens of a domain are one sequence, through all documents and shards in the index's order; windows cut
//! it without a gap, so what is left over is less than one window a domain.

use crate::{
    held_out::Listed,
    megatron::IndexedDataset,
    wanted::{self, Wanted},
};
use anyhow::{Context, Result, ensure};
use senmon_protocol::job::{ShardIndex, ShardRange, Split};
use std::path::Path;

/// Mapped shards.
#[derive(Debug)]
pub struct ShardSet {
    index: ShardIndex,
    data: Vec<IndexedDataset>,
    /// Training ranges by domain, in shard order.
    train: Vec<Vec<Stretch>>,
    /// Held-out ranges by domain, likewise.
    held_out: Vec<Vec<(usize, ShardRange)>>,
}

/// A range in its domain's sequence.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Place of its first token in the sequence.
    first: u64,
    /// Its shard.
    shard: usize,
    range: ShardRange,
}

impl ShardSet {
    /// Maps the shards of `index` below the store's root and checks the ranges against them.
    ///
    /// # Errors
    /// When a shard is missing, damaged, or its ranges reach beyond it; the message names the folder.
    pub fn open(index: ShardIndex, root: &Path) -> Result<Self> {
        Self::open_for(index, root, &Wanted::All)
    }

    /// The same for what is wanted alone: shards of which nothing is wanted need not be there, and of the others no
    /// other bytes. What is not wanted cannot be read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(index: ShardIndex, root: &Path, wanted: &Wanted) -> Result<Self> {
        let domains = index.domains as usize;
        let mut set =
            Self { data: Vec::new(), train: vec![Vec::new(); domains], held_out: vec![Vec::new(); domains], index };
        for (number, shard) in set.index.shards.iter().enumerate() {
            if !wanted.takes_of(shard) {
                set.data.push(IndexedDataset::unread()?);
                continue;
            }
            let name = || format!("shard {}", shard.folder);
            let data = IndexedDataset::open(&root.join(shard.folder.as_str()).join("shard")).with_context(name)?;
            for range in shard.ranges.iter().filter(|range| wanted.takes(range)) {
                let inside = range.token_first + range.tokens <= data.tokens()
                    && range.document_first + range.documents <= data.documents()
                    && (range.domain as usize) < domains;
                ensure!(inside, "{}: range {range:?} reaches beyond {} tokens", name(), data.tokens());
                let domain = range.domain as usize;
                match range.split {
                    Split::HeldOut => set.held_out[domain].push((number, *range)),
                    Split::Train if range.tokens == 0 => {}
                    Split::Train => {
                        let first = set.train[domain].last().map_or(0, |last| last.first + last.range.tokens);
                        set.train[domain].push(Stretch { first, shard: number, range: *range });
                    }
                }
            }
            set.data.push(data);
        }
        Ok(set)
    }

    /// Compares everything with the hashes of the index.
    ///
    /// # Errors
    /// The first file or range that differs, with both hashes.
    pub fn verify(&self, root: &Path) -> Result<()> {
        wanted::verify(&self.index, root, &Wanted::All, &|_| true).map(drop)
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
        let stretches = self.train.get(domain as usize).map_or(&[][..], Vec::as_slice);
        let mut place = window.saturating_mul(out.len() as u64 - 1);
        let mut next = stretches.partition_point(|stretch| stretch.first <= place).saturating_sub(1);
        let mut out = out;
        while !out.is_empty() {
            let stretch = stretches.get(next).filter(|stretch| place < stretch.first + stretch.range.tokens);
            let Some(stretch) = stretch else { anyhow::bail!("domain {domain} has no window {window}") };
            let within = place - stretch.first;
            let left = usize::try_from(stretch.range.tokens - within).unwrap_or(usize::MAX);
            let (here, rest) = out.split_at_mut(left.min(out.len()));
            self.data[stretch.shard].read(stretch.range.token_first + within, here)?;
            self.check_tokens(stretch.shard, here)?;
            (place, next, out) = (place + here.len() as u64, next + 1, rest);
        }
        Ok(())
    }

    /// Tokens of a held-out document, without the one that opens it, closed by the separator.
    ///
    /// # Errors
    /// When it is none of the held-out documents of its domain, or a token is beyond the vocabulary.
    pub fn held_out(&self, listed: &Listed) -> Result<Vec<u32>> {
        let (number, document) = (listed.shard as usize, listed.document);
        let ranges = self.held_out.get(listed.domain as usize).map_or(&[][..], Vec::as_slice);
        let is_in = |(shard, range): &&(usize, ShardRange)| {
            *shard == number && (range.document_first..range.document_first + range.documents).contains(&document)
        };
        let known = ranges.iter().any(|entry| is_in(&entry));
        ensure!(known, "document {}: not held out in domain {} of shard {number}", listed.id, listed.domain);
        let (first, length) = self.data[number].document(document).context("a document of the index")?;
        let mut tokens = vec![0; usize::try_from(length)?];
        self.data[number].read(first, &mut tokens)?;
        self.check_tokens(number, &tokens)?;
        if self.index.bos_id.is_some() && tokens.first() == self.index.bos_id.as_ref() {
            tokens.remove(0);
        }
        Ok(tokens)
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
    let mut tokens = vec![0_u64; index.domains as usize];
    for range in index.shards.iter().flat_map(|shard| &shard.ranges).filter(|range| range.split == Split::Train) {
        tokens[range.domain as usize] += range.tokens;
    }
    // The last window's last target is a token too.
    tokens.into_iter().map(|tokens| tokens.saturating_sub(1) / u64::from(sequence_length.max(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discover::discover,
        held_out::{Candidate, HELD_OUT_FILE, HeldOutList},
        megatron::{TokenType, push_token, write_index},
        read::Document,
        shard::{ShardInput, write_shard},
        tokenizer::{SEPARATOR, Tokenizer, train},
    };
    use proptest::prelude::*;
    use senmon_protocol::{
        corpus::{DocumentCounts, DocumentFields},
        ids::StorageKey,
        job::ShardResult,
    };
    use std::fs;

    /// A trained tokenizer with one more special token.
    fn with_opener(bytes: &[u8]) -> Vec<u8> {
        let mut file: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let mut token = file["added_tokens"][0].clone();
        (token["id"], token["content"]) = (file["model"]["vocab"].as_object().unwrap().len().into(), "<s>".into());
        file["added_tokens"].as_array_mut().unwrap().push(token);
        serde_json::to_vec(&file).unwrap()
    }

    fn build(root: &Path) -> ShardIndex {
        build_with(root, None)
    }

    fn build_with(root: &Path, bos: Option<&str>) -> ShardIndex {
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
        let tokenizer = Tokenizer::from_bytes(&with_opener(&train(&borrowed, 280).unwrap()), SEPARATOR, bos).unwrap();
        let fields = DocumentFields { id: Some("id".into()), ..DocumentFields::default() };
        let input = ShardInput {
            roots: &crate::roots::Roots::whole_disk(),
            path: &path,
            fields: &fields,
            dropped: &[4],
            router: &router,
            router_sha256: "r",
            tokenizer: &tokenizer,
            tokenizer_sha256: "t",
            held_out_fraction: 0.2,
            documents_per_domain: 1000,
        };
        let key = StorageKey::new("shards/0/f1").unwrap();
        let sidecar = write_shard(&input, &root.join(key.as_str()), |_| true).unwrap().unwrap();
        assert_eq!(sidecar.counts.documents, 89);
        assert_eq!(sidecar.counts.duplicates, 1);
        let shard = ShardResult {
            folder: key,
            bin_sha256: sidecar.bin_sha256,
            idx_sha256: sidecar.idx_sha256,
            held_out_sha256: Some(sidecar.held_out_sha256),
            counts: sidecar.counts,
            ranges: sidecar.ranges,
            range_sha256: sidecar.range_sha256,
        };
        ShardIndex {
            domains: 2,
            vocab_size: tokenizer.vocab_size(),
            separator_id: 0,
            bos_id: tokenizer.bos_id(),
            shards: vec![shard],
        }
    }

    fn listed(root: &Path) -> Vec<Listed> {
        let bytes = fs::read(root.join("shards/0/f1").join(HELD_OUT_FILE)).unwrap();
        let candidates: Vec<Candidate> = serde_json::from_slice(&bytes).unwrap();
        HeldOutList::new(candidates.iter()).documents
    }

    #[test]
    fn a_shard_is_read_back_by_domain_and_split() {
        let folder = tempfile::tempdir().unwrap();
        let index = build(folder.path());
        let set = ShardSet::open(index.clone(), folder.path()).unwrap();
        set.verify(folder.path()).unwrap();
        let documents: u64 = index.shards[0].ranges.iter().map(|range| range.documents).sum();
        assert_eq!(documents, 89);
        let list = listed(folder.path());
        let held: u64 = index.shards[0].ranges.iter().filter(|r| r.split == Split::HeldOut).map(|r| r.documents).sum();
        assert!(list.len() as u64 == held && (5..40).contains(&held), "{held}");
        assert!(list.iter().all(|listed| set.held_out(listed).unwrap().last() == Some(&0)));
        let trained = Listed { document: index.shards[0].ranges[0].document_first, ..list[0].clone() };
        assert!(set.held_out(&trained).unwrap_err().to_string().contains("not held out"));
        let windows = set.windows(8);
        let mut window = vec![0; 9];
        for (domain, count) in windows.iter().zip(0..).map(|(count, domain)| (domain, *count)) {
            (0..count).for_each(|w| set.window(domain, w, &mut window).unwrap());
            assert!(set.window(domain, count, &mut window).is_err());
        }
    }

    /// Writes one shard for each inner list: the lengths of its training documents, of one domain; tokens count up.
    fn write_counting(root: &Path, shards: &[Vec<u64>]) -> ShardIndex {
        let (mut next, mut results) = (0_u32, Vec::new());
        for (number, lengths) in shards.iter().enumerate() {
            let folder = StorageKey::new(format!("shards/{number}/f1")).unwrap();
            let path = root.join(folder.as_str());
            fs::create_dir_all(&path).unwrap();
            let tokens: u64 = lengths.iter().sum();
            let mut bytes = Vec::new();
            for token in next..next + u32::try_from(tokens).unwrap() {
                push_token(&mut bytes, token, TokenType::for_vocab(100_000));
            }
            next += u32::try_from(tokens).unwrap();
            fs::write(path.join("shard.bin"), bytes).unwrap();
            write_index(&path.join("shard.idx"), lengths, TokenType::for_vocab(100_000)).unwrap();
            let documents = lengths.len() as u64;
            let range =
                ShardRange { domain: 0, split: Split::Train, document_first: 0, documents, token_first: 0, tokens };
            let counts = DocumentCounts::default();
            let (bin_sha256, idx_sha256) = (String::new(), String::new());
            results.push(ShardResult {
                folder,
                bin_sha256,
                idx_sha256,
                counts,
                ranges: vec![range],
                held_out_sha256: None,
                range_sha256: Vec::new(),
            });
        }
        ShardIndex { domains: 1, vocab_size: 100_000, separator_id: 0, bos_id: None, shards: results }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn windows_cross_documents_and_files_and_leave_less_than_one(
            shards in prop::collection::vec(prop::collection::vec(1_u64..30, 0..6), 1..12), length in 1_u32..40,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let set = ShardSet::open(write_counting(folder.path(), &shards), folder.path()).unwrap();
            let held: u64 = shards.iter().flatten().sum();
            let windows = set.windows(length)[0];
            prop_assert!(held.saturating_sub(1) - windows * u64::from(length) < u64::from(length), "{windows} of {held}");
            let mut window = vec![0; length as usize + 1];
            for number in 0..windows {
                set.window(0, number, &mut window).unwrap();
                let first = u32::try_from(number).unwrap() * length;
                prop_assert_eq!(&window, &(first..=first + length).collect::<Vec<_>>());
            }
            prop_assert!(set.window(0, windows, &mut window).is_err());
        }
    }

    #[test]
    fn an_opening_token_is_trained_on_and_not_scored() {
        let (plain, opened) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (build(plain.path()), build_with(opened.path(), Some("<s>")));
        let bos = second.bos_id.unwrap();
        assert_eq!((first.opener_id(), second.opener_id()), (first.separator_id, bos));
        let tokens = |index: &ShardIndex| index.shards[0].ranges.iter().map(|range| range.tokens).sum::<u64>();
        assert_eq!(tokens(&second), tokens(&first) + 89);
        let (plain_set, opened_set) = (ShardSet::open(first, plain.path()), ShardSet::open(second, opened.path()));
        let (plain_set, opened_set) = (plain_set.unwrap(), opened_set.unwrap());
        for (a, b) in listed(plain.path()).iter().zip(listed(opened.path())) {
            assert_eq!(plain_set.held_out(a).unwrap(), opened_set.held_out(&b).unwrap());
        }
        let mut window = vec![0; 9];
        opened_set.window(0, 0, &mut window).unwrap();
        assert_eq!(window[0], bos);
    }

    #[test]
    fn an_altered_shard_and_a_wild_token_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let index = build(folder.path());
        let mut small = index.clone();
        small.vocab_size = 5;
        let set = ShardSet::open(small, folder.path()).unwrap();
        let wild = set.held_out(&listed(folder.path())[0]).unwrap_err();
        assert!(wild.to_string().contains("vocabulary has 5"), "{wild}");
        let path = folder.path().join("shards/0/f1/shard.bin");
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
        let set = ShardSet::open(index, folder.path()).unwrap();
        assert!(set.verify(folder.path()).unwrap_err().to_string().contains("shard.bin: SHA-256"));
    }

    /// Zeros over everything that `wanted` does not take: a copy to which nothing else was fetched.
    fn blank_the_rest(path: &Path, index: &ShardIndex, wanted: &Wanted) {
        let kind = TokenType::for_vocab(index.vocab_size);
        let mut bytes = fs::read(path).unwrap();
        for range in index.shards[0].ranges.iter().filter(|range| !wanted.takes(range)) {
            let place = wanted::bytes_of(range, kind);
            bytes[place.start as usize..place.end as usize].fill(0);
        }
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_job_reads_and_checks_its_own_ranges_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut index = build(root);
        // A second shard of which nothing is here: it holds nothing of domain 1.
        let mut other = index.shards[0].clone();
        other.folder = StorageKey::new("shards/1/f1").unwrap();
        other.range_sha256.truncate(1);
        other.ranges.truncate(1);
        assert_eq!((other.ranges[0].domain, other.ranges[0].split), (0, Split::Train));
        index.shards.push(other);
        let bin = root.join("shards/0/f1/shard.bin");
        let whole = fs::read(&bin).unwrap();
        let listed = listed(root);
        let check = |index: &ShardIndex, wanted: &Wanted| wanted::verify(index, root, wanted, &|_| true);
        for wanted in [Wanted::Train([1].into()), Wanted::HeldOut] {
            fs::write(&bin, &whole).unwrap();
            let (all, length) = (ShardSet::open_for(index.clone(), root, &wanted).unwrap(), 8);
            let read = |set: &ShardSet| {
                let mut window = vec![0; length + 1];
                let windows =
                    (0..set.windows(8)[1]).map(|w| set.window(1, w, &mut window).map(|()| window.clone()).ok());
                let held_out = listed.iter().map(|listed| set.held_out(listed).ok());
                (windows.collect::<Vec<_>>(), held_out.collect::<Vec<_>>())
            };
            let expected = read(&all);
            blank_the_rest(&bin, &index, &wanted);
            let set = ShardSet::open_for(index.clone(), root, &wanted).unwrap();
            assert_eq!(read(&set), expected, "{wanted:?}");
            assert!(check(&index, &wanted).unwrap(), "{wanted:?}");
            assert!(check(&index, &Wanted::Train([0].into())).is_err(), "what is not there was checked and found good");
            assert!(set.window(0, 0, &mut [0; 9]).is_err(), "domain 0 is not wanted");
        }
        let asked = std::cell::Cell::new(0);
        let stops = |_| {
            asked.set(asked.get() + 1);
            false
        };
        assert!(!wanted::verify(&index, root, &Wanted::HeldOut, &stops).unwrap());
        assert_eq!(asked.get(), 1, "a check that is told to stop went on");
        // One flipped bit in a wanted range is named with its domain.
        let kind = TokenType::for_vocab(index.vocab_size);
        let range = index.shards[0].ranges.iter().find(|range| Wanted::HeldOut.takes(range)).unwrap();
        let mut bytes = whole.clone();
        bytes[wanted::bytes_of(range, kind).start as usize] ^= 1;
        fs::write(&bin, bytes).unwrap();
        let error = check(&index, &Wanted::HeldOut).unwrap_err().to_string();
        assert!(error.contains("held-out text of domain"), "{error}");
    }

    #[test]
    fn a_shard_without_hashes_of_its_ranges_is_checked_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = build(folder.path());
        index.shards[0].range_sha256.clear();
        let check = || wanted::verify(&index, folder.path(), &Wanted::HeldOut, &|_| true);
        assert!(check().unwrap());
        blank_the_rest(&folder.path().join("shards/0/f1/shard.bin"), &index, &Wanted::HeldOut);
        assert!(check().unwrap_err().to_string().contains("shard.bin: SHA-256 is"));
    }
}
