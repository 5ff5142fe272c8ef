//! What a job fetches of the shards in a bucket: its own ranges, checked, within the cache's limit, and no longer than
//! somebody wants it.

use anyhow::{Context, Result};
use senmon_corpus::{
    hex,
    megatron::{TokenType, push_token, write_index},
    sha256_file,
    shard_set::ShardSet,
    wanted::{Wanted, bytes_of},
};
use senmon_engine::depot::Listener;
use senmon_protocol::{
    corpus::DocumentCounts,
    ids::StorageKey,
    job::{EndedOutcome, JobSpec, ShardIndex, ShardRange, ShardResult, Split, TerminationReason},
};
use senmon_store::Bucket;
use senmon_tests::s3;
use senmon_worker::store::Store;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;

const VOCAB: u32 = 500;
/// Tokens of a document, and documents of a range: a range is larger than a page of the disk, so that holes show.
const TOKENS: u64 = 1000;
const DOCUMENTS: u64 = 40;
const DOMAINS: u32 = 4;
const RANGE_BYTES: u64 = TOKENS * DOCUMENTS * 2;

fn key(text: &str) -> StorageKey {
    StorageKey::new(text).expect("a key")
}

/// Two shards of four domains, both sides each, in the bucket; their index.
async fn fill(bucket: &Bucket, home: &Path) -> Result<ShardIndex> {
    let kind = TokenType::for_vocab(VOCAB);
    let mut shards = Vec::new();
    for number in 0..2_u64 {
        let folder = key(&format!("shards/{number}/f1"));
        let (mut bytes, mut ranges, mut range_sha256) = (Vec::new(), Vec::new(), Vec::new());
        for (domain, split) in (0..DOMAINS).flat_map(|domain| [(domain, Split::Train), (domain, Split::HeldOut)]) {
            let from = bytes.len();
            for token in 0..TOKENS * DOCUMENTS {
                let token = token.wrapping_mul(2_654_435_761 + number) >> 7;
                push_token(&mut bytes, u32::try_from(token % u64::from(VOCAB - 1))? + 1, kind);
            }
            range_sha256.push(hex(&Sha256::digest(&bytes[from..])));
            let (document_first, token_first) = (ranges.len() as u64 * DOCUMENTS, from as u64 / 2);
            let tokens = TOKENS * DOCUMENTS;
            ranges.push(ShardRange { domain, split, document_first, documents: DOCUMENTS, token_first, tokens });
        }
        let (bin, idx) = (home.join("bin"), home.join("idx"));
        fs::write(&bin, &bytes)?;
        write_index(&idx, &vec![TOKENS; ranges.len() * usize::try_from(DOCUMENTS)?], kind)?;
        bucket.put_file(&folder.join("shard.bin")?, &bin).await?;
        bucket.put_file(&folder.join("shard.idx")?, &idx).await?;
        shards.push(ShardResult {
            folder,
            bin_sha256: sha256_file(&bin)?,
            idx_sha256: sha256_file(&idx)?,
            counts: DocumentCounts::default(),
            ranges,
            held_out_sha256: None,
            range_sha256,
        });
    }
    let index = ShardIndex { domains: DOMAINS, vocab_size: VOCAB, separator_id: 0, bos_id: None, shards };
    bucket.put(&key("index.json"), serde_json::to_vec(&index)?).await?;
    bucket.put(&key("tokenizer.json"), b"{}".to_vec()).await?;
    Ok(index)
}

/// An expert's job.
fn expert(domain: u32) -> JobSpec {
    serde_json::from_value(json!({
        "kind": "train", "experiment_id": "01a20ded-cc8c-77dc-aa0f-779d6385dfea",
        "branch_id": "01a20ded-cc8c-77dc-aa0f-779d6385dfeb", "branch": "expert", "tokenizer": "tokenizer.json",
        "shards": "index.json", "sequence_length": 16, "epochs_max": 1.0, "resume": null, "steps": 1, "output": "o",
        "start": { "kind": "folder", "path": "/nowhere" }, "training": { "batch_windows": 1, "learning_rate": 1.0 },
        "mixture": { "version": 1, "weights": [{ "domain": domain, "weight": 1.0 }] }
    }))
    .expect("a job")
}

/// Counts what passes, and calls a halt at so many bytes.
struct Counting {
    passed: Arc<AtomicU64>,
    halt_at: u64,
}

impl Listener for Counting {
    fn passed(&self, bytes: u64) {
        self.passed.fetch_add(bytes, Ordering::Relaxed);
    }

    fn stops(&self) -> bool {
        self.passed.load(Ordering::Relaxed) >= self.halt_at
    }
}

