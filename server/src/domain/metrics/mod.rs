//! Curves out of what attempts reported: which points are current, and how a million of them fits a screen.
//!
//! `codec` is columns as bytes, `pyramid` summarises points level by level, `compact` chooses the batches of a chunk,
//! `draw` makes a curve of what was read.

pub mod codec;
pub mod compact;
pub mod draw;
pub mod pyramid;
#[cfg(test)]
mod tests;

use codec::{Columns, Damaged, decode, encode};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The metric that tails and sparklines show.
pub const LOSS: &str = "train/loss";

/// Points of one fence, in columns.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Points {
    /// Steps, ascending.
    pub steps: Vec<i64>,
    /// Tokens at each step.
    pub tokens: Vec<i64>,
    /// Times at each step.
    pub at_ms: Vec<i64>,
    /// Values by metric name; none where not finite.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

impl Points {
    /// As bytes: small and cheap for a batch that lands, compressed for a chunk that stays.
    #[must_use]
    pub fn encode(&self, compress: bool) -> Vec<u8> {
        let values = |values: &Vec<Option<f64>>| values.iter().map(|value| value.unwrap_or(f64::NAN)).collect();
        let columns = Columns {
            whole: vec![self.steps.clone(), self.tokens.clone(), self.at_ms.clone()],
            values: self.series.iter().map(|(name, column)| (name.clone(), values(column))).collect(),
        };
        encode(&columns, compress)
    }

    /// From bytes; of the metrics only those wanted.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn decode(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, Damaged> {
        // Rows that were stored before there was a codec.
        if bytes.first() == Some(&b'{') {
            let mut points: Self = serde_json::from_slice(bytes).map_err(|_| Damaged("it is no JSON of a batch"))?;
            points.series.retain(|name, _| wanted(name));
            return Ok(points);
        }
        let columns = decode(bytes, wanted)?;
        let [steps, tokens, at_ms] =
            <[_; 3]>::try_from(columns.whole).map_err(|_| Damaged("another number of columns"))?;
        let values = |column: Vec<f64>| column.into_iter().map(|value| Some(value).filter(|v| v.is_finite())).collect();
        let series = columns.values.into_iter().map(|(name, column)| (name, values(column))).collect();
        Ok(Self { steps, tokens, at_ms, series })
    }

    /// Appends later points; a metric that one of the two lacks has no value there.
    pub fn append(&mut self, later: Self) {
        let before = self.steps.len();
        self.steps.extend(later.steps);
        self.tokens.extend(later.tokens);
        self.at_ms.extend(later.at_ms);
        for (name, values) in later.series {
            let own = self.series.entry(name).or_default();
            own.resize(before, None);
            own.extend(values);
        }
        let length = self.steps.len();
        self.series.values_mut().for_each(|values| values.resize(length, None));
    }
}

/// An attempt that trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its fence.
    pub fence: i64,
    /// The step it started from: its own points lie beyond.
    pub step_start: i64,
}

/// The last step of `fence` that is current: later attempts took the place of everything beyond their start.
#[must_use]
pub fn last_current(fence: i64, segments: &[Segment]) -> i64 {
    if cfg!(feature = "plant-tail-unmarked") {
        return i64::MAX;
    }
    segments.iter().filter(|segment| segment.fence > fence).map(|segment| segment.step_start).min().unwrap_or(i64::MAX)
}
