//! A bucket and its copy on this machine: files, folders, checkpoints and ranges of shards come in, each compared with
//! its hash; folders that were written here go out. Whoever waits hears of every piece, and can call a halt.
//!
//! Never tries anything twice: patience is the caller's.

use super::{
    inputs::{Input, SCORES_FILE},
    trouble::{Differs, Halted},
};
use crate::cache::{self, Cache, Held};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use senmon_corpus::{
    hex,
    manifest::parse,
    megatron::TokenType,
    wanted::{self, Wanted, bytes_of, hash_range, named},
};
use senmon_engine::{
    depot::{Listener, Parcel},
    lock::lock,
};
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ids::StorageKey,
    job::{CheckpointRef, ShardIndex, ShardRange, ShardResult},
};
use senmon_store::Bucket;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{Mutex, MutexGuard, TryLockError},
    time::Duration,
};
use tokio::runtime::Handle;

/// How often somebody who waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// What begins with so many zeros was never fetched: a hole.
const HOLE_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Remote {
    pub bucket: Bucket,
    pub runtime: Handle,
    pub cache: Cache,
    /// One fetch at a time: two attempts that want the same get it once.
    pub fetching: Mutex<()>,
}

impl Remote {
    pub(super) fn fetch(&self, input: &Input, held: &mut Vec<Held>, listener: &dyn Listener) -> Result<()> {
        match input {
            Input::File(key) => self.file(key, None, held, listener),
            Input::Folder(key) => self.folder(key, held, listener),
            Input::Checkpoint(from) => self.checkpoint(from, held, listener),
            Input::Scores(folder, sha256) => self.file(&folder.join(SCORES_FILE)?, Some(sha256), held, listener),
            Input::Shards(key, wanted) => self.shards(key, wanted, held, listener),
        }
    }

    /// One file. What is here already is read once by each process before it is trusted.
    fn file(
        &self,
        key: &StorageKey,
        sha256: Option<&String>,
        held: &mut Vec<Held>,
        listener: &dyn Listener,
    ) -> Result<()> {
        let path = self.cache.path(key);
        held.push(self.cache.hold(&cache::folder_of(key)));
        let _alone = self.alone(listener)?;
        if path.exists() && (self.cache.is_trusted(key) || self.is_good(&path, sha256, listener)?) {
            self.cache.used(key);
            return Ok(());
        }
        let bytes = self.wait(self.bucket.size(key), listener)?;
        listener.expect(bytes);
        self.cache.reserve(bytes)?;
        let part = self.cache.part()?;
        let mut file = File::create(&part).with_context(|| format!("create {}", part.display()))?;
        let found = self.download(self.bucket.read_range(key, 0..bytes), &mut file, listener)?;
        let expected = sha256.map_or(found.as_str(), |s| s);
        ensure!(found == expected, Differs(format!("{key}: SHA-256 is {found}, expected {expected}")));
        file.sync_all().with_context(|| format!("sync {}", part.display()))?;
        self.cache.settle(&part, &path)?;
        self.cache.used(key);
        Ok(())
    }

    fn is_good(&self, path: &Path, sha256: Option<&String>, listener: &dyn Listener) -> Result<bool> {
        let Some(expected) = sha256 else { return Ok(true) };
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let found = hash_range(&mut file, 0..bytes, &|bytes| hears(listener, bytes))?;
        Ok(found.ok_or(Halted)? == *expected)
    }

    /// A folder whose files have no hashes of their own.
    fn folder(&self, key: &StorageKey, held: &mut Vec<Held>, listener: &dyn Listener) -> Result<()> {
        let objects = self.wait(self.bucket.list(Some(key)), listener)?;
        ensure!(!objects.is_empty(), Differs(format!("{key} is missing in the store")));
        for object in objects {
            self.file(&object.key, None, held, listener)?;
        }
        Ok(())
    }

