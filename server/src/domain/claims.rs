//! What a worker claims, held against its job before anything is stored: a result of other domains, steps that the
//! branch does not have, a folder that is not the attempt's own.

use senmon_protocol::{
    checkpoint::CheckpointKind,
    corpus::{DocumentCounts, FileProblemKind},
    ids::{Fence, StorageKey},
    job::{
        BROKEN_SHOWN, DecontaminateResult, DeduplicateJob, DeduplicateResult, DomainLoss, EnsembleJob, EnsembleResult,
        EvaluateJob, EvaluateResult, JobResult, JobSpec, ScanJob, ScanResult, ShardJob, ShardRange, ShardResult, Split,
        TrainJob, TrainResult, WrittenCheckpoint,
    },
    lineage::Lineage,
    problem::Fault,
    worker::{LINE_CHARS_MAX, LINES_MAX, LogBatch},
};
use std::collections::BTreeMap;

/// Longest name of a metric, and word of an event.
const NAME_CHARS_MAX: usize = 100;
/// Most series of a batch of points.
const SERIES_MAX: usize = 200;
/// Most overlaps that one file may report.
const OVERLAPS_MAX: usize = 1_000_000;

/// Result of a check: the first fault.
pub type Checked = Result<(), Fault>;

fn check(good: bool, path: impl Into<String>, message: impl FnOnce() -> String) -> Checked {
    if good { Ok(()) } else { Err(Fault::new(path, message())) }
}

fn sha256(path: &str, found: &str) -> Checked {
    let good = found.len() == 64 && found.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    check(good, path, || format!("found {:?}, expected a SHA-256 of 64 hexadecimal digits in lower case", cut(found)))
}

/// A text for a message: not more of it than a person reads.
fn cut(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).collect()
}

fn folder(path: &str, found: &StorageKey, output: &StorageKey, fence: Fence) -> Checked {
    let expected = format!("{output}/f{fence}");
    check(found.as_str() == expected, path, || format!("found {found}, expected {expected}"))
}

fn step_tokens(job: &TrainJob) -> u64 {
    u64::from(job.training.batch_windows) * u64::from(job.sequence_length)
}

/// Folder, steps, and tokens of a step of a job that writes checkpoints.
fn training(job: &JobSpec) -> Option<(&StorageKey, u64, u64)> {
    match job {
        JobSpec::Train(job) => Some((&job.output, job.steps, step_tokens(job))),
        JobSpec::Merge(job) => Some((&job.output, 0, 0)),
        _ => None,
    }
}

/// A checkpoint's folder and step, announced or committed. A state after a rollback has a further word in its name.
///
/// # Errors
/// The fault.
pub fn checkpoint_place(job: &JobSpec, fence: Fence, found: &StorageKey, step: u64) -> Checked {
    let Some((output, steps, _)) = training(job) else {
        return check(false, "folder", || format!("a job of kind {} writes no checkpoint", job.kind().word()));
    };
    check(step <= steps, "step", || format!("found {step}, the branch has {steps} steps"))?;
    let expected = format!("{output}/{step:08}-f{fence}");
    let rest = found.as_str().strip_prefix(&expected);
    let good = rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix("-s").is_some_and(|n| n.parse::<u32>().is_ok_and(|_| n.len() < 10))
    });
    check(good, "folder", || format!("found {found}, expected {expected}"))
}

/// Where a training says that it starts.
///
/// # Errors
/// The fault.
pub fn started(job: &JobSpec, step_start: u64) -> Checked {
    let steps = training(job).map_or(0, |(_, steps, _)| steps);
    check(step_start <= steps, "step_start", || format!("found {step_start}, the branch has {steps} steps"))
}

/// A checkpoint to be committed.
///
/// # Errors
/// The fault, with its path.
pub fn committed(job: &JobSpec, domains: u32, fence: Fence, written: &WrittenCheckpoint) -> Checked {
    let meta = &written.meta;
    checkpoint_place(job, fence, &written.folder, meta.step).map_err(|fault| below("checkpoint", fault))?;
    sha256("checkpoint.manifest_sha256", &written.manifest_sha256)?;
    // Weights alone have no state to go on from.
    if meta.kind == CheckpointKind::Resumable || !meta.config_sha256.is_empty() {
        sha256("checkpoint.meta.config_sha256", &meta.config_sha256)?;
    }
    if meta.kind == CheckpointKind::Resumable || !meta.state_sha256.is_empty() {
        sha256("checkpoint.meta.state_sha256", &meta.state_sha256)?;
    }
    let tokens = training(job).and_then(|(_, _, per_step)| meta.step.checked_mul(per_step));
    check(Some(meta.tokens) == tokens || matches!(job, JobSpec::Merge(_)), "checkpoint.meta.tokens", || {
        format!("found {}, {} steps are {} tokens", meta.tokens, meta.step, tokens.unwrap_or_default())
    })?;
    lineage(&meta.lineage, domains)
}

