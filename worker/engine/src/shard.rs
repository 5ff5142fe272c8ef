//! One input file to one shard, through `senmon-corpus`.

use super::{
    context::{JobContext, asked_to_end, ended},
    place::Place,
};
use anyhow::{Context, Result};
use senmon_corpus::{
    read::change,
    roots::Roots,
    router::Router,
    scan::decode_dropped,
    sha256_file,
    shard::{SHARD_FILES, ShardInput, Sidecar, write_shard},
    tokenizer::Tokenizer,
};
use senmon_protocol::{
    corpus::{CorpusFile, DocumentCounts},
    job::{EndedOutcome, ShardJob, ShardResult, TerminationReason},
    said,
};
use std::path::Path;

/// Runs a shard job.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &ShardJob, place: &Place, context: &dyn JobContext) -> Result<ShardResult, EndedOutcome> {
    let path = unchanged(&job.file, &place.roots)?;
    let (folder, output) = place.attempt_folder(&job.output)?;
    let _held = place.depot.hold(&folder);
    let written = write(job, place, context, path, &output)
        .map_err(|error| ended(TerminationReason::StorageFailure, format!("{}: {error:#}", job.file.path)))?;
    match written {
        Some(written) => {
            if let Some(why) = difference(&job.file, &written) {
                return Err(ended(TerminationReason::CorruptData, format!("{}: {why}", job.file.path)));
            }
            place.publish(&folder, &SHARD_FILES, context)?;
            let Sidecar { bin_sha256, idx_sha256, held_out_sha256, counts, ranges, range_sha256, .. } = written;
            let held_out_sha256 = Some(held_out_sha256);
            Ok(ShardResult { folder, bin_sha256, idx_sha256, held_out_sha256, counts, ranges, range_sha256 })
        }
        None => Err(given_back(context)),
    }
}

/// The end of a job that was stopped: the one that it was asked for.
pub fn given_back(context: &dyn JobContext) -> EndedOutcome {
    asked_to_end(context.command())
        .unwrap_or_else(|| EndedOutcome::said(TerminationReason::Released, said!("ended_released")))
}

/// What was read otherwise than when the file was registered, in one sentence.
fn difference(file: &CorpusFile, found: &Sidecar) -> Option<String> {
    if let Some(change) = change(&found.input_sha256, &file.sha256) {
        return Some(change);
    }
    let counts =
        |counts: &DocumentCounts| [counts.records, counts.documents, counts.empty, counts.duplicates, counts.broken];
    let (found, registered) = (counts(&found.counts), counts(&file.counts));
    (found != registered).then(|| {
        format!(
            "records, documents, empty texts, duplicates and broken records are {found:?}, at its registration \
             {registered:?}: another version of the program read it, register it again under another name"
        )
    })
}

fn write(
    job: &ShardJob,
    place: &Place,
    context: &dyn JobContext,
    path: &Path,
    output: &Path,
) -> Result<Option<Sidecar>> {
    let (router, router_sha256) = Router::load(&place.path(&job.router))?;
    let tokenizer_path = place.path(&job.tokenizer);
    let tokenizer = Tokenizer::load(&tokenizer_path, &job.separator, job.bos.as_deref())?;
    let input = ShardInput {
        roots: &place.roots,
        path,
        fields: &job.fields,
        dropped: &dropped(&job.file, place)?,
        router: &router,
        router_sha256: &router_sha256,
        tokenizer: &tokenizer,
        tokenizer_sha256: &sha256_file(&tokenizer_path)?,
        held_out_fraction: job.held_out_fraction,
        documents_per_domain: job.documents_per_domain,
    };
    let total = job.file.counts.documents;
    write_shard(&input, output, |done| {
        context.progress(done, total, 0.0);
        asked_to_end(context.command()).is_none()
    })
}

/// The path of an input file, which is what its snapshot says.
///
/// # Errors
/// [`TerminationReason::CorruptData`].
pub fn unchanged<'a>(file: &'a CorpusFile, roots: &Roots) -> Result<&'a Path, EndedOutcome> {
    let path = Path::new(&file.path);
    let corrupt = |message| ended(TerminationReason::CorruptData, message);
    let found = roots.open(path).and_then(|file| file.metadata()).map(|meta| meta.len());
    let found = found.map_err(|error| corrupt(format!("{}: {error}", file.path)))?;
    if found == file.bytes {
        return Ok(path);
    }
    Err(corrupt(format!("{} has {found} bytes, its snapshot {}", file.path, file.bytes)))
}

/// Records of an input file to leave out.
///
/// # Errors
/// When their list is missing or damaged.
pub fn dropped(file: &CorpusFile, place: &Place) -> Result<Vec<u64>> {
    let Some(key) = &file.dropped else { return Ok(Vec::new()) };
    Ok(decode_dropped(&std::fs::read(place.path(key)).with_context(|| key.to_string())?)?)
}
