//! Carries one spool to the server: in order, one record at a time, again until it is acknowledged.
//!
//! Never writes records (the scribe does), never gives up because the server is away.

use crate::{
    board::{Board, Seat},
    client::{Backoff, CallError, Client},
    lease::Standing,
    spool::{Header, Record, SpoolReader, SpoolRoot},
};
use senmon_protocol::{
    job::{EndedOutcome, Outcome, TerminationReason},
    worker::{Command, CompleteAttempt},
};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Longest pause between two tries while the server is away.
const PAUSE_MAX: Duration = Duration::from_secs(15);
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

impl Courier {
    /// Delivers until the end of the attempt is acknowledged. `written` says how many bytes lie in the spool.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub async fn deliver(self, mut written: watch::Receiver<u64>) -> io::Result<Delivery> {
        let mut reader = SpoolReader::open(self.folder.clone())?;
        let mut backoff = Backoff::new(PAUSE_MAX, self.header.attempt_id.0.as_u64_pair().1);
        // Set when the server refused a checkpoint: the attempt must not be completed on top of it.
        let mut refused: Option<String> = None;
        // Set when the end of the attempt was sent and not answered: it may be known already, and then the lease is over
        // because of it. Asking again tells, and the server judges by the fence.
        let mut ended_in_doubt = false;
        loop {
            if self.wait_for_the_right_to_write().await == Standing::Fenced && !ended_in_doubt {
                return self.fenced();
            }
            let Some((record, position)) = reader.record_next()? else {
                self.wait_for_records(&mut written, reader.position()).await;
                continue;
            };
            let record = match &refused {
                Some(why) => honest_end(record, why),
                None => record,
            };
            match self.client.deliver(self.header.attempt_id, &record).await {
                Ok(()) => backoff.reset(),
                Err(CallError::StaleFence(_)) => return self.fenced(),
                Err(error) if may_pass(&error) => {
                    let why = error.to_string();
                    let pause = backoff.pause();
                    ended_in_doubt |= matches!(record, Record::Complete(_));
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
                            refused.get_or_insert_with(|| format!("the server refused a checkpoint: {error}"));
                        }
                        _ => {}
                    }
                }
            }
            if let Err(error) = reader.delivered(position) {
                tracing::warn!(%error, "mark a record as delivered");
            }
            if matches!(record, Record::Complete(_)) {
                std::fs::remove_dir_all(&self.folder)?;
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
            let ended = EndedOutcome { reason: TerminationReason::InternalError, message: why.to_owned() };
            Record::Complete(CompleteAttempt { fence, outcome: Outcome::Ended(ended), time })
        }
        record => record,
    }
}
