//! Carries one spool to the server: in order, one record at a time, again until it is acknowledged. A spool that the
//! disk does not give back is tried again; one that stays unreadable ends its attempt, and the server is told why.
//!
//! Never writes records (the scribe does), never gives up because the server is away, and never leaves an attempt at
//! work that nobody hears.

use crate::{
    board::{Board, Seat},
    client::{Backoff, CallError, Client},
    lease::Standing,
    spool::{self, Header, Record, SpoolReader, SpoolRoot},
};
use senmon_protocol::{
    job::{EndedOutcome, Outcome, TerminationReason},
    worker::{Command, CompleteAttempt},
};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Longest pause between two tries while the server is away.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Tries of a spool that cannot be read, a second apart and then longer: half a minute in all. Meanwhile the attempt
/// works on unheard, so it is not for long.
const READS_MAX: u32 = 6;
const READ_PAUSE: Duration = Duration::from_secs(1);
/// How often a courier that may not write looks whether it may again.
const QUIET_LOOK: Duration = Duration::from_millis(250);

/// What became of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// All of it is acknowledged; the folder is gone.
    Done,
    /// The fence was old; the folder lies in `fenced/`.
    Fenced,
    /// The server refused the end of the attempt; the folder lies in `refused/`.
    Refused,
    /// The spool could not be read; the attempt was ended for it, and the folder lies in `unreadable/`.
    Unreadable,
}

/// One spool on its way.
#[derive(Debug)]
pub struct Courier {
    /// The server.
    pub client: Client,
    /// Where spools lie.
    pub root: SpoolRoot,
    /// Whose spool.
    pub header: Header,
    /// Its folder.
    pub folder: PathBuf,
    /// The seat of the attempt and the board, while it runs here. A spool of an earlier process has none: the
    /// server judges by the fence alone.
    pub seat: Option<(Arc<Board>, Arc<Seat>)>,
}

/// What a courier remembers of its deliveries, whatever the disk does.
#[derive(Debug, Default)]
struct Doubts {
    /// Set when the server refused a checkpoint: the attempt must not be completed on top of it.
    refused: Option<String>,
    /// Set when the end of the attempt was sent and not answered: it may be known already, and then the lease is over
    /// because of it. Asking again tells, and the server judges by the fence.
    ended: bool,
}

impl Courier {
    /// Delivers until the end of the attempt is acknowledged. `written` says how many bytes lie in the spool.
    ///
    /// # Errors
    /// When the server could not be told that the spool cannot be read, or the disk refuses to set it aside.
    pub async fn deliver(self, mut written: watch::Receiver<u64>) -> io::Result<Delivery> {
        let (mut tries, mut doubts) = (0, Doubts::default());
        loop {
            let read = self.position();
            let error = match self.carry(&mut written, &mut doubts).await {
                Ok(delivery) => return Ok(delivery),
                Err(error) => error,
            };
            // What was delivered meanwhile shows that the disk came back in between.
            tries = if self.position() > read { 1 } else { tries + 1 };
            // A line that is no record does not become one.
            if tries >= READS_MAX || error.kind() == io::ErrorKind::InvalidData {
                return self.give_up(&error).await;
            }
            tracing::warn!(attempt.id = %self.header.attempt_id, %error, tries, "the spool cannot be read; trying again");
            tokio::time::sleep(READ_PAUSE * (1 << (tries - 1).min(3))).await;
        }
    }

    /// Bytes marked as delivered.
    fn position(&self) -> u64 {
        spool::delivered(&self.folder)
    }

    /// Ends the attempt, here and on the server: it would work on unheard. The spool is kept aside.
    async fn give_up(&self, error: &io::Error) -> io::Result<Delivery> {
        if let Some((_, seat)) = &self.seat {
            seat.command(Command::Cancel);
        }
        let told = end_past_the_spool(&self.client, &self.header, self.seat.as_ref(), error).await;
        let aside = self.aside("unreadable", Delivery::Unreadable);
        told.and(aside)
    }

