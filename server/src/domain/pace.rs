//! Whether a worker is slower than its siblings: than the other workers that train branches of the same experiment on
//! the same kind of device with as many slots.
//!
//! Medians throughout, so that one disturbed sample, or one bad worker among many, moves nothing.

use senmon_protocol::ids::{ExperimentId, WorkerId};
use std::collections::BTreeMap;

/// Rates that may be compared with each other: experiment, name of the device, slots of a branch.
pub type Shape = (ExperimentId, String, u16);

/// Samples of a worker below which nothing is said: with one in ten seconds, about three minutes.
pub const SAMPLES_MIN: usize = 20;
/// Standard errors that a difference must have: beyond chance, for a fleet looked at all month.
const ERRORS_MIN: f64 = 5.0;

/// Percent by which each worker is slower than the median of its siblings: those that are by `percent_min` at least,
/// beyond the noise of the samples. `rates` are tokens per second by shape and worker.
#[must_use]
pub fn slower(rates: &BTreeMap<(Shape, WorkerId), Vec<f64>>, percent_min: f64) -> BTreeMap<WorkerId, f64> {
    let mut shapes: BTreeMap<&Shape, Vec<(WorkerId, f64, f64)>> = BTreeMap::new();
    for ((shape, worker), rates) in rates.iter().filter(|(_, rates)| rates.len() >= SAMPLES_MIN) {
        let (middle, error) = median_and_error(rates);
        shapes.entry(shape).or_default().push((*worker, middle, error));
    }
    let mut found: BTreeMap<WorkerId, f64> = BTreeMap::new();
    for workers in shapes.values() {
        for (worker, own, own_error) in workers {
            let others: Vec<_> = workers.iter().filter(|(other, ..)| other != worker).collect();
            if others.is_empty() {
                continue;
            }
            let reference = median(others.iter().map(|(_, middle, _)| *middle).collect());
            let error = own_error.hypot(median(others.iter().map(|(_, _, error)| *error).collect()));
            let percent = 100.0 * (1.0 - own / reference);
            if percent >= percent_min && reference - own > ERRORS_MIN * error {
                let worst = found.entry(*worker).or_default();
                *worst = worst.max(percent);
            }
        }
    }
    found
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The median and its standard error, from the median absolute deviation: 1.4826 of it is a standard deviation, and a
/// median's error is 1.2533 of a mean's (both for normal samples).
#[expect(clippy::cast_precision_loss, reason = "a number of samples")]
fn median_and_error(values: &[f64]) -> (f64, f64) {
    let middle = median(values.to_vec());
    let deviation = 1.4826 * median(values.iter().map(|value| (value - middle).abs()).collect());
    (middle, 1.2533 * deviation / (values.len() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
    use uuid::Uuid;

    /// `samples` rates with a standard deviation of three percent, of workers with these speeds.
    fn rates(speeds: &[f64], samples: usize, seed: u64) -> BTreeMap<(Shape, WorkerId), Vec<f64>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let shape = (ExperimentId(Uuid::nil()), "H100".to_owned(), 1);
        let mut noise = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let mut sampled = |speed: f64| (0..samples).map(|_| speed * (1.0 + 0.03 * noise())).collect();
        let workers = speeds.iter().zip(1..);
        workers.map(|(speed, id)| ((shape.clone(), WorkerId(Uuid::from_u128(id))), sampled(*speed))).collect()
    }

    #[test]
    fn five_percent_are_seen_with_enough_samples() {
        for seed in 0..200 {
            let found = slower(&rates(&[1000.0, 1000.0, 940.0, 1000.0, 1000.0], 60, seed), 5.0 * 0.8);
            assert_eq!(found.keys().map(|id| id.0.as_u128()).collect::<Vec<_>>(), [3], "seed {seed}");
            assert!((found.values().next().unwrap() - 6.0).abs() < 2.5, "seed {seed}: {found:?}");
        }
    }

    #[test]
    fn nothing_is_said_of_few_samples_or_of_a_worker_without_siblings() {
        assert!(slower(&rates(&[1000.0, 500.0], SAMPLES_MIN - 1, 1), 5.0).is_empty());
        assert!(slower(&rates(&[500.0], 60, 1), 5.0).is_empty());
        assert_eq!(slower(&rates(&[1000.0, 500.0], 60, 1), 5.0).len(), 1);
    }

    proptest! {
        #[test]
        fn noise_raises_no_alarm(seed: u64, workers in 2_usize..12) {
            prop_assert!(slower(&rates(&vec![1000.0; workers], 60, seed), 5.0).is_empty());
        }
    }
}
