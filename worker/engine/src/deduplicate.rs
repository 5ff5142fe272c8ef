//! The texts that several files of a corpus share: all but the first are left out.

use super::{
    context::{JobContext, asked_to_end, ended},
    place::Place,
    shard::given_back,
};
use senmon_corpus::scan::{FileOfTexts, deduplicate};
use senmon_protocol::{
    job::{DeduplicateJob, DeduplicateResult, EndedOutcome, TerminationReason},
    scan::dropped_list,
};
use std::io;

/// Runs it.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &DeduplicateJob, place: &Place, context: &dyn JobContext) -> Result<DeduplicateResult, EndedOutcome> {
    let files: Vec<FileOfTexts> =
        job.files.iter().map(|file| FileOfTexts { folder: place.path(&file.folder), texts: file.texts }).collect();
    let (folder, output) = place.attempt_folder(&job.output)?;
    let _held = place.depot.hold(&folder);
    let mut looks = 0;
    let found = deduplicate(&files, &output, &mut || {
        looks += 1;
        context.progress(looks, 0, 0.0);
        asked_to_end(context.command()).is_none()
    });
    let refused = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData => TerminationReason::CorruptData,
            _ => TerminationReason::StorageFailure,
        };
        ended(reason, format!("the texts of {} files: {error}", files.len()))
    };
    let files = found.map_err(refused)?.ok_or_else(|| given_back(context))?;
    let written: Vec<String> =
        files.iter().enumerate().filter(|(_, file)| file.records > 0).map(|(index, _)| dropped_list(index)).collect();
    let written: Vec<&str> = written.iter().map(String::as_str).collect();
    place.publish(&folder, &written, context)?;
    Ok(DeduplicateResult { folder, files })
}
