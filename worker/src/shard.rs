//! Shard jobs: one input file to one shard, with what the store holds.
//!
//! Never decides how documents are assigned or tokenised; `senmon-corpus` does.

use crate::{
    board::Progress,
    report::Report,
    runner::{Stopped, told_to_stop},
};
use senmon_corpus::{
    router::Router,
    sha256_file,
    shard::{ShardInput, write_shard},
    tokenizer::Tokenizer,
};
use senmon_protocol::{
    ids::{Fence, StorageKey},
    job::{ShardJob, ShardResult, TerminationReason},
    worker::Command,
};
use std::path::{Path, PathBuf};

/// Runs the job.
///
/// # Errors
/// Told to stop, an input that is not there, or a store that does not take the shard.
pub fn run(
    job: &ShardJob,
    fence: Fence,
    storage: &Path,
    threads: u16,
    report: &Report,
) -> Result<ShardResult, Stopped> {
    let at = |key: &StorageKey| storage.join(key.as_str());
    let corrupt =
        |error: anyhow::Error| Stopped { reason: TerminationReason::CorruptData, message: format!("{error:#}") };
    let (router, router_sha256) = Router::load(&at(&job.router)).map_err(corrupt)?;
    let tokenizer = Tokenizer::load(&at(&job.tokenizer), &job.separator).map_err(corrupt)?;
    let tokenizer_sha256 = sha256_file(&at(&job.tokenizer)).map_err(|error| corrupt(error.into()))?;
    let dropped = match &job.file.dropped {
        Some(key) => read_dropped(&at(key)).map_err(corrupt)?,
        None => Vec::new(),
    };
    unchanged(job).map_err(corrupt)?;
    let input = ShardInput {
        path: Path::new(&job.file.path),
        fields: &job.fields,
        dropped: &dropped,
        router: &router,
        router_sha256: &router_sha256,
        tokenizer: &tokenizer,
        tokenizer_sha256: &tokenizer_sha256,
        held_out_fraction: job.held_out_fraction,
    };
    let bad_key = |error: senmon_protocol::ids::BadStorageKey| Stopped {
        reason: TerminationReason::InvalidInput,
        message: error.to_string(),
    };
    let folder = job.output.join(format!("f{fence}")).map_err(bad_key)?;
    let total = job.file.counts.documents;
    let progress = |done| {
        report.progress(Progress::of(done, total));
        report.command() == Command::Continue
    };
    let failed =
        |error: anyhow::Error| Stopped { reason: TerminationReason::StorageFailure, message: format!("{error:#}") };
    // A pool of the slot's size, so that shards side by side do not take each other's cores.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build();
    let pool = pool.map_err(|error| failed(error.into()))?;
    let written = pool.install(|| write_shard(&input, &at(&folder), progress)).map_err(failed)?;
    let Some(sidecar) = written else {
        return Err(told_to_stop(report.command()).unwrap_or(Stopped {
            reason: TerminationReason::InternalError,
            message: "the shard was left unfinished without a command".into(),
        }));
    };
    report.log("info", &format!("{} documents of {} in {folder}", sidecar.counts.documents, job.file.path));
    Ok(ShardResult {
        folder,
        bin_sha256: sidecar.bin_sha256,
        idx_sha256: sidecar.idx_sha256,
        counts: sidecar.counts,
        ranges: sidecar.ranges,
    })
}

/// The input must be the file that was registered: a corpus is immutable.
fn unchanged(job: &ShardJob) -> anyhow::Result<()> {
    let path = PathBuf::from(&job.file.path);
    let found = sha256_file(&path).map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))?;
    anyhow::ensure!(
        found == job.file.sha256,
        "{} has changed since the corpus was registered (SHA-256 {found}, registered {}); register it anew",
        path.display(),
        job.file.sha256
    );
    Ok(())
}

/// Record numbers to leave out: little-endian `u64`, ascending.
fn read_dropped(path: &Path) -> anyhow::Result<Vec<u64>> {
    let bytes = std::fs::read(path).map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))?;
    let (whole, rest) = bytes.as_chunks::<8>();
    anyhow::ensure!(rest.is_empty(), "{}: {} bytes are no list of u64", path.display(), bytes.len());
    Ok(whole.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
}
