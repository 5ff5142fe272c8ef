//! A job from its first grant to its end: its attempts, and the waits between them by cause.

use super::{
    Piece,
    attempt::{Attempt, End},
};
use chrono::{DateTime, TimeDelta, Utc};
use senmon_protocol::{goodput::TimeCause, view::JobState};

/// Everything that is known of a job's time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Attempts by fence.
    pub attempts: Vec<Attempt>,
    /// States that the job came into, in order.
    pub states: Vec<(DateTime<Utc>, JobState)>,
    /// When its experiment was held back by a person, in order.
    pub holds: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

impl History {
    /// The first grant.
    #[must_use]
    pub fn from(&self) -> Option<DateTime<Utc>> {
        self.attempts.first().map(|attempt| attempt.started_at)
    }

    /// From when the job could have been granted first to its first grant, or to `now`.
    #[must_use]
    pub fn first_wait(&self, now: DateTime<Utc>) -> TimeDelta {
        let queued = self.states.iter().find(|(_, state)| *state == JobState::Queued).map(|(at, _)| *at);
        let until = self.from().or_else(|| self.over()).unwrap_or(now);
        queued.map_or(TimeDelta::zero(), |queued| (until - queued).max(TimeDelta::zero()))
    }

    /// When the job came to its end; None while it is open.
    fn over(&self) -> Option<DateTime<Utc>> {
        let is_over = |state| matches!(state, JobState::Completed | JobState::Failed | JobState::Cancelled);
        self.states.last().filter(|(_, state)| is_over(*state)).map(|(at, _)| *at)
    }

    /// Stretches from the first grant to the end or to `now`: in order, without a gap, none overlapping.
    #[must_use]
    pub fn pieces(&self, now: DateTime<Utc>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let Some(mut cursor) = self.from() else { return pieces };
        let mut wait = TimeCause::Queued;
        for attempt in &self.attempts {
            self.wait(&mut pieces, cursor, attempt.started_at, wait);
            // Transactions are timed at their begin: two may seem to overlap by a moment.
            cursor = cursor.max(attempt.started_at);
            for piece in attempt.pieces(now) {
                pieces.push(piece.clipped(cursor, DateTime::<Utc>::MAX_UTC));
            }
            let Some((at, end)) = attempt.ended else { return pieces };
            cursor = cursor.max(at);
            wait = end.wait();
        }
        let is_done = self.attempts.last().is_some_and(|last| last.ended.is_some_and(|(_, end)| end == End::Completed));
        let until = if is_done { cursor } else { self.over().unwrap_or(now) };
        self.wait(&mut pieces, cursor, until, wait);
        pieces
    }

    /// The wait from one moment to another: called `wait` while the job is queued after an attempt, a pause while a
    /// person holds it or its experiment, and a plain queue after that.
    fn wait(&self, pieces: &mut Vec<Piece>, from: DateTime<Utc>, until: DateTime<Utc>, wait: TimeCause) {
        let (mut cursor, mut cause) = (from, wait);
        for (at, state) in &self.states {
            let next = match state {
                JobState::Running => wait,
                JobState::Queued if cause == TimeCause::Paused => TimeCause::Queued,
                JobState::Queued => cause,
                JobState::Paused | JobState::Completed | JobState::Failed | JobState::Cancelled => TimeCause::Paused,
            };
            let at = (*at).clamp(from, until.max(from));
            self.held(pieces, cursor, at, cause);
            (cursor, cause) = (cursor.max(at), next);
        }
        self.held(pieces, cursor, until, cause);
    }

    /// A wait of one cause, without the time that a person held the experiment.
    fn held(&self, pieces: &mut Vec<Piece>, from: DateTime<Utc>, until: DateTime<Utc>, cause: TimeCause) {
        let mut push = |cause, from, until| {
            if from < until {
                pieces.push(Piece::of(cause, from, until));
            }
        };
        let mut cursor = from;
        for (held_from, held_until) in &self.holds {
            let (held_from, held_until) = ((*held_from).clamp(cursor, until.max(cursor)), (*held_until).min(until));
            if held_until > held_from {
                push(cause, cursor, held_from);
                push(TimeCause::Paused, held_from, held_until);
                cursor = held_until;
            }
        }
        push(cause, cursor, until);
    }
}
