//! What has grown old goes (`[retention]` of the settings), in small statements between which everything else goes on.

use super::ask::ask;
use crate::{
    app::App,
    db::{
        DbError,
        prune::{self, CHUNKS_MAX, ROWS_MAX},
        readings,
    },
};
use anyhow::Result;
use std::future::Future;

/// Removes what is older than it is kept; 0 days keep it for ever.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    let (db, keep) = (&app.db, &app.config.retention);
    all(&app, "sessions", ROWS_MAX, || prune::sessions(db)).await?;
    all(&app, "tokens", ROWS_MAX, || prune::tokens(db)).await?;
    if let Some(days) = days(keep.audit_days) {
        all(&app, "entries of the audit", ROWS_MAX, || prune::audit(db, days)).await?;
    }
    if let Some(days) = days(keep.keys_days) {
        all(&app, "idempotency keys", ROWS_MAX, || prune::keys(db, days)).await?;
    }
    if let Some(days) = days(keep.logs_days) {
        all(&app, "batches of log lines", ROWS_MAX, || prune::logs(db, days)).await?;
    }
    if let Some(days) = days(keep.events_days) {
        all(&app, "events", ROWS_MAX, || prune::events(db, days)).await?;
        all(&app, "messages that tried an alert", ROWS_MAX, || prune::alert_tests(db, days)).await?;
    }
    all(&app, "minutes of readings", readings::QUARTERS_MAX, || readings::thin(db)).await?;
    if let Some(days) = days(keep.readings_days) {
        all(&app, "readings of workers", ROWS_MAX, || readings::prune(db, days)).await?;
    }
    if let Some(days) = days(keep.points_days) {
        all(&app, "chunks of points", CHUNKS_MAX, || prune::curves(db, 1, days)).await?;
    }
    if let Some(days) = days(keep.curves_days) {
        // From below: a summary goes when all that it stands for has gone.
        for level in 2..=ask(prune::levels(db)).await? {
            all(&app, "fine curves", CHUNKS_MAX, || prune::curves(db, level, days)).await?;
        }
    }
    if let Some(days) = days(keep.history_days) {
        all(&app, "states of workers", ROWS_MAX, || prune::worker_states(db, days)).await?;
        all(&app, "rows of removed checkpoints", ROWS_MAX, || prune::checkpoints(db, days)).await?;
        all(&app, "rows of old experiments' history", 1, || prune::history(db, days)).await?;
    }
    Ok(())
}

fn days(days: u16) -> Option<i32> {
    (days > 0).then_some(i32::from(days))
}

/// Repeats a statement until it finds no more, or the server stops.
async fn all<F>(app: &App, what: &str, most: i64, some: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<u64, DbError>>,
{
    let mut went = 0;
    while !*app.stopping.borrow() {
        let now = ask(some()).await?;
        went += now;
        if now < most.unsigned_abs() {
            break;
        }
    }
    if went > 0 {
        tracing::info!(went, "retention removed {what}");
    }
    Ok(())
}
