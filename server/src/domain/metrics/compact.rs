//! Which batches become a chunk, and what a chunk's sparkline shows.

use super::{LOSS, Points, pyramid::CHUNK_POINTS};

/// Losses that a chunk shows in sparklines.
const SPARKS: usize = 32;

/// How many of the batches of one fence, in order, become the next chunk: as many as make a whole one, or all of them
/// once no further batch can come. `points` are their sizes.
#[must_use]
pub fn chunk(points: impl IntoIterator<Item = i64>, finished: bool) -> usize {
    let (mut batches, mut sum) = (0, 0);
    for points in points {
        batches += 1;
        sum += points;
        if sum >= CHUNK_POINTS {
            return batches;
        }
    }
    if finished { batches } else { 0 }
}

/// A few finite losses of a chunk, evenly apart, with their steps.
#[must_use]
pub fn sparks(points: &Points) -> (Vec<i64>, Vec<f64>) {
    let Some(losses) = points.series.get(LOSS) else { return (Vec::new(), Vec::new()) };
    let finite: Vec<(i64, f64)> =
        points.steps.iter().zip(losses).filter_map(|(&step, loss)| loss.map(|loss| (step, loss))).collect();
    // From the last one backwards, so that the newest loss is among them.
    let apart = finite.len().div_ceil(SPARKS).max(1);
    finite.into_iter().rev().step_by(apart).collect::<Vec<_>>().into_iter().rev().unzip()
}
