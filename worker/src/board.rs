//! What the threads of a worker know together: its session, and one seat for each attempt that runs.
//!
//! Never blocks for longer than a lock is held, and never talks to the server.

use crate::{
    lease::{Lease, Standing, stronger},
    slot_faults::SlotFaults,
    stacks,
    watchdog::{Stall, Watch},
};
use senmon_engine::{Phase, TrainingTime, lock::lock};
use senmon_protocol::{
    ids::{AttemptId, Fence},
    job::Grant,
    worker::{AttemptTime, Command, Enrolled, RunningAttempt},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};

/// State shared by the poll loop, the heartbeat thread and the attempts.
#[derive(Debug)]
pub struct Board {
    start: Instant,
    slots: u16,
    seats: Mutex<BTreeMap<AttemptId, Arc<Seat>>>,
    session: watch::Sender<Option<Enrolled>>,
    /// Wakes the heartbeat thread before its time.
    pub beat: Notify,
    /// Wakes the poll loop: an attempt gave its slots back.
    pub freed: Notify,
    awake_ms: Arc<AtomicU64>,
    jammed: watch::Sender<bool>,
    faults: Mutex<SlotFaults>,
}

/// One attempt that runs here.
#[derive(Debug)]
pub struct Seat {
    /// The attempt.
    pub attempt_id: AttemptId,
    /// Its fence.
    pub fence: Fence,
    /// The slots it takes.
    pub slots: Vec<u16>,
    lease: Mutex<Lease>,
    command: watch::Sender<Command>,
    progress: Mutex<Progress>,
    seated: Instant,
    time: Mutex<Option<AttemptTime>>,
    awake_ms: Arc<AtomicU64>,
    watch: Mutex<Watch>,
    thread: AtomicI32,
    hangs: watch::Sender<Option<Vec<String>>>,
}

/// How far an attempt is, in units of its job.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all; 0 when unknown.
    pub total: u64,
    /// Tokens per second over the last interval.
    pub tokens_per_second: f64,
}

impl Board {
    /// An empty board of a worker with `slots` slots, some of which may have failed before.
    #[must_use]
    pub fn new(slots: u16, faults: SlotFaults) -> Self {
        Self {
            start: Instant::now(),
            slots,
            seats: Mutex::default(),
            session: watch::Sender::new(None),
            beat: Notify::new(),
            freed: Notify::new(),
            awake_ms: Arc::default(),
            jammed: watch::Sender::new(false),
            faults: Mutex::new(faults),
        }
    }

