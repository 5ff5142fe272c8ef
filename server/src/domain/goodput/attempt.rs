//! One execution of a job, divided.

use super::{Piece, length, share};
use chrono::{DateTime, TimeDelta, Utc};
use senmon_protocol::{
    goodput::TimeCause,
    job::{JobKind, TerminationReason},
    worker::AttemptTime,
};

/// How an attempt ended, as far as time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a result.
    Completed,
    /// Asked to give its slots back.
    Released,
    /// Its slots went to more urgent work.
    Preempted,
    /// It went back to an earlier state by itself.
    RolledBack,
    /// By a person, for good or until it is resumed.
    Stopped,
    /// Nobody heard of it any more.
    Lost,
    /// Any other fault.
    Fault,
}

impl From<TerminationReason> for End {
    fn from(reason: TerminationReason) -> Self {
        match reason {
            TerminationReason::Released => Self::Released,
            TerminationReason::RolledBack => Self::RolledBack,
            TerminationReason::Cancelled | TerminationReason::LossSpike => Self::Stopped,
            TerminationReason::WorkerLost | TerminationReason::Stalled => Self::Lost,
            TerminationReason::Preempted => Self::Preempted,
            TerminationReason::InvalidInput
            | TerminationReason::CorruptData
            | TerminationReason::OutOfMemory
            | TerminationReason::DeviceFault
            | TerminationReason::StorageFailure
            | TerminationReason::NonFiniteLoss
            | TerminationReason::InternalError => Self::Fault,
        }
    }
}

impl End {
    /// Whether a fault ended it.
    #[must_use]
    pub fn is_fault(self) -> bool {
        matches!(self, Self::Lost | Self::Fault)
    }

    /// What the wait for the next grant is called.
    #[must_use]
    pub fn wait(self) -> TimeCause {
        match self {
            Self::Lost | Self::Fault | Self::RolledBack => TimeCause::Recovering,
            Self::Preempted => TimeCause::Preempted,
            Self::Completed | Self::Released | Self::Stopped => TimeCause::Queued,
        }
    }
}

/// One execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Kind of its job.
    pub kind: JobKind,
    /// Slots that it took.
    pub slots: u32,
    /// When it was granted.
    pub started_at: DateTime<Utc>,
    /// When and how it ended; None while it runs.
    pub ended: Option<(DateTime<Utc>, End)>,
    /// Whether it runs, but its lease is over: nobody has heard of it.
    pub is_silent: bool,
    /// What its worker counted.
    pub time: AttemptTime,
    /// Steps that it finished.
    pub steps: u64,
    /// Of them, steps that do not count: superseded or skipped.
    pub steps_wasted: u64,
}

impl Attempt {
    /// Its stretches, in order, without a gap, from the grant to its end or to `now`. What a running attempt has not
    /// yet reported goes on as before, unless it is silent.
    #[must_use]
    pub fn pieces(&self, now: DateTime<Utc>) -> Vec<Piece> {
        let until = self.ended.map_or(now, |(at, _)| at).max(self.started_at);
        let whole = length(self.started_at, until);
        // Two clocks never agree to the last millisecond: the database's decides.
        let starting = micros(self.time.starting_ms).min(whole);
        let training = micros(self.time.training_ms).min(whole - starting);
        let first = self.started_at + TimeDelta::microseconds(starting);
        let second = first + TimeDelta::microseconds(training);
        let end = self.ended.map(|(_, end)| end);
        let is_silent = self.is_silent || end == Some(End::Lost);
        let pieces = if self.kind == JobKind::Train {
            let rest = match end {
                _ if is_silent => TimeCause::Detection,
                // A worker that counts nothing has been training, for all that is known.
                Some(_) if self.time == AttemptTime::default() => TimeCause::Productive,
                Some(_) => TimeCause::Finishing,
                None if training > 0 => TimeCause::Productive,
                None => TimeCause::Starting,
            };
            vec![
                Piece::of(TimeCause::Starting, self.started_at, first),
                Piece { from: first, until: second, parts: self.training(training) },
                Piece::of(rest, second, until),
            ]
        } else {
            let work = match (self.kind, end) {
                (_, Some(end)) if end != End::Completed => TimeCause::Wasted,
                (JobKind::Scan | JobKind::Deduplicate, _) => TimeCause::Scanning,
                (JobKind::Shard, _) => TimeCause::Sharding,
                (JobKind::Merge, _) => TimeCause::Merging,
                (JobKind::Evaluate | JobKind::Ensemble | JobKind::Decontaminate | JobKind::Train, _) => {
                    TimeCause::Evaluation
                }
            };
            let rest = if is_silent { TimeCause::Detection } else { work };
            vec![Piece::of(work, self.started_at, second), Piece::of(rest, second, until)]
        };
        pieces.into_iter().filter(|piece| piece.from < piece.until).collect()
    }

    /// The time of the step loop by cause. Steps of one attempt are alike, so what does not count is charged by its
    /// share of the steps; where none was finished, the one begun counts while the attempt runs.
    fn training(&self, whole: i64) -> Vec<(TimeCause, i64)> {
        let stall = micros(self.time.checkpoint_stall_ms).min(whole);
        let wait = micros(self.time.data_wait_ms).min(whole - stall);
        let net = whole - stall - wait;
        let signed = |steps: u64| i64::try_from(steps).unwrap_or(i64::MAX);
        let wasted = match self.steps {
            0 if self.ended.is_some() => net,
            steps => share(net, signed(self.steps_wasted.min(steps)), signed(steps)),
        };
        vec![
            (TimeCause::Productive, net - wasted),
            (TimeCause::Wasted, wasted),
            (TimeCause::CheckpointStall, stall),
            (TimeCause::DataWait, wait),
        ]
    }
}

/// Milliseconds that a worker counted, in microseconds.
fn micros(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000)
}
