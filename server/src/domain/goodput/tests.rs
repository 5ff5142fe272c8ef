//! Any history, however odd, is divided without a gap and without a second counted twice.

use super::{
    Account, Piece,
    attempt::{Attempt, End},
    fleet::{Supply, fleet},
    job::History,
    steps::{Segment, Skip, tokens, wasted},
};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use senmon_protocol::{
    goodput::{SkipReason, TimeCause},
    job::JobKind,
    view::JobState,
    worker::AttemptTime,
};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
}

fn train(from: i64, ended: Option<(i64, End)>, time: AttemptTime, (steps, steps_wasted): (u64, u64)) -> Attempt {
    let ended = ended.map(|(until, end)| (at(until), end));
    Attempt { kind: JobKind::Train, slots: 1, started_at: at(from), ended, is_silent: false, time, steps, steps_wasted }
}

fn time(starting_s: u64, training_s: u64) -> AttemptTime {
    AttemptTime { starting_ms: starting_s * 1000, training_ms: training_s * 1000, ..AttemptTime::default() }
}

fn check(history: &History, now: i64, expect: &[(TimeCause, i64)]) {
    let mut account = Account::default();
    history.pieces(at(now)).iter().for_each(|piece| account.add(piece, 1));
    let found: Vec<_> = account.0.into_iter().filter(|(_, part)| *part > 0).collect();
    let expect: Vec<_> = expect.iter().map(|(cause, seconds)| (*cause, seconds * 1_000_000)).collect();
    assert_eq!(found, expect);
}

#[test]
fn a_killed_attempt_loses_its_tail_and_the_wait_after_it_is_a_recovery() {
    let attempts = vec![
        train(0, Some((100, End::Lost)), time(10, 60), (60, 15)),
        train(105, Some((200, End::Completed)), time(5, 90), (40, 0)),
    ];
    let states = vec![(at(-9), JobState::Queued), (at(0), JobState::Running), (at(100), JobState::Queued)];
    let history = History { attempts, states, holds: vec![] };
    let expect = [
        (TimeCause::Productive, 135),
        (TimeCause::Wasted, 15),
        (TimeCause::Starting, 15),
        (TimeCause::Detection, 30),
        (TimeCause::Recovering, 5),
    ];
    check(&history, 999, &expect[..]);
    assert_eq!(history.first_wait(at(999)), TimeDelta::seconds(9));
}

#[test]
fn a_pause_is_told_from_the_queue_after_it() {
    let attempts = vec![train(0, Some((50, End::Released)), time(0, 50), (5, 0)), train(90, None, time(2, 8), (1, 0))];
    let states = vec![(at(0), JobState::Running), (at(50), JobState::Paused), (at(80), JobState::Queued)];
    let mut history = History { attempts, states, holds: vec![] };
    let running = [(TimeCause::Productive, 58), (TimeCause::Starting, 2)];
    check(&history, 100, &[&running[..], &[(TimeCause::Queued, 10), (TimeCause::Paused, 30)]].concat());
    // A paused experiment holds back what is queued.
    history.holds = vec![(at(85), at(88)), (at(60), at(60))];
    check(&history, 100, &[&running[..], &[(TimeCause::Queued, 7), (TimeCause::Paused, 33)]].concat());
}

#[test]
fn a_preempted_job_waits_as_such_and_a_silent_one_is_not_productive() {
    let mut silent = train(20, None, time(1, 4), (4, 0));
    silent.is_silent = true;
    let attempts = vec![train(0, Some((10, End::Preempted)), time(1, 9), (9, 0)), silent];
    let expect =
        [(TimeCause::Productive, 13), (TimeCause::Starting, 2), (TimeCause::Detection, 25), (TimeCause::Preempted, 10)];
    check(&History { attempts, ..History::default() }, 50, &expect);
}

#[test]
fn saves_and_data_are_told_from_steps() {
    let mut counted = time(0, 100);
    (counted.checkpoint_stall_ms, counted.data_wait_ms) = (10_000, 20_000);
    let attempts = vec![train(0, Some((100, End::Completed)), counted, (70, 7))];
    let expect = [
        (TimeCause::Productive, 63),
        (TimeCause::Wasted, 7),
        (TimeCause::CheckpointStall, 10),
        (TimeCause::DataWait, 20),
    ];
    check(&History { attempts, ..History::default() }, 100, &expect);
}

