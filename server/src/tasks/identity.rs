//! Whether the store that is there is the one that this database belongs to: an unmounted folder looks like a store that
//! lost everything. Until it is seen, nothing is condemned, nothing is removed, and commits wait.

use super::ask;
use crate::{
    app::App,
    db::{self, events::NewEvent},
    domain::orphans::is_ours_by,
};
use anyhow::{Context, Result};
use senmon_protocol::{checkpoint::MANIFEST_FILE, ids::StorageKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The object that says which store it is.
pub const STORE_FILE: &str = "senmon-store.json";

#[derive(Debug, Serialize, Deserialize)]
struct StoreFile {
    id: Uuid,
}

/// Whether the right store is there now; an event says so when it is not, and when it is again.
///
/// # Errors
/// When Postgres or the store cannot be read now.
pub async fn is_seen(app: &App) -> Result<bool> {
    let seen = is_ours(app).await?;
    let last = ask(db::events::last_of(&app.db, &["store_unknown", "store_known"])).await?;
    let was_unknown = last.as_deref() == Some("store_unknown");
    let url = app.storage.url();
    let (kind, level, text) = match (seen, was_unknown) {
        (false, false) => (
            "store_unknown",
            "error",
            format!(
                "The store at {url} is not the one of this database: {STORE_FILE} is missing there or names another. Is the disk mounted? Nothing is checked or removed, and checkpoints wait, until it is back."
            ),
        ),
        (true, true) => ("store_known", "info", format!("The store at {url} is there again.")),
        _ => return Ok(seen),
    };
    app.event(NewEvent { kind, level, text, ..NewEvent::default() }).await;
    Ok(seen)
}

async fn is_ours(app: &App) -> Result<bool> {
    let key = StorageKey::new(STORE_FILE)?;
    let here = match app.storage.get(&key).await? {
        // Half a file, or another's: no identity of ours.
        Some(bytes) => match serde_json::from_slice::<StoreFile>(&bytes) {
            Ok(file) => Some(file.id),
            Err(_) => return Ok(false),
        },
        None => None,
    };
    match (ask(db::store::identity(&app.db)).await?, here) {
        (Some(known), here) => Ok(is_ours_by(known, here)),
        (None, Some(here)) => {
            ask(db::store::adopt(&app.db, here)).await?;
            Ok(true)
        }
        (None, None) => {
            // New, or of a version that knew no identity: then what was committed last must be there.
            if let Some(folder) = ask(db::store::newest_folder(&app.db)).await?
                && app.storage.size(&folder.join(MANIFEST_FILE)?).await?.is_none()
            {
                return Ok(false);
            }
            // The object first: found without a row, it is taken over. Of two at once the row's stays.
            let id = Uuid::now_v7();
            write(app, &key, id).await?;
            ask(db::store::adopt(&app.db, id)).await?;
            match ask(db::store::identity(&app.db)).await? {
                Some(known) if known != id => write(app, &key, known).await?,
                _ => {}
            }
            Ok(true)
        }
    }
}

async fn write(app: &App, key: &StorageKey, id: Uuid) -> Result<()> {
    let bytes = serde_json::to_vec(&StoreFile { id }).context("write the store's identity")?;
    app.storage.put(key, bytes).await
}
