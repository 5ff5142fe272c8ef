//! A checkpoint from memory to its commit: announced, written once, sent with patience, handed to the server. Trainings
//! and merges alike.
//!
//! Never writes a folder anew that is whole: only what failed is tried again.

use super::{
    checkpoint::{self, Saved, Snapshot},
    context::{JobContext, ended},
    depot::{Parcel, persist},
    place::Place,
    transfer::Sending,
};
use senmon_protocol::{
    checkpoint::CheckpointMeta,
    ids::{CheckpointId, StorageKey},
    job::{CheckpointRef, EndedOutcome, TerminationReason, WrittenCheckpoint},
};
use std::time::Duration;

/// What becomes a checkpoint.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The tensors.
    pub snapshot: &'a Snapshot,
    /// Everything else; sizes and digest are filled in.
    pub meta: CheckpointMeta,
    /// `tokenizer.json`, copied beside the weights.
    pub tokenizer: &'a StorageKey,
    /// Folder of all checkpoints of the job.
    pub output: &'a StorageKey,
    /// Name of this one's own folder there.
    pub name: String,
}

/// Writes a checkpoint, sends it, and asks for its commit; what fails is tried again for as long as `patience`.
///
/// # Errors
/// [`TerminationReason::StorageFailure`]; nothing of it is left on this machine then.
pub fn commit(
    draft: Draft,
    place: &Place,
    context: &dyn JobContext,
    patience: Duration,
) -> Result<CheckpointRef, EndedOutcome> {
    let Draft { snapshot, mut meta, tokenizer, output, name } = draft;
    let (id, step) = (CheckpointId::new(), snapshot.state.step);
    let failure = |error: &dyn std::fmt::Display| {
        ended(TerminationReason::StorageFailure, format!("checkpoint at step {step} could not be written: {error:#}"))
    };
    let folder = output.join(name).map_err(|error| failure(&error))?;
    context.announce(id, &folder, step);
    let _held = place.depot.hold(&folder);
    let (path, tokenizer) = (place.path(&folder), place.path(tokenizer));
    let mut whole: Option<(Saved, Parcel)> = None;
    let once = || {
        let (saved, parcel) = match &mut whole {
            Some(whole) => whole,
            empty => {
                let saved = checkpoint::save(&path, snapshot, &tokenizer, id, &mut meta)?;
                let parcel = Parcel::new(&folder, saved.files.iter().cloned());
                empty.insert((saved, parcel))
            }
        };
        place.depot.send(parcel, &Sending(context))?;
        Ok(saved.manifest_sha256.clone())
    };
    let written = persist(patience, &Sending(context), &|_| false, once);
    let manifest_sha256 = written.map_err(|error| {
        // Half a checkpoint is none, and its room may be what the next one lacks.
        let _ = std::fs::remove_dir_all(&path);
        failure(&error)
    })?;
    context.commit(WrittenCheckpoint { id, folder: folder.clone(), manifest_sha256: manifest_sha256.clone(), meta });
    Ok(CheckpointRef { id, folder, manifest_sha256, step })
}
