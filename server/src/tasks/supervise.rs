//! Loops that go on: what fails or panics is said, counted and tried again, and the others do not notice.

use anyhow::Result;
use futures::FutureExt;
use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Failures in a row after which people are told.
pub const TOLD_AT: u32 = 3;
/// Longest pause after panics.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How the loops fare.
#[derive(Debug, Clone, Default)]
pub struct Loops(Arc<Mutex<BTreeMap<&'static str, Failing>>>);

/// A loop whose last pass failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failing {
    /// Failures in a row.
    pub times: u32,
    /// Of them, panics.
    pub panics: u32,
    /// The last one.
    pub error: String,
}

/// Why a pass failed.
#[derive(Debug)]
pub enum Failure {
    /// It says so.
    Error(anyhow::Error),
    /// It panicked; its words.
    Panic(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => write!(f, "{error:#}"),
            Self::Panic(words) => write!(f, "it panicked: {words}"),
        }
    }
}

impl Loops {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a pass ended: what the loop's failures are now, and what they were.
    pub fn note(&self, name: &'static str, failure: Option<&Failure>) -> (Failing, Failing) {
        let mut failing = self.lock();
        let before = failing.remove(name).unwrap_or_default();
        let Some(failure) = failure else { return (Failing::default(), before) };
        let panics = before.panics + u32::from(matches!(failure, Failure::Panic(_)));
        let now = Failing { times: before.times + 1, panics, error: failure.to_string() };
        failing.insert(name, now.clone());
        (now, before)
    }

    /// The loops whose last pass failed, by name.
    #[must_use]
    pub fn failing(&self) -> Vec<(&'static str, Failing)> {
        self.lock().iter().map(|(name, failing)| (*name, failing.clone())).collect()
    }
}

impl Failing {
    /// Pause before the next pass, beyond the loop's own: what panics would do so again at once.
    #[must_use]
    pub fn pause(&self) -> Duration {
        match self.panics {
            0 => Duration::ZERO,
            n => Duration::from_secs(1 << n.min(6)).min(PAUSE_MAX),
        }
    }
}

/// Does a piece of work; a panic in it is a failure like any other.
///
/// # Errors
/// Those of the work, and its panic.
pub async fn guarded<T>(work: impl Future<Output = Result<T>>) -> Result<T, Failure> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done.map_err(Failure::Error),
        Err(panic) => Err(Failure::Panic(words(panic.as_ref()))),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[tokio::test]
    async fn a_panic_is_counted_and_waits_longer_each_time() {
        let loops = Loops::default();
        for times in 1..=8_u32 {
            let failure = guarded::<()>(async { panic!("no such {times}") }).await.unwrap_err();
            let (now, before) = loops.note("advance", Some(&failure));
            assert_eq!((now.times, now.panics, before.times), (times, times, times - 1));
            assert_eq!(now.error, format!("it panicked: no such {times}"));
            assert_eq!(now.pause(), Duration::from_secs(1 << times.min(6)).min(PAUSE_MAX));
        }
        let failure = guarded::<()>(async { Err(anyhow!("away").context("ask")) }).await.unwrap_err();
        let (now, _) = loops.note("scan", Some(&failure));
        assert_eq!((now.pause(), now.error.as_str()), (Duration::ZERO, "ask: away"));
        assert_eq!(loops.failing().len(), 2);
        let (now, before) = loops.note("advance", None);
        assert_eq!((now.times, before.times), (0, 8));
        assert_eq!(loops.failing().len(), 1);
        assert!(guarded(async { Ok(1) }).await.is_ok());
    }
}
