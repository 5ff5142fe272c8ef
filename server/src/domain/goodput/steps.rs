//! Which steps count: those that no later attempt took back, and that the optimiser took.

use senmon_protocol::goodput::{SkipReason, TokenAccount};
use std::collections::BTreeSet;

/// The steps of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its fence.
    pub fence: i64,
    /// The step it started from; None when it never said so.
    pub step_start: Option<u64>,
    /// The last step it finished.
    pub step_last: u64,
}

impl Segment {
    /// Steps it finished.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.step_start.map_or(0, |start| self.step_last.saturating_sub(start))
    }
}

/// A line of the skip ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skip {
    /// Fence of the attempt.
    pub fence: i64,
    /// The step not taken, or the step that a rollback went back to.
    pub step: u64,
    /// Number of the batch in the data order.
    pub batch: u64,
    /// Why.
    pub reason: SkipReason,
}

/// The last step of `fence` that counts: later attempts took the place of everything beyond their start.
#[must_use]
pub fn last_current(fence: i64, segments: &[Segment]) -> u64 {
    segments.iter().filter(|later| later.fence > fence).filter_map(|later| later.step_start).min().unwrap_or(u64::MAX)
}

/// Steps of an attempt that were superseded, and steps that count but were skipped.
#[must_use]
pub fn wasted(segment: &Segment, segments: &[Segment], skips: &[Skip]) -> (u64, u64) {
    let last = last_current(segment.fence, segments);
    let start = segment.step_start.unwrap_or(segment.step_last);
    let superseded = segment.step_last.saturating_sub(last.max(start));
    let of_it = |skip: &&Skip| skip.fence == segment.fence && skip.reason == SkipReason::StepSkipped;
    let skipped =
        skips.iter().filter(of_it).filter(|skip| skip.step > start && skip.step <= last.min(segment.step_last));
    (superseded, skipped.map(|skip| skip.step).collect::<BTreeSet<_>>().len() as u64)
}

/// The account of a branch at `step`, with batches of `batch_tokens`: tokens trained are those drawn from the data
/// order minus those of the ledger.
#[must_use]
pub fn tokens(step: u64, batch_tokens: u64, segments: &[Segment], skips: &[Skip]) -> TokenAccount {
    let current = skips.iter().filter(|skip| skip.step <= last_current(skip.fence, segments).min(step));
    let batches = |reason| {
        current.clone().filter(|skip| skip.reason == reason).map(|skip| skip.batch).collect::<BTreeSet<_>>().len()
            as u64
    };
    let (steps_skipped, left_out) = (batches(SkipReason::StepSkipped).min(step), batches(SkipReason::RolledBack));
    let steps_superseded: u64 = segments.iter().map(|segment| wasted(segment, segments, &[]).0).sum();
    TokenAccount {
        steps: step,
        steps_superseded,
        steps_skipped,
        drawn: (step + left_out) * batch_tokens,
        skipped: (steps_skipped + left_out) * batch_tokens,
        trained: (step - steps_skipped) * batch_tokens,
        superseded: steps_superseded * batch_tokens,
    }
}
