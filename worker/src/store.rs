//! The object store as this machine sees it. A folder is used in place. Of a bucket there is a copy below the state
//! folder, laid out in the same way: what a job reads is fetched into it before the job starts, what it writes is
//! written there and sent file by file. The engine sees paths and nothing else.
//!
//! Never decides what is kept in the store, and never calls a checkpoint committed.

use crate::{
    board::lock,
    cache::{self, Cache, Held},
    train::ended,
};
use anyhow::{Context, Result, bail, ensure};
use senmon_corpus::{manifest::parse, sha256_file};
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ensemble::Ensemble,
    ids::StorageKey,
    job::{CheckpointRef, EndedOutcome, JobSpec, ShardIndex, TerminationReason, TrainStart},
};
use senmon_store::{Bucket, is_missing};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

/// First and longest pause between tries of the store.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a pause looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// A store; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Store {
    bucket: Option<Arc<Remote>>,
    /// How long what must be written is tried.
    pub patience: Duration,
}

#[derive(Debug)]
struct Remote {
    bucket: Bucket,
    runtime: Handle,
    cache: Cache,
    /// One fetch at a time: two attempts that want the same get it once.
    fetching: Mutex<()>,
}

/// Something that a job reads.
#[derive(Debug, Clone, PartialEq)]
enum Input {
    File(StorageKey),
    Folder(StorageKey),
    Checkpoint(CheckpointRef),
    Shards(StorageKey),
    /// A folder with one file of a known hash.
    Scores(StorageKey, String),
}

/// Name of the cached scores inside an evaluation's folder.
const SCORES_FILE: &str = "logprobs.safetensors";

fn inputs(job: &JobSpec) -> Vec<Input> {
    match job {
        JobSpec::Shard(job) => {
            let dropped = job.file.dropped.clone().map(Input::File);
            [Input::Folder(job.router.clone()), Input::File(job.tokenizer.clone())].into_iter().chain(dropped).collect()
        }
        JobSpec::Train(job) => {
            let from = match (&job.resume, &job.start) {
                (Some(from), _) | (None, TrainStart::Checkpoint(from)) => Some(Input::Checkpoint(from.clone())),
                (None, TrainStart::Init(_) | TrainStart::Folder(_)) => None,
            };
            let rest = [Input::File(job.tokenizer.clone()), Input::Shards(job.shards.clone())];
            rest.into_iter().chain(from).collect()
        }
        JobSpec::Evaluate(job) => vec![
            Input::Checkpoint(job.checkpoint.clone()),
            Input::Shards(job.shards.clone()),
            Input::File(job.held_out.clone()),
        ],
        JobSpec::Merge(job) => {
            let members = job.members.iter().map(|member| Input::Checkpoint(member.checkpoint.clone()));
            members.chain([Input::File(job.tokenizer.clone())]).collect()
        }
        JobSpec::Ensemble(job) => {
            let scores = job.members.iter().map(|member| Input::Scores(member.scores.clone(), member.sha256.clone()));
            let rest = [
                Input::Shards(job.shards.clone()),
                Input::File(job.held_out.clone()),
                Input::File(job.tokenizer.clone()),
                Input::Folder(job.router.clone()),
            ];
            scores.chain(rest).collect()
        }
        JobSpec::Decontaminate(job) => {
            job.file.dropped.iter().chain([&job.candidates]).cloned().map(Input::File).collect()
        }
    }
}

impl Store {
    /// A folder, used in place.
    #[must_use]
    pub fn folder(patience: Duration) -> Self {
        Self { bucket: None, patience }
    }

