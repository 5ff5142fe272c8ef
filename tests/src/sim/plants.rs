//! The planted bugs: each is one build feature and one line of code, and each must be found.
//!
//! | feature | where | what it breaks |
//! | --- | --- | --- |
//! | `plant-breaks-unnoticed` | `server/src/domain/lease.rs` | a server does not notice that it could hear nobody |
//! | `plant-complete-twice` | `sim::store` | the end of an attempt is taken a second time |
//! | `plant-fence-restarts` | `sim::store` | fences begin again when the server does |
//! | `plant-infra-charged-to-user` | `server/src/domain/lease.rs` | a lost worker costs the user's budget |
//! | `plant-labels-ignored` | `server/src/domain/schedule/fit.rs` | a job runs where the labels it needs are missing |
//! | `plant-lease-to-the-end` | `worker/src/lease.rs` | a holder writes until its lease ends, not for two thirds |
//! | `plant-lost-at-once` | `server/src/domain/lease.rs` | a fresh server ends leases before it has listened |
//! | `plant-metrics-twice` | `sim::store` | a repeated batch is stored again |
//! | `plant-names-shared` | `server/src/domain/access.rs` | a second machine takes the name of a worker that lives |
//! | `plant-no-fence-check` | `sim::store` | writes with an old fence are accepted |
//! | `plant-preempted-unsaved` | `sim::worker` | a branch gives its slots up without a checkpoint |
//! | `plant-preempts-equals` | `server/src/domain/schedule/room.rs` | slots are given up for a job of the same priority |
//! | `plant-resume-uncommitted` | `sim::store` | the newest folder is resumed from, committed or not |
//! | `plant-retention-ignores-references` | `server/src/domain/retention.rs` | referenced checkpoints are removed |
//! | `plant-slot-freed-early` | `sim::worker` | a slot is free while its thread still runs |
//! | `plant-store-unknown` | `server/src/domain/orphans.rs` | an unmounted store passes for one that lost everything |
//! | `plant-tail-unmarked` | `server/src/domain/metrics/mod.rs` | superseded points stay in the curve |

/// See the table.
pub const COMPLETE_TWICE: bool = cfg!(feature = "plant-complete-twice");
/// See the table.
pub const FENCE_RESTARTS: bool = cfg!(feature = "plant-fence-restarts");
/// See the table.
pub const METRICS_TWICE: bool = cfg!(feature = "plant-metrics-twice");
/// See the table.
pub const NO_FENCE_CHECK: bool = cfg!(feature = "plant-no-fence-check");
/// See the table.
pub const PREEMPTED_UNSAVED: bool = cfg!(feature = "plant-preempted-unsaved");
/// See the table.
pub const RESUME_UNCOMMITTED: bool = cfg!(feature = "plant-resume-uncommitted");
/// See the table.
pub const SLOT_FREED_EARLY: bool = cfg!(feature = "plant-slot-freed-early");