/// Fetches on a thread of its own, as attempts do; the bytes that passed.
async fn fetch(store: &Store, job: JobSpec, halt_at: u64) -> (Result<(), EndedOutcome>, u64) {
    let (store, passed) = (store.clone(), Arc::new(AtomicU64::new(0)));
    let counting = Counting { passed: passed.clone(), halt_at };
    let fetched = tokio::task::spawn_blocking(move || store.fetch(&job, &counting).map(drop)).await.expect("no panic");
    (fetched, passed.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expert_fetches_and_checks_the_ranges_of_its_mixture_and_no_others() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (_moto, place) = s3::moto(home.path()).await?;
    let bucket = place.open()?;
    let index = fill(&bucket, home.path()).await?;
    let root = home.path().join("cache");
    let store = |bytes_max| {
        Store::bucket(bucket.clone(), &root, bytes_max, Handle::current(), Duration::from_secs(2)).expect("a store")
    };
    let others = index.shards.iter().map(|shard| shard.ranges.len()).sum::<usize>() as u64 * RANGE_BYTES;

    // Two ranges, one of each shard, and the small files beside them.
    let (fetched, passed) = fetch(&store(1 << 30), expert(2), u64::MAX).await;
    fetched.map_err(|end| anyhow::anyhow!(end.message))?;
    assert!((2 * RANGE_BYTES..3 * RANGE_BYTES).contains(&passed), "{passed} of {others} bytes");
    let wanted = Wanted::Train([2].into());
    let kind = TokenType::for_vocab(VOCAB);
    for shard in &index.shards {
        let here = fs::read(root.join(shard.folder.as_str()).join("shard.bin"))?;
        for range in &shard.ranges {
            let bytes = bytes_of(range, kind);
            let bytes = &here[usize::try_from(bytes.start)?..usize::try_from(bytes.end)?];
            assert_eq!(bytes.iter().any(|byte| *byte != 0), wanted.takes(range), "{range:?}");
        }
    }
    let set = ShardSet::open_for(index.clone(), &root, &wanted)?;
    let mut window = vec![0; 17];
    set.window(2, set.windows(16)[2] - 1, &mut window)?;
    assert!(window.iter().all(|token| *token > 0) && set.window(1, 0, &mut window).is_err());

    // Known to this process, nothing is read again; a new one reads it once, and fetches nothing; another domain
    // joins it in the same files.
    let again = store(1 << 30);
    let small = fetch(&again, expert(2), u64::MAX).await.1;
    assert!((2 * RANGE_BYTES..3 * RANGE_BYTES).contains(&small), "{small} bytes were read back");
    assert_eq!(fetch(&again, expert(2), u64::MAX).await.1, 0);
    let (fetched, passed) = fetch(&again, expert(3), u64::MAX).await;
    assert!(fetched.is_ok() && (2 * RANGE_BYTES..3 * RANGE_BYTES).contains(&passed), "{passed}");
    assert!(ShardSet::open_for(index.clone(), &root, &Wanted::Train([2, 3].into()))?.window(3, 0, &mut window).is_ok());

    // A flipped bit of a wanted range in the copy is mended, one in the bucket is named.
    let bin = root.join(index.shards[0].folder.as_str()).join("shard.bin");
    let range = index.shards[0].ranges.iter().find(|range| wanted.takes(range)).context("a range")?;
    let at = usize::try_from(bytes_of(range, kind).start)? + 100;
    let mut bytes = fs::read(&bin)?;
    bytes[at] ^= 1;
    fs::write(&bin, &bytes)?;
    assert!(fetch(&store(1 << 30), expert(2), u64::MAX).await.0.is_ok());
    bytes[at] ^= 1;
    assert!(fs::read(&bin)? == bytes, "the copy was not mended");
    let damaged = home.path().join("damaged");
    let stored = index.shards[0].folder.join("shard.bin")?;
    bucket.get_file(&stored, &damaged).await?;
    let mut bytes = fs::read(&damaged)?;
    bytes[at] ^= 1;
    fs::write(&damaged, &bytes)?;
    bucket.put_file(&stored, &damaged).await?;
    fs::remove_dir_all(&root)?;
    let end = fetch(&store(1 << 30), expert(2), u64::MAX).await.0.expect_err("a flipped bit was taken");
    assert!(end.reason == TerminationReason::CorruptData && end.message.contains("text of domain 2"), "{end:?}");
    assert!(fetch(&store(1 << 30), expert(1), u64::MAX).await.0.is_ok(), "another domain is not touched by it");

    // The limit of the cache holds: what is not needed goes, and what does not fit at all is said.
    let tight = store(5 * RANGE_BYTES / 2);
    assert!(fetch(&tight, expert(0), u64::MAX).await.0.is_ok());
    let end = fetch(&store(RANGE_BYTES), expert(3), u64::MAX).await.0.expect_err("the limit did not hold");
    assert!(end.reason == TerminationReason::StorageFailure && end.message.contains("cache_bytes_max"), "{end:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_when_nobody_wants_it_any_more() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (_moto, place) = s3::moto(home.path()).await?;
    let bucket = place.open()?;
    fill(&bucket, home.path()).await?;
    let root = home.path().join("cache");
    let store = Store::bucket(bucket, &root, 1 << 30, Handle::current(), Duration::from_secs(60))?;
    let (fetched, passed) = fetch(&store, expert(2), RANGE_BYTES).await;
    assert!(fetched.is_err() && passed < 2 * RANGE_BYTES, "{passed} bytes passed");
    // What was fetched half is fetched again, and whole.
    assert!(fetch(&store, expert(2), u64::MAX).await.0.is_ok());
    Ok(())
}
