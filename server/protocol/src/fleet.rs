//! Workers and the fleet, as people and scripts see them.

use crate::{
    ids::{BranchId, JobId, WorkerId},
    said::Said,
    worker::SlotInfo,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// State of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Heard of lately.
    Alive,
    /// Not heard of for one lease.
    Suspect,
    /// Not heard of for long; its jobs go elsewhere.
    Lost,
}

/// Whether a worker is given new jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerMode {
    /// Yes.
    Enabled,
    /// No; what runs is released at its next step and moves elsewhere.
    Draining,
    /// No.
    Disabled,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Id.
    pub id: WorkerId,
    /// Name.
    pub name: String,
    /// Host name.
    pub host: String,
    /// Version of the program.
    pub version: String,
    /// State.
    pub state: WorkerState,
    /// Whether it is given new jobs.
    pub mode: WorkerMode,
    /// Why the server set it aside: it is given no new jobs until somebody enables it.
    pub set_aside: Option<String>,
    /// The same as a kind and values, for whoever words it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside_said: Option<Said>,
    /// Percent that its training is slower than the same experiments' on other workers, where that is certain.
    pub slower_percent: Option<f64>,
    /// Its slots and what runs there.
    pub slots: Vec<SlotView>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Bytes of the machine's memory in use.
    pub memory_used_bytes: u64,
    /// Share of the machine's CPU in use, 0 to 1.
    pub cpu_share: f64,
    /// Last heartbeat.
    pub seen_at: DateTime<Utc>,
}

/// A slot and what runs there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SlotView {
    /// The slot.
    pub slot: SlotInfo,
    /// The job that has it.
    pub job_id: Option<JobId>,
    /// What the job does, for people.
    pub title: Option<String>,
    /// Its branch.
    pub branch_id: Option<BranchId>,
    /// Tokens per second.
    pub tokens_per_second: Option<f64>,
    /// Progress of the job, 0 to 1.
    pub progress: Option<f64>,
}

/// The fleet in one look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetView {
    /// Workers by state.
    pub workers_alive: u32,
    /// Workers not heard of for one lease.
    pub workers_suspect: u32,
    /// Workers not heard of for long.
    pub workers_lost: u32,
    /// Workers that drain.
    pub workers_draining: u32,
    /// Slots of workers that are alive.
    pub slots: u32,
    /// Slots with a job.
    pub slots_busy: u32,
    /// Jobs that wait.
    pub jobs_queued: u32,
    /// Tokens per second of everything that runs.
    pub tokens_per_second: f64,
}
