//! Whether the store that is there is the one that this database belongs to: an unmounted folder looks like a store that
//! lost everything. Until it is seen, nothing is condemned, nothing is removed, and commits wait.

use super::ask::ask;
use crate::{
    app::App,
    db::{self, events::NewEvent},
    domain::orphans::is_ours_by,
    storage::Storage,
};
use anyhow::{Context, Result, bail};
use senmon_protocol::{checkpoint::MANIFEST_FILE, ids::StorageKey, said};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

/// The object that says which store it is.
pub const STORE_FILE: &str = "senmon-store.json";

#[derive(Debug, Serialize, Deserialize)]
struct StoreFile {
    id: Uuid,
    /// How often the database was restored: an older one than the store knows is another one's past.
    #[serde(default)]
    epoch: i64,
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
    let (kind, level, said) = match (seen, was_unknown) {
        (false, false) => ("store_unknown", "error", said!("store_unknown", url = url, file = STORE_FILE)),
        (true, true) => ("store_known", "info", said!("store_known", url = url)),
        _ => return Ok(seen),
    };
    app.event(NewEvent { kind, level, said, ..NewEvent::default() }).await;
    Ok(seen)
}

async fn is_ours(app: &App) -> Result<bool> {
    let key = StorageKey::new(STORE_FILE)?;
    let here = match app.storage.get(&key).await? {
        // Half a file, or another's: no identity of ours.
        Some(bytes) => match serde_json::from_slice::<StoreFile>(&bytes) {
            Ok(file) => Some(file),
            Err(_) => return Ok(false),
        },
        None => None,
    };
    match (ask(db::store::identity(&app.db)).await?, here) {
        // A newer epoch is another database's: this one was lost, and restored elsewhere.
        (Some((known, epoch)), here) => {
            let is_later = here.as_ref().is_some_and(|here| here.epoch > epoch);
            Ok(is_ours_by(known, here.map(|here| here.id)) && !is_later)
        }
        (None, Some(here)) => {
            ask(db::store::adopt(&app.db, here.id, here.epoch)).await?;
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
            write(&app.storage, &key, StoreFile { id, epoch: 0 }).await?;
            ask(db::store::adopt(&app.db, id, 0)).await?;
            match ask(db::store::identity(&app.db)).await? {
                Some((known, _)) if known != id => write(&app.storage, &key, StoreFile { id: known, epoch: 0 }).await?,
                _ => {}
            }
            Ok(true)
        }
    }
}

/// Begins the next epoch, of a database that was restored: above that of the database and that of the store, and noted
/// in the store first. Whatever is interrupted, no epoch begins twice; a server on the lost database, should it live
/// still, finds that the store is not its any more.
///
/// # Errors
/// When the store is not the one of this database, or cannot be written.
pub async fn next_epoch(db: &PgPool, storage: &Storage) -> Result<i64> {
    let key = StorageKey::new(STORE_FILE)?;
    let here = storage.get(&key).await?.map(|bytes| serde_json::from_slice::<StoreFile>(&bytes)).transpose();
    let here = here.with_context(|| format!("{STORE_FILE} in {}", storage.url()))?;
    let (id, before) = match (db::store::identity(db).await?, &here) {
        (Some((known, epoch)), Some(here)) if here.id == known => (known, epoch.max(here.epoch)),
        (Some(_), _) => bail!(
            "the store at {} is not the one of this backup: {STORE_FILE} is missing there or names another. Is the disk mounted?",
            storage.url()
        ),
        (None, Some(here)) => (here.id, here.epoch),
        (None, None) => (Uuid::now_v7(), 0),
    };
    let epoch = before + 1;
    write(storage, &key, StoreFile { id, epoch }).await?;
    db::store::adopt(db, id, epoch).await?;
    Ok(epoch)
}

async fn write(storage: &Storage, key: &StorageKey, file: StoreFile) -> Result<()> {
    storage.put(key, serde_json::to_vec(&file).context("write the store's identity")?).await
}