    async fn carry(&self, written: &mut watch::Receiver<u64>, doubts: &mut Doubts) -> io::Result<Delivery> {
        let mut reader = SpoolReader::open(self.folder.clone())?;
        let mut backoff = Backoff::new(PAUSE_MAX, self.header.attempt_id.0.as_u64_pair().1);
        loop {
            if self.wait_for_the_right_to_write().await == Standing::Fenced && !doubts.ended {
                return self.fenced();
            }
            let Some((record, position)) = reader.record_next()? else {
                self.wait_for_records(written, reader.position()).await;
                continue;
            };
            let record = match &doubts.refused {
                Some(why) => honest_end(record, why),
                None => record,
            };
            match self.client.deliver(self.header.attempt_id, &record).await {
                Ok(()) => backoff.reset(),
                Err(CallError::StaleFence(_)) => return self.fenced(),
                Err(error) if may_pass(&error) => {
                    let why = error.to_string();
                    let pause = backoff.pause();
                    doubts.ended |= matches!(record, Record::Complete(_));
                    tracing::debug!(attempt.id = %self.header.attempt_id, why, pause_ms = pause.as_millis(), "delivery waits");
                    reader = SpoolReader::open(self.folder.clone())?;
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(
                        attempt.id = %self.header.attempt_id,
                        record = record.name(),
                        error = %error,
                        "the server refuses a record of the attempt"
                    );
                    match record {
                        Record::Complete(_) => return self.aside("refused", Delivery::Refused),
                        Record::Checkpoint(_) => {
                            doubts.refused.get_or_insert_with(|| format!("the server refused a checkpoint: {error}"));
                        }
                        _ => {}
                    }
                }
            }
            if let Err(error) = reader.delivered(position) {
                tracing::warn!(%error, "mark a record as delivered");
            }
            if matches!(record, Record::Complete(_)) {
                // What the disk keeps of it is delivered again by the next process, which is harmless.
                if let Err(error) = std::fs::remove_dir_all(&self.folder) {
                    tracing::warn!(%error, "remove a spool that is delivered");
                }
                return Ok(Delivery::Done);
            }
        }
    }

    /// Waits while the lease is quiet: whatever is written then might be written beside another holder.
    async fn wait_for_the_right_to_write(&self) -> Standing {
        let Some((board, seat)) = &self.seat else { return Standing::Held };
        loop {
            match seat.standing(board.now_ms()) {
                Standing::Quiet => tokio::time::sleep(QUIET_LOOK).await,
                standing => return standing,
            }
        }
    }

    async fn wait_for_records(&self, written: &mut watch::Receiver<u64>, position: u64) {
        let more = async {
            if written.wait_for(|&bytes| bytes > position).await.is_err() {
                // The scribe is gone; nothing more will come. Only a fence ends this courier now.
                std::future::pending::<()>().await;
            }
        };
        let fenced = async {
            match &self.seat {
                Some((_, seat)) => {
                    let _ = seat.commands().wait_for(|&command| command == Command::Fenced).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = more => {}
            () = fenced => {}
        }
    }

    fn fenced(&self) -> io::Result<Delivery> {
        if let Some((_, seat)) = &self.seat {
            seat.fenced();
        }
        tracing::warn!(
            attempt.id = %self.header.attempt_id,
            lease.fence = %self.header.fence,
            "somebody else has the job now; what this attempt still had to say is kept in `fenced`"
        );
        self.aside("fenced", Delivery::Fenced)
    }

    fn aside(&self, why: &str, delivery: Delivery) -> io::Result<Delivery> {
        self.root.set_aside(&self.folder, why)?;
        Ok(delivery)
    }
}

/// Tells the server, past the spool, that an attempt ends because its spool cannot be used; the server gives the job to
/// somebody else, or waits before it tries again.
///
/// # Errors
/// When the server refuses it, or stays away until the attempt's lease runs out, which then ends it.
pub async fn end_past_the_spool(
    client: &Client,
    header: &Header,
    seat: Option<&(Arc<Board>, Arc<Seat>)>,
    error: &io::Error,
) -> io::Result<()> {
    tracing::error!(attempt.id = %header.attempt_id, %error, "no spool; the job is given back");
    let ended = EndedOutcome::new(TerminationReason::StorageFailure, error.to_string());
    let record = Record::Complete(CompleteAttempt { fence: header.fence, outcome: Outcome::Ended(ended), time: None });
    let mut backoff = Backoff::new(PAUSE_MAX, header.attempt_id.0.as_u64_pair().1);
    while seat.is_none_or(|(board, seat)| seat.standing(board.now_ms()) == Standing::Held) {
        match client.deliver(header.attempt_id, &record).await {
            Ok(()) => return Ok(()),
            Err(CallError::StaleFence(_)) => return Ok(()),
            Err(error) if may_pass(&error) => tokio::time::sleep(backoff.pause()).await,
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
    }
    Err(io::Error::other("the server is away"))
}

/// Whether a delivery may succeed later: the server is away, or somebody must mend this worker's token first.
fn may_pass(error: &CallError) -> bool {
    match error {
        CallError::Away(_) | CallError::Session(_) => true,
        CallError::Refused(problem) => matches!(problem.status, 401 | 403),
        CallError::StaleFence(_) => false,
    }
}

/// The end of an attempt whose checkpoint was refused is no completion.
fn honest_end(record: Record, why: &str) -> Record {
    match record {
        Record::Complete(CompleteAttempt { fence, outcome: Outcome::Completed(_), time }) => {
            let ended = EndedOutcome::new(TerminationReason::InternalError, why);
            Record::Complete(CompleteAttempt { fence, outcome: Outcome::Ended(ended), time })
        }
        record => record,
    }
}

#[cfg(test)]
mod tests;
