//! The copy of a bucket's files on this machine: bounded, the least recently used goes first, and nothing that an
//! attempt holds. Of a file that is fetched in parts, parts that nobody holds go too, though others stay. It belongs to
//! one process, the one that holds the state folder.

use anyhow::{Context, Result, ensure};
use senmon_engine::lock::lock;
use senmon_protocol::{ids::StorageKey, storage::Bytes};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

/// Where files lie until they are whole.
const PARTS: &str = ".parts";

/// The copy.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    bytes_max: u64,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How often each folder is held.
    held: BTreeMap<PathBuf, u32>,
    /// Files that this process fetched, sent or read back whole.
    trusted: BTreeSet<StorageKey>,
    /// Places of the parts of files that are fetched in parts. A part is named by its number, as if the file were its
    /// folder.
    parts: BTreeMap<StorageKey, Vec<Range<u64>>>,
    part_next: u64,
}

/// A folder that stays while this lives.
#[derive(Debug)]
pub struct Held {
    folder: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        if let Some(count) = shared.held.get_mut(&self.folder) {
            *count -= 1;
            if *count == 0 {
                shared.held.remove(&self.folder);
            }
        }
    }
}

/// A folder with files directly in it: what is removed as one.
struct Unit {
    folder: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    /// Opens the copy and takes off what an earlier process left half-fetched.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(root: &Path, bytes_max: u64) -> Result<Self> {
        let _ = fs::remove_dir_all(root.join(PARTS));
        fs::create_dir_all(root.join(PARTS)).with_context(|| format!("state_dir: create {}", root.display()))?;
        Ok(Self { root: root.to_owned(), bytes_max, shared: Arc::default() })
    }

    /// Path of a key.
    #[must_use]
    pub fn path(&self, key: &StorageKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// A file is fetched in parts; these are all of them.
    pub fn in_parts(&self, file: &StorageKey, parts: Vec<Range<u64>>) {
        lock(&self.shared).parts.insert(file.clone(), parts);
    }

    /// Keeps a folder, or a part of a file.
    #[must_use]
    pub fn hold(&self, folder: &StorageKey) -> Held {
        let folder = self.path(folder);
        *lock(&self.shared).held.entry(folder.clone()).or_insert(0) += 1;
        Held { folder, shared: self.shared.clone() }
    }

    /// Whether this process knows the file to be whole.
    #[must_use]
    pub fn is_trusted(&self, key: &StorageKey) -> bool {
        lock(&self.shared).trusted.contains(key)
    }

    /// This process knows something to be whole: a file, or a part of one, named as if the file were its folder.
    pub fn trust(&self, key: &StorageKey) {
        lock(&self.shared).trusted.insert(key.clone());
    }

    /// A file is in use now, or some of it.
    pub fn used_in_part(&self, key: &StorageKey) {
        // The time of use is the file's own: it survives a restart.
        if let Ok(file) = fs::File::open(self.path(key)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// A file is whole and in use now.
    pub fn used(&self, key: &StorageKey) {
        self.trust(key);
        self.used_in_part(key);
    }

    /// Makes room for so many bytes more.
    ///
    /// # Errors
    /// [`Full`] when what is in use leaves too little.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let used = self.shrink_to(self.bytes_max.saturating_sub(bytes));
        let full = Full { bytes, used: used.min(self.bytes_max), bytes_max: self.bytes_max };
        if used.saturating_add(bytes) > self.bytes_max { Err(full.into()) } else { Ok(()) }
    }

    /// Place for a file that is on its way.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn part(&self) -> Result<PathBuf> {
        let mut shared = lock(&self.shared);
        shared.part_next += 1;
        Ok(self.root.join(PARTS).join(shared.part_next.to_string()))
    }

    /// Puts a whole file in its place.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn settle(&self, part: &Path, path: &Path) -> Result<()> {
        let folder = path.parent().context("a key has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::rename(part, path).with_context(|| format!("rename to {}", path.display()))?;
        self.make_room();
        Ok(())
    }

    /// Drops a file or folder, held or not: what maps it keeps its bytes.
    pub fn forget(&self, key: &StorageKey) {
        lock(&self.shared).distrust(key);
        let path = self.path(key);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }

    /// Removes the least recently used folders that nobody holds until the rest is small enough.
    pub fn make_room(&self) {
        self.shrink_to(self.bytes_max);
    }

    /// The same down to `bytes_max`; the bytes that are left.
    fn shrink_to(&self, bytes_max: u64) -> u64 {
        let left = self.drop_folders(bytes_max);
        if left > bytes_max && self.drop_parts() { self.drop_folders(bytes_max) } else { left }
    }

    fn drop_folders(&self, bytes_max: u64) -> u64 {
        let mut units = Vec::new();
        collect(&self.root, &mut units);
        units.sort_by_key(|unit| unit.used);
        let mut bytes: u64 = units.iter().map(|unit| unit.bytes).sum();
        for unit in units {
            if bytes <= bytes_max {
                break;
            }
            let mut shared = lock(&self.shared);
            if shared.held.contains_key(&unit.folder) || unit.folder.ends_with(PARTS) {
                continue;
            }
            for file in &unit.files {
                let key = file.strip_prefix(&self.root).ok().and_then(|path| StorageKey::new(path.to_str()?).ok());
                if let Some(key) = key {
                    shared.distrust(&key);
                }
                let _ = fs::remove_file(file);
            }
            // Fails where folders below are in use.
            let _ = fs::remove_dir(&unit.folder);
            bytes -= unit.bytes;
        }
        bytes
    }

    /// Makes holes of the parts that nobody holds; whether there were any.
    fn drop_parts(&self) -> bool {
        let mut shared = lock(&self.shared);
        let mut unheld = Vec::new();
        for (file, parts) in &shared.parts {
            let names = parts.iter().enumerate().filter_map(|(n, part)| Some((file.join(n.to_string()).ok()?, part)));
            unheld.extend(
                names
                    .filter(|(name, _)| !shared.held.contains_key(&self.path(name)))
                    .map(|(name, part)| (file.clone(), name, part.clone())),
            );
        }
        let mut any = false;
        for (file, name, part) in unheld {
            let path = self.path(&file);
            any |= path.exists() && make_hole(&path, &part).is_ok();
            shared.distrust(&name);
        }
        any
    }
}

