//! Foreign bytes, mutated from real ones, through every parser of them (`make fuzz`; a short run is part of the tests):
//! none may panic, take long, or hold far more memory than its input.

pub mod mutate;
pub mod targets;

use anyhow::{Context, Result, ensure};
use mutate::Mutator;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};
use targets::{Input, Target};

/// How long a target is fuzzed.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// So many executions.
    Executions(u64),
    /// So long.
    Time(Duration),
}

/// Time that one input of some kilobytes may take, on a machine that is busy with other things.
const EXECUTION_MAX: Duration = Duration::from_secs(20);
/// From here on the slowest input is kept, to look at.
const SLOW_MS: u64 = 200;
/// Memory that one input of some kilobytes may take.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Executions between two looks at the memory.
const LOOK_EVERY: u64 = 64;
/// Faults of a target after which it is enough.
const FAULTS_MAX: usize = 5;

/// What fuzzing a target found.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The target.
    pub target: &'static str,
    /// Inputs tried.
    pub executions: u64,
    /// Inputs that the parser took.
    pub accepted: u64,
    /// The longest one took.
    pub slowest_ms: u64,
    /// The file that holds it, where it took long.
    pub slowest: String,
    /// What went wrong, with the file that holds the input.
    pub faults: Vec<String>,
}

/// Fuzzes a target from its seeds, all of which it must take. Inputs of faults are kept below `folder`.
///
/// # Errors
/// When a seed is refused, or the folder cannot be written to.
pub fn fuzz(target: &Target, seed: u64, length: Length, folder: &Path) -> Result<Found> {
    let scratch = tempfile::tempdir()?;
    let seeds = (target.seeds)().with_context(|| format!("seeds of {}", target.name))?;
    for input in &seeds {
        let taken = (target.run)(input, scratch.path());
        ensure!(taken.is_ok(), "{} refuses its own seed {}: {:?}", target.name, input.ending, taken.err());
    }
    let mut mutator = Mutator::new(ChaCha8Rng::seed_from_u64(seed));
    let mut found = Found {
        target: target.name,
        executions: 0,
        accepted: 0,
        slowest_ms: 0,
        slowest: String::new(),
        faults: Vec::new(),
    };
    let (start, mut memory) = (Instant::now(), memory_peak());
    loop {
        let over = match length {
            Length::Executions(most) => found.executions >= most,
            Length::Time(most) => start.elapsed() >= most,
        };
        if over || found.faults.len() >= FAULTS_MAX {
            return Ok(found);
        }
        let input = mutator.input(&seeds);
        let began = Instant::now();
        let run = catch_unwind(AssertUnwindSafe(|| (target.run)(&input, scratch.path())));
        let took = began.elapsed();
        found.executions += 1;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if took_ms > found.slowest_ms.max(SLOW_MS) {
            found.slowest = keep(&input, target.name, folder)?;
        }
        found.slowest_ms = found.slowest_ms.max(took_ms);
        let mut fault = match run {
            Ok(Ok(())) => {
                found.accepted += 1;
                None
            }
            Ok(Err(error)) => error.downcast_ref::<Broken>().map(|Broken(what)| what.clone()),
            Err(panic) => Some(format!("panicked: {}", words(&*panic))),
        };
        if took > EXECUTION_MAX {
            fault = Some(format!("took {took:?}"));
        }
        if found.executions.is_multiple_of(LOOK_EVERY) {
            let now = memory_peak();
            if now.saturating_sub(memory) > MEMORY_BYTES_MAX {
                fault = Some(format!("{LOOK_EVERY} inputs, this one the last, took {} MiB", (now - memory) >> 20));
            }
            memory = memory.max(now);
        }
        if let Some(fault) = fault {
            found.faults.push(format!("{fault} ({})", keep(&input, target.name, folder)?));
        }
    }
}

/// What a parser promises and did not keep, told from a refusal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn keep(input: &Input, target: &str, folder: &Path) -> Result<String> {
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    let name = senmon_corpus::hex(&Sha256::digest(&input.bytes)[..6]);
    let path = folder.join(format!("{name}.{}", input.ending));
    fs::write(&path, &input.bytes)?;
    Ok(path.display().to_string())
}

/// The most memory that this process has held so far, in bytes; 0 where the system does not say.
fn memory_peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}
