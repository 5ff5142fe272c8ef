//! The training documents of one input file held against the held-out documents of all: which of those stand, for the
//! most part, in text that is trained on.
//!
//! Never writes a file: what it finds is its result.

use super::{
    context::{JobContext, asked_to_end, ended},
    place::Place,
    shard::{dropped, given_back, unchanged},
};
use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use senmon_corpus::{
    grams::Sketches,
    held_out::{Candidate, is_held_out},
    read::{Document, change, documents},
};
use senmon_protocol::job::{DecontaminateJob, DecontaminateResult, EndedOutcome, Overlap, TerminationReason};
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

/// Runs a comparison.
///
/// # Errors
/// How it ended without a result.
pub fn run(
    job: &DecontaminateJob,
    place: &Place,
    context: &dyn JobContext,
) -> Result<DecontaminateResult, EndedOutcome> {
    let path = unchanged(&job.file, &place.roots)?;
    let compared = compare(job, place, context, path)
        .map_err(|error| ended(TerminationReason::CorruptData, format!("{}: {error:#}", job.file.path)))?;
    compared.ok_or_else(|| given_back(context))
}

/// None when it was asked to stop.
fn compare(
    job: &DecontaminateJob,
    place: &Place,
    context: &dyn JobContext,
    path: &Path,
) -> Result<Option<DecontaminateResult>> {
    let bytes = std::fs::read(place.path(&job.candidates)).with_context(|| job.candidates.to_string())?;
    let candidates: Vec<Candidate> = serde_json::from_slice(&bytes).with_context(|| job.candidates.to_string())?;
    let sketches = Sketches::new(candidates.iter().map(|candidate| candidate.grams.as_slice()));
    let dropped: HashSet<u64> = dropped(&job.file, place)?.into_iter().collect();
    let trained = |document: &Document| {
        !dropped.contains(&document.record) && !is_held_out(document.split_key(), job.held_out_fraction)
    };
    // Of several training documents that hold one, the closest is named.
    let mut closest: BTreeMap<u32, (f64, String)> = BTreeMap::new();
    let mut compared = 0;
    let mut items = documents(&place.roots, path, &job.fields)?;
    loop {
        let batch = items.next_batch(trained)?;
        if batch.is_empty() {
            break;
        }
        let found: Vec<_> = batch.par_iter().map(|document| sketches.mostly_in(&document.text)).collect();
        for (document, found) in batch.iter().zip(found) {
            for (candidate, share) in found {
                let best = closest.entry(candidate).or_insert((0.0, String::new()));
                if share > best.0 {
                    *best = (share, document.id.clone());
                }
            }
        }
        compared += batch.len() as u64;
        context.progress(compared, job.file.counts.documents, 0.0);
        if asked_to_end(context.command()).is_some() {
            return Ok(None);
        }
    }
    let change = change(&items.end()?.sha256, &job.file.sha256);
    ensure!(change.is_none(), "{}", change.unwrap_or_default());
    let overlap = |(candidate, (share, document))| Overlap { candidate, share, document };
    Ok(Some(DecontaminateResult { documents: compared, overlaps: closest.into_iter().map(overlap).collect() }))
}
