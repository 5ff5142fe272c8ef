//! Samples how fast branches train, and names workers that are slower than their siblings.

use crate::{
    app::App,
    db::{self, events::NewEvent},
};
use anyhow::Result;
use senmon_protocol::{said, said::decimal};

/// Time between two samples.
pub const PERIOD_MS: u64 = 10_000;

/// Takes one sample of everything that trains.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    let rates = db::workers::rates(&app.db).await?;
    for (worker, percent) in app.paces.sample(rates) {
        let said = said!("worker_slow", percent = decimal(percent, 0));
        let event =
            NewEvent { kind: "worker_slow", level: "warn", said, worker_id: Some(worker), ..NewEvent::default() };
        app.event(event).await;
    }
    Ok(())
}
