//! `make fuzz`: every parser of foreign bytes for `FUZZ_SECONDS` each (60), from `FUZZ_SEED` (the clock's): the counts, and
//! target/fuzz/report.json. Inputs of faults are kept beside it.

use anyhow::{Context, Result, ensure};
use senmon_tests::fuzz::{Found, Length, fuzz, targets::TARGETS};
use serde_json::json;
use std::{
    fs, panic,
    path::Path,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

fn number(name: &str) -> Result<Option<u64>> {
    let text = std::env::var(name).ok();
    text.map(|text| text.parse().with_context(|| format!("{name}: found {text:?}, expected a number"))).transpose()
}

fn main() -> Result<()> {
    let seconds = number("FUZZ_SECONDS")?.unwrap_or(60);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = number("FUZZ_SEED")?.unwrap_or_else(clock);
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let folder = Path::new("target/fuzz");
    fs::create_dir_all(folder)?;
    // What panics is a fault, with its words: nobody needs the traces of a million tries.
    panic::set_hook(Box::new(|_| {}));
    let next = Mutex::new(TARGETS.iter().filter(|target| target.name.contains(&wanted)));
    let found: Mutex<Vec<Found>> = Mutex::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(target) = next.lock().ok().and_then(|mut next| next.next()) {
                let one = fuzz(target, seed, Length::Time(Duration::from_secs(seconds)), folder)?;
                println!(
                    "{:<16} {:>10} executions  {:>9} accepted  {:>6} ms the slowest  {} faults",
                    one.target,
                    one.executions,
                    one.accepted,
                    one.slowest_ms,
                    one.faults.len()
                );
                found.lock().map_or_else(|_| (), |mut found| found.push(one));
            }
            Ok(())
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("the fuzzer panicked")))
    })?;
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|one| one.target);
    let report = json!({ "seed": seed, "seconds_each": seconds, "targets": found });
    fs::write(folder.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    let faults: Vec<&String> = found.iter().flat_map(|one| &one.faults).collect();
    ensure!(faults.is_empty(), "{} faults:\n{faults:#?}", faults.len());
    println!("no fault; target/fuzz/report.json");
    Ok(())
}
