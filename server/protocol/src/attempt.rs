//! One attempt of a job as people read it.

use crate::{
    ids::{AttemptId, Fence, JobId},
    job::TerminationReason,
    said::Said,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One execution of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// Id.
    pub id: AttemptId,
    /// The job.
    pub job_id: JobId,
    /// Its fence.
    pub fence: Fence,
    /// Name of the worker.
    pub worker: String,
    /// Slots taken.
    pub slots: Vec<u16>,
    /// Step it started from, for training.
    pub step_start: Option<u64>,
    /// Verdict of the exact-resume check, where it resumed.
    pub resume_verified: Option<bool>,
    /// When it was granted.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Where its time went, as its worker counted it.
    #[serde(default)]
    pub time: crate::worker::AttemptTime,
    /// Why it ended without a result.
    pub reason: Option<TerminationReason>,
    /// What exactly.
    pub message: Option<String>,
    /// Advice for the reason.
    pub advice: Option<String>,
    /// How it ended, as a kind and values; the advice is that of the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
}