    /// A bucket with its copy below `root`. `runtime` carries the requests: callers are the attempts' own threads.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn bucket(bucket: Bucket, root: &Path, bytes_max: u64, runtime: Handle, patience: Duration) -> Result<Self> {
        let cache = Cache::open(root, bytes_max)?;
        Ok(Self { bucket: Some(Arc::new(Remote { bucket, runtime, cache, fetching: Mutex::default() })), patience })
    }

    /// Brings everything here that a job reads; it stays as long as what is given back lives.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] for what the store has lost or altered, by name;
    /// [`TerminationReason::StorageFailure`] when it cannot be reached for too long; `stop` ends it early.
    pub fn fetch(&self, job: &JobSpec, stop: &dyn Fn() -> bool) -> Result<Vec<Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        for input in inputs(job) {
            self.obtain(remote, &input, stop, &mut held)?;
        }
        Ok(held)
    }

    /// Brings everything here that an ensemble needs to score new text.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_ensemble(&self, ensemble: &Ensemble) -> Result<Vec<Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        let experts = ensemble.experts.iter().map(|expert| Input::Checkpoint(expert.checkpoint.clone()));
        for input in experts.chain([Input::Folder(ensemble.router.clone())]) {
            self.obtain(remote, &input, &|| false, &mut held)?;
        }
        Ok(held)
    }

    /// Brings a checkpoint here.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_checkpoint(&self, from: &CheckpointRef, stop: &dyn Fn() -> bool) -> Result<Vec<Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        self.obtain(remote, &Input::Checkpoint(from.clone()), stop, &mut held)?;
        Ok(held)
    }

    fn obtain(
        &self,
        remote: &Remote,
        input: &Input,
        stop: &dyn Fn() -> bool,
        held: &mut Vec<Held>,
    ) -> Result<(), EndedOutcome> {
        let lost = |error: &anyhow::Error| is_missing(error) || error.is::<Differs>();
        let result = persist(self.patience, stop, &lost, || {
            let _alone = lock(&remote.fetching);
            remote.fetch(input, held)
        });
        result.map_err(|error| {
            let reason = if lost(&error) { TerminationReason::CorruptData } else { TerminationReason::StorageFailure };
            ended(reason, format!("{error:#}"))
        })
    }

    /// Keeps the copy of a folder that is about to be written.
    #[must_use]
    pub fn hold(&self, folder: &StorageKey) -> Option<Held> {
        self.bucket.as_ref().map(|remote| remote.cache.hold(folder))
    }

    /// Sends the files of a folder that was written here, the manifest last; once. On a folder nothing is to be done.
    ///
    /// # Errors
    /// When the store refuses, or was sent something else than the manifest says.
    pub fn publish(&self, folder: &StorageKey) -> Result<()> {
        let Some(remote) = &self.bucket else { return Ok(()) };
        remote.publish(folder, &mut BTreeSet::new())
    }

    /// The same, tried again until it is done, `stop` says so, or patience ends.
    ///
    /// # Errors
    /// [`TerminationReason::StorageFailure`].
    pub fn publish_patiently(&self, folder: &StorageKey, stop: &dyn Fn() -> bool) -> Result<(), EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(()) };
        let mut sent = BTreeSet::new();
        persist(self.patience, stop, &|_| false, || remote.publish(folder, &mut sent))
            .map_err(|error| ended(TerminationReason::StorageFailure, format!("{error:#}")))
    }

    /// Drops what was read for a job that found it damaged: the next attempt fetches it again.
    pub fn forget(&self, job: &JobSpec) {
        let Some(remote) = &self.bucket else { return };
        for input in inputs(job) {
            let (Input::File(key)
            | Input::Folder(key)
            | Input::Checkpoint(CheckpointRef { folder: key, .. })
            | Input::Shards(key)
            | Input::Scores(key, _)) = input;
            remote.cache.forget(&key);
        }
    }
}

/// What came is not what was announced: no retry mends it.
#[derive(Debug)]
struct Differs(String);

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Differs {}

