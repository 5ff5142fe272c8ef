//! Group commit: what many workers send in the same few milliseconds is written in one transaction, and answered when
//! that is committed. A write that would hold the others up (its job is locked, its fence is old) is done alone.
//!
//! Never acknowledges before the commit; never keeps a write for later.

use crate::db::{
    DbError, in_time,
    ingest::{self, Batch, Beat, Place},
};
use senmon_protocol::{ids::BranchId, worker::Heartbeaten};
use sqlx::{PgPool, Postgres, pool::PoolConnection};
use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Writes of one transaction, at most: so many rows keep its locks for a few milliseconds.
const GROUP_MAX: usize = 256;
/// Under load, how long a group waits for company: a commit costs about as much.
const GATHER: Duration = Duration::from_millis(2);
/// Longest wait for the database: one connection whose answer was lost would hold up all that report. Whether it had
/// committed or not, the write is done again, and it is the same write.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Writes that wait; beyond, requests wait before they are read.
const QUEUE_MAX: usize = 4096;

/// How long a writer without work keeps its connection.
const KEPT_MAX: Duration = Duration::from_secs(1);

/// A connection that a writer keeps from group to group: one that is given back is tried each time.
type Kept = PoolConnection<Postgres>;
type Reply<A> = oneshot::Sender<Result<A, DbError>>;

/// The way of metric batches and heartbeats into the database.
#[derive(Debug, Clone)]
pub struct Ingest {
    batches: mpsc::Sender<(Batch, Reply<Place>)>,
    beats: mpsc::Sender<(Beat, Reply<Heartbeaten>)>,
    landed: Landed,
}

impl Ingest {
    /// Starts both writers; they end with the last clone.
    #[must_use]
    pub fn start(pool: &PgPool, lease_ttl_ms: u64) -> Self {
        let ttl = i64::try_from(lease_ttl_ms).unwrap_or(i64::MAX);
        let db = pool.clone();
        let batches = writer(
            pool,
            |mut kept: Kept, group: Arc<[Batch]>| async move {
                let answers = ingest::batches(&mut kept, &group).await?;
                Ok((kept, answers))
            },
            move |batch: Batch| {
                let db = db.clone();
                async move { ingest::batch(&db, &batch).await }
            },
        );
        let db = pool.clone();
        let beats = writer(
            pool,
            move |mut kept: Kept, group: Arc<[Beat]>| async move {
                let answers = ingest::beats(&mut kept, &group, ttl).await?;
                Ok((kept, answers))
            },
            move |beat: Beat| {
                let db = db.clone();
                async move { ingest::beat(&db, &beat, ttl).await }
            },
        );
        Self { batches, beats, landed: Landed::default() }
    }

    /// Stores a batch.
    ///
    /// # Errors
    /// [`DbError::StaleFence`].
    pub async fn batch(&self, batch: Batch) -> Result<Place, DbError> {
        let (fence, points) = (batch.fence.0, i64::from(batch.points));
        let place = send(&self.batches, batch).await?;
        if let Some(branch) = place.branch {
            self.landed.add(branch, fence, points);
        }
        Ok(place)
    }

    /// Notes a heartbeat.
    ///
    /// # Errors
    /// [`DbError::Conflict`] for an old session.
    pub async fn beat(&self, beat: Beat) -> Result<Heartbeaten, DbError> {
        send(&self.beats, beat).await
    }

    /// What landed.
    #[must_use]
    pub fn landed(&self) -> &Landed {
        &self.landed
    }
}

async fn send<W, A>(queue: &mpsc::Sender<(W, Reply<A>)>, write: W) -> Result<A, DbError> {
    let (reply, answer) = oneshot::channel();
    // Both ends live as long as the server; one that is gone has lost its task to a panic.
    queue.send((write, reply)).await.map_err(|_| sqlx::Error::WorkerCrashed)?;
    answer.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// Drains a queue in groups. `together` writes a group, and leaves out what it could not do; `alone` does one of those.
fn writer<W, A, T, TF, O, OF>(pool: &PgPool, together: T, alone: O) -> mpsc::Sender<(W, Reply<A>)>
where
    W: Clone + Send + Sync + 'static,
    A: Send + 'static,
    T: Fn(Kept, Arc<[W]>) -> TF + Send + Sync + 'static,
    TF: Future<Output = Result<(Kept, Vec<Option<A>>), DbError>> + Send,
    O: Fn(W) -> OF + Send + 'static,
    OF: Future<Output = Result<A, DbError>> + Send + 'static,
{
    let (sender, mut queue) = mpsc::channel::<(W, Reply<A>)>(QUEUE_MAX);
    let pool = pool.clone();
    tokio::spawn(async move {
        let mut crowded = false;
        let mut taken = Vec::new();
        let mut kept: Option<Kept> = None;
        loop {
            if crowded {
                tokio::time::sleep(GATHER).await;
            }
            let limit = if kept.is_some() { KEPT_MAX } else { Duration::MAX };
            match timeout(limit, queue.recv_many(&mut taken, GROUP_MAX)).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => {
                    kept = None;
                    continue;
                }
            }
            crowded = taken.len() > 1;
            let (writes, replies): (Vec<W>, Vec<Reply<A>>) = taken.drain(..).unzip();
            let group: Arc<[W]> = writes.into();
            let before = kept.take();
            let work = async {
                let connection = match before {
                    Some(connection) => connection,
                    None => pool.acquire().await?,
                };
                together(connection, group.clone()).await
            };
            let answers = match in_time(ANSWER_MAX, work).await {
                Ok((connection, answers)) => {
                    kept = Some(connection);
                    answers
                }
                Err(error) => {
                    tracing::warn!(%error, writes = group.len(), "a group could not be written; each is tried alone");
                    group.iter().map(|_| None).collect()
                }
            };
            for ((write, reply), answer) in group.iter().zip(replies).zip(answers) {
                match answer {
                    Some(answer) => drop(reply.send(Ok(answer))),
                    None => {
                        let done = alone(write.clone());
                        tokio::spawn(async move { drop(reply.send(in_time(ANSWER_MAX, done).await)) });
                    }
                }
            }
        }
    });
    sender
}

/// Points that landed since their branch was last compacted: a hint to the loop that does it, which looks itself.
#[derive(Debug, Clone, Default)]
pub struct Landed(Arc<Mutex<HashMap<(BranchId, i64), i64>>>);

impl Landed {
    fn add(&self, branch: BranchId, fence: i64, points: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((branch, fence)).or_default() += points;
    }

    /// Takes what has at least so many points.
    #[must_use]
    pub fn take(&self, points: i64) -> HashSet<(BranchId, i64)> {
        let mut landed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        landed.extract_if(|_, n| *n >= points).map(|(key, _)| key).collect()
    }
}