/// Gives the bytes of a range back to the disk; the file keeps its length and reads as zeros there.
#[expect(unsafe_code, reason = "fallocate(2) has no safe wrapper")]
fn make_hole(path: &Path, range: &Range<u64>) -> Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    let (from, length) = (range.start.try_into()?, (range.end - range.start).try_into()?);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a plain system call on a file that is open for writing.
    let answer = unsafe { libc::fallocate(file.as_raw_fd(), mode, from, length) };
    ensure!(answer == 0, std::io::Error::last_os_error());
    Ok(())
}

impl Shared {
    /// Forgets a file with its parts, or a folder with its files.
    fn distrust(&mut self, key: &StorageKey) {
        let inside = format!("{key}/");
        self.trusted.retain(|known| known != key && !known.as_str().starts_with(&inside));
    }
}

/// The copy may not hold what is wanted: no retry mends it while the rest is in use.
#[derive(Debug)]
pub struct Full {
    bytes: u64,
    used: u64,
    bytes_max: u64,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, used, bytes_max } = *self;
        write!(
            f,
            "cache_bytes_max: found {}, {} more are needed beside the {} in use",
            Bytes(bytes_max),
            Bytes(bytes),
            Bytes(used)
        )
    }
}

impl std::error::Error for Full {}

/// The folder that a file's key lies in.
#[must_use]
pub fn folder_of(key: &StorageKey) -> StorageKey {
    let parent = key.as_str().rsplit_once('/').and_then(|(folder, _)| StorageKey::new(folder).ok());
    parent.unwrap_or_else(|| key.clone())
}

