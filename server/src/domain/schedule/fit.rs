//! Whether a slot offers what a job needs, and which of the fitting slots it is given.

use super::snapshot::{FleetSlot, FleetWorker};
use senmon_protocol::{
    job::JobKind,
    resources::{DeviceKind, Needs},
};

/// Whether a worker has the labels and can do the kind of work.
pub(super) fn worker_fits(worker: &FleetWorker, kind: JobKind, needs: &Needs) -> bool {
    worker.capabilities.contains(&kind) && labels_fit(worker, needs)
}

pub(super) fn labels_fit(worker: &FleetWorker, needs: &Needs) -> bool {
    needs.labels.iter().all(|(key, value)| worker.labels.get(key) == Some(value))
        || cfg!(feature = "plant-labels-ignored")
}

/// Whether a slot offers what is needed.
pub(super) fn slot_fits(slot: &FleetSlot, needs: &Needs) -> bool {
    slot.memory_bytes >= needs.memory_bytes && needs.device.is_none_or(|device| slot.device == device)
}

/// How much of a waste a slot is for a job that it fits; the least is taken. Work on the model belongs on
/// accelerators, the rest beside them; and large slots are kept for those that need them.
pub(super) fn waste(slot: &FleetSlot, kind: JobKind) -> (bool, u64) {
    let on_model = matches!(kind, JobKind::Train | JobKind::Evaluate);
    (on_model != (slot.device == DeviceKind::Cuda), slot.memory_bytes)
}
