//! Curves, events and logs: what is read over and over, and what is streamed.

use crate::{
    fleet::FleetView,
    ids::{BranchId, ExperimentId, Fence, WorkerId},
    said::Said,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `GET /api/v1/branches/{id}/metrics`: curves, at most `points_max` points each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsView {
    /// The branch.
    pub branch_id: BranchId,
    /// Last step of each bucket.
    pub steps: Vec<u64>,
    /// Tokens of the branch at that step.
    pub tokens: Vec<u64>,
    /// Milliseconds since the Unix epoch at that step.
    pub at_ms: Vec<i64>,
    /// Curves by metric name.
    pub series: BTreeMap<String, Curve>,
    /// Points that a later attempt took the place of, newest attempt last.
    pub superseded: Vec<SupersededTail>,
    /// What happened to the branch, for marks on the axis.
    pub events: Vec<EventView>,
}

/// One curve in buckets; null where no value of the bucket was finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Curve {
    /// Mean of each bucket.
    pub mean: Vec<Option<f64>>,
    /// Smallest of each bucket; absent when every bucket is one point.
    pub min: Option<Vec<Option<f64>>>,
    /// Largest of each bucket; absent when every bucket is one point.
    pub max: Option<Vec<Option<f64>>>,
}

/// Points that a resume took back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SupersededTail {
    /// Fence of the attempt that reported them.
    pub fence: Fence,
    /// Steps.
    pub steps: Vec<u64>,
    /// Loss.
    pub loss: Vec<Option<f64>>,
}

/// Something that happened, in one sentence for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Grows with time; cursor of the list and of the stream.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `experiment_submitted`, `stage_finished`, `attempt_started`, `attempt_ended`, `checkpoint_committed`,
    /// `branch_paused`, `worker_lost`, …
    pub kind: String,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// The sentence, in English.
    pub text: String,
    /// The same as a kind and values, for whoever words it in another language; absent where only the sentence is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// The experiment concerned.
    pub experiment_id: Option<ExperimentId>,
    /// The branch concerned.
    pub branch_id: Option<BranchId>,
    /// The worker concerned.
    pub worker_id: Option<WorkerId>,
    /// The step concerned.
    pub step: Option<u64>,
}

/// One message of `GET /api/v1/stream` (server-sent events; the event's name is the variant's). Hints: a reader
/// that missed some asks again for what it shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StreamMessage {
    /// New metric points.
    Metrics(StreamMetrics),
    /// An experiment, its stages or its branches changed.
    Experiment(StreamExperiment),
    /// The fleet changed.
    Fleet(FleetView),
    /// Something happened.
    Event(EventView),
}

/// New points of one branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamMetrics {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The branch.
    pub branch_id: BranchId,
    /// Steps, tokens and times as in [`crate::worker::MetricBatch`].
    pub steps: Vec<u64>,
    /// Tokens.
    pub tokens: Vec<u64>,
    /// Times.
    pub at_ms: Vec<i64>,
    /// Values by metric name.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// An experiment changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamExperiment {
    /// The experiment.
    pub experiment_id: ExperimentId,
}

/// `GET /api/v1/attempts/{id}/logs` and `/branches/{id}/logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogsView {
    /// Lines, oldest first.
    pub lines: Vec<crate::worker::LogLine>,
    /// Give this as `after` to go on.
    pub next_after: i64,
}
