//! Where the time went: every moment of a branch, an experiment or the fleet belongs to one cause, so that goodput and
//! badput add up to wall time by construction, in whole microseconds.
//!
//! [`attempt`] divides one execution, [`job`] joins executions and the waits between them, [`fleet`] adds idle slots.
//! Times are database times; what a worker counted inside an attempt is a length, never a moment.

pub mod attempt;
pub mod fleet;
pub mod job;
pub mod steps;

#[cfg(test)]
mod tests;

use chrono::{DateTime, TimeDelta, Utc};
use senmon_protocol::{
    goodput::{CauseTime, GoodputView, TimeCause},
    said,
    said::{Said, decimal, of},
};
use std::collections::BTreeMap;

/// A stretch of time and what it went into: lengths in microseconds that add up to the stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Begin.
    pub from: DateTime<Utc>,
    /// End, not before the begin.
    pub until: DateTime<Utc>,
    /// Causes mixed evenly over the stretch.
    pub parts: Vec<(TimeCause, i64)>,
}

impl Piece {
    /// A stretch of one cause; empty when it ends before it begins.
    #[must_use]
    pub fn of(cause: TimeCause, from: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        let until = until.max(from);
        Self { from, until, parts: vec![(cause, length(from, until))] }
    }

    /// The part of it inside a window; causes keep their shares.
    #[must_use]
    pub fn clipped(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        let (from, until) = (self.from.max(from), self.until.min(until).max(self.from.max(from)));
        let (whole, kept) = (length(self.from, self.until), length(from, until));
        let mut parts: Vec<_> = self.parts.iter().map(|(cause, part)| (*cause, share(*part, kept, whole))).collect();
        // What rounding down left over belongs to the largest part.
        let left = kept - parts.iter().map(|(_, part)| part).sum::<i64>();
        if let Some((_, part)) = parts.iter_mut().max_by_key(|(_, part)| *part) {
            *part += left;
        }
        Self { from, until, parts }
    }
}

/// Microseconds by cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account(pub BTreeMap<TimeCause, i64>);

impl Account {
    /// Adds a stretch that took `slots`.
    pub fn add(&mut self, piece: &Piece, slots: u32) {
        for (cause, part) in &piece.parts {
            *self.0.entry(*cause).or_default() += part * i64::from(slots);
        }
    }

    /// The whole.
    #[must_use]
    pub fn sum(&self) -> i64 {
        self.0.values().sum()
    }

    /// As the API shows it; what only the caller knows is left empty.
    #[must_use]
    pub fn view(&self, from: Option<DateTime<Utc>>, until: DateTime<Utc>) -> GoodputView {
        let whole = self.sum();
        let good: i64 = self.0.iter().filter(|(cause, _)| cause.is_goodput()).map(|(_, part)| part).sum();
        let over_whole = |part: i64| if whole == 0 { 0.0 } else { seconds(part) / seconds(whole) };
        let causes = self.0.iter().filter(|(_, part)| **part > 0).map(|(cause, part)| CauseTime {
            cause: *cause,
            is_goodput: cause.is_goodput(),
            seconds: seconds(*part),
            share: over_whole(*part),
            sentence: cause.sentence(),
        });
        GoodputView {
            from,
            until,
            seconds: seconds(whole),
            goodput_seconds: seconds(good),
            badput_seconds: seconds(whole - good),
            goodput_share: (whole > 0).then(|| over_whole(good)),
            causes: causes.collect(),
            first_wait_seconds: 0.0,
            attempts: 0,
            faults: 0,
            tokens: None,
        }
    }
}

/// Where an experiment's time went, in one sentence for its report; None where it took none.
#[must_use]
pub fn sentence(view: &GoodputView) -> Option<Said> {
    let good = view.goodput_share?;
    let mut causes: Vec<&CauseTime> =
        view.causes.iter().filter(|time| !time.is_goodput && time.share >= 0.005).collect();
    causes.sort_by(|a, b| b.share.total_cmp(&a.share));
    let share_of = |time: &&CauseTime| {
        Some(said!("cause_share", cause = of::cause(time.cause)?, percent = decimal(time.share * 100.0, 1)))
    };
    let causes: Vec<Said> = causes.iter().take(3).filter_map(share_of).collect();
    let (share, seconds, faults) = (decimal(good * 100.0, 1), decimal(view.seconds, 0), view.faults);
    Some(if causes.is_empty() {
        said!("method_goodput", share = share, seconds = seconds, faults = faults)
    } else {
        said!("method_goodput_rest", share = share, seconds = seconds, faults = faults, causes = causes)
    })
}

/// Microseconds from one moment to another; 0 when time went backwards.
fn length(from: DateTime<Utc>, until: DateTime<Utc>) -> i64 {
    (until - from).max(TimeDelta::zero()).num_microseconds().unwrap_or(i64::MAX)
}

/// `part × of ÷ whole`, rounded down, without overflow.
fn share(part: i64, of: i64, whole: i64) -> i64 {
    if whole <= 0 { 0 } else { i64::try_from(i128::from(part) * i128::from(of) / i128::from(whole)).unwrap_or(0) }
}

/// Microseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "below 2^53 microseconds, 285 years, exact")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}
