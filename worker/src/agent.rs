//! The daemon: delivers what an earlier process left, enrols, asks for work, starts attempts, stops with grace.
//!
//! Never computes anything itself and never waits for an attempt while asking for work.

use crate::{
    board::Board,
    client::{Backoff, CallError, Client, seed_of},
    config::Config,
    courier::{Courier, Delivery},
    credential::Credential,
    devices,
    heartbeat::Pulse,
    runner::{self, Site},
    slot_faults::{self, SlotFaults},
    spool::{self, Record, SpoolRoot, SpoolWriter},
    store::Store,
    vitals,
};
use anyhow::{Context, Result, bail};
use senmon_corpus::roots::Roots;
use senmon_protocol::{
    WORKER_PROTOCOL_VERSION,
    job::{EndedOutcome, Outcome, TerminationReason},
    said,
    worker::{Command, CompleteAttempt, EnrolWorker, Enrolled, Poll, Polled},
};
use senmon_store::{Bucket, StoreUrl};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

/// A long poll of an idle worker.
const POLL_IDLE_MS: u64 = 20_000;
/// A poll while some slots work: shorter, because one that was sent before a slot became free lingers beside the next.
const POLL_BUSY_MS: u64 = 5_000;
/// Longest pause between polls while the server is away.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why the daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// A thread hangs, or the context of a device is lost: only a new process is rid of it. What it should know of the slots.
    Anew(SlotFaults),
}

/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(250);

/// Watches the attempts from a thread of its own, for as long as the process lives.
fn start_watchdog(board: Arc<Board>, stall_min_ms: u64) -> std::io::Result<()> {
    let look = move || {
        let mut last = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            board.awake(last.elapsed().min(2 * LOOK));
            last = Instant::now();
            board.seats().iter().for_each(|seat| seat.look(stall_min_ms));
        }
    };
    std::thread::Builder::new().name("watchdog".into()).spawn(look).map(drop)
}

/// Runs the daemon until `stop` becomes true, a thread hangs or a device fails, and everything else is handed back.
///
/// # Errors
/// When the worker cannot start: its state folder, its storage, a refused token, another protocol version.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<End> {
    let root = SpoolRoot::open(&config.state_dir)?;
    let credential = Credential::of(&config.state_dir)?;
    let client = Client::new(&config, &credential)?;
    let mut faults = SlotFaults::carried(std::env::var(slot_faults::VARIABLE).ok().as_deref());
    devices::examine(&mut faults).await;
    let slots = devices::slots(&config.slots, &faults)?;
    let board = Arc::new(Board::new(u16::try_from(slots.len()).context("slots: too many")?, faults));
    let worker = EnrolWorker {
        name: config.name.clone(),
        protocol_version: WORKER_PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").into(),
        host: sysinfo::System::host_name().unwrap_or_default(),
        slots: slots.clone(),
        capabilities: runner::capabilities(),
        labels: config.labels.clone(),
        credential_sha256: Some(credential.sha256()),
    };
    tracing::info!(worker.name = %config.name, server.url = %config.server_url, slots = slots.len(), "starting");
    let (first, enrolled) = oneshot::channel();
    if config.stall_seconds > 0 {
        start_watchdog(board.clone(), config.stall_seconds.saturating_mul(1000))?;
    }
    // A client of its own: connections belong to the runtime that opened them.
    let own = Client::new(&config, &credential)?;
    let pulse = Pulse::start(own, board.clone(), worker, config.token.clone(), first)?;
    let mut stopping = stop.clone();
    let session = tokio::select! {
        answer = enrolled => match answer {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => bail!(refused(&config, &credential, &error)),
            Err(_) => bail!("the heartbeat thread ended"),
        },
        _ = stopping.wait_for(|&stop| stop) => return Ok(End::Stopped),
    };
    let (storage, store) = store(&config, &session).await?;
    let leftovers = deliver_leftovers(&client, &root)?;
    let site = Site { client, root, board: board.clone(), storage, store, slots };
    let vitals = tokio::spawn(vitals::tell_for_ever(site.client.clone(), board.clone(), vitals::devices(&site.slots)));
    let attempts = ask_for_work(&site, stop, &config.name).await;
    vitals.abort();
    hand_back(&board, attempts, leftovers, config.stop_max).await;
    pulse.stop();
    let jammed = *board.jams().borrow() && !*stopping.borrow();
    tracing::info!(jammed, "stopped");
    Ok(if jammed { End::Anew(board.faults()) } else { End::Stopped })
}

