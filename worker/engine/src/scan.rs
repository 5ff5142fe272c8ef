//! The first reading of one file of a corpus: what it holds, and the hashes of its texts.

use super::{
    context::{JobContext, asked_to_end, ended},
    place::Place,
    shard::given_back,
};
use senmon_corpus::scan::{DROPPED_FILE, TEXTS_FILE, scan_file};
use senmon_protocol::job::{EndedOutcome, ScanJob, ScanResult, TerminationReason};
use std::path::Path;

/// Runs a scan. What is wrong with the file is part of its result; a file that is not there at all may be there for
/// another worker.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &ScanJob, place: &Place, context: &dyn JobContext) -> Result<ScanResult, EndedOutcome> {
    let path = Path::new(&job.path);
    let elsewhere = |error| ended(TerminationReason::CorruptData, format!("{}: {error}", job.path));
    place.roots.open(path).map_err(elsewhere)?;
    let (folder, output) = place.attempt_folder(&job.output)?;
    let _held = place.depot.hold(&folder);
    let scanned = scan_file(&place.roots, path, &job.fields, &output, &mut |read| {
        context.progress(read, 0, 0.0);
        asked_to_end(context.command()).is_none()
    });
    let refused = |error| ended(TerminationReason::StorageFailure, format!("{}: {error}", job.path));
    let file = scanned.map_err(refused)?.ok_or_else(|| given_back(context))?;
    place.publish(&folder, &[TEXTS_FILE, DROPPED_FILE], context)?;
    Ok(ScanResult {
        folder,
        bytes: file.bytes,
        sha256: file.sha256,
        counts: file.counts,
        problem: file.problem,
        broken_first: file.broken_first,
    })
}
