//! Loops without input: each looks at the database, does what is to be done, and may be killed and repeated at any
//! line. Woken by a signal and by a period.

pub mod advance;
pub mod discover;
pub mod limits;
pub mod pace;
pub mod scan;
pub mod schedule;
pub mod scrub;

use crate::{app::App, db};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{sync::Notify, sync::watch, task::JoinSet};

/// Starts all loops; they end when `stop` becomes true.
pub fn start(app: &App, stop: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut set = JoinSet::new();
    let wake = &app.wake;
    spawn(&mut set, app, stop, "scan", &wake.scan, 5_000, scan::run);
    spawn(&mut set, app, stop, "discover", &wake.discover, 5_000, discover::run);
    spawn(&mut set, app, stop, "advance", &wake.advance, 1_000, advance::run);
    spawn(&mut set, app, stop, "schedule", &wake.schedule, 1_000, schedule::run);
    spawn(&mut set, app, stop, "expire", &Arc::new(Notify::new()), 500, schedule::expire);
    spawn(&mut set, app, stop, "pace", &Arc::new(Notify::new()), pace::PERIOD_MS, pace::run);
    spawn(&mut set, app, stop, "scrub", &wake.scrub, 5_000, scrub::run);
    spawn(&mut set, app, stop, "prune", &Arc::new(Notify::new()), 600_000, prune);
    set
}

fn spawn<F, R>(
    set: &mut JoinSet<()>,
    app: &App,
    stop: &watch::Receiver<bool>,
    name: &'static str,
    wake: &Arc<Notify>,
    period_ms: u64,
    run: F,
) where
    F: Fn(App) -> R + Send + 'static,
    R: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (app, wake, mut stop) = (app.clone(), wake.clone(), stop.clone());
    set.spawn(async move {
        while !*stop.borrow() {
            if let Err(error) = run(app.clone()).await {
                tracing::error!(task = name, error = format!("{error:#}"), "a loop failed; it tries again");
            }
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(period_ms)) => {}
                _ = stop.changed() => {}
            }
        }
    });
}

async fn prune(app: App) -> anyhow::Result<()> {
    Ok(db::tokens::prune(&app.db).await?)
}