    /// A checkpoint: manifest first, because it says what belongs to it, but the last to be in its place.
    fn checkpoint(&self, from: &CheckpointRef, held: &mut Vec<Held>, listener: &dyn Listener) -> Result<()> {
        held.push(self.cache.hold(&from.folder));
        let key = from.folder.join(MANIFEST_FILE)?;
        let here = fs::read(self.cache.path(&key)).ok().filter(|bytes| parse(bytes, &from.manifest_sha256).is_ok());
        let bytes = match here {
            Some(bytes) => bytes,
            None => self.wait(self.bucket.get(&key), listener)?,
        };
        let manifest = parse(&bytes, &from.manifest_sha256).map_err(|error| Differs(format!("{key}: {error:#}")))?;
        for (name, entry) in &manifest.files {
            self.file(&from.folder.join(name)?, Some(&entry.sha256), held, listener)?;
        }
        let part = self.cache.part()?;
        fs::write(&part, &bytes)?;
        self.cache.settle(&part, &self.cache.path(&key))
    }

    /// Of each shard its index file and the wanted ranges.
    fn shards(&self, key: &StorageKey, wanted: &Wanted, held: &mut Vec<Held>, listener: &dyn Listener) -> Result<()> {
        self.file(key, None, held, listener)?;
        let index = self.index(key)?;
        let kind = TokenType::for_vocab(index.vocab_size);
        for shard in index.shards.iter().filter(|shard| wanted.takes_of(shard)) {
            self.file(&shard.folder.join("shard.idx")?, Some(&shard.idx_sha256), held, listener)?;
            let bin = shard.folder.join("shard.bin")?;
            match shard.hashed_ranges() {
                None => self.file(&bin, Some(&shard.bin_sha256), held, listener)?,
                Some(ranges) => {
                    self.cache.in_parts(&bin, shard.ranges.iter().map(|range| bytes_of(range, kind)).collect());
                    let _alone = self.alone(listener)?;
                    for (number, (range, sha256)) in ranges.enumerate().filter(|(_, (range, _))| wanted.takes(range)) {
                        let mark = bin.join(number.to_string())?;
                        held.push(self.cache.hold(&mark));
                        self.range(shard, (&bin, &mark), (range, sha256), kind, listener)?;
                    }
                    self.cache.used_in_part(&bin);
                }
            }
        }
        Ok(())
    }

    pub(super) fn index(&self, key: &StorageKey) -> Result<ShardIndex> {
        serde_json::from_slice(&fs::read(self.cache.path(key))?).with_context(|| key.to_string())
    }

    /// One range of a `shard.bin`, in its place in a file of the full length; what was not fetched of it is a hole.
    fn range(
        &self,
        shard: &ShardResult,
        (bin, mark): (&StorageKey, &StorageKey),
        (range, sha256): (&ShardRange, &String),
        kind: TokenType,
        listener: &dyn Listener,
    ) -> Result<()> {
        let path = self.cache.path(bin);
        if self.cache.is_trusted(mark) && path.exists() {
            return Ok(());
        }
        let (place, whole) = (bytes_of(range, kind), wanted::bin_bytes(shard, kind));
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        if file.metadata()?.len() != whole {
            let stored = self.wait(self.bucket.size(bin), listener)?;
            ensure!(stored == whole, Differs(format!("{bin}: {stored} bytes, its index says {whole}")));
            file.set_len(whole).with_context(|| format!("make {}", path.display()))?;
        }
        let mut first = vec![0; HOLE_BYTES.min(usize::try_from(place.end - place.start)?)];
        file.seek(SeekFrom::Start(place.start))?;
        file.read_exact(&mut first)?;
        let is_hole = first.iter().all(|byte| *byte == 0);
        let found = match is_hole {
            true => None,
            false => {
                let hashed = hash_range(&mut file, place.clone(), &|bytes| hears(listener, bytes))?;
                Some(hashed.ok_or(Halted)?)
            }
        };
        if found.as_ref() != Some(sha256) {
            let bytes = place.end - place.start;
            listener.expect(bytes);
            self.cache.reserve(bytes)?;
            file.seek(SeekFrom::Start(place.start))?;
            let found = self.download(self.bucket.read_range(bin, place), &mut file, listener)?;
            let expected = format!("{bin}: SHA-256 of {} is {found}, expected {sha256}", named(range));
            ensure!(found == *sha256, Differs(expected));
        }
        self.cache.trust(mark);
        Ok(())
    }