fn lineage(found: &Lineage, domains: u32) -> Checked {
    let drawn = found.drawn.iter().chain(found.reshuffles.iter().flat_map(|reshuffle| &reshuffle.drawn));
    match drawn.map(|draws| draws.domain).find(|domain| *domain >= domains) {
        None => Ok(()),
        Some(domain) => domain_in("checkpoint.meta.lineage.drawn", domain, domains),
    }
}

fn below(parent: &str, fault: Fault) -> Fault {
    Fault { path: format!("{parent}.{}", fault.path), ..fault }
}

fn domain_in(path: impl Into<String>, domain: u32, domains: u32) -> Checked {
    check(domain < domains, path, || format!("found domain {domain}, the clustering has {domains}"))
}

/// A result, of a job of the same kind. `domains`: of the clustering.
///
/// # Errors
/// The fault, with its path.
pub fn completed(job: &JobSpec, domains: u32, fence: Fence, result: &JobResult) -> Checked {
    let checked = match (job, result) {
        (JobSpec::Scan(job), JobResult::Scan(found)) => scanned(job, fence, found),
        (JobSpec::Deduplicate(job), JobResult::Deduplicate(found)) => deduplicated(job, fence, found),
        (JobSpec::Shard(job), JobResult::Shard(found)) => shard(job, domains, fence, found),
        (JobSpec::Train(job), JobResult::Train(found)) => trained(job, found),
        (JobSpec::Evaluate(job), JobResult::Evaluate(found)) => evaluated(job, domains, fence, found),
        (JobSpec::Merge(job), JobResult::Merge(found)) => {
            let (found, expected) = (found.members, job.members.len() as u64);
            check(found == expected, "members", || format!("found {found}, the job has {expected}"))
        }
        (JobSpec::Ensemble(job), JobResult::Ensemble(found)) => compared(job, domains, found),
        (JobSpec::Decontaminate(_), JobResult::Decontaminate(found)) => decontaminated(found),
        (job, found) => {
            let (found, expected) = (found.kind().word(), job.kind().word());
            check(false, "kind", || format!("found the result of a job of kind {found}, expected {expected}"))
        }
    };
    checked.map_err(|fault| below("outcome.result", fault))
}

fn scanned(job: &ScanJob, fence: Fence, found: &ScanResult) -> Checked {
    folder("folder", &found.folder, &job.output, fence)?;
    // What could not be read at all has no hash; such a corpus is refused.
    let unreadable = found.problem.as_ref().is_some_and(|problem| problem.kind == FileProblemKind::Unreadable);
    if !unreadable || !found.sha256.is_empty() {
        sha256("sha256", &found.sha256)?;
    }
    let DocumentCounts { records, documents, empty, duplicates, broken, text_bytes, .. } = found.counts;
    let small = [records, documents, empty, duplicates, broken, text_bytes, found.bytes].iter().all(|n| *n < 1 << 53);
    check(small && records == documents + empty + duplicates + broken, "counts.records", || {
        format!(
            "found {records}, expected as many as documents, empty texts, duplicates and broken records, fewer than 2^53"
        )
    })?;
    let shown = found.broken_first.len();
    check(shown <= BROKEN_SHOWN && shown as u64 <= broken, "broken_first", || {
        format!("found {shown}, expected at most {BROKEN_SHOWN} of {broken}")
    })?;
    if let Some(broken) = found.broken_first.iter().find(|broken| broken.path != job.path) {
        return check(false, "broken_first", || format!("found {:?}, the job is of {:?}", cut(&broken.path), job.path));
    }
    let whys = found.broken_first.iter().map(|broken| &broken.why).chain(found.problem.iter().map(|found| &found.why));
    match whys.map(|why| why.chars().count()).find(|chars| *chars > LINE_CHARS_MAX) {
        Some(chars) => check(false, "broken_first", || {
            format!("found a reason of {chars} characters, expected at most {LINE_CHARS_MAX}")
        }),
        None => Ok(()),
    }
}

