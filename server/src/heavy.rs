//! Work of requests that costs (walks of folders, tokenizers, plans): on threads of its own, and few of them, so that a
//! hundred expensive requests hold each other up and nobody else.

use anyhow::{Context, Result};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Time that a piece of work has which can be ended: a walk of folders on a disk that is far away.
const WORK_MAX: Duration = Duration::from_secs(20);

/// Whether a piece of work that runs is still wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    given_up: Arc<AtomicBool>,
    until: Instant,
}

impl Wanted {
    /// False when the request was given up, or the time is over.
    #[must_use]
    pub fn go_on(&self) -> bool {
        !self.given_up.load(Ordering::Relaxed) && Instant::now() < self.until
    }
}

/// Notes that a request was given up.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The pool; cheap to clone.
#[derive(Debug, Clone)]
pub struct Heavy(Arc<Semaphore>);

impl Default for Heavy {
    /// As many pieces at once as half the cores; at least one.
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        Self(Arc::new(Semaphore::new((cores / 2).max(1))))
    }
}

impl Heavy {
    /// Does a piece of work when its turn comes. A request that is given up before leaves the queue.
    ///
    /// # Errors
    /// When the work panics.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let turn = self.0.clone().acquire_owned().await.context("the pool is closed")?;
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work).await.context("a request's work panicked")
    }

    /// The same, for work that asks now and then whether to go on.
    ///
    /// # Errors
    /// When the work panics.
    pub async fn run_while<T: Send + 'static>(&self, work: impl FnOnce(&Wanted) -> T + Send + 'static) -> Result<T> {
        let given_up = GivenUp(Arc::default());
        let flag = given_up.0.clone();
        self.run(move || work(&Wanted { given_up: flag, until: Instant::now() + WORK_MAX })).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    #[tokio::test]
    async fn no_more_run_at_once_than_may_and_who_gives_up_leaves_the_queue() {
        let (heavy, running, most) =
            (Heavy(Arc::new(Semaphore::new(2))), Arc::default(), Arc::new(AtomicUsize::new(0)));
        let one = |running: &Arc<AtomicUsize>| {
            let (running, most) = (running.clone(), most.clone());
            heavy.run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let all: Vec<_> = (0..12).map(|_| one(&running)).collect();
        for done in futures::future::join_all(all).await {
            done.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
        let turns = heavy.0.clone().acquire_many_owned(2).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), heavy.run(|| ())).await.is_err());
        drop(turns);
        heavy.run(|| ()).await.unwrap();
        assert!(heavy.run(|| panic!("no such file")).await.is_err());
        heavy.run(|| ()).await.expect("a panic takes no turn with it");
    }

    #[tokio::test]
    async fn work_hears_that_its_request_was_given_up() {
        let (heavy, (told, hears)) = (Heavy::default(), std::sync::mpsc::channel());
        let work = heavy.run_while(move |wanted| {
            while wanted.go_on() {
                std::thread::yield_now();
            }
            told.send(wanted.given_up.load(Ordering::Relaxed)).unwrap();
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        assert!(tokio::task::spawn_blocking(move || hears.recv().unwrap()).await.unwrap());
    }
}