/// Repeats what failed with growing pauses, unless the failure is for good, until `patience` ends or `stop` says so.
///
/// # Errors
/// The last failure.
pub fn persist<T>(
    patience: Duration,
    stop: &dyn Fn() -> bool,
    for_good: &dyn Fn(&anyhow::Error) -> bool,
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
    loop {
        let error = match work() {
            Ok(done) => return Ok(done),
            Err(error) if for_good(&error) || start.elapsed() + pause > patience => return Err(error),
            Err(error) => error,
        };
        tracing::warn!(error = format!("{error:#}"), pause_ms = pause.as_millis(), "the store refuses; trying again");
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if stop() {
                return Err(error);
            }
            std::thread::sleep(LOOK.min(pause));
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Remote {
    fn fetch(&self, input: &Input, held: &mut Vec<Held>) -> Result<()> {
        match input {
            Input::File(key) => self.file(key, None, held),
            Input::Folder(key) => self.folder(key, held),
            Input::Checkpoint(from) => self.checkpoint(from, held),
            Input::Scores(folder, sha256) => self.file(&folder.join(SCORES_FILE)?, Some(sha256), held),
            Input::Shards(key) => {
                self.file(key, None, held)?;
                let index: ShardIndex =
                    serde_json::from_slice(&fs::read(self.cache.path(key))?).with_context(|| key.to_string())?;
                for shard in &index.shards {
                    for (name, sha256) in [("shard.bin", &shard.bin_sha256), ("shard.idx", &shard.idx_sha256)] {
                        self.file(&shard.folder.join(name)?, Some(sha256), held)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// One file. What is here already is read once by each process before it is trusted.
    fn file(&self, key: &StorageKey, sha256: Option<&String>, held: &mut Vec<Held>) -> Result<()> {
        let path = self.cache.path(key);
        held.push(self.cache.hold(&cache::folder_of(key)));
        let is_good = |found: &str| sha256.is_none_or(|expected| found == expected);
        if path.exists() && (self.cache.is_trusted(key) || is_good(&sha256_file(&path)?)) {
            self.cache.used(key);
            return Ok(());
        }
        let part = self.cache.part()?;
        let (_, found) = self.wait(self.bucket.get_file(key, &part))?;
        ensure!(is_good(&found), Differs(format!("{key}: SHA-256 is {found}, expected {}", sha256.map_or("", |s| s))));
        self.cache.settle(&part, &path)?;
        self.cache.used(key);
        Ok(())
    }

    /// A folder whose files have no hashes of their own.
    fn folder(&self, key: &StorageKey, held: &mut Vec<Held>) -> Result<()> {
        let objects = self.wait(self.bucket.list(Some(key)))?;
        ensure!(!objects.is_empty(), Differs(format!("{key} is missing in the store")));
        for object in objects {
            self.file(&object.key, None, held)?;
        }
        Ok(())
    }

    /// A checkpoint: manifest first, because it says what belongs to it, but the last to be in its place.
    fn checkpoint(&self, from: &CheckpointRef, held: &mut Vec<Held>) -> Result<()> {
        held.push(self.cache.hold(&from.folder));
        let key = from.folder.join(MANIFEST_FILE)?;
        let here = fs::read(self.cache.path(&key)).ok().filter(|bytes| parse(bytes, &from.manifest_sha256).is_ok());
        let bytes = match here {
            Some(bytes) => bytes,
            None => self.wait(self.bucket.get(&key))?,
        };
        let manifest = parse(&bytes, &from.manifest_sha256).map_err(|error| Differs(format!("{key}: {error:#}")))?;
        for (name, entry) in &manifest.files {
            self.file(&from.folder.join(name)?, Some(&entry.sha256), held)?;
        }
        let part = self.cache.part()?;
        fs::write(&part, &bytes)?;
        self.cache.settle(&part, &self.cache.path(&key))
    }

    fn publish(&self, folder: &StorageKey, sent: &mut BTreeSet<String>) -> Result<()> {
        let path = self.cache.path(folder);
        let manifest = match fs::read(path.join(MANIFEST_FILE)) {
            Ok(bytes) => Some((serde_json::from_slice::<Manifest>(&bytes).context(MANIFEST_FILE)?, bytes)),
            Err(_) => None,
        };
        for file in files(&path)? {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name == MANIFEST_FILE || sent.contains(&name) {
                continue;
            }
            let sha256 = self.wait(self.bucket.put_file(&folder.join(&name)?, &file))?;
            if let Some((manifest, _)) = &manifest {
                let entry = manifest.files.get(&name).with_context(|| format!("{name} is not in the manifest"))?;
                ensure!(sha256 == entry.sha256, "{name}: sent SHA-256 {sha256}, the manifest says {}", entry.sha256);
            }
            self.cache.used(&folder.join(&name)?);
            sent.insert(name);
        }
        if let Some((_, bytes)) = manifest {
            self.wait(self.bucket.put_new(&folder.join(MANIFEST_FILE)?, bytes))?;
        }
        self.cache.make_room();
        Ok(())
    }

    fn wait<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(request)
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        files.push(entry?.path());
    }
    if files.is_empty() {
        bail!("{} holds no file", folder.display());
    }
    files.sort();
    Ok(files)
}
