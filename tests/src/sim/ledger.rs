//! Where a branch's time went. Its wall time is cut by what the server knows; the time of training is measured a second
//! time by the threads' own steps, and the two must agree.

use std::collections::BTreeMap;

/// One branch.
#[derive(Debug, Clone, Default)]
pub struct Account {
    now_in: Option<(&'static str, u64)>,
    /// Milliseconds by cause.
    pub causes: BTreeMap<&'static str, u64>,
    /// Milliseconds of whole steps, as the threads count them.
    pub stepped_ms: u64,
    /// Milliseconds of saves' stalls.
    pub stalled_ms: u64,
    /// Milliseconds of steps that were cut short.
    pub cut_ms: u64,
    last_step_at: u64,
    begun: Option<u64>,
    /// When the wall time ends.
    pub ended: u64,
}

/// All branches.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// By branch.
    pub accounts: Vec<Account>,
    now: u64,
}

impl Ledger {
    /// Of so many branches.
    #[must_use]
    pub fn new(branches: usize) -> Self {
        Self { accounts: vec![Account::default(); branches], now: 0 }
    }

    /// Time goes on.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
    }

    /// A branch's time goes to another cause from now on.
    pub fn enter(&mut self, branch: usize, cause: &'static str, now: u64) {
        let account = &mut self.accounts[branch];
        account.begun.get_or_insert(now);
        if let Some((before, since)) = account.now_in.replace((cause, now)) {
            *account.causes.entry(before).or_default() += now - since;
            if before == "training" && cause != "training" {
                account.cut_ms += now.saturating_sub(account.last_step_at.max(since));
            }
        }
        if cause == "training" {
            account.last_step_at = now;
        }
        if cause == "done" {
            account.now_in = None;
        }
        account.ended = now;
    }

    /// The cause now.
    #[must_use]
    pub fn cause(&self, branch: usize) -> Option<&'static str> {
        self.accounts[branch].now_in.map(|(cause, _)| cause)
    }

    /// A thread did a step.
    pub fn step(&mut self, branch: usize, step_ms: u64) {
        if self.cause(branch) == Some("training") {
            let account = &mut self.accounts[branch];
            // A step that was stopped in the middle: its first part is in `cut_ms` already.
            account.stepped_ms += step_ms.min(self.now - account.last_step_at);
            account.last_step_at = self.now;
        }
    }

    /// Training stood still for a save.
    pub fn stall(&mut self, branch: usize, ms: u64) {
        if self.cause(branch) == Some("training") {
            self.accounts[branch].stalled_ms += ms;
        }
    }
}

impl Account {
    /// From the first job to the end.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.begun.map_or(0, |begun| self.ended - begun)
    }

    /// Milliseconds of all causes; training as the threads measured it.
    #[must_use]
    pub fn sum_ms(&self) -> u64 {
        let others: u64 = self.causes.iter().filter(|(cause, _)| **cause != "training").map(|(_, ms)| ms).sum();
        others + self.stepped_ms + self.stalled_ms + self.cut_ms
    }
}
