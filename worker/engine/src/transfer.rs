//! How a job listens to what is fetched, checked or sent for it.

use super::{
    context::{JobContext, asked_to_end, is_to_stop},
    depot::Listener,
};
use crate::lock::lock;
use senmon_protocol::storage::Bytes;
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Listens to what is sent or fetched in the middle of a job: it is not given up on a mere request to end, because the
/// next attempt must find it.
#[derive(Clone, Copy)]
pub struct Sending<'a>(pub &'a dyn JobContext);

impl Listener for Sending<'_> {
    fn passed(&self, _: u64) {
        self.0.alive();
    }

    fn stops(&self) -> bool {
        is_to_stop(self.0)
    }
}

/// Listens to what is fetched and checked before a job begins: its log tells how far it is, and any request to end ends
/// it.
pub struct Fetching<'a> {
    context: &'a dyn JobContext,
    tally: Mutex<Tally>,
}

/// Bytes that passed and that are expected, and when they were last told of.
struct Tally {
    began: Instant,
    told: Instant,
    passed: u64,
    expected: u64,
}

/// Time between two lines of the log about a fetch; what is done sooner needs none.
const FETCH_TOLD_EVERY: Duration = Duration::from_secs(15);

impl<'a> Fetching<'a> {
    /// Begins now.
    #[must_use]
    pub fn new(context: &'a dyn JobContext) -> Self {
        let now = Instant::now();
        Self { context, tally: Mutex::new(Tally { began: now, told: now, passed: 0, expected: 0 }) }
    }
}

impl Listener for Fetching<'_> {
    fn expect(&self, bytes: u64) {
        lock(&self.tally).expected += bytes;
    }

    fn passed(&self, bytes: u64) {
        self.context.alive();
        let mut tally = lock(&self.tally);
        tally.passed += bytes;
        if tally.told.elapsed() < FETCH_TOLD_EVERY {
            return;
        }
        tally.told = Instant::now();
        let Tally { began, passed, expected, .. } = *tally;
        let of =
            if expected > 0 { format!(", {} of what is known to be missing", Bytes(expected)) } else { String::new() };
        let text = format!("fetch: {} fetched or checked in {} s{of}", Bytes(passed), began.elapsed().as_secs());
        self.context.log("info", &text);
    }

    fn stops(&self) -> bool {
        asked_to_end(self.context.command()).is_some()
    }
}
