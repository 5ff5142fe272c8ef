//! Requests and answers between workers and the server: late, lost, twice, out of order.
//!
//! A call is over once: with its answer, or without one when its time is over.

use super::{
    store::Refusal,
    world::{Event, World},
};
use senmon_protocol::{
    ids::{AttemptId, Fence, WorkerId},
    worker::Command,
};
use senmon_worker::spool::Record;

/// One worker's link, each way by itself.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Nothing goes to the server until then.
    pub up_cut_until: u64,
    /// Nothing comes from it until then.
    pub down_cut_until: u64,
    /// Messages take up to 40 s until then.
    pub slow_until: u64,
    /// Answers get lost, although the server did what was asked, until then.
    pub swallows_until: u64,
    /// Requests arrive twice until then.
    pub doubles_until: u64,
}

/// Which call of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Its enrolment.
    Enrol,
    /// A heartbeat, asked for at this time.
    Beat(u64),
    /// A poll by its number.
    Poll(u64),
    /// A delivery of an attempt's courier.
    Write(AttemptId),
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Enrol.
    Enrol,
    /// Renew.
    Beat { session: i64, attempts: Vec<(AttemptId, Fence)> },
    /// Work, please.
    Poll { session: i64, slots_free: Vec<u16>, wait_ms: u64 },
    /// One record.
    Write(Box<Record>),
}

/// One request on its way.
#[derive(Debug, Clone)]
pub struct Request {
    /// The worker.
    pub w: usize,
    /// Its process.
    pub epoch: u32,
    /// When it was sent.
    pub sent: u64,
    /// How long the worker waits.
    pub limit_ms: u64,
    /// Which call waits.
    pub call: Call,
    /// What is asked.
    pub ask: Ask,
    /// A second copy that nobody waits for.
    pub copy: bool,
}

/// What the server says.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Enrolled.
    Enrolled(WorkerId, i64),
    /// Commands.
    Told(Vec<(AttemptId, Command)>),
    /// Attempts to start.
    Grants(Vec<AttemptId>),
    /// Done.
    Done,
}

/// Why a call has no answer; as `senmon_worker::client::CallError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Ask again later.
    Away,
    /// The fence is old.
    StaleFence,
    /// The session is over.
    Session,
    /// Refused for good.
    Refused,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::StaleFence => Self::StaleFence,
            Refusal::Conflict(_) => Self::Refused,
        }
    }
}

/// The end of a call.
#[derive(Debug)]
pub struct Answered {
    /// The worker.
    pub w: usize,
    /// Its process.
    pub epoch: u32,
    /// Which call.
    pub call: Call,
    /// What came.
    pub result: Result<Reply, Failure>,
}

impl World {
    /// Sends a request.
    pub fn send(&mut self, w: usize, call: Call, ask: Ask, limit_ms: u64) {
        let request = Request { w, epoch: self.workers[w].epoch, sent: self.now, limit_ms, call, ask, copy: false };
        let doubled = self.links[w].doubles_until > self.now && self.chance.one_in(3);
        if doubled {
            let late = self.travel_ms(w) + self.chance.below(30_000);
            self.after(late, Event::Arrive(Request { copy: true, ..request.clone() }));
        }
        match self.way(w, self.links[w].up_cut_until) {
            Some(ms) => self.after(ms, Event::Arrive(request)),
            None => self.give_up(&request),
        }
    }

    /// Sends an answer back.
    pub fn reply(&mut self, request: &Request, result: Result<Reply, Failure>) {
        if request.copy {
            return;
        }
        let swallowed = self.links[request.w].swallows_until > self.now && self.chance.one_in(2);
        match self.way(request.w, self.links[request.w].down_cut_until).filter(|_| !swallowed) {
            Some(ms) if self.now + ms <= request.sent + request.limit_ms => {
                let answered = Answered { w: request.w, epoch: request.epoch, call: request.call, result };
                self.after(ms, Event::Answer(answered));
            }
            _ => self.give_up(request),
        }
    }

    /// The worker waits in vain.
    pub fn give_up(&mut self, request: &Request) {
        if !request.copy {
            let wait = (request.sent + request.limit_ms).saturating_sub(self.now);
            let answered =
                Answered { w: request.w, epoch: request.epoch, call: request.call, result: Err(Failure::Away) };
            self.after(wait, Event::Answer(answered));
        }
    }

    /// How long a message takes; None where it is lost. What meets a cut is lost, or comes when the cut is over.
    fn way(&mut self, w: usize, cut_until: u64) -> Option<u64> {
        let travel = self.travel_ms(w);
        if cut_until <= self.now { Some(travel) } else { self.chance.one_in(2).then(|| cut_until - self.now + travel) }
    }

    fn travel_ms(&mut self, w: usize) -> u64 {
        if self.links[w].slow_until > self.now { self.chance.between(10, 40_000) } else { self.chance.between(1, 40) }
    }
}