fn collect(folder: &Path, units: &mut Vec<Unit>) {
    let mut unit = Unit { folder: folder.to_owned(), files: vec![], bytes: 0, used: SystemTime::UNIX_EPOCH };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            collect(&entry.path(), units);
        } else {
            // What it takes on the disk: a shard of which some ranges were fetched has holes.
            unit.bytes += meta.len().min(meta.blocks() * 512);
            unit.used = unit.used.max(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            unit.files.push(entry.path());
        }
    }
    if !unit.files.is_empty() {
        units.push(unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(text: &str) -> StorageKey {
        StorageKey::new(text).unwrap()
    }

    fn put(cache: &Cache, name: &str, age_s: u64) {
        let part = cache.part().unwrap();
        fs::write(&part, [0; 10]).unwrap();
        let file = fs::File::open(&part).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        cache.settle(&part, &cache.path(&key(name))).unwrap();
    }

    #[test]
    fn the_least_recently_used_goes_first_and_nothing_that_is_held() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::open(home.path(), 25).unwrap();
        put(&cache, "a/1/x", 30);
        let held = cache.hold(&key("a/1"));
        put(&cache, "a/2/x", 20);
        put(&cache, "a/3/x", 10);
        let there = |name: &str| cache.path(&key(name)).exists();
        assert_eq!([there("a/1/x"), there("a/2/x"), there("a/3/x")], [true, false, true]);
        drop(held);
        cache.used(&key("a/3/x"));
        put(&cache, "b/x", 0);
        assert_eq!([there("a/1/x"), there("a/3/x"), there("b/x")], [false, true, true]);
    }

    #[test]
    fn a_half_fetched_file_does_not_outlive_its_process() {
        let home = tempfile::tempdir().unwrap();
        let part = Cache::open(home.path(), 1).unwrap().part().unwrap();
        fs::write(&part, b"half").unwrap();
        Cache::open(home.path(), 1).unwrap();
        assert!(!part.exists());
    }

    #[test]
    fn what_is_in_use_and_what_is_wanted_stay_within_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::open(home.path(), 25).unwrap();
        put(&cache, "a/1/x", 30);
        let held = cache.hold(&key("a/1"));
        put(&cache, "a/2/x", 20);
        cache.reserve(15).unwrap();
        assert!(!cache.path(&key("a/2/x")).exists(), "nobody holds it, and its room is wanted");
        let error = cache.reserve(16).unwrap_err();
        assert!(error.is::<Full>() && error.to_string().starts_with("cache_bytes_max: found 25"), "{error}");
        drop(held);
        cache.reserve(25).unwrap();
    }

    #[test]
    fn a_file_with_holes_counts_what_it_takes() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::open(home.path(), 1 << 20).unwrap();
        put(&cache, "s/0/shard.bin", 0);
        fs::File::options().write(true).open(cache.path(&key("s/0/shard.bin"))).unwrap().set_len(1 << 30).unwrap();
        cache.trust(&key("s/0/shard.bin/3"));
        cache.make_room();
        assert!(cache.path(&key("s/0/shard.bin")).exists() && cache.is_trusted(&key("s/0/shard.bin/3")));
        cache.reserve(1 << 20).unwrap();
        assert!(!cache.is_trusted(&key("s/0/shard.bin/3")), "its file is gone");
    }

    #[test]
    fn a_part_that_nobody_holds_goes_though_its_file_is_in_use() {
        const PART: u64 = 1 << 16;
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::open(home.path(), 3 * PART).unwrap();
        let file = key("s/0/shard.bin");
        fs::create_dir_all(home.path().join("s/0")).unwrap();
        fs::write(cache.path(&file), vec![7; 2 * PART as usize]).unwrap();
        cache.in_parts(&file, vec![0..PART, PART..2 * PART]);
        let parts = [file.join("0").unwrap(), file.join("1").unwrap()];
        parts.iter().for_each(|part| cache.trust(part));
        let _held = [cache.hold(&key("s/0")), cache.hold(&parts[1])];
        cache.reserve(PART).unwrap();
        assert!(cache.is_trusted(&parts[0]), "there is room for all");
        cache.reserve(2 * PART).unwrap();
        assert!(!cache.is_trusted(&parts[0]) && cache.is_trusted(&parts[1]));
        let bytes = fs::read(cache.path(&file)).unwrap();
        let (dropped, kept) = bytes.split_at(PART as usize);
        assert!(dropped.iter().all(|byte| *byte == 0) && kept.iter().all(|byte| *byte == 7));
        assert!(cache.reserve(2 * PART + 1).unwrap_err().is::<Full>());
    }

    #[test]
    fn what_is_forgotten_is_fetched_again() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::open(home.path(), 100).unwrap();
        put(&cache, "c/1/x", 0);
        cache.used(&key("c/1/x"));
        assert!(cache.is_trusted(&key("c/1/x")));
        cache.forget(&key("c/1"));
        assert!(!cache.is_trusted(&key("c/1/x")) && !cache.path(&key("c/1/x")).exists());
    }
}