fn deduplicated(job: &DeduplicateJob, fence: Fence, found: &DeduplicateResult) -> Checked {
    folder("folder", &found.folder, &job.output, fence)?;
    let (files, expected) = (found.files.len(), job.files.len());
    check(files == expected, "files", || format!("found {files}, the job has {expected}"))?;
    for (i, (file, texts)) in found.files.iter().zip(&job.files).enumerate() {
        check(file.duplicates <= texts.texts, format!("files[{i}].duplicates"), || {
            format!("found {}, the file has {} texts", file.duplicates, texts.texts)
        })?;
        check(file.records >= file.duplicates && file.records < 1 << 53, format!("files[{i}].records"), || {
            format!("found {}, expected at least its {} duplicates", file.records, file.duplicates)
        })?;
        check(file.text_bytes < 1 << 53, format!("files[{i}].text_bytes"), || {
            format!("found {}, expected less than 2^53", file.text_bytes)
        })?;
    }
    Ok(())
}

fn trained(job: &TrainJob, found: &TrainResult) -> Checked {
    check(found.steps == job.steps, "steps", || format!("found {}, the branch has {}", found.steps, job.steps))?;
    let tokens = job.steps * step_tokens(job);
    check(found.tokens == tokens, "tokens", || format!("found {}, {} steps are {tokens}", found.tokens, job.steps))
}

fn shard(job: &ShardJob, domains: u32, fence: Fence, found: &ShardResult) -> Checked {
    folder("folder", &found.folder, &job.output, fence)?;
    sha256("bin_sha256", &found.bin_sha256)?;
    sha256("idx_sha256", &found.idx_sha256)?;
    found.held_out_sha256.as_deref().map_or(Ok(()), |found| sha256("held_out_sha256", found))?;
    let (n, hashes) = (found.ranges.len(), found.range_sha256.len());
    check(hashes == n || hashes == 0, "range_sha256", || format!("found {hashes}, there are {n} ranges"))?;
    for (i, hash) in found.range_sha256.iter().enumerate() {
        sha256(&format!("range_sha256[{i}]"), hash)?;
    }
    ranges(&found.ranges, domains)?;
    let documents: u64 = found.ranges.iter().map(|range| range.documents).sum();
    check(documents == found.counts.documents, "counts.documents", || {
        format!("found {}, the ranges hold {documents}", found.counts.documents)
    })
}

/// Ranges follow each other without a gap, by domain and split, each of which comes once.
fn ranges(ranges: &[ShardRange], domains: u32) -> Checked {
    let (mut document, mut token) = (0_u64, 0_u64);
    let mut before = None;
    for (i, range) in ranges.iter().enumerate() {
        let path = |name: &str| format!("ranges[{i}].{name}");
        domain_in(path("domain"), range.domain, domains)?;
        let at = (range.domain, range.split == Split::HeldOut);
        check(before < Some(at), path("domain"), || "ranges come by domain and split, each once".to_owned())?;
        before = Some(at);
        let gapless = range.document_first == document && range.token_first == token;
        check(gapless, path("document_first"), || {
            format!(
                "found document {} and token {}, expected {document} and {token}: ranges follow each other",
                range.document_first, range.token_first
            )
        })?;
        let next = document.checked_add(range.documents).zip(token.checked_add(range.tokens));
        let counted = next.filter(|(documents, tokens)| (*documents).max(*tokens) < 1 << 53);
        check(counted.is_some(), path("tokens"), || {
            format!("found {}, expected fewer than 2^53 in all", range.tokens)
        })?;
        (document, token) = counted.unwrap_or_default();
    }
    Ok(())
}

fn losses(path: &str, found: &[DomainLoss], domains: u32) -> Checked {
    let mut before = None;
    for (i, line) in found.iter().enumerate() {
        domain_in(format!("{path}[{i}].domain"), line.domain, domains)?;
        check(before < Some(line.domain), format!("{path}[{i}].domain"), || "each domain comes once, in order".into())?;
        before = Some(line.domain);
        // A model of probabilities loses nothing less than nothing.
        let good = line.loss.is_none_or(|loss| loss.is_finite() && loss >= 0.0);
        check(good, format!("{path}[{i}].loss"), || format!("found {:?}, expected at least 0", line.loss))?;
    }
    Ok(())
}

fn evaluated(job: &EvaluateJob, domains: u32, fence: Fence, found: &EvaluateResult) -> Checked {
    folder("folder", &found.folder, &job.output, fence)?;
    sha256("sha256", &found.sha256)?;
    losses("domains", &found.domains, domains)?;
    losses("calibration", &found.calibration, domains)
}