#[test]
fn a_failed_evaluation_is_work_in_vain() {
    let mut first = train(0, Some((10, End::Fault)), time(9, 0), (0, 0));
    first.kind = JobKind::Evaluate;
    let mut second = train(12, Some((30, End::Completed)), time(18, 0), (0, 0));
    second.kind = JobKind::Evaluate;
    let expect = [(TimeCause::Evaluation, 18), (TimeCause::Wasted, 10), (TimeCause::Recovering, 2)];
    check(&History { attempts: vec![first, second], ..History::default() }, 99, &expect);
}

#[test]
fn steps_beyond_a_later_start_are_wasted_and_so_are_skipped_ones() {
    let segment = |fence, start, last| Segment { fence, step_start: Some(start), step_last: last };
    let segments = [
        segment(1, 0, 50),
        segment(2, 40, 45),
        segment(3, 20, 100),
        Segment { fence: 4, step_start: None, step_last: 0 },
    ];
    let skip = |fence, step, batch, reason| Skip { fence, step, batch, reason };
    let skips = [
        skip(1, 10, 9, SkipReason::StepSkipped),
        skip(1, 30, 29, SkipReason::StepSkipped),
        skip(3, 30, 29, SkipReason::StepSkipped),
        skip(3, 90, 95, SkipReason::RolledBack),
    ];
    let found: Vec<_> = segments.iter().map(|segment| wasted(segment, &segments, &skips)).collect();
    assert_eq!(found, [(30, 1), (5, 0), (0, 1), (0, 0)]);
    let account = tokens(100, 8, &segments, &skips);
    assert_eq!((account.steps_superseded, account.steps_skipped), (35, 2));
    assert_eq!((account.drawn, account.skipped, account.trained), (808, 24, 784));
}

#[test]
fn slots_without_a_job_are_idle_while_their_worker_is_there() {
    let supply = Supply {
        slots: vec![(at(0), 4), (at(60), 0), (at(80), 2)],
        attempts: vec![Attempt { slots: 3, ..train(-20, Some((50, End::Completed)), time(10, 60), (6, 0)) }],
    };
    let account = fleet(&[supply], at(-10), at(100));
    let expect = [(TimeCause::Productive, 3 * 60), (TimeCause::Idle, 50 + 4 * 10 + 2 * 20)];
    assert_eq!(
        account.0.into_iter().filter(|(_, part)| *part > 0).collect::<Vec<_>>(),
        expect.map(|(c, s)| (c, s * 1_000_000))
    );
}

prop_compose! {
    /// An attempt whose counters know nothing of its times, as after lost, late and repeated messages.
    fn any_attempt()(
        kind in prop::sample::select(vec![JobKind::Train, JobKind::Train, JobKind::Shard, JobKind::Evaluate, JobKind::Merge, JobKind::Ensemble]),
        slots in 1_u32..9, start in 0_i64..5_000, took in -5_i64..2_000, runs in prop::bool::weighted(0.1), is_silent: bool,
        end in prop::sample::select(vec![End::Completed, End::Released, End::Preempted, End::RolledBack, End::Stopped, End::Lost, End::Fault]),
        counted in prop::array::uniform4(0_u64..3_000_000), steps in 0_u64..100, steps_wasted in 0_u64..150,
    ) -> Attempt {
        let [starting_ms, training_ms, checkpoint_stall_ms, data_wait_ms] = counted;
        let time = AttemptTime { starting_ms, training_ms, checkpoint_stall_ms, data_wait_ms, step_last: steps };
        let ended = (!runs).then(|| (at(start + took), end));
        Attempt { kind, slots, started_at: at(start), ended, is_silent: runs && is_silent, time, steps, steps_wasted }
    }
}