    /// Milliseconds of the clock that leases are measured with.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// So much time passed with this process awake: what the watchdog measures silence with, so that a process that
    /// was stopped for an hour does not call its attempts dead.
    pub fn awake(&self, passed: Duration) {
        self.awake_ms.fetch_add(u64::try_from(passed.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// A thread hangs and was given up. It cannot be ended alone, so its slots stay taken until the process is new.
    pub fn jam(&self, id: AttemptId) {
        lock(&self.seats).remove(&id);
        self.jammed.send_replace(true);
    }

    /// The device of these slots failed: its context is lost, and only a new process is rid of it.
    pub fn device_failed(&self, slots: &[u16], said: &str) {
        lock(&self.faults).failed(slots, said);
        self.jammed.send_replace(true);
    }

    /// Slots whose device failed, for the process that this one becomes.
    #[must_use]
    pub fn faults(&self) -> SlotFaults {
        lock(&self.faults).clone()
    }

    /// Whether only a new process helps, now and whenever it is so.
    #[must_use]
    pub fn jams(&self) -> watch::Receiver<bool> {
        self.jammed.subscribe()
    }

    /// The session, now and whenever it changes.
    #[must_use]
    pub fn sessions(&self) -> watch::Receiver<Option<Enrolled>> {
        self.session.subscribe()
    }

    /// The session now; none before the enrolment and after a refusal.
    #[must_use]
    pub fn session(&self) -> Option<Enrolled> {
        self.session.borrow().clone()
    }

    /// The worker was enrolled.
    pub fn enrolled(&self, session: Enrolled) {
        self.session.send_replace(Some(session));
    }

    /// The server refused a session: the heartbeat thread enrols again, unless it has done so meanwhile.
    pub fn session_refused(&self, refused: i64) {
        let ended = self.session.send_if_modified(|session| {
            let current = session.as_ref().is_some_and(|session| session.session == refused);
            if current {
                *session = None;
            }
            current
        });
        if ended {
            self.beat.notify_one();
        }
    }

    /// Seats an attempt; none if it is seated already (a grant that came twice), or if a slot of it is taken: a poll that
    /// was long on its way may have called a slot free that an attempt took since, and the server does not know of that
    /// attempt any more once its lease is over. Such a grant runs out and is given again.
    pub fn seat(&self, grant: &Grant) -> Option<Arc<Seat>> {
        let mut seats = lock(&self.seats);
        let is_taken = |slot: &u16| seats.values().any(|seat| seat.slots.contains(slot));
        if seats.contains_key(&grant.attempt_id) || grant.slots.iter().any(is_taken) {
            return None;
        }
        let seat = Arc::new(Seat {
            attempt_id: grant.attempt_id,
            fence: grant.fence,
            slots: grant.slots.clone(),
            lease: Mutex::new(Lease::granted(self.now_ms(), grant.lease_ttl_ms)),
            command: watch::Sender::new(Command::Continue),
            progress: Mutex::default(),
            seated: Instant::now(),
            time: Mutex::default(),
            awake_ms: self.awake_ms.clone(),
            watch: Mutex::new(Watch::new(self.awake_ms.load(Ordering::Relaxed))),
            thread: AtomicI32::new(0),
            hangs: watch::Sender::new(None),
        });
        seats.insert(grant.attempt_id, seat.clone());
        self.beat.notify_one();
        Some(seat)
    }

    /// An attempt is over and delivered; its slots are free.
    pub fn unseat(&self, id: AttemptId) {
        lock(&self.seats).remove(&id);
        self.freed.notify_one();
    }

    /// All seats.
    #[must_use]
    pub fn seats(&self) -> Vec<Arc<Seat>> {
        lock(&self.seats).values().cloned().collect()
    }

    /// Slots without an attempt that are not set aside.
    #[must_use]
    pub fn slots_free(&self) -> Vec<u16> {
        let seats = lock(&self.seats);
        let taken: BTreeSet<u16> = seats.values().flat_map(|seat| seat.slots.iter().copied()).collect();
        let aside = lock(&self.faults).all_set_aside();
        (0..self.slots).filter(|slot| !taken.contains(slot) && !aside.contains(slot)).collect()
    }

    /// When the next renewal of any lease is due; none without leases.
    #[must_use]
    pub fn renewal_due_ms(&self) -> Option<u64> {
        lock(&self.seats).values().map(|seat| lock(&seat.lease).renewal_due_ms()).min()
    }
}

impl Seat {
    /// What the attempt shall do, now and whenever it changes.
    #[must_use]
    pub fn commands(&self) -> watch::Receiver<Command> {
        self.command.subscribe()
    }

    /// Commands the attempt; a weaker command than the one before changes nothing.
    pub fn command(&self, command: Command) {
        self.command.send_if_modified(|current| {
            let next = stronger(*current, command);
            std::mem::replace(current, next) != next
        });
    }

    /// A renewal is asked for.
    pub fn renewal_asked(&self, now_ms: u64) {
        lock(&self.lease).asked(now_ms);
    }

    /// The renewal asked for at `asked_ms` was answered.
    pub fn renewal_answered(&self, asked_ms: u64, command: Command) {
        let command = lock(&self.lease).answered(asked_ms, command);
        self.command(command);
    }

    /// The server said that the fence is old.
    pub fn fenced(&self) {
        lock(&self.lease).fenced();
        self.command(Command::Fenced);
    }

    /// What the attempt may do now.
    #[must_use]
    pub fn standing(&self, now_ms: u64) -> Standing {
        lock(&self.lease).standing(now_ms)
    }

    /// The attempt says how far it is.
    pub fn set_progress(&self, progress: Progress) {
        *lock(&self.progress) = progress;
    }

    /// The attempt says what its training spent so far; what came before the first time was starting.
    pub fn set_training_time(&self, spent: TrainingTime) {
        let mut time = lock(&self.time);
        *time = Some(AttemptTime {
            starting_ms: time.map_or_else(|| ms(self.seated.elapsed()), |time| time.starting_ms),
            training_ms: ms(spent.training),
            checkpoint_stall_ms: ms(spent.stalled),
            data_wait_ms: ms(spent.waited),
            step_last: spent.step_last,
        });
    }

    /// Where the attempt's time went so far.
    #[must_use]
    pub fn time(&self) -> AttemptTime {
        lock(&self.time)
            .unwrap_or_else(|| AttemptTime { starting_ms: ms(self.seated.elapsed()), ..AttemptTime::default() })
    }

    /// The attempt runs on this thread.
    pub fn runs_here(&self) {
        self.thread.store(stacks::thread_id(), Ordering::Relaxed);
    }

    /// The attempt gives a sign of life and says what it does next.
    pub fn pulse(&self, next: Phase) {
        lock(&self.watch).pulse(self.awake_ms.load(Ordering::Relaxed), next);
    }

    /// The attempt gives a sign of life in the middle of something long.
    pub fn alive(&self) {
        lock(&self.watch).alive(self.awake_ms.load(Ordering::Relaxed));
    }

    /// Looks whether the attempt hangs; then its stacks are taken, once, and `hangs` is told.
    pub fn look(&self, stall_min_ms: u64) {
        if self.hangs.borrow().is_some() {
            return;
        }
        let stall = lock(&self.watch).stall(self.awake_ms.load(Ordering::Relaxed), stall_min_ms);
        let thread = self.thread.load(Ordering::Relaxed);
        if let Some(Stall { silent_ms, allowed_ms }) = stall.filter(|_| thread != 0) {
            let (silent, allowed) = (silent_ms / 1000, allowed_ms / 1000);
            let mut lines = vec![format!("nothing happened for {silent} s, and {allowed} s are more than it takes.")];
            lines.extend(stacks::dump(thread));
            self.hangs.send_replace(Some(lines));
        }
    }

    /// Why the attempt counts as hanging and what its threads do, once it does.
    #[must_use]
    pub fn hangs(&self) -> watch::Receiver<Option<Vec<String>>> {
        self.hangs.subscribe()
    }

    /// What the heartbeat says of the attempt.
    #[must_use]
    pub fn running(&self) -> RunningAttempt {
        let Progress { done, total, tokens_per_second } = *lock(&self.progress);
        RunningAttempt {
            attempt_id: self.attempt_id,
            fence: self.fence,
            done,
            total,
            tokens_per_second,
            time: self.time(),
        }
    }
}

/// Whole milliseconds.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use senmon_protocol::{
        ids::{ExperimentId, JobId, StorageKey},
        job::{JobSpec, MergeJob},
    };

    pub(crate) fn grant(slots: &[u16]) -> Grant {
        let key = |text: &str| StorageKey::new(text).unwrap();
        let job = MergeJob {
            experiment_id: ExperimentId::new(),
            branch_id: senmon_protocol::ids::BranchId::new(),
            members: vec![],
            tokenizer: key("t"),
            output: key("o"),
        };
        Grant {
            attempt_id: AttemptId::new(),
            job_id: JobId::new(),
            fence: Fence(1),
            lease_ttl_ms: 30_000,
            slots: slots.to_vec(),
            job: JobSpec::Merge(job),
        }
    }

    #[test]
    fn a_slot_is_free_again_when_its_attempt_is_over() {
        let board = Board::new(3, SlotFaults::default());
        let grant = grant(&[0, 2]);
        assert!(board.seat(&grant).is_some());
        assert!(board.seat(&grant).is_none(), "a grant that comes twice starts once");
        assert_eq!(board.slots_free(), [1]);
        board.unseat(grant.attempt_id);
        assert_eq!(board.slots_free(), [0, 1, 2]);
    }

    #[test]
    fn a_slot_whose_device_failed_again_is_not_offered() {
        let mut before = SlotFaults::default();
        before.failed(&[0], "CUDA error: a");
        let board = Board::new(2, before);
        assert_eq!((board.slots_free(), *board.jams().borrow()), (vec![0, 1], false));
        board.device_failed(&[0], "CUDA error: b");
        assert_eq!((board.slots_free(), *board.jams().borrow()), (vec![1], true));
        assert_eq!(board.faults().set_aside(0), Some("CUDA error: b"));
    }

    #[test]
    fn no_slot_holds_two_attempts() {
        let board = Board::new(2, SlotFaults::default());
        assert!(board.seat(&grant(&[0])).is_some());
        assert!(board.seat(&grant(&[0, 1])).is_none());
        assert_eq!(board.slots_free(), [1]);
    }

    #[test]
    fn an_attempt_hears_the_strongest_command() {
        let board = Board::new(1, SlotFaults::default());
        let seat = board.seat(&grant(&[0])).unwrap();
        seat.command(Command::Release);
        seat.renewal_answered(0, Command::Continue);
        assert_eq!(*seat.commands().borrow(), Command::Release);
        seat.fenced();
        assert_eq!((*seat.commands().borrow(), seat.standing(0)), (Command::Fenced, Standing::Fenced));
    }

    #[test]
    fn what_is_no_training_is_watched_too() {
        const STALL_MIN_MS: u64 = 1_000;
        let board = Board::new(1, SlotFaults::default());
        let merge = board.seat(&grant(&[0])).unwrap();
        let look = |awake_s| {
            board.awake(Duration::from_secs(awake_s));
            merge.look(STALL_MIN_MS);
            merge.hangs().borrow().clone()
        };
        merge.runs_here();
        assert_eq!(look(29), None, "it may fetch and load for so long");
        merge.alive();
        assert_eq!(look(29), None, "it gave a sign of life");
        let lines = look(2).unwrap_or_default();
        assert!(lines.first().is_some_and(|line| line.starts_with("nothing happened for 31 s")), "{lines:?}");
    }

    #[test]
    fn only_the_refused_session_ends() {
        let board = Board::new(1, SlotFaults::default());
        let session = Enrolled {
            worker_id: senmon_protocol::ids::WorkerId::new(),
            session: 2,
            storage_url: "file:///s".into(),
            lease_ttl_ms: 30_000,
            heartbeat_ms: 10_000,
            server_version: "0".into(),
        };
        board.enrolled(session);
        board.session_refused(1);
        assert!(board.session().is_some());
        board.session_refused(2);
        assert!(board.session().is_none());
    }
}
