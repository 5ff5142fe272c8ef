//! A finished set of experts as one thing to use: what scoring new text with it needs.

use crate::{
    ids::{ExperimentId, StorageKey},
    job::CheckpointRef,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/v1/experiments/{id}/ensemble`: the experts of a finished experiment and how they are mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ensemble {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Its name.
    pub name: String,
    /// The object store as workers are told of it; every folder below lies in it.
    pub storage_url: String,
    /// Folder of the router artefact.
    pub router: StorageKey,
    /// Token between documents.
    pub separator: String,
    /// Token before each document; None for what the tokenizer does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<String>,
    /// Tokens of one window.
    pub sequence_length: u32,
    /// Tokens between two looks of the router.
    pub route_every_tokens: u32,
    /// The temperature for each number of experts, calibrated on held-out documents.
    pub temperatures: Vec<CalibratedTemperature>,
    /// Of these, the one with the lowest loss on the calibration half.
    #[serde(default)]
    pub chosen: Option<CalibratedTemperature>,
    /// The experts.
    pub experts: Vec<Expert>,
}

/// The temperature that goes with a number of experts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalibratedTemperature {
    /// Experts mixed.
    pub top_k: u32,
    /// The temperature.
    pub temperature: f64,
}

/// One expert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Expert {
    /// Name of its branch.
    pub branch: String,
    /// Its domain.
    pub domain: u32,
    /// The router's belief in it before there is text: its domain's share of the training tokens.
    #[serde(default = "one")]
    pub prior: f64,
    /// Its last checkpoint.
    pub checkpoint: CheckpointRef,
}

fn one() -> f64 {
    1.0
}
