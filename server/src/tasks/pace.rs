//! Samples how fast branches train, and names workers that are slower than their siblings. In memory only: a server
//! that starts listens for a few minutes before it says anything.

use crate::{
    app::App,
    db::{self, events::NewEvent},
    domain::pace::{Shape, slower},
};
use anyhow::Result;
use senmon_protocol::{ids::WorkerId, said, said::decimal};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Time between two samples.
pub const PERIOD_MS: u64 = 10_000;
/// Ten minutes of samples.
const SAMPLES_MAX: usize = 60;
/// Less than this is not worth a look.
const PERCENT_MIN: f64 = 5.0;

/// Rates of the last minutes, and the workers found slow.
#[derive(Debug, Clone, Default)]
pub struct Paces(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    samples: BTreeMap<(Shape, WorkerId), VecDeque<f64>>,
    slower: BTreeMap<WorkerId, f64>,
}

impl Paces {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Percent that a worker is slower than its siblings, where that is certain.
    #[must_use]
    pub fn slower_percent(&self, worker: WorkerId) -> Option<f64> {
        self.lock().slower.get(&worker).copied()
    }

    /// Takes rates in; the workers that are found slow from now on.
    fn sample(&self, rates: Vec<(Shape, WorkerId, f64)>) -> BTreeMap<WorkerId, f64> {
        let mut state = self.lock();
        let mut heard: BTreeMap<_, f64> = BTreeMap::new();
        for (shape, worker, rate) in rates {
            // Branches of one experiment on several slots of a worker count as one: the slowest says most.
            let slowest = heard.entry((shape, worker)).or_insert(rate);
            *slowest = slowest.min(rate);
        }
        state.samples.retain(|key, _| heard.contains_key(key));
        for (key, rate) in heard {
            let samples = state.samples.entry(key).or_default();
            samples.push_back(rate);
            if samples.len() > SAMPLES_MAX {
                samples.pop_front();
            }
        }
        let rates = state.samples.iter().map(|(key, rates)| (key.clone(), rates.iter().copied().collect())).collect();
        let now = slower(&rates, PERCENT_MIN);
        let before = std::mem::replace(&mut state.slower, now.clone());
        now.into_iter().filter(|(worker, _)| !before.contains_key(worker)).collect()
    }
}

/// Takes one sample of everything that trains.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    let rates = db::workers::rates(&app.db).await?;
    for (worker, percent) in app.paces.sample(rates) {
        let said = said!("worker_slow", percent = decimal(percent, 0));
        let event =
            NewEvent { kind: "worker_slow", level: "warn", said, worker_id: Some(worker), ..NewEvent::default() };
        app.event(event).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::ids::ExperimentId;

    #[test]
    fn a_slow_worker_is_named_once_and_no_longer_when_it_caught_up() {
        let paces = Paces::default();
        let [fast, slow] = [WorkerId::new(), WorkerId::new()];
        let shape = (ExperimentId::new(), "H100".to_owned(), 1);
        let mut named = 0;
        let mut sample = |rate: f64| {
            named += paces.sample(vec![(shape.clone(), fast, 100.0), (shape.clone(), slow, rate)]).len();
            (named, paces.slower_percent(slow).map(f64::round))
        };
        let last = (0..40).map(|_| sample(80.0)).last();
        assert_eq!(last, Some((1, Some(20.0))));
        let last = (0..60).map(|_| sample(100.0)).last();
        assert_eq!(last, Some((1, None)));
    }
}
