//! Which job goes to which slots, and which running job gives its slots up for another: pure functions of a snapshot.
//!
//! Never reads the clock or the database, and never grants a slot twice. Solved again after it was carried out, it
//! changes nothing.

mod able;
mod explain;
mod fit;
mod plan;
mod room;
mod snapshot;

pub use able::{Ask, Lack, lack};
pub use explain::{gib, why_waiting};
pub use plan::plan;
pub use snapshot::{
    FleetSlot, FleetWorker, Placement, Plan, Preemption, Release, RunningJob, SlotState, Snapshot, Standing, WaitingJob,
};
