//! Runs one attempt: a thread that owns its tensors, bridged by channels to the daemon. Commands come in by watch,
//! everything it reports goes out through the scribe.
//!
//! Never lets a panic of a job end the daemon, and frees no slot before the attempt's end is delivered.

use crate::{
    board::{Board, Seat},
    client::Client,
    courier::{Courier, Delivery, end_past_the_spool},
    lease::Standing,
    report::{Report, now_ms},
    scribe::{Item, Scribe},
    spool::{Header, Record, SpoolRoot},
    store::Store,
};
use senmon_corpus::roots::Roots;
use senmon_engine::{
    JobContext as _, Place,
    context::asked_to_end,
    ended,
    faults::device_fault,
    lock::lock,
    memory::{is_out_of_memory, said},
    run_job,
    transfer::Fetching,
    tune,
};
use senmon_protocol::{
    ids::{AttemptId, Fence},
    job::{EndedOutcome, Grant, JobKind, JobSpec, Outcome, TerminationReason},
    said,
    worker::{CompleteAttempt, LogLine, SlotInfo},
};
use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
};
use tokio::task::JoinSet;

/// What an attempt needs of its worker.
#[derive(Debug, Clone)]
pub struct Site {
    /// The server.
    pub client: Client,
    /// Where spools lie.
    pub root: SpoolRoot,
    /// Seats and session.
    pub board: Arc<Board>,
    /// Root of the object store, or of its copy, on this machine.
    pub storage: PathBuf,
    /// The store behind it.
    pub store: Store,
    /// The worker's slots.
    pub slots: Vec<SlotInfo>,
}

impl Site {
    /// CPU threads of the slots that a grant takes.
    #[must_use]
    pub fn threads(&self, grant: &Grant) -> u16 {
        let taken = self.slots.iter().filter(|slot| grant.slots.contains(&slot.index));
        taken.fold(0u16, |sum, slot| sum.saturating_add(slot.threads)).max(1)
    }

    /// The device of the first slot that a grant takes.
    #[must_use]
    pub fn device(&self, grant: &Grant) -> String {
        let first = self.slots.iter().find(|slot| grant.slots.contains(&slot.index));
        first.map_or_else(|| "cpu".into(), |slot| slot.device.clone())
    }
}

/// Kinds of jobs that this build can run.
#[must_use]
pub fn capabilities() -> Vec<JobKind> {
    let mut kinds = vec![JobKind::Scan, JobKind::Deduplicate, JobKind::Shard, JobKind::Decontaminate];
    if cfg!(feature = "torch") {
        kinds.extend([JobKind::Train, JobKind::Evaluate, JobKind::Merge, JobKind::Ensemble]);
    }
    kinds
}

/// Starts an attempt, which may read files below `roots`. Its task in `attempts` ends when its end is acknowledged or set aside.
pub fn start(site: &Site, grant: Grant, roots: &Roots, attempts: &mut JoinSet<()>) {
    let Some(seat) = site.board.seat(&grant) else {
        tracing::warn!(attempt.id = %grant.attempt_id, "the attempt runs already, or another one has its slots");
        return;
    };
    let (site, roots) = (site.clone(), roots.clone());
    attempts.spawn(async move {
        let id = grant.attempt_id;
        let kind = grant.job.kind();
        tracing::info!(attempt.id = %id, job.id = %grant.job_id, job.kind = ?kind, lease.fence = %grant.fence, "attempt starts");
        match attend(&site, grant, roots, &seat).await {
            _ if seat.hangs().borrow().is_some() => {
                tracing::error!(attempt.id = %id, "a thread hangs: this process starts anew");
                site.board.jam(id);
                return;
            }
            Ok(Delivery::Done) => tracing::info!(attempt.id = %id, "attempt delivered"),
            Ok(delivery) => tracing::warn!(attempt.id = %id, ?delivery, "attempt set aside"),
            Err(error) => tracing::error!(attempt.id = %id, %error, "the attempt's spool failed"),
        }
        site.board.unseat(id);
    });
}

