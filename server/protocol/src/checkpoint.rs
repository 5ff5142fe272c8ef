//! `manifest.json`, the commit record of a checkpoint folder, written last.

use crate::{
    ids::{BranchId, CheckpointId, ExperimentId, Fence},
    lineage::Lineage,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Name of the manifest inside its folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Contents of `manifest.json`. No manifest, no checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// Version of this format: 1.
    pub format: u32,
    /// The checkpoint.
    pub id: CheckpointId,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileEntry>,
    /// Lineage and size.
    pub meta: CheckpointMeta,
    /// When it was written, by the worker's clock.
    pub created_at: DateTime<Utc>,
    /// Version of the program that wrote it.
    pub writer: String,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// What a checkpoint can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointKind {
    /// Weights and trainer state: training goes on from here bit by bit.
    Resumable,
    /// Weights alone.
    Weights,
}

/// Lineage of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointMeta {
    /// What it can be used for.
    pub kind: CheckpointKind,
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The branch.
    pub branch_id: BranchId,
    /// Fence of the attempt that wrote it.
    pub fence: Fence,
    /// Optimiser steps of the branch so far.
    pub step: u64,
    /// Tokens of the branch so far.
    pub tokens: u64,
    /// What the branch and its ancestors have drawn up to here; a branch from here goes on behind it.
    #[serde(default)]
    pub lineage: Lineage,
    /// The checkpoint before it on the lineage: the branch's last one, or the parent's.
    pub parent_id: Option<CheckpointId>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Loss of the last step, nats per token.
    pub loss: Option<f64>,
    /// SHA-256 of the job's settings that shape the result.
    pub config_sha256: String,
    /// SHA-256 over weights, moments, step and cursor in a fixed order: equal states, equal digests.
    pub state_sha256: String,
}
