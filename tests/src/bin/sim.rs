//! `make sim`: many seeds on all cores, what they found, and the goodput that follows from the measured costs.
//! `SEED=n` replays one seed and prints what happens; `SEEDS=n` runs more; `GOODPUT=0` leaves the figures out.

use anyhow::{Context, Result, bail};
use senmon_tests::sim::{self, report, settings::Settings, world::clock};
use std::{fs, path::PathBuf, time::Instant};

fn number(name: &str) -> Result<Option<u64>> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().with_context(|| format!("{name}: found {text:?}, expected a number")))
        .transpose()
}

fn main() -> Result<()> {
    if let Some(seed) = number("SEED")? {
        return replay(seed);
    }
    let (first, seeds) = (number("SEED_FIRST")?.unwrap_or(0), number("SEEDS")?.unwrap_or(500));
    let start = Instant::now();
    let violations_max = number("VIOLATIONS")?.map_or(5, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut report = report::storms(first, seeds, violations_max);
    if number("GOODPUT")? != Some(0) && report.violations.is_empty() {
        // Llama 3 405B (Meta 2024): 419 unexpected interruptions of 16,384 GPUs in 54 days, that is one every 6,300 hours
        // for a node of eight.
        let found = std::thread::scope(|scope| {
            let runs = [1.0, 6.0, 6_300.0].map(|hours| scope.spawn(move || report::goodput(hours, 1)));
            runs.map(|run| run.join().expect("a simulation does not panic"))
        });
        for found in found {
            match found {
                Ok(found) => report.goodput.push(found),
                Err(found) => report.violations.push(found),
            }
        }
    }
    report.wall_seconds = start.elapsed().as_secs_f64();
    let path = PathBuf::from(std::env::var_os("SIM_REPORT").unwrap_or_else(|| "target/sim/report.json".into()));
    fs::create_dir_all(path.parent().context("SIM_REPORT: a file in a folder is expected")?)?;
    fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
    println!(
        "{} seeds, {:.0} simulated days, {} faults (at least {} a seed), {} preemptions, {} events, {} checks of invariants, {:.0} s",
        report.seeds,
        report.simulated_days,
        report.faults,
        report.faults_min,
        report.preemptions,
        report.events,
        report.checks,
        report.wall_seconds
    );
    for (kind, n) in &report.faults_by_kind {
        println!("  {n:>8}  {kind}");
    }
    for found in &report.goodput {
        println!(
            "goodput {:.2} % at one fault in {} h of a worker ({} faults, a save every {:.0} s)",
            found.goodput * 100.0,
            found.fault_every_hours,
            found.faults,
            found.save_every_seconds
        );
    }
    println!("{} violations; {}", report.violations.len(), path.display());
    for found in &report.violations {
        println!(
            "seed {} at {}: {}: {}\n  replay: SEED={} make sim",
            found.seed, found.at, found.invariant, found.what, found.seed
        );
    }
    if report.violations.is_empty() { Ok(()) } else { bail!("a promise was broken") }
}

fn replay(seed: u64) -> Result<()> {
    let outcome = sim::run(seed, Settings::storm(seed), true);
    let at = clock(outcome.simulated_ms);
    println!("seed {seed}: {} events, trace {:016x}, ended at {at}", outcome.events, outcome.trace);
    match outcome.violation {
        Some(found) => bail!("seed {seed} at {at}: {}: {}", found.invariant, found.what),
        None => Ok(()),
    }
}
