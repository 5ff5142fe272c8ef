//! What many seeds found, for people and as JSON.

use super::{Outcome, run, settings::Settings, world::clock};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// What came of all seeds.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Seeds run.
    pub seeds: u64,
    /// Simulated days.
    pub simulated_days: f64,
    /// Events.
    pub events: u64,
    /// Checks of invariants.
    pub checks: u64,
    /// Faults in all.
    pub faults: u64,
    /// Faults by kind.
    pub faults_by_kind: BTreeMap<&'static str, u64>,
    /// Branches that were asked to give their slots up for a higher priority.
    pub preemptions: u64,
    /// Fewest faults of a seed.
    pub faults_min: u64,
    /// Seeds that broke a promise.
    pub violations: Vec<Found>,
    /// Goodput by rate of faults.
    pub goodput: Vec<Goodput>,
    /// Seconds of real time.
    pub wall_seconds: f64,
}

/// A broken promise.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// Simulated time.
    pub at: String,
    /// The promise.
    pub invariant: String,
    /// What happened.
    pub what: String,
}

/// Goodput at one rate of faults.
#[derive(Debug, Clone, Serialize)]
pub struct Goodput {
    /// Hours between two faults of a worker.
    pub fault_every_hours: f64,
    /// Seconds between saves (Daly 2006).
    pub save_every_seconds: f64,
    /// Faults that happened.
    pub faults: u64,
    /// Share of wall time that made steps which stayed.
    pub goodput: f64,
    /// Share by cause.
    pub badput: BTreeMap<&'static str, f64>,
}

/// Runs seeds on all cores; ends early at `violations_max` broken promises.
#[must_use]
pub fn storms(first: u64, seeds: u64, violations_max: usize) -> Report {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let report = Mutex::new(Report { faults_min: u64::MAX, ..Report::default() });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let outcome = run(seed, Settings::storm(seed), false);
            let Ok(mut report) = report.lock() else { return };
            report.add(&outcome);
            if report.violations.len() >= violations_max {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let mut report = report.into_inner().unwrap_or_default();
    report.violations.sort_by_key(|found| found.seed);
    report
}

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "days for people")]
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_days += outcome.simulated_ms as f64 / 86_400_000.0;
        self.events += outcome.events;
        self.checks += outcome.checks;
        let faults = outcome.faults.values().sum();
        self.faults += faults;
        self.preemptions += outcome.preemptions;
        self.faults_min = self.faults_min.min(faults);
        outcome.faults.iter().for_each(|(kind, n)| *self.faults_by_kind.entry(kind).or_default() += n);
        self.violations.extend(Found::of(outcome));
    }
}

impl Found {
    fn of(outcome: &Outcome) -> Option<Self> {
        let violation = outcome.violation.as_ref()?;
        Some(Self {
            seed: outcome.seed,
            at: clock(outcome.simulated_ms),
            invariant: violation.invariant.clone(),
            what: violation.what.clone(),
        })
    }
}

/// Goodput where each worker has a fault every so many hours; saves at the interval that Daly's formula gives.
///
/// # Errors
/// When a promise was broken meanwhile.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shares and seconds"
)]
pub fn goodput(hours: f64, seed: u64) -> Result<Goodput, Found> {
    let apart = Duration::from_secs_f64(hours * 3600.0);
    let best = senmon_engine::saver::best_interval(Duration::from_millis(100), apart);
    let settings = Settings::goodput((hours * 3_600_000.0) as u64, best.as_millis() as u64);
    let step_ms = settings.step_ms;
    let outcome = run(seed, settings, false);
    if let Some(found) = Found::of(&outcome) {
        return Err(found);
    }
    let (mut wall, mut good, mut badput) = (0.0, 0.0, BTreeMap::<&'static str, f64>::new());
    for (account, steps) in outcome.accounts.iter().zip(&outcome.steps).skip(1) {
        wall += account.wall_ms() as f64;
        let kept = (steps * step_ms) as f64;
        good += kept;
        *badput.entry("steps done again, or cut short").or_default() +=
            account.stepped_ms as f64 - kept + account.cut_ms as f64;
        *badput.entry("stalls of saves").or_default() += account.stalled_ms as f64;
        for (cause, ms) in account.causes.iter().filter(|(cause, _)| **cause != "training") {
            *badput.entry(cause).or_default() += *ms as f64;
        }
    }
    badput.values_mut().for_each(|ms| *ms /= wall);
    Ok(Goodput {
        fault_every_hours: hours,
        save_every_seconds: best.as_secs_f64(),
        faults: outcome.faults.values().sum(),
        goodput: good / wall,
        badput,
    })
}
