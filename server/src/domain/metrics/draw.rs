//! A curve out of what was read: rows of one level where their buckets are whole, finer ones where a later attempt cut
//! through a bucket.

use super::{
    LOSS, Segment, last_current,
    pyramid::{Buckets, Stats},
};
use senmon_protocol::{
    ids::Fence,
    view::{Curve, SupersededTail},
};
use std::collections::BTreeMap;

/// A row that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Fence of the attempt.
    pub fence: i64,
    /// Its level; 0 for points.
    pub level: u32,
    /// What is in it.
    pub buckets: Buckets,
}

/// Splits pieces into the current curve and the superseded tails, of the steps asked for. `pieces` hold every point
/// once; `finer` are the rows below them through which some later attempt's start cuts.
#[must_use]
pub fn draw(
    mut pieces: Vec<Piece>,
    finer: &[Piece],
    segments: &[Segment],
    (step_from, step_to): (i64, i64),
) -> (Buckets, BTreeMap<i64, Buckets>) {
    pieces.sort_by_key(|piece| (piece.fence, piece.buckets.step_first.first().copied()));
    let (mut current, mut tails) = (Buckets::default(), BTreeMap::<i64, Buckets>::new());
    for piece in &pieces {
        let cut = last_current(piece.fence, segments);
        let mut take = |buckets: &Buckets, i: usize| {
            if buckets.step_last[i] < step_from || buckets.step_first[i] > step_to {
                return;
            }
            let side = if buckets.step_last[i] <= cut { &mut current } else { tails.entry(piece.fence).or_default() };
            side.append(buckets, i..i + 1);
        };
        walk(piece, (i64::MIN, i64::MAX), cut, finer, &mut take);
    }
    (current, tails)
}

/// Visits the buckets of a piece that lie within some steps; one that the cut divides gives way to those below it.
fn walk(piece: &Piece, (first, last): (i64, i64), cut: i64, finer: &[Piece], take: &mut impl FnMut(&Buckets, usize)) {
    let buckets = &piece.buckets;
    let divided = |first: i64, last: i64| first <= cut && cut < last;
    for i in 0..buckets.len() {
        let range = (buckets.step_first[i], buckets.step_last[i]);
        if range.0 < first || range.1 > last {
            continue;
        }
        let holds_cut = |below: &&Piece| {
            below.fence == piece.fence
                && below.level + 1 == piece.level
                && below
                    .buckets
                    .step_first
                    .first()
                    .zip(below.buckets.step_last.last())
                    .is_some_and(|(f, l)| divided(*f, *l))
        };
        match finer.iter().find(holds_cut).filter(|_| divided(range.0, range.1)) {
            Some(below) => walk(below, range, cut, finer, take),
            None => take(buckets, i),
        }
    }
}

/// Curves by metric name as the API shows them; minimum and maximum are left out where each bucket is one point.
#[must_use]
pub fn curves(buckets: &Buckets, keys: &[String]) -> BTreeMap<String, Curve> {
    let single = buckets.points.iter().all(|&points| points == 1);
    let finite = |column: &[f64]| column.iter().map(|value| Some(*value).filter(|v| v.is_finite())).collect::<Vec<_>>();
    let curve = |stats: &Stats| Curve {
        mean: (0..buckets.len()).map(|i| stats.mean(i)).collect(),
        min: (!single).then(|| finite(&stats.low)),
        max: (!single).then(|| finite(&stats.high)),
    };
    let mut curves: BTreeMap<String, Curve> = buckets
        .series
        .iter()
        .filter(|(name, _)| keys.is_empty() || keys.contains(name))
        .map(|(name, stats)| (name.clone(), curve(stats)))
        .collect();
    for key in keys {
        let none = || vec![None; buckets.len()];
        curves.entry(key.clone()).or_insert_with(|| Curve {
            mean: none(),
            min: (!single).then(none),
            max: (!single).then(none),
        });
    }
    curves
}

/// A superseded tail as the API shows it.
#[must_use]
pub fn tail(fence: i64, buckets: &Buckets) -> SupersededTail {
    let loss = buckets.series.get(LOSS);
    SupersededTail {
        fence: Fence(fence),
        steps: buckets.step_last.iter().map(|step| u64::try_from(*step).unwrap_or(0)).collect(),
        loss: (0..buckets.len()).map(|i| loss.and_then(|stats| stats.mean(i))).collect(),
    }
}