/// Why this worker cannot start, and what helps.
fn refused(config: &Config, credential: &Credential, error: &CallError) -> String {
    let code = if let CallError::Refused(problem) = error { problem.code.as_str() } else { "" };
    let help = match (code, &config.token) {
        ("token_over", _) => format!(
            "\n  to enrol this worker anew, remove {} and give it an enrolment token that is good",
            credential.path().display()
        ),
        ("unauthenticated", None) => {
            "\n  token_file: no enrolment token is configured; the server's first start writes one to <data_dir>/worker-token, an admin makes others (senmon token create NAME --role enrol)".into()
        }
        ("unauthenticated", Some(_)) => "\n  token_file: the server does not know the enrolment token".into(),
        _ => String::new(),
    };
    format!("{} refuses this worker: {error}{help}", config.server_url)
}

/// The object store, and where this machine sees its files.
async fn store(config: &Config, session: &Enrolled) -> Result<(PathBuf, Store)> {
    let url = StoreUrl::parse(&session.storage_url);
    let bucket = match (&config.storage_dir, &url) {
        (None, Ok(url)) => Bucket::of(url, &config.s3)?,
        _ => None,
    };
    let patience = config.storage_retry_max;
    let Some(bucket) = bucket else { return Ok((storage_dir(config, session)?, Store::folder(patience))) };
    bucket.probe().await.context("[s3] or the AWS_* variables must let this worker in")?;
    let root = config.state_dir.join("cache");
    let store = Store::bucket(bucket, &root, config.cache_bytes_max.0, tokio::runtime::Handle::current(), patience)?;
    Ok((root, store))
}

/// The folder of a store that is one, tried.
fn storage_dir(config: &Config, session: &Enrolled) -> Result<PathBuf> {
    let folder = match &config.storage_dir {
        Some(folder) => folder.clone(),
        None => match session.storage_url.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => PathBuf::from(path),
            _ => bail!(
                "the server's store is at {}, which this worker cannot read; set storage_dir to where it is mounted",
                session.storage_url
            ),
        },
    };
    let probe = folder.join(format!(".worker-{}", std::process::id()));
    std::fs::write(&probe, b"")
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| format!("storage_dir: {} must be a folder that this worker can write to", folder.display()))?;
    Ok(folder)
}

/// Starts the delivery of every spool that an earlier process left. An attempt that had not ended then died with
/// its process, and the server is told so.
fn deliver_leftovers(client: &Client, root: &SpoolRoot) -> Result<JoinSet<()>> {
    let mut deliveries = JoinSet::new();
    for (header, folder) in root.left_behind().context("list the spools left behind")? {
        let opened = SpoolWriter::open(folder.clone()).and_then(|writer| Ok((writer, spool::is_complete(&folder)?)));
        let (mut writer, is_complete) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // One spool that cannot be opened must not keep the worker from starting: the lease ends the attempt.
                tracing::error!(attempt.id = %header.attempt_id, %error, "a spool cannot be opened; the next start tries again");
                continue;
            }
        };
        if !is_complete {
            let said = said!("ended_restarted");
            let outcome = Outcome::Ended(EndedOutcome::said(TerminationReason::WorkerLost, said));
            let end = Record::Complete(CompleteAttempt { fence: header.fence, outcome, time: None });
            if let Err(error) = writer.append(&end) {
                // A full disk must not keep the worker from starting: the lease ends the attempt, the next start this.
                tracing::error!(attempt.id = %header.attempt_id, %error, "the spool's disk refuses; its rest stays");
                continue;
            }
        }
        tracing::info!(attempt.id = %header.attempt_id, "delivering what an earlier process left");
        let courier = Courier { client: client.clone(), root: root.clone(), header, folder, seat: None };
        let (bytes, written) = watch::channel(writer.bytes());
        deliveries.spawn(async move {
            let _bytes = bytes;
            match courier.deliver(written).await {
                Ok(Delivery::Done) => tracing::info!(attempt.id = %header.attempt_id, "delivered"),
                Ok(delivery) => tracing::warn!(attempt.id = %header.attempt_id, ?delivery, "set aside"),
                Err(error) => tracing::error!(attempt.id = %header.attempt_id, %error, "deliver a spool"),
            }
        });
    }
    Ok(deliveries)
}

