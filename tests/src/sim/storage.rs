//! The object store: folders of checkpoints, whole or torn or altered.

use senmon_protocol::ids::CheckpointId;
use senmon_server::domain::orphans::is_ours_by;
use std::collections::BTreeMap;
use uuid::Uuid;

/// One folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folder {
    /// The branch.
    pub branch: usize,
    /// The step.
    pub step: u64,
    /// The state of training.
    pub state: u64,
    /// Whether the manifest was written, last of all.
    pub whole: bool,
    /// A bit was flipped.
    pub flipped: bool,
}

/// All folders.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    /// By checkpoint.
    pub folders: BTreeMap<CheckpointId, Folder>,
    /// Whether the server's machine has lost its mount: to the server alone, the store looks empty.
    pub unmounted: bool,
}

/// The identity of the store.
const STORE: Uuid = Uuid::from_u128(1);

impl Storage {
    /// Whether the server sees the store of its database, as `tasks::identity::is_seen`.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        is_ours_by(STORE, (!self.unmounted).then_some(STORE))
    }

    /// [`Self::load`] by the server.
    #[must_use]
    pub fn load_by_server(&self, id: CheckpointId) -> Option<(u64, u64)> {
        if self.unmounted { None } else { self.load(id) }
    }

    /// Reads a checkpoint and compares it with its manifest: its state, or None where it is missing, torn or altered.
    #[must_use]
    pub fn load(&self, id: CheckpointId) -> Option<(u64, u64)> {
        self.folders.get(&id).filter(|folder| folder.whole && !folder.flipped).map(|folder| (folder.step, folder.state))
    }

    /// The newest folder of a branch, committed or not.
    #[must_use]
    pub fn newest(&self, branch: usize) -> Option<CheckpointId> {
        self.folders.iter().rev().find(|(_, folder)| folder.branch == branch).map(|(id, _)| *id)
    }
}
