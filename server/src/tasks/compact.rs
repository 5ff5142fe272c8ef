//! Compacts metric batches into chunks, one transaction a chunk.

use super::ask::ask;
use crate::{app::App, db, domain::metrics::pyramid::CHUNK_POINTS};
use anyhow::Result;
use senmon_protocol::ids::BranchId;

/// Compacts the branches of which enough landed.
///
/// # Errors
/// Never; a branch that cannot be compacted is logged and does not stop the others.
pub async fn run(app: App) -> Result<()> {
    compact(&app, app.ingest.landed().take(CHUNK_POINTS)).await;
    Ok(())
}

/// Looks the whole landing table through, for what no hint told of: attempts that ended, and what landed before this
/// server started.
///
/// # Errors
/// When Postgres refuses.
pub async fn look(app: App) -> Result<()> {
    let _ = app.ingest.landed().take(0);
    let found = ask(db::metrics::uncompacted(&app.db, CHUNK_POINTS)).await?;
    compact(&app, found).await;
    Ok(())
}

async fn compact(app: &App, found: impl IntoIterator<Item = (BranchId, i64)>) {
    for (branch, fence) in found {
        while !*app.stopping.borrow() {
            match ask(db::metrics::compact(&app.db, branch, fence)).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(branch.id = %branch, lease.fence = fence, %error, "could not compact metric batches");
                    break;
                }
            }
        }
    }
}