/// Asks for work until told to stop; answers with the attempts that still run.
async fn ask_for_work(site: &Site, mut stop: watch::Receiver<bool>, name: &str) -> JoinSet<()> {
    let mut attempts = JoinSet::new();
    // Not the heartbeat's own pauses.
    let mut backoff = Backoff::new(PAUSE_MAX, !seed_of(name));
    let mut polls = JoinSet::new();
    // The newest poll and the slots that it called free; none when it is over.
    let mut newest: Option<(u64, Vec<u16>)> = None;
    let mut number = 0;
    let mut pause = Duration::ZERO;
    let mut jams = site.board.jams();
    loop {
        let free = site.board.slots_free();
        let asked = newest.as_ref().is_some_and(|(_, slots)| free.iter().all(|slot| slots.contains(slot)));
        if !free.is_empty() && !asked && polls.len() <= site.slots.len() {
            number += 1;
            newest = Some((number, free.clone()));
            let poll = poll_after(site.clone(), free, std::mem::take(&mut pause));
            polls.spawn(async move { (number, poll.await) });
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => return attempts,
            _ = jams.wait_for(|&jammed| jammed) => return attempts,
            Some(polled) = polls.join_next() => {
                let (ended, granted) = match polled {
                    Ok(polled) => polled,
                    Err(error) => {
                        tracing::error!(%error, "a poll panicked");
                        newest = None;
                        continue;
                    }
                };
                // An older poll that ends leaves the newest one waiting.
                newest = newest.filter(|(newest, _)| *newest != ended);
                match granted {
                    Ok(polled) => {
                        backoff.reset();
                        let roots = Roots::new(polled.corpus_roots);
                        for grant in polled.grants {
                            runner::start(site, grant, &roots, &mut attempts);
                        }
                    }
                    Err(error) => {
                        if !error.is_away() {
                            tracing::warn!(%error, "the server gives no work");
                        }
                        pause = backoff.pause();
                    }
                }
            }
            () = site.board.freed.notified() => {}
        }
        while attempts.try_join_next().is_some() {}
    }
}

/// One poll. It is never cut short when a slot becomes free, because a grant could be on its way; the next poll is
/// sent beside it instead, and the server counts the newest.
async fn poll_after(site: Site, slots_free: Vec<u16>, pause: Duration) -> Result<Polled, CallError> {
    tokio::time::sleep(pause).await;
    if let Err(error) = site.root.probe() {
        tracing::error!(%error, "no work is asked for while the spool cannot be written");
        return Err(CallError::Away(error.to_string()));
    }
    let mut sessions = site.board.sessions();
    let Some(session) = sessions.wait_for(Option::is_some).await.ok().and_then(|session| session.clone()) else {
        return Ok(Polled::default());
    };
    let wait_ms = if slots_free.len() == site.slots.len() { POLL_IDLE_MS } else { POLL_BUSY_MS };
    let poll = Poll { session: session.session, slots_free, wait_ms };
    let polled = site.client.poll(session.worker_id, &poll).await;
    if let Err(CallError::Session(_)) = &polled {
        site.board.session_refused(session.session);
    }
    polled
}

/// Tells every attempt to write a checkpoint and end, and waits until that is done and delivered, but not for ever:
/// what is not delivered by then lies in the spool for the next start.
async fn hand_back(board: &Board, mut attempts: JoinSet<()>, mut leftovers: JoinSet<()>, limit: Duration) {
    let seats = board.seats();
    if !seats.is_empty() {
        tracing::info!(attempts = seats.len(), limit_s = limit.as_secs(), "stopping: attempts are handed back");
    }
    for seat in seats {
        seat.command(Command::Release);
    }
    let all = async {
        while attempts.join_next().await.is_some() {}
        while leftovers.join_next().await.is_some() {}
    };
    if tokio::time::timeout(limit, all).await.is_err() {
        tracing::warn!(
            attempts = board.seats().len(),
            "not everything was handed back in time; the spool keeps the rest"
        );
    }
    attempts.abort_all();
    leftovers.abort_all();
}
