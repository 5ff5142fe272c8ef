//! One input file to one shard, through `senmon-corpus`.

use super::context::{JobContext, Place, asked_to_end, ended};
use anyhow::{Context, Result};
use senmon_corpus::{
    router::Router,
    scan::decode_dropped,
    sha256_file,
    shard::{SHARD_FILES, ShardInput, Sidecar, write_shard},
    tokenizer::Tokenizer,
};
use senmon_protocol::job::{EndedOutcome, ShardJob, ShardResult, TerminationReason};
use std::path::Path;

/// Runs a shard job.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &ShardJob, place: &Place, context: &dyn JobContext) -> Result<ShardResult, EndedOutcome> {
    let path = Path::new(&job.file.path);
    let found = std::fs::metadata(path)
        .map(|meta| meta.len())
        .map_err(|error| ended(TerminationReason::CorruptData, format!("{}: {error}", job.file.path)))?;
    if found != job.file.bytes {
        return Err(ended(
            TerminationReason::CorruptData,
            format!("{} has {found} bytes, its snapshot {}", job.file.path, job.file.bytes),
        ));
    }
    let (folder, output) = place.attempt_folder(&job.output)?;
    let _held = place.store.hold(&folder);
    let written = write(job, place, context, path, &output)
        .map_err(|error| ended(TerminationReason::StorageFailure, format!("{}: {error:#}", job.file.path)))?;
    match written {
        Some(Sidecar { bin_sha256, idx_sha256, counts, ranges, range_sha256, .. }) => {
            place.publish(&folder, &SHARD_FILES, context)?;
            Ok(ShardResult { folder, bin_sha256, idx_sha256, counts, ranges, range_sha256 })
        }
        None => Err(asked_to_end(context.command())
            .unwrap_or_else(|| ended(TerminationReason::Released, "given back on request."))),
    }
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
    let tokenizer = Tokenizer::load(&tokenizer_path, &job.separator)?;
    let dropped = job.file.dropped.as_ref().map(|key| -> Result<_> {
        Ok(decode_dropped(&std::fs::read(place.path(key)).with_context(|| key.to_string())?)?)
    });
    let input = ShardInput {
        path,
        fields: &job.fields,
        dropped: &dropped.transpose()?.unwrap_or_default(),
        router: &router,
        router_sha256: &router_sha256,
        tokenizer: &tokenizer,
        tokenizer_sha256: &sha256_file(&tokenizer_path)?,
        held_out_fraction: job.held_out_fraction,
    };
    let total = job.file.counts.documents;
    write_shard(&input, output, |done| {
        context.progress(done, total, 0.0);
        asked_to_end(context.command()).is_none()
    })
}
