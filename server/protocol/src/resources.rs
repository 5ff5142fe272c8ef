//! What an experiment asks of the fleet: what each slot must offer, until when, and how much of it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One slot: an accelerator, or a share of the CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotInfo {
    /// Number on its worker, from 0.
    pub index: u16,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Name of the device.
    pub device_name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// CPU threads that belong to the slot.
    pub threads: u16,
    /// Why its worker gives it no more work, in the driver's words: its device failed again. Until the worker is started
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A share of the CPU.
    Cpu,
    /// An NVIDIA device.
    Cuda,
}

impl DeviceKind {
    /// The kind in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// The kind of a slot's device.
    #[must_use]
    pub fn of(slot: &SlotInfo) -> Self {
        if slot.device.starts_with("cuda") { Self::Cuda } else { Self::Cpu }
    }
}

/// What each slot of an experiment's jobs must offer. Memory and device are asked for jobs that hold the model
/// (training, evaluation), labels for all of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesSpec {
    /// Memory of the slot's device in GiB, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<f64>,
    /// Kind of its device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceKind>,
    /// Labels that its worker has, with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What an experiment may take in all. Once spent, the experiment is paused, not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetSpec {
    /// Hours of slots, over all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_hours: Option<f64>,
    /// Hours since its first attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_hours: Option<f64>,
}

/// What each slot of a job must offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Needs {
    /// Memory in bytes, at least.
    pub memory_bytes: u64,
    /// Kind of its device; any when absent.
    pub device: Option<DeviceKind>,
    /// Labels of its worker.
    pub labels: BTreeMap<String, String>,
}

impl ResourcesSpec {
    /// What each slot of a job must offer; `holds_model` says whether the job holds the model's weights.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be above 0 and below 2^53")]
    pub fn needs(&self, holds_model: bool) -> Needs {
        let memory = self.memory_gib.filter(|_| holds_model).unwrap_or(0.0);
        Needs {
            memory_bytes: (memory * f64::from(1_u32 << 30)) as u64,
            device: self.device.filter(|_| holds_model),
            labels: self.labels.clone(),
        }
    }
}
