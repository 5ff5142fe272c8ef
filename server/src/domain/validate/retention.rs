//! Which checkpoints stay, and whether the store has room for them.

use super::{Faults, Known};
use crate::domain::planner;
use senmon_protocol::{spec::ExperimentSpec, storage::Bytes};

/// A store with a budget.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes that it may hold.
    pub budget: Bytes,
    /// Bytes that it holds.
    pub used: Bytes,
    /// Bytes that the experiments under way may still add.
    pub growth: Bytes,
}

/// Faults of the policy.
pub(super) fn retention(spec: &ExperimentSpec, faults: &mut Faults) {
    let retention = &spec.retention;
    faults.check(
        retention.keep_latest >= 1,
        "retention.keep_latest",
        retention.keep_latest,
        "at least 1: a branch goes on from its newest checkpoint",
    );
    if let Some(every) = retention.keep_every_tokens {
        faults.check(
            every.0 >= 1,
            "retention.keep_every_tokens",
            every.0,
            "at least 1 token; 1 keeps every checkpoint",
        );
    }
}

/// Whether what stays fits into the store.
pub(super) fn room(spec: &ExperimentSpec, known: &Known, faults: &mut Faults) {
    let (Some(room), Some(needs)) = (known.room, planner::checkpoint_bytes(spec, known, None)) else { return };
    let left = room.budget.0.saturating_sub(room.used.0).saturating_sub(room.growth.0);
    if needs > left {
        let message = format!(
            "the checkpoints that stay take {}; the storage budget of {} leaves {left} ({} used, {} still to come from experiments under way)",
            Bytes(needs),
            room.budget,
            room.used,
            room.growth,
            left = Bytes(left)
        );
        faults.add("retention", message);
    }
}
