//! What a plan depends on, and what comes of it.

use senmon_protocol::{
    ids::{JobId, OwnerId, WorkerId},
    job::JobKind,
    resources::{DeviceKind, Needs},
};
use std::collections::BTreeMap;

/// Everything that a plan depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Jobs that wait.
    pub waiting: Vec<WaitingJob>,
    /// Jobs that run on its workers.
    pub running: Vec<RunningJob>,
    /// Workers, also those that are given nothing: they are part of the answer why a job waits.
    pub workers: Vec<FleetWorker>,
    /// Slots that owners have on workers which the snapshot leaves out: they count for a fair share.
    pub elsewhere: BTreeMap<OwnerId, u32>,
    /// A job gives its slots up only after it ran for so long, so that it got further than its start cost.
    pub preempt_after_s: i64,
}

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    /// The job.
    pub id: JobId,
    /// Whose work it is.
    pub owner: OwnerId,
    /// Its kind.
    pub kind: JobKind,
    /// 0 to 100, higher first.
    pub priority: i16,
    /// Slots of one worker that it needs.
    pub slots: u16,
    /// What each of them must offer.
    pub needs: Needs,
    /// Tokens left.
    pub remaining: i64,
    /// Place in the order of creation.
    pub age: u64,
    /// Seconds to spare before its owner's deadline, once that is close.
    pub slack_s: Option<i64>,
    /// The worker on which it failed last: another one is tried, if it is free.
    pub failed_on: Option<WorkerId>,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningJob {
    /// The job.
    pub id: JobId,
    /// What it does, for people.
    pub title: String,
    /// Whose work it is.
    pub owner: OwnerId,
    /// Its kind.
    pub kind: JobKind,
    /// 0 to 100.
    pub priority: i16,
    /// The worker.
    pub worker: WorkerId,
    /// The slots.
    pub slots: Vec<u16>,
    /// Seconds since it was granted.
    pub ran_s: i64,
    /// Whether it was asked to give its slots back.
    pub release: Release,
}

/// Whether a running job was asked to give its slots back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Release {
    /// It was not.
    #[default]
    No,
    /// It was: paused, cancelled, or its worker drains.
    Asked,
    /// It was, for the sake of this job.
    For(JobId),
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetWorker {
    /// The worker.
    pub id: WorkerId,
    /// Name.
    pub name: String,
    /// Whether it is given jobs.
    pub standing: Standing,
    /// Kinds it can run.
    pub capabilities: Vec<JobKind>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Slots.
    pub slots: Vec<FleetSlot>,
}

/// Whether a worker is given jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Open,
    /// A person drains it.
    Draining,
    /// A person disabled it.
    Disabled,
    /// The server set it aside, because job after job failed there.
    SetAside,
    /// It has not been heard of for one lease.
    Silent,
    /// It has not been heard of for long.
    Lost,
}

/// A slot of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FleetSlot {
    /// Number on its worker.
    pub index: u16,
    /// Kind of its device.
    pub device: DeviceKind,
    /// Memory of its device.
    pub memory_bytes: u64,
    /// Whether a job can have it.
    pub state: SlotState,
}

/// Whether a job can have a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// It waits for one.
    Free,
    /// An attempt on it has just ended; its worker is about to ask for another.
    Coming,
    /// A job has it, or its worker does not ask for one.
    Taken,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Jobs for free slots.
    pub placements: Vec<Placement>,
    /// Running jobs that shall write a checkpoint and give their slots up.
    pub preemptions: Vec<Preemption>,
}

/// A job for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// The worker.
    pub worker: WorkerId,
    /// The slots.
    pub slots: Vec<u16>,
}

/// A running job that gives its slots up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preemption {
    /// The running job.
    pub victim: JobId,
    /// The job of higher priority that gets them.
    pub job: JobId,
}
