//! Held-out documents against training text: the job that compares them, and what it finds.

use crate::{
    corpus::{CorpusFile, DocumentFields},
    ids::{ExperimentId, StorageKey},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Compares the training documents of one input file with the held-out documents of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecontaminateJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The input.
    pub file: CorpusFile,
    /// Fields of its records.
    pub fields: DocumentFields,
    /// The held-out documents that the evaluation may score, with the hashes of their 13-grams.
    pub candidates: StorageKey,
    /// Share of documents held out, by a hash of the document's group.
    pub held_out_fraction: f64,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecontaminateResult {
    /// Training documents compared.
    pub documents: u64,
    /// Held-out documents that share most of their 13-grams with one of them.
    pub overlaps: Vec<Overlap>,
}

/// A held-out document and the training document that holds most of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Overlap {
    /// Place in the list of candidates.
    pub candidate: u32,
    /// Share of its 13-grams: more than a half.
    pub share: f64,
    /// Id of the training document.
    pub document: String,
}