    /// Writes what comes; its SHA-256.
    fn download(
        &self,
        mut parts: BoxStream<'static, Result<Bytes>>,
        file: &mut File,
        listener: &dyn Listener,
    ) -> Result<String> {
        let mut hash = Sha256::new();
        let next = async |parts: &mut BoxStream<'static, Result<Bytes>>| parts.next().await.transpose();
        while let Some(part) = self.wait(next(&mut parts), listener)? {
            hash.update(&part);
            file.write_all(&part).context("write to the cache")?;
            ensure!(hears(listener, part.len() as u64), Halted);
        }
        Ok(hex(&hash.finalize()))
    }

    /// Sends what was not sent yet of a folder that was written here, the manifest last.
    pub(super) fn send(&self, parcel: &mut Parcel, listener: &dyn Listener) -> Result<()> {
        let folder = &parcel.folder;
        let path = self.cache.path(folder);
        let manifest = match parcel.files.iter().any(|name| name == MANIFEST_FILE) {
            true => Some(fs::read(path.join(MANIFEST_FILE)).context(MANIFEST_FILE)?),
            false => None,
        };
        let entries: Option<Manifest> =
            manifest.as_ref().map(|bytes| serde_json::from_slice(bytes)).transpose().context(MANIFEST_FILE)?;
        for name in &parcel.files[parcel.sent..] {
            let key = folder.join(name)?;
            if let Some(bytes) = manifest.as_ref().filter(|_| name == MANIFEST_FILE) {
                self.wait_out(self.bucket.put_new(&key, bytes.clone()), listener)?;
            } else {
                let file = path.join(name);
                let told = |bytes| listener.passed(bytes);
                let sha256 = self.wait_out(self.bucket.put_file_telling(&key, &file, &told), listener)?;
                if let Some(manifest) = &entries {
                    let entry = manifest.files.get(name).with_context(|| format!("{name} is not in the manifest"))?;
                    ensure!(
                        sha256 == entry.sha256,
                        "{name}: sent SHA-256 {sha256}, the manifest says {}",
                        entry.sha256
                    );
                }
                self.cache.used(&key);
            }
            parcel.sent += 1;
        }
        self.cache.make_room();
        Ok(())
    }

    /// The only one that fetches; while another does, it looks whether it is still wanted.
    fn alone(&self, listener: &dyn Listener) -> Result<MutexGuard<'_, ()>> {
        loop {
            match self.fetching.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(_)) => return Ok(lock(&self.fetching)),
                Err(TryLockError::WouldBlock) => {}
            }
            ensure!(hears(listener, 0), Halted);
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for an answer of the bucket, or for the word to stop.
    fn wait<T>(&self, request: impl Future<Output = Result<T>>, listener: &dyn Listener) -> Result<T> {
        self.runtime.block_on(async {
            tokio::pin!(request);
            loop {
                tokio::select! {
                    answer = &mut request => return answer,
                    () = tokio::time::sleep(LOOK) => if listener.stops() { bail!(Halted) },
                }
            }
        })
    }

    /// Waits for an answer of the bucket to its end: half an upload costs space that no listing shows.
    fn wait_out<T>(&self, request: impl Future<Output = Result<T>>, listener: &dyn Listener) -> Result<T> {
        let answer = self.runtime.block_on(request);
        listener.passed(0);
        answer
    }
}

/// Tells of bytes that passed; whether to go on.
fn hears(listener: &dyn Listener, bytes: u64) -> bool {
    listener.passed(bytes);
    !listener.stops()
}
