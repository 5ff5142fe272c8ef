//! The points of exported curves, row by row.
//!
//! Never asks a server and never writes.

use chrono::{DateTime, Utc};
use senmon_protocol::view::MetricsView;
use std::collections::BTreeSet;

/// What stands before the metrics of every point.
pub const HEADS: [&str; 6] = ["experiment", "branch", "role", "step", "tokens", "time"];

/// Curves of one branch, in pieces one after the other.
#[derive(Debug)]
pub struct Curves {
    /// Its name.
    pub branch: String,
    /// What it is for.
    pub role: String,
    /// As the server gave them.
    pub pieces: Vec<MetricsView>,
}

/// One point of a branch.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    /// The branch.
    pub branch: &'a str,
    /// What it is for.
    pub role: &'a str,
    /// Its step.
    pub step: u64,
    /// Tokens by then.
    pub tokens: u64,
    /// When it was reported.
    pub at: DateTime<Utc>,
    piece: &'a MetricsView,
    row: usize,
}

impl Point<'_> {
    /// The value of a metric; none where it was not measured, or is not finite.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<f64> {
        self.piece.series.get(key)?.mean.get(self.row).copied().flatten()
    }
}

/// Every metric of these curves, by name.
#[must_use]
pub fn keys(all: &[Curves]) -> BTreeSet<&str> {
    let pieces = all.iter().flat_map(|curves| &curves.pieces);
    pieces.flat_map(|piece| piece.series.keys().map(String::as_str)).collect()
}

/// The points of one branch.
pub fn of_one(curves: &Curves) -> impl Iterator<Item = Point<'_>> {
    curves.pieces.iter().flat_map(|piece| {
        piece.steps.iter().enumerate().map(|(row, step)| Point {
            branch: &curves.branch,
            role: &curves.role,
            step: *step,
            tokens: piece.tokens.get(row).copied().unwrap_or_default(),
            at: piece.at_ms.get(row).copied().and_then(DateTime::from_timestamp_millis).unwrap_or_default(),
            piece,
            row,
        })
    })
}

/// The points of all branches, one branch after the other.
pub fn of(all: &[Curves]) -> impl Iterator<Item = Point<'_>> {
    all.iter().flat_map(of_one)
}

/// Two points of two metrics.
#[cfg(test)]
pub fn sample() -> Vec<Curves> {
    use senmon_protocol::view::Curve;
    let curve = |mean: Vec<Option<f64>>| Curve { mean, min: None, max: None };
    let series = std::collections::BTreeMap::from([
        ("train/loss".to_owned(), curve(vec![Some(3.5), None])),
        ("train/learning_rate".to_owned(), curve(vec![Some(0.001), Some(0.002)])),
    ]);
    let piece = MetricsView {
        branch_id: uuid::Uuid::nil().to_string().parse().unwrap(),
        steps: vec![5, 10],
        tokens: vec![20_480, 40_960],
        at_ms: vec![1_000, 2_500],
        series,
        superseded: vec![],
        events: vec![],
    };
    vec![Curves { branch: "expert-0".into(), role: "expert".into(), pieces: vec![piece] }]
}