fn compared(job: &EnsembleJob, domains: u32, found: &EnsembleResult) -> Checked {
    let experts = |path: String, top_k: u32| {
        check(job.top_k.contains(&top_k), path, || format!("found {top_k}, the job asks for {:?}", job.top_k))
    };
    let temperature = |path: String, found: f64| {
        check(job.temperatures.contains(&found), path, || {
            format!("found {found}, the job asks for {:?}", job.temperatures)
        })
    };
    for (i, line) in found.lines.iter().enumerate() {
        experts(format!("lines[{i}].top_k"), line.top_k)?;
        line.temperature.map_or(Ok(()), |found| temperature(format!("lines[{i}].temperature"), found))?;
        losses(&format!("lines[{i}].domains"), &line.domains, domains)?;
    }
    for (i, point) in found.surface.iter().enumerate() {
        experts(format!("surface[{i}].top_k"), point.top_k)?;
        temperature(format!("surface[{i}].temperature"), point.temperature)?;
    }
    if let Some(chosen) = &found.chosen {
        experts("chosen.top_k".into(), chosen.top_k)?;
        temperature("chosen.temperature".into(), chosen.temperature)?;
    }
    if let Some(line) = &found.random {
        losses("random.domains", &line.domains, domains)?;
    }
    let most = job.top_k.len() * job.temperatures.len().max(1);
    let (lines, points) = (found.lines.len(), found.surface.len());
    check(lines <= job.top_k.len(), "lines", || format!("found {lines}, expected at most {}", job.top_k.len()))?;
    check(points <= most, "surface", || format!("found {points} points, expected at most {most}"))?;
    for model in found.alone.iter().chain(&found.best_expert) {
        let known = job.members.iter().any(|member| member.branch == model.branch);
        check(known, "alone", || format!("found {:?}, which is no member of the job", cut(&model.branch)))?;
    }
    let (resamples, asked) = (found.resamples, job.resamples);
    check(resamples <= asked, "resamples", || format!("found {resamples}, the job asks for {asked}"))
}

fn decontaminated(found: &DecontaminateResult) -> Checked {
    let n = found.overlaps.len();
    check(n <= OVERLAPS_MAX, "overlaps", || format!("found {n}, expected at most {OVERLAPS_MAX}"))?;
    for (i, overlap) in found.overlaps.iter().enumerate() {
        let good = overlap.share > 0.5 && overlap.share <= 1.0;
        check(good, format!("overlaps[{i}].share"), || format!("found {}, expected more than 0.5", overlap.share))?;
    }
    Ok(())
}

/// The columns of a batch of points. `n`: its points.
///
/// # Errors
/// The fault, with its path.
pub fn series(found: &BTreeMap<String, Vec<Option<f64>>>, n: usize) -> Checked {
    let count = found.len();
    check(count <= SERIES_MAX, "series", || format!("found {count} series, expected at most {SERIES_MAX}"))?;
    for (name, values) in found {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
        let good = (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(plain);
        check(good, "series", || {
            format!("found the name {:?}, expected 1 to {NAME_CHARS_MAX} letters, digits, /, _, - and .", cut(name))
        })?;
        let found = values.len();
        check(found == n, format!("series.{name}"), || format!("found {found} values, expected {n} as in steps"))?;
    }
    Ok(())
}

/// A batch of lines.
///
/// # Errors
/// The fault, with its path.
pub fn lines(batch: &LogBatch) -> Checked {
    let n = batch.lines.len();
    check(n <= LINES_MAX, "lines", || format!("found {n}, expected at most {LINES_MAX}"))?;
    for (i, line) in batch.lines.iter().enumerate() {
        let known = matches!(line.level.as_str(), "info" | "warn" | "error");
        check(known, format!("lines[{i}].level"), || {
            format!("found {:?}, expected info, warn or error", cut(&line.level))
        })?;
        let chars = line.text.chars().count();
        check(chars <= LINE_CHARS_MAX, format!("lines[{i}].text"), || {
            format!("found {chars} characters, expected at most {LINE_CHARS_MAX}")
        })?;
        let Some(event) = &line.event else { continue };
        let good = (1..=NAME_CHARS_MAX).contains(&event.kind.chars().count());
        check(good, format!("lines[{i}].event.kind"), || {
            format!("found {:?}, expected 1 to {NAME_CHARS_MAX} characters", cut(&event.kind))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
