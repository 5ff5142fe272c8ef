//! Loops without input: each looks at the database, does what is to be done, and may be killed and repeated at any
//! line. Woken by a signal and by a period.

pub mod advance;
pub mod aside;
mod ask;
pub mod compact;
pub mod discover;
pub mod disk;
pub mod failure;
pub mod forecast;
pub mod identity;
pub mod limits;
pub mod pace;
pub mod prune;
pub mod scan;
pub mod schedule;
pub mod scrub;
pub mod store;
pub mod supervise;
pub mod tell;

use crate::{
    app::App,
    db::{self, events::NewEvent},
    traces,
};
use ask::ask;
use senmon_protocol::said;
use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use supervise::{Failing, TOLD_AT, guarded};
use tokio::{sync::Notify, sync::watch, task::JoinSet};
use tracing::Instrument as _;

/// A loop rests as long as it worked, and at least this: a thousand signals at once are one pass, and none takes a core
/// for itself.
const REST_MIN: Duration = Duration::from_millis(10);
/// Without a signal it rests so many times longer: what is large is looked at less often.
const UNASKED_TIMES: u32 = 20;
/// But no longer than this for having worked long: a database that was away for a while is looked at soon again.
const UNASKED_MAX: Duration = Duration::from_secs(10);

/// Longest pass of the loops that workers wait for; the next one looks anew.
const PASS_MAX: Duration = Duration::from_secs(30);
/// Starts all loops; they end when `stop` becomes true.
pub fn start(app: &App, stop: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut set = JoinSet::new();
    let wake = &app.wake;
    let alone = || Arc::new(Notify::new());
    spawn(&mut set, app, stop, "scan", &wake.scan, 5_000, scan::run);
    spawn(&mut set, app, stop, "discover", &wake.discover, 5_000, discover::run);
    spawn(&mut set, app, stop, "advance", &wake.advance, 1_000, advance::run);
    spawn(&mut set, app, stop, "schedule", &wake.schedule, 1_000, |app| db::in_time(PASS_MAX, schedule::run(app)));
    spawn(&mut set, app, stop, "expire", &alone(), 500, |app| db::in_time(PASS_MAX, schedule::expire(app)));
    spawn(&mut set, app, stop, "compact", &alone(), 1_000, compact::run);
    spawn(&mut set, app, stop, "compact-look", &alone(), 60_000, compact::look);
    spawn(&mut set, app, stop, "forecast", &alone(), forecast::PERIOD_MS, |app| ask(forecast::run(app)));
    spawn(&mut set, app, stop, "pace", &alone(), pace::PERIOD_MS, |app| ask(pace::run(app)));
    spawn(&mut set, app, stop, "scrub", &wake.scrub, 5_000, scrub::run);
    // Twice within the grace, so that what is due waits no longer than half of it more.
    let sweep_ms = (app.config.orphan_grace_ms / 2).clamp(1_000, 600_000);
    spawn(&mut set, app, stop, "retain", &alone(), 5_000, store::retain);
    spawn(&mut set, app, stop, "sweep", &alone(), sweep_ms, store::sweep);
    spawn(&mut set, app, stop, "budget", &alone(), 60_000, store::watch_budget);
    spawn(&mut set, app, stop, "disk", &alone(), 1_000, disk::run);
    spawn(&mut set, app, stop, "database-budget", &alone(), 60_000, disk::watch_database);
    spawn(&mut set, app, stop, "tell", &wake.tell, 1_000, tell::run);
    spawn(&mut set, app, stop, "prune", &alone(), 600_000, prune::run);
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
            let start = Instant::now();
            let pass = traces::pass(name);
            let failure = guarded(run(app.clone())).instrument(pass.clone()).await.err();
            if let Some(failure) = &failure {
                tracing::error!(parent: &pass, task = name, error = %failure, "a loop failed; it tries again");
            }
            // It ends here, not with the rest.
            drop(pass);
            let (now, before) = app.loops.note(name, failure.as_ref());
            tell(&app, name, &now, &before).await;
            let worked = start.elapsed();
            tracing::debug!(task = name, ms = worked.as_millis(), "looked");
            let period = Duration::from_millis(period_ms).max((worked * UNASKED_TIMES).min(UNASKED_MAX));
            let next = async {
                tokio::time::sleep(worked.max(REST_MIN) + now.pause()).await;
                let _ = tokio::time::timeout(period, wake.notified()).await;
            };
            tokio::select! {
                () = next => {}
                _ = stop.changed() => {}
            }
        }
    });
}

/// Says it where a loop keeps failing, and where it goes on again.
async fn tell(app: &App, name: &str, now: &Failing, before: &Failing) {
    let (kind, level, said) = match (now.times, before.times) {
        (TOLD_AT, _) => ("loop_failing", "error", said!("loop_failing", name = name, error = now.error.as_str())),
        (0, TOLD_AT..) => ("loop_recovered", "info", said!("loop_recovered", name = name)),
        _ => return,
    };
    app.event(NewEvent { kind, level, said, ..NewEvent::default() }).await;
}
