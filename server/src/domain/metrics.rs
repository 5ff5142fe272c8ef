//! Curves out of batches: which points are current, and how a million of them fits a screen.

use senmon_protocol::{
    ids::Fence,
    view::{Curve, SupersededTail},
};
use std::collections::BTreeMap;

/// A stored batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Fence of the attempt that reported it.
    pub fence: i64,
    /// Steps, ascending.
    pub steps: Vec<i64>,
    /// Tokens at each step.
    pub tokens: Vec<i64>,
    /// Times at each step.
    pub at_ms: Vec<i64>,
    /// Values by metric name.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// An attempt that trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its fence.
    pub fence: i64,
    /// The step it started from: its own points lie beyond.
    pub step_start: i64,
}

/// Points of one branch, in columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Points {
    /// Steps.
    pub steps: Vec<u64>,
    /// Tokens.
    pub tokens: Vec<u64>,
    /// Times.
    pub at_ms: Vec<i64>,
    /// Values by metric name.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// The last step of `fence` that is current: later attempts took the place of everything beyond their start.
fn last_current(fence: i64, segments: &[Segment]) -> i64 {
    if cfg!(feature = "plant-tail-unmarked") {
        return i64::MAX;
    }
    segments.iter().filter(|segment| segment.fence > fence).map(|segment| segment.step_start).min().unwrap_or(i64::MAX)
}

/// Splits batches into the current curve (one value a step) and the superseded tails.
#[must_use]
pub fn current(mut batches: Vec<Batch>, segments: &[Segment], keys: &[String]) -> (Points, Vec<SupersededTail>) {
    batches.sort_by_key(|batch| (batch.fence, batch.steps.first().copied()));
    let names: Vec<String> = match keys {
        [] => batches
            .iter()
            .flat_map(|batch| batch.series.keys().cloned())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect(),
        keys => keys.to_vec(),
    };
    let mut points =
        Points { series: names.iter().map(|name| (name.clone(), Vec::new())).collect(), ..Points::default() };
    let mut tails: BTreeMap<i64, SupersededTail> = BTreeMap::new();
    for batch in &batches {
        let last = last_current(batch.fence, segments);
        for (i, &step) in batch.steps.iter().enumerate() {
            let value = |name: &str| batch.series.get(name).and_then(|values| values.get(i).copied().flatten());
            let step_shown = u64::try_from(step).unwrap_or(0);
            if step <= last {
                points.steps.push(step_shown);
                points.tokens.push(batch.tokens.get(i).and_then(|t| u64::try_from(*t).ok()).unwrap_or(0));
                points.at_ms.push(batch.at_ms.get(i).copied().unwrap_or(0));
                for (name, values) in &mut points.series {
                    values.push(value(name));
                }
            } else {
                let empty = || SupersededTail { fence: Fence(batch.fence), steps: Vec::new(), loss: Vec::new() };
                let tail = tails.entry(batch.fence).or_insert_with(empty);
                tail.steps.push(step_shown);
                tail.loss.push(value("train/loss"));
            }
        }
    }
    (points, tails.into_values().collect())
}

/// At most `points_max` buckets of neighbouring points, with mean, minimum and maximum of each.
#[must_use]
pub fn buckets(points: &Points, points_max: usize) -> (Points, BTreeMap<String, Curve>) {
    let size = points.steps.len().div_ceil(points_max.max(1)).max(1);
    let last = |column: &[u64]| column.chunks(size).filter_map(|chunk| chunk.last().copied()).collect();
    let axis = Points {
        steps: last(&points.steps),
        tokens: last(&points.tokens),
        at_ms: points.at_ms.chunks(size).filter_map(|chunk| chunk.last().copied()).collect(),
        series: BTreeMap::new(),
    };
    let curve = |values: &Vec<Option<f64>>| {
        let fold = |f: fn(f64, f64) -> f64| -> Vec<Option<f64>> {
            values.chunks(size).map(|chunk| chunk.iter().flatten().copied().reduce(f)).collect()
        };
        #[expect(clippy::cast_precision_loss, reason = "points of a bucket")]
        let mean = values.chunks(size).map(|chunk| {
            let finite: Vec<f64> = chunk.iter().flatten().copied().collect();
            (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
        });
        let many = size > 1;
        Curve { mean: mean.collect(), min: many.then(|| fold(f64::min)), max: many.then(|| fold(f64::max)) }
    };
    let curves = points.series.iter().map(|(name, values)| (name.clone(), curve(values))).collect();
    (axis, curves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(fence: i64, steps: std::ops::RangeInclusive<i64>) -> Batch {
        let steps: Vec<i64> = steps.collect();
        #[expect(clippy::cast_precision_loss, reason = "a test")]
        let loss = steps.iter().map(|step| Some((fence * 1000 + step) as f64)).collect();
        Batch {
            fence,
            tokens: steps.iter().map(|s| s * 10).collect(),
            at_ms: steps.clone(),
            steps,
            series: BTreeMap::from([("train/loss".into(), loss)]),
        }
    }

    #[test]
    fn a_resume_takes_the_tail_back_at_once() {
        let batches = vec![batch(1, 1..=8), batch(2, 6..=7), batch(3, 8..=10)];
        let segments = [
            Segment { fence: 1, step_start: 0 },
            Segment { fence: 2, step_start: 5 },
            Segment { fence: 3, step_start: 7 },
        ];
        let (points, tails) = current(batches, &segments, &[]);
        assert_eq!(points.steps, (1..=10).collect::<Vec<_>>());
        assert_eq!(points.series["train/loss"][5], Some(2006.0));
        assert_eq!(tails.len(), 1);
        assert_eq!(tails[0].steps, [6, 7, 8]);
        // The new attempt has reported nothing yet: its start alone supersedes.
        let (points, _) = current(vec![batch(1, 1..=8)], &[segments[0], Segment { fence: 2, step_start: 3 }], &[]);
        assert_eq!(points.steps, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn buckets_keep_the_extremes(values in prop::collection::vec(prop::option::of(-9.0..9.0_f64), 1..300), most in 1_usize..50) {
            let steps: Vec<u64> = (1..=values.len() as u64).collect();
            let at_ms = vec![0; steps.len()];
            let points = Points { tokens: steps.clone(), steps, at_ms, series: BTreeMap::from([("x".to_owned(), values.clone())]) };
            let (axis, curves) = buckets(&points, most);
            prop_assert!(axis.steps.len() <= most);
            prop_assert_eq!(axis.steps.last(), points.steps.last());
            let finite = || values.iter().flatten().copied();
            let curve = &curves["x"];
            let lows = curve.min.as_ref().unwrap_or(&curve.mean);
            let highs = curve.max.as_ref().unwrap_or(&curve.mean);
            prop_assert_eq!(lows.iter().flatten().copied().reduce(f64::min), finite().reduce(f64::min));
            prop_assert_eq!(highs.iter().flatten().copied().reduce(f64::max), finite().reduce(f64::max));
        }
    }
}
