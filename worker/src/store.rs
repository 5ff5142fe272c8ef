//! The object store as this machine sees it. A folder is used in place. Of a bucket there is a copy below the state
//! folder, laid out in the same way: what a job reads is fetched into it before the job starts, what it writes is
//! written there and sent file by file. The engine sees paths and nothing else.
//!
//! Never decides what is kept in the store, and never calls a checkpoint committed.

mod inputs;
mod remote;
mod trouble;

use crate::cache::{Cache, Full, Held};
use anyhow::Result;
use inputs::{Input, inputs};
use remote::Remote;
use senmon_engine::{
    depot::{self, Depot, Listener, Parcel, persist},
    ended,
};
use senmon_protocol::{
    ensemble::Ensemble,
    ids::StorageKey,
    job::{CheckpointRef, EndedOutcome, JobSpec, TerminationReason},
};
use senmon_store::{Bucket, is_missing};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::runtime::Handle;
use trouble::{Differs, Halted};

/// A store; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Store {
    bucket: Option<Arc<Remote>>,
    patience: Duration,
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

    /// Brings everything here that a job reads, and nothing else; it stays as long as what is given back lives.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] for what the store has lost or altered, by name;
    /// [`TerminationReason::StorageFailure`] when it cannot be reached for too long, or there is no room for it here;
    /// the listener may end it early.
    pub fn fetch(&self, job: &JobSpec, listener: &dyn Listener) -> Result<Vec<Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        for input in inputs(job) {
            self.obtain(remote, &input, listener, &mut held)?;
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
            self.obtain(remote, &input, &(), &mut held)?;
        }
        Ok(held)
    }

    fn obtain(
        &self,
        remote: &Remote,
        input: &Input,
        listener: &dyn Listener,
        held: &mut Vec<Held>,
    ) -> Result<(), EndedOutcome> {
        let lost = |error: &anyhow::Error| is_missing(error) || error.is::<Differs>();
        let for_good = |error: &anyhow::Error| lost(error) || error.is::<Halted>() || error.is::<Full>();
        persist(self.patience, listener, &for_good, || remote.fetch(input, held, listener)).map_err(|error| {
            let reason = if lost(&error) { TerminationReason::CorruptData } else { TerminationReason::StorageFailure };
            ended(reason, format!("{error:#}"))
        })
    }

    /// Drops what was read for a job that found it damaged: the next attempt fetches it again.
    pub fn forget(&self, job: &JobSpec) {
        let Some(remote) = &self.bucket else { return };
        for input in inputs(job) {
            match input {
                Input::File(key)
                | Input::Folder(key)
                | Input::Checkpoint(CheckpointRef { folder: key, .. })
                | Input::Scores(key, _) => remote.cache.forget(&key),
                Input::Shards(key, _) => {
                    let index = remote.index(&key).ok();
                    let folders = index.iter().flat_map(|index| &index.shards).map(|shard| &shard.folder);
                    folders.for_each(|folder| remote.cache.forget(folder));
                    remote.cache.forget(&key);
                }
            }
        }
    }
}

impl Depot for Store {
    fn is_in_place(&self) -> bool {
        self.bucket.is_none()
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn fetch_checkpoint(
        &self,
        from: &CheckpointRef,
        listener: &dyn Listener,
    ) -> Result<Vec<depot::Held>, EndedOutcome> {
        let Some(remote) = &self.bucket else { return Ok(Vec::new()) };
        let mut held = Vec::new();
        self.obtain(remote, &Input::Checkpoint(from.clone()), listener, &mut held)?;
        Ok(held.into_iter().map(|held| -> depot::Held { Box::new(held) }).collect())
    }

    fn hold(&self, folder: &StorageKey) -> Option<depot::Held> {
        let remote = self.bucket.as_ref()?;
        Some(Box::new(remote.cache.hold(folder)))
    }

    /// On a folder nothing is to be done.
    fn send(&self, parcel: &mut Parcel, listener: &dyn Listener) -> Result<()> {
        let Some(remote) = &self.bucket else { return Ok(()) };
        remote.send(parcel, listener)
    }
}
