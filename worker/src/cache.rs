//! The copy of a bucket's files on this machine: bounded, the least recently used goes first, and nothing that an
//! attempt holds. It belongs to one process, the one that holds the state folder.

use crate::board::lock;
use anyhow::{Context, Result};
use senmon_protocol::ids::StorageKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
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

    /// Keeps a folder.
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

    /// A file is whole and in use now.
    pub fn used(&self, key: &StorageKey) {
        lock(&self.shared).trusted.insert(key.clone());
        // The time of use is the file's own: it survives a restart.
        if let Ok(file) = fs::File::open(self.path(key)) {
            let _ = file.set_modified(SystemTime::now());
        }
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
        let inside = format!("{key}/");
        lock(&self.shared).trusted.retain(|known| known != key && !known.as_str().starts_with(&inside));
        let path = self.path(key);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }

    /// Removes the least recently used folders that nobody holds until the rest is small enough.
    pub fn make_room(&self) {
        let mut units = Vec::new();
        collect(&self.root, &mut units);
        units.sort_by_key(|unit| unit.used);
        let mut bytes: u64 = units.iter().map(|unit| unit.bytes).sum();
        for unit in units {
            if bytes <= self.bytes_max {
                return;
            }
            let mut shared = lock(&self.shared);
            if shared.held.contains_key(&unit.folder) || unit.folder.ends_with(PARTS) {
                continue;
            }
            for file in &unit.files {
                let key = file.strip_prefix(&self.root).ok().and_then(|path| StorageKey::new(path.to_str()?).ok());
                key.map(|key| shared.trusted.remove(&key));
                let _ = fs::remove_file(file);
            }
            // Fails where folders below are in use.
            let _ = fs::remove_dir(&unit.folder);
            bytes -= unit.bytes;
        }
    }
}

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
            unit.bytes += meta.len();
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
