//! Buckets: runs of neighbouring points with the smallest, the largest and the sum of each metric, and the pyramid of
//! them that lies above the points. Folding loses no extreme.

use super::{
    Points,
    codec::{Columns, Damaged, decode, encode},
};
use std::{collections::BTreeMap, ops::Range};

/// Buckets of one level that become one of the next.
pub const FAN: usize = 16;
/// Points of a chunk, at least: a second of a thousand workers makes about a dozen chunks, and a chunk of one metric is
/// what a disk reads at once.
pub const CHUNK_POINTS: i64 = 4096;

/// Buckets in order, in columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets {
    /// First step of each.
    pub step_first: Vec<i64>,
    /// Last step of each.
    pub step_last: Vec<i64>,
    /// Tokens at the last step.
    pub tokens: Vec<i64>,
    /// Time at the last step.
    pub at_ms: Vec<i64>,
    /// Points in each.
    pub points: Vec<i64>,
    /// By metric name.
    pub series: BTreeMap<String, Stats>,
}

/// What is known of one metric in each bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Smallest finite value; NaN where there is none.
    pub low: Vec<f64>,
    /// Largest finite value; NaN where there is none.
    pub high: Vec<f64>,
    /// Sum of the finite values.
    pub sum: Vec<f64>,
    /// Number of finite values.
    pub finite: Vec<f64>,
}

const PARTS: [&str; 4] = ["finite", "high", "low", "sum"];

impl Stats {
    fn parts(&self) -> [&Vec<f64>; 4] {
        [&self.finite, &self.high, &self.low, &self.sum]
    }

    fn push(&mut self, (low, high, sum, finite): (f64, f64, f64, f64)) {
        self.low.push(low);
        self.high.push(high);
        self.sum.push(sum);
        self.finite.push(finite);
    }

    fn pad(&mut self, length: usize) {
        while self.low.len() < length {
            self.push((f64::NAN, f64::NAN, 0.0, 0.0));
        }
    }

    /// Mean of the finite values of a bucket.
    #[must_use]
    pub fn mean(&self, i: usize) -> Option<f64> {
        // The mean of equal values is that value, whatever the sum was rounded to.
        (self.finite[i] > 0.0).then(|| (self.sum[i] / self.finite[i]).max(self.low[i]).min(self.high[i]))
    }
}

impl Buckets {
    /// Each point a bucket.
    #[must_use]
    pub fn of(points: Points) -> Self {
        let stats = |values: Vec<Option<f64>>| {
            let mut stats = Stats::default();
            for value in values {
                match value.filter(|value| value.is_finite()) {
                    Some(value) => stats.push((value, value, value, 1.0)),
                    None => stats.push((f64::NAN, f64::NAN, 0.0, 0.0)),
                }
            }
            stats
        };
        Self {
            points: vec![1; points.steps.len()],
            step_first: points.steps.clone(),
            step_last: points.steps,
            tokens: points.tokens,
            at_ms: points.at_ms,
            series: points.series.into_iter().map(|(name, values)| (name, stats(values))).collect(),
        }
    }