prop_compose! {
    /// A history whose transactions may have been timed in another order than they came.
    fn any_history()(
        attempts in prop::collection::vec(any_attempt(), 0..8),
        states in prop::collection::vec((0_i64..9_000, prop::sample::select(vec![
            JobState::Queued, JobState::Running, JobState::Paused, JobState::Completed, JobState::Failed, JobState::Cancelled,
        ])), 0..20),
        mut holds in prop::collection::vec((0_i64..9_000, 0_i64..900), 0..4),
    ) -> History {
        holds.sort_unstable();
        History {
            attempts,
            states: states.into_iter().map(|(seconds, state)| (at(seconds), state)).collect(),
            holds: holds.into_iter().map(|(from, took)| (at(from), at(from + took))).collect(),
        }
    }
}

fn is_whole(piece: &Piece) -> bool {
    let parts: i64 = piece.parts.iter().map(|(_, part)| part).sum();
    piece.from <= piece.until
        && piece.parts.iter().all(|(_, part)| *part >= 0)
        && Some(parts) == (piece.until - piece.from).num_microseconds()
}

proptest! {
    #[test]
    fn goodput_and_badput_add_up_to_wall_time(history in any_history(), now in 0_i64..12_000) {
        let pieces = history.pieces(at(now));
        prop_assert!(pieces.iter().all(is_whole), "{pieces:?}");
        prop_assert!(pieces.windows(2).all(|pair| pair[0].until == pair[1].from), "{pieces:?}");
        let mut account = Account::default();
        pieces.iter().for_each(|piece| account.add(piece, 1));
        let wall = pieces.first().zip(pieces.last()).map_or(TimeDelta::zero(), |(first, last)| last.until - first.from);
        prop_assert_eq!(Some(account.sum()), wall.num_microseconds());
        prop_assert_eq!(pieces.first().map(|piece| piece.from), history.from().filter(|_| !pieces.is_empty()));
        let view = account.view(None, at(now));
        prop_assert!((view.goodput_seconds + view.badput_seconds - view.seconds).abs() <= 1e-6 * view.seconds);
        prop_assert!((view.causes.iter().map(|time| time.seconds).sum::<f64>() - view.seconds).abs() <= 1e-6 * view.seconds);
    }

    /// Whatever the worker counts, a window cut anywhere into two has the same account as its halves together.
    #[test]
    fn a_window_is_the_sum_of_its_parts(attempt in any_attempt(), cut in 0_i64..8_000) {
        for piece in attempt.pieces(at(8_000)) {
            let (left, right) = (piece.clipped(at(-99), at(cut)), piece.clipped(at(cut), at(99_999)));
            prop_assert!(is_whole(&left) && is_whole(&right), "{left:?} {right:?}");
            prop_assert_eq!((right.until - left.from).min(piece.until - piece.from), piece.until - piece.from);
        }
    }

    #[test]
    fn the_fleets_slots_are_all_accounted_for(
        starts in prop::collection::vec((0_i64..9_000, 0_u32..8), 1..6), gaps in prop::collection::vec((any_attempt(), 0_i64..500), 0..6),
        from in 0_i64..5_000, hours in 1_i64..5_000,
    ) {
        let mut slots: Vec<_> = starts.into_iter().map(|(seconds, slots)| (at(seconds), slots)).collect();
        slots.sort_unstable();
        // One attempt after the other, each on all slots that there ever are: busy and idle never overlap.
        let mut cursor = 0;
        let attempts: Vec<_> = gaps.into_iter().map(|(mut attempt, gap)| {
            let took = attempt.ended.map_or(100, |(until, _)| (until - attempt.started_at).num_seconds().max(0));
            attempt.started_at = at(cursor + gap);
            cursor += gap + took;
            attempt.ended = Some((at(cursor), End::Completed));
            attempt.slots = 8;
            attempt
        }).collect();
        let (from, until) = (at(from), at(from + hours));
        let account = fleet(&[Supply { slots: slots.clone(), attempts: attempts.clone() }], from, until);
        let mut expect = 0;
        for second in 0..hours {
            let moment = from + TimeDelta::seconds(second);
            let brought = slots.iter().rev().find(|(at, _)| *at <= moment).map_or(0, |(_, slots)| i64::from(*slots));
            let busy = attempts.iter().any(|a| a.started_at <= moment && a.ended.is_some_and(|(until, _)| moment < until));
            expect += if busy { 8 } else { brought };
        }
        prop_assert_eq!(account.sum(), expect * 1_000_000);
        prop_assert!(account.0.values().all(|part| *part >= 0));
    }
}
