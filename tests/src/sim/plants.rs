//! The planted bugs: each is one build feature and one line of code, and each must be found.
//!
//! | feature | where | what it breaks |
//! | --- | --- | --- |
//! | `plant-complete-twice` | `sim::store` | the end of an attempt is taken a second time |
//! | `plant-fence-restarts` | `sim::store` | fences begin again when the server does |
//! | `plant-infra-charged-to-user` | `server/src/domain/lease.rs` | a lost worker costs the user's budget |
//! | `plant-lease-to-the-end` | `worker/src/lease.rs` | a holder writes until its lease ends, not for two thirds |
//! | `plant-lost-at-once` | `server/src/domain/lease.rs` | a fresh server ends leases before it has listened |
//! | `plant-metrics-twice` | `sim::store` | a repeated batch is stored again |
//! | `plant-no-fence-check` | `sim::store` | writes with an old fence are accepted |
//! | `plant-resume-uncommitted` | `sim::store` | the newest folder is resumed from, committed or not |
//! | `plant-retention-ignores-references` | `server/src/domain/retention.rs` | referenced checkpoints are removed |
//! | `plant-slot-freed-early` | `sim::worker` | a slot is free while its thread still runs |
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
pub const RESUME_UNCOMMITTED: bool = cfg!(feature = "plant-resume-uncommitted");
/// See the table.
pub const SLOT_FREED_EARLY: bool = cfg!(feature = "plant-slot-freed-early");
