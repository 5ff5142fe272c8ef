//! How workers' machines and devices were over time: what a worker says once a minute, and what people see of it.

use crate::ids::WorkerId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `POST /api/v1/workers/{id}/readings`: means over the last minute. What a machine does not tell is absent. It may be
/// lost or refused without harm: nothing waits for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Readings {
    /// Session of the enrolment.
    pub session: i64,
    /// Share of the machine's CPU in use, 0 to 1.
    pub cpu_share: Option<f64>,
    /// Bytes of its memory in use.
    pub memory_used_bytes: Option<f64>,
    /// Bytes of its memory.
    pub memory_bytes: Option<f64>,
    /// Bytes a second from its networks, without those to itself.
    pub received_bytes_per_second: Option<f64>,
    /// Bytes a second to its networks.
    pub sent_bytes_per_second: Option<f64>,
    /// Bytes a second from its disks.
    pub read_bytes_per_second: Option<f64>,
    /// Bytes a second to its disks.
    pub written_bytes_per_second: Option<f64>,
    /// The devices of its slots.
    pub devices: Vec<DeviceReading>,
}

/// An accelerator over the last minute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceReading {
    /// `cuda:N`.
    pub device: String,
    /// Share of the time in which a kernel ran, 0 to 1.
    pub utilisation: Option<f64>,
    /// Bytes of its memory in use, by anyone.
    pub memory_used_bytes: Option<f64>,
    /// Bytes of its memory.
    pub memory_bytes: Option<f64>,
    /// Temperature in degrees Celsius.
    pub celsius: Option<f64>,
    /// Power in watts.
    pub watts: Option<f64>,
    /// Share of the time in which heat or power held its clocks back, 0 to 1.
    pub throttled: Option<f64>,
    /// Errors of its memory that could not be corrected, since its driver was loaded.
    pub ecc_uncorrected: Option<f64>,
    /// The last grave error that its driver told in that minute (an Xid).
    pub xid: Option<u32>,
}

/// `GET /api/v1/workers/{id}/metrics`: how a worker's machine and devices were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerMetrics {
    /// The worker.
    pub worker_id: WorkerId,
    /// Time between two points, in milliseconds: a minute, or more where time is long or long ago.
    pub every_ms: u64,
    /// The machine first, then its devices.
    pub sources: Vec<SourceMetrics>,
}

/// How a machine or a device was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourceMetrics {
    /// `machine`, or a device: `cuda:0`.
    pub source: String,
    /// When each point begins, in milliseconds since the Unix epoch, by the server's clock. Where nothing was heard there
    /// is no point.
    pub at_ms: Vec<i64>,
    /// Means by name (`cpu/share`, `memory/used_bytes`, `memory/total_bytes`, `network/received_bytes_per_second`,
    /// `network/sent_bytes_per_second`, `disk/read_bytes_per_second`, `disk/written_bytes_per_second`;
    /// `device/utilisation`, `device/memory_used_bytes`, `device/memory_total_bytes`, `device/celsius`, `device/watts`,
    /// `device/throttled`, `device/ecc_uncorrected`), each as
    /// long as `at_ms`; a name of which nothing is known is absent.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}
