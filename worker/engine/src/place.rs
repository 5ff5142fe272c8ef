//! Where a job runs: folders to read and write, and the device to compute on.

use super::{
    context::{JobContext, asked_to_end, ended},
    depot::{Depot, Held, Listener as _, Parcel, persist},
    transfer::{Fetching, Sending},
};
use senmon_corpus::{
    roots::Roots,
    shard_set::ShardSet,
    wanted::{self, Wanted},
};
use senmon_protocol::{
    checkpoint::MANIFEST_FILE,
    ids::{Fence, StorageKey},
    job::{CheckpointRef, EndedOutcome, ShardIndex, TerminationReason},
    said,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a job runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Root of the object store, or of its copy on this machine.
    pub storage: PathBuf,
    /// What is behind it.
    pub depot: Arc<dyn Depot>,
    /// Where files outside the store may be read.
    pub roots: Roots,
    /// Fence of the attempt: part of the names of what it writes.
    pub fence: Fence,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// CPU threads.
    pub threads: u16,
}

impl Place {
    /// Path of a key.
    #[must_use]
    pub fn path(&self, key: &StorageKey) -> PathBuf {
        self.storage.join(key.as_str())
    }

    /// Brings a checkpoint here, where the store is elsewhere; it stays as long as what is given back lives.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] when it is gone.
    pub fn fetch_checkpoint(&self, from: &CheckpointRef, context: &dyn JobContext) -> Result<Vec<Held>, EndedOutcome> {
        let held = self.depot.fetch_checkpoint(from, &Sending(context))?;
        let manifest = self.path(&from.folder).join(MANIFEST_FILE);
        let gone = || ended(TerminationReason::CorruptData, format!("{} is gone.", from.folder));
        if manifest.exists() { Ok(held) } else { Err(gone()) }
    }

    /// Sends these files of a folder that was written to the store, where the store is elsewhere. Its copy here must be
    /// held meanwhile ([`Depot::hold`]).
    ///
    /// # Errors
    /// [`TerminationReason::StorageFailure`] after long trying.
    pub fn publish(&self, folder: &StorageKey, files: &[&str], context: &dyn JobContext) -> Result<(), EndedOutcome> {
        let (depot, sending) = (&self.depot, Sending(context));
        let mut parcel = Parcel::new(folder, files.iter().copied());
        persist(depot.patience(), &sending, &|_| false, || depot.send(&mut parcel, &sending))
            .map_err(|error| ended(TerminationReason::StorageFailure, format!("{error:#}")))
    }

    /// Opens what is wanted of the shards, compared with its hashes.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] when something of it is missing or damaged; the end that a command asks for.
    pub fn shards(
        &self,
        key: &StorageKey,
        wanted: &Wanted,
        context: &dyn JobContext,
    ) -> Result<ShardSet, EndedOutcome> {
        let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
        let index = self.shard_index(key)?;
        // What was brought here was compared on its way.
        if self.depot.is_in_place() {
            let fetching = Fetching::new(context);
            let told = |bytes| {
                fetching.passed(bytes);
                !fetching.stops()
            };
            if !wanted::verify(&index, &self.storage, wanted, &told).map_err(corrupt)? {
                let asked = asked_to_end(context.command());
                return Err(
                    asked.unwrap_or_else(|| EndedOutcome::said(TerminationReason::Released, said!("ended_released")))
                );
            }
        }
        ShardSet::open_for(index, &self.storage, wanted).map_err(corrupt)
    }

    /// The folder of this attempt below a job's output.
    ///
    /// # Errors
    /// When the key is no key, which is a bug of the server.
    pub fn attempt_folder(&self, output: &StorageKey) -> Result<(StorageKey, PathBuf), EndedOutcome> {
        let key =
            output.join(format!("f{}", self.fence)).map_err(|error| ended(TerminationReason::InternalError, error))?;
        let path = self.path(&key);
        Ok((key, path))
    }

    /// Reads the index of all shards.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] when it is missing or damaged.
    pub fn shard_index(&self, key: &StorageKey) -> Result<ShardIndex, EndedOutcome> {
        let path = self.path(key);
        let bytes =
            std::fs::read(&path).map_err(|error| ended(TerminationReason::CorruptData, format!("{key}: {error}")))?;
        serde_json::from_slice(&bytes).map_err(|error| ended(TerminationReason::CorruptData, format!("{key}: {error}")))
    }
}

/// Makes a folder and its parents.
///
/// # Errors
/// [`TerminationReason::StorageFailure`].
pub fn make_folder(path: &Path) -> Result<(), EndedOutcome> {
    std::fs::create_dir_all(path)
        .map_err(|error| ended(TerminationReason::StorageFailure, format!("{}: {error}", path.display())))
}