    /// Number of buckets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.step_last.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.step_last.is_empty()
    }

    /// Points in all.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.points.iter().sum()
    }

    /// Appends a range of other buckets; a metric that one of the two lacks has no value there.
    pub fn append(&mut self, other: &Self, range: Range<usize>) {
        let before = self.len();
        self.step_first.extend_from_slice(&other.step_first[range.clone()]);
        self.step_last.extend_from_slice(&other.step_last[range.clone()]);
        self.tokens.extend_from_slice(&other.tokens[range.clone()]);
        self.at_ms.extend_from_slice(&other.at_ms[range.clone()]);
        self.points.extend_from_slice(&other.points[range.clone()]);
        for (name, stats) in &other.series {
            if !self.series.contains_key(name) {
                self.series.insert(name.clone(), Stats::default());
            }
            let Some(own) = self.series.get_mut(name) else { continue };
            own.pad(before);
            own.low.extend_from_slice(&stats.low[range.clone()]);
            own.high.extend_from_slice(&stats.high[range.clone()]);
            own.sum.extend_from_slice(&stats.sum[range.clone()]);
            own.finite.extend_from_slice(&stats.finite[range.clone()]);
        }
        let length = self.len();
        self.series.values_mut().for_each(|stats| stats.pad(length));
    }

    /// Each [`FAN`] neighbours become one.
    #[must_use]
    pub fn fold(&self) -> Self {
        let ranges = (0..self.len()).step_by(FAN).map(|start| start..(start + FAN).min(self.len()));
        self.merge(&ranges.collect::<Vec<_>>())
    }

    /// Neighbours become one until no more than `most` are left, all of about as many points.
    #[must_use]
    pub fn fold_to(&self, most: usize) -> Self {
        let most = i64::try_from(most.max(1)).unwrap_or(i64::MAX);
        let size = (self.total() + most - 1) / most;
        let (mut ranges, mut start, mut points) = (Vec::new(), 0, 0);
        for i in 0..self.len() {
            points += self.points[i];
            if points >= size || i + 1 == self.len() {
                ranges.push(start..i + 1);
                (start, points) = (i + 1, 0);
            }
        }
        self.merge(&ranges)
    }

    fn merge(&self, ranges: &[Range<usize>]) -> Self {
        let last = |column: &[i64]| ranges.iter().map(|range| column[range.end - 1]).collect();
        let stats = |stats: &Stats| {
            let mut merged = Stats::default();
            for range in ranges {
                let of = |column: &[f64], f: fn(f64, f64) -> f64| column[range.clone()].iter().copied().reduce(f);
                let sum = |column: &[f64]| column[range.clone()].iter().sum::<f64>();
                // f64::min and f64::max prefer a number to NaN.
                let (low, high) = (of(&stats.low, f64::min), of(&stats.high, f64::max));
                merged.push((low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN), sum(&stats.sum), sum(&stats.finite)));
            }
            merged
        };
        Self {
            step_first: ranges.iter().map(|range| self.step_first[range.start]).collect(),
            step_last: last(&self.step_last),
            tokens: last(&self.tokens),
            at_ms: last(&self.at_ms),
            points: ranges.iter().map(|range| self.points[range.clone()].iter().sum()).collect(),
            series: self.series.iter().map(|(name, of)| (name.clone(), stats(of))).collect(),
        }
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let named = |(name, stats): (&String, &Stats)| {
            PARTS
                .iter()
                .zip(stats.parts())
                .map(|(part, column)| (format!("{name}\0{part}"), column.clone()))
                .collect::<Vec<_>>()
        };
        let columns = Columns {
            whole: [&self.step_first, &self.step_last, &self.tokens, &self.at_ms, &self.points]
                .map(Clone::clone)
                .to_vec(),
            values: self.series.iter().flat_map(named).collect(),
        };
        encode(&columns, true)
    }

    /// From bytes; of the metrics only those wanted.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn decode(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, Damaged> {
        let columns = decode(bytes, |name| name.split_once('\0').is_some_and(|(name, _)| wanted(name)))?;
        let [step_first, step_last, tokens, at_ms, points] =
            <[_; 5]>::try_from(columns.whole).map_err(|_| Damaged("another number of columns"))?;
        let mut series: BTreeMap<String, Stats> = BTreeMap::new();
        for (name, column) in columns.values {
            let Some((name, part)) = name.split_once('\0') else { continue };
            let stats = series.entry(name.to_owned()).or_default();
            match part {
                "finite" => stats.finite = column,
                "high" => stats.high = column,
                "low" => stats.low = column,
                "sum" => stats.sum = column,
                _ => return Err(Damaged("an unknown column")),
            }
        }
        let rows = step_last.len();
        if series.values().any(|stats| stats.parts().iter().any(|column| column.len() != rows)) {
            return Err(Damaged("a metric lacks a column"));
        }
        Ok(Self { step_first, step_last, tokens, at_ms, points, series })
    }
}

/// The row above some neighbours of one level. Each is folded alone, so that a bucket lies within one of them.
#[must_use]
pub fn summarise(children: &[Buckets]) -> Buckets {
    let mut summary = Buckets::default();
    for child in children {
        let folded = child.fold();
        summary.append(&folded, 0..folded.len());
    }
    summary
}

/// The level to draw `points` in `most` buckets from: the coarsest whose buckets are no larger than what is drawn.
#[must_use]
pub fn level(points: i64, most: usize) -> u32 {
    let most = i64::try_from(most.max(1)).unwrap_or(i64::MAX);
    u32::try_from((points / most).max(1)).map_or(7, |size| size.ilog(16))
}