/// From the grant to the acknowledged end.
async fn attend(site: &Site, grant: Grant, roots: Roots, seat: &Arc<Seat>) -> io::Result<Delivery> {
    let header = Header { attempt_id: grant.attempt_id, job_id: grant.job_id, fence: grant.fence };
    let writer = match site.root.begin(&header) {
        Ok(writer) => writer,
        // Said past the spool; where it cannot be said, the lease runs out.
        Err(error) => {
            let seat = (site.board.clone(), seat.clone());
            return end_past_the_spool(&site.client, &header, Some(&seat), &error).await.map(|()| Delivery::Done);
        }
    };
    let folder = writer.folder().to_owned();
    let scribe = Scribe::start(writer, grant.fence, &short(grant.attempt_id))?;
    let written = scribe.written();
    let last_words = Arc::new(Mutex::new(Some(scribe.items())));
    let courier = Courier {
        client: site.client.clone(),
        root: site.root.clone(),
        header,
        folder,
        seat: Some((site.board.clone(), seat.clone())),
    };
    let delivery = tokio::spawn(courier.deliver(written));
    let job = {
        let (site, seat, last_words) = (site.clone(), seat.clone(), last_words.clone());
        let name = format!("{:?} {}", grant.job.kind(), short(grant.attempt_id)).to_lowercase();
        let (done, ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name)
            // Recursion in a backward pass of a deep model goes further than two MiB.
            .stack_size(16 << 20)
            .spawn(move || {
                seat.runs_here();
                execute(&site, &grant, roots, &seat, (scribe, &last_words));
                let _ = done.send(());
            })?;
        // The thread is joined, not only waited for: its tensors are gone before the slot is free.
        async move {
            let _ = ended.await;
            let _ = tokio::task::spawn_blocking(move || {
                let _ = thread.join();
                tune::release_memory();
            })
            .await;
        }
    };
    let mut hangs = seat.hangs();
    let hangs = async {
        let lines = hangs.wait_for(Option::is_some).await.ok().and_then(|lines| lines.clone());
        match lines {
            Some(lines) => lines,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = job => {}
        lines = hangs => say_that_it_hangs(&last_words, header.fence, lines),
    }
    delivery.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Where the end of an attempt is said in its thread's stead; none once the thread has ended by itself.
type LastWords = Mutex<Option<mpsc::Sender<Item>>>;

fn say_that_it_hangs(last_words: &LastWords, fence: Fence, lines: Vec<String>) {
    let Some(items) = lock(last_words).take() else { return };
    let message = lines.first().cloned().unwrap_or_default();
    for text in lines {
        tracing::error!(text, "an attempt hangs");
        let at_ms = now_ms();
        let _ = items.send(Item::Line(LogLine { at_ms, level: "error".into(), text, said: None, event: None }));
    }
    let outcome = Outcome::Ended(ended(TerminationReason::Stalled, message));
    let _ = items.send(Item::Record(Box::new(Record::Complete(CompleteAttempt { fence, outcome, time: None }))));
}

/// The attempt's thread.
fn execute(site: &Site, grant: &Grant, roots: Roots, seat: &Arc<Seat>, (scribe, last_words): (Scribe, &LastWords)) {
    let report = Report::new(seat.clone(), grant.fence, scribe.items());
    let place = Place {
        storage: site.storage.clone(),
        depot: Arc::new(site.store.clone()),
        roots,
        fence: grant.fence,
        device: site.device(grant),
        threads: site.threads(grant),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| fetch_and_run(&grant.job, &site.store, &place, &report)))
        .unwrap_or_else(|panic| Outcome::Ended(panicked(&*panic, &place.device)));
    if let Outcome::Ended(EndedOutcome { reason: TerminationReason::DeviceFault, message, .. }) = &outcome {
        tracing::error!(attempt.id = %grant.attempt_id, message, "a device failed: this process starts anew and tests it");
        site.board.device_failed(&grant.slots, message);
    }
    if matches!(&outcome, Outcome::Ended(ended) if ended.reason == TerminationReason::CorruptData) {
        site.store.forget(&grant.job);
    }
    // Given up meanwhile, its end was said already.
    let own = lock(last_words).take().is_some();
    // A fenced attempt writes nothing more: its courier sets the spool aside.
    if own && seat.standing(site.board.now_ms()) != Standing::Fenced {
        if let Outcome::Ended(EndedOutcome { reason, message, .. }) = &outcome {
            let asked_for = reason.is_planned();
            report.log(if asked_for { "info" } else { "error" }, message);
            tracing::info!(attempt.id = %grant.attempt_id, ?reason, message, "attempt ended without a result");
        }
        let time = Some(seat.time());
        report.record(Record::Complete(CompleteAttempt { fence: grant.fence, outcome, time }));
    }
    drop(report);
    scribe.finish();
}

/// Runs a job once everything that it reads is on this machine.
fn fetch_and_run(job: &JobSpec, store: &Store, place: &Place, report: &Report) -> Outcome {
    match store.fetch(job, &Fetching::new(report)) {
        Ok(_held) => run_job(job, place, report),
        Err(ended) => Outcome::Ended(asked_to_end(report.command()).unwrap_or(ended)),
    }
}

fn panicked(panic: &(dyn Any + Send), device: &str) -> EndedOutcome {
    let text = said(panic);
    if let Some(error) = device_fault(text) {
        return EndedOutcome::said(
            TerminationReason::DeviceFault,
            said!("ended_device_fault", device = device, error = error),
        );
    }
    let reason = if is_out_of_memory(text) { TerminationReason::OutOfMemory } else { TerminationReason::InternalError };
    ended(reason, format!("the job panicked: {text}"))
}

/// The last characters of an id tell attempts apart; the first ones are the time.
fn short(id: AttemptId) -> String {
    let text = id.to_string();
    text[text.len() - 6..].to_owned()
}
