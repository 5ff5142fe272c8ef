//! What people change: an experiment while it goes on and when it is over, and branches that they add to it.

use crate::{ids::CheckpointId, resources::BudgetSpec, tokens::Tokens};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `PATCH /api/v1/experiments/{id}`: what may be changed while it goes on; labels and note, also when it is over. What is
/// absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeExperiment {
    /// 0 to 100, higher first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// When it should be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
    /// What it may take in all, instead of the budget so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSpec>,
    /// All of its labels, instead of those so far: words (`overnight`) or pairs (`team=speech`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Its note, in Markdown, instead of the one so far; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl ChangeExperiment {
    /// Whether it changes what only an experiment that goes on has: all but labels and note.
    #[must_use]
    pub fn steers(&self) -> bool {
        let Self { priority, deadline, budget, labels, note } = self;
        priority.is_some() || deadline.is_some() || budget.is_some() || (labels.is_none() && note.is_none())
    }
}

/// `POST /api/v1/branches/{id}/fork`: a new branch from a checkpoint of this one, which may still be under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkBranch {
    /// Name of the new branch.
    pub name: String,
    /// Its token budget.
    pub tokens: Tokens,
    /// Weights over domain numbers; the branch's own mixture when absent.
    #[serde(default)]
    pub mixture: Option<BTreeMap<u32, f64>>,
    /// A committed checkpoint of the branch; its last whole one when absent.
    #[serde(default)]
    pub checkpoint_id: Option<CheckpointId>,
}
