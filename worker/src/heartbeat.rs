//! Keeps the worker alive in the server's eyes: enrols it, renews its leases, hands commands on. Runs on its own
//! OS thread with its own runtime and connection, so that no training, disk or upload can delay a renewal.
//!
//! Never starts or ends an attempt; it only tells seats what the server said.

use crate::{
    board::Board,
    client::{Backoff, CallError, Client, seed_of},
};
use senmon_protocol::worker::{EnrolWorker, Enrolled, Heartbeat};
use std::{
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};
use sysinfo::System;
use tokio::sync::{oneshot, watch};

/// Longest pause between tries of an enrolment or a heartbeat while the server is away.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The thread.
#[derive(Debug)]
pub struct Pulse {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Pulse {
    /// Starts the thread. `first` gets the first enrolment, or the refusal that makes starting pointless.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        client: Client,
        board: Arc<Board>,
        worker: EnrolWorker,
        token: Option<String>,
        first: oneshot::Sender<Result<Enrolled, CallError>>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(move || {
            let mut heart = Heart { client, board, worker, token, first: Some(first), system: System::new().ok() };
            runtime.block_on(async {
                let mut stopped = stopped;
                tokio::select! {
                    () = heart.beat_for_ever() => {}
                    _ = stopped.wait_for(|&stop| stop) => {}
                }
            });
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the heartbeat thread panicked");
        }
    }
}

struct Heart {
    client: Client,
    board: Arc<Board>,
    worker: EnrolWorker,
    /// The enrolment token, where there is one.
    token: Option<String>,
    first: Option<oneshot::Sender<Result<Enrolled, CallError>>>,
    /// Memory and CPU of the machine; none where the system does not tell.
    system: Option<System>,
}

impl Heart {
    async fn beat_for_ever(&mut self) {
        let mut backoff = Backoff::new(PAUSE_MAX, seed_of(&self.worker.name));
        let mut silent_since: Option<Instant> = None;
        loop {
            let Some(session) = self.board.session() else {
                self.enrol(&mut backoff).await;
                continue;
            };
            // However long the server was away, it must hear of this worker within the window that it waits.
            backoff.limit(PAUSE_MAX.min(Duration::from_millis(session.heartbeat_ms)));
            match self.beat(&session).await {
                Ok(()) => {
                    if let Some(since) = silent_since.take() {
                        tracing::info!(silent_ms = since.elapsed().as_millis(), "the server answers again");
                    }
                    backoff.reset();
                    self.wait_for_the_next_beat(&session).await;
                }
                Err(CallError::Session(why)) => {
                    tracing::warn!(why, "the session is over; enrolling again");
                    self.board.session_refused(session.session);
                }
                Err(error) => {
                    if silent_since.is_none() {
                        tracing::warn!(%error, "a heartbeat has no answer; training goes on");
                        silent_since = Some(Instant::now());
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    async fn enrol(&mut self, backoff: &mut Backoff) {
        match self.client.enrol(&self.worker, self.token.as_deref()).await {
            Ok(session) => {
                tracing::info!(
                    worker.id = %session.worker_id,
                    worker.session = session.session,
                    server.version = session.server_version,
                    "enrolled"
                );
                backoff.reset();
                self.board.enrolled(session.clone());
                if let Some(first) = self.first.take() {
                    let _ = first.send(Ok(session));
                }
            }
            Err(error) => {
                let away = error.is_away();
                tracing::warn!(%error, "not enrolled");
                if !away && let Some(first) = self.first.take() {
                    let _ = first.send(Err(error));
                }
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }

    async fn beat(&mut self, session: &Enrolled) -> Result<(), CallError> {
        let (memory_used_bytes, cpu_share) = self.load();
        let seats = self.board.seats();
        let asked_ms = self.board.now_ms();
        for seat in &seats {
            seat.renewal_asked(asked_ms);
        }
        let beat = Heartbeat {
            session: session.session,
            attempts: seats.iter().map(|seat| seat.running()).collect(),
            memory_used_bytes,
            cpu_share,
        };
        let limit = Duration::from_millis(session.heartbeat_ms.max(1_000));
        let answer = self.client.heartbeat(session.worker_id, &beat, limit).await?;
        for told in answer.attempts {
            if let Some(seat) = seats.iter().find(|seat| seat.attempt_id == told.attempt_id) {
                seat.renewal_answered(asked_ms, told.command);
            }
        }
        Ok(())
    }

    /// Bytes of memory and share of the CPU in use.
    fn load(&mut self) -> (u64, f64) {
        let Some(system) = &mut self.system else { return (0, 0.0) };
        system.refresh_memory();
        system.refresh_cpu_usage();
        (system.used_memory(), f64::from(system.global_cpu_usage()) / 100.0)
    }

    async fn wait_for_the_next_beat(&self, session: &Enrolled) {
        let now = self.board.now_ms();
        let pace = now + session.heartbeat_ms;
        let due = self.board.renewal_due_ms().map_or(pace, |due| due.min(pace));
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(due.saturating_sub(now))) => {}
            () = self.board.beat.notified() => {}
        }
    }
}
