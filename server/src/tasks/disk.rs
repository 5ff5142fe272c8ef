//! Says it when a disk or the database fills up, and keeps what grows from being begun: before Postgres stops, not after.

use super::ask::ask;
use crate::{
    app::App,
    db::{self, events::NewEvent},
    disk::{self, Room},
    domain::disk::{Level, judge},
};
use anyhow::{Context, Result};
use senmon_protocol::{
    said,
    said::{Said, decimal},
    storage::Bytes,
};
use std::{os::unix::fs::MetadataExt, path::Path};

/// Share of the database's budget from which people hear of it.
const NEARLY_FULL: f64 = 0.9;

/// Looks at the disks of the database and of the store.
///
/// # Errors
/// When Postgres or a disk cannot be asked.
pub async fn run(app: App) -> Result<()> {
    let look = app.disk.look();
    let folder = app.disk.folder().display().to_string();
    let said = match look.level {
        Level::Ample => ample(said!("disk_of_database"), &folder, look.room),
        Level::Low => low(said!("disk_of_database"), &folder, look.room),
        Level::Full => said!("disk_full", folder = folder, free = look.room.free),
    };
    say(&app, ["disk_has_room", "disk_low", "disk_full"], look.level, said).await?;
    if let Some(store) = app.storage.folder() {
        let store = store.to_owned();
        let found = tokio::task::spawn_blocking({
            let (store, database) = (store.clone(), app.disk.folder().to_owned());
            let alone = app.disk.reserve() == 0;
            move || (alone || apart(&store, &database)).then(|| disk::room(&store)).transpose()
        });
        if let Some(room) = found.await.context("a look at the store's disk panicked")?? {
            watch_store(&app, &store, room).await?;
        }
    }
    Ok(())
}

fn low(what: Said, folder: &str, room: Room) -> Said {
    said!("disk_low", what = what, folder = folder, free = room.free, total = room.total)
}

fn ample(what: Said, folder: &str, room: Room) -> Said {
    said!("disk_has_room", what = what, folder = folder, free = room.free)
}

/// Whether two folders lie on different file systems.
fn apart(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    device(one) != device(other)
}

async fn watch_store(app: &App, store: &Path, room: Room) -> Result<()> {
    const KINDS: [&str; 3] = ["store_disk_has_room", "store_disk_low", "store_disk_low"];
    let was = match ask(db::events::last_of(&app.db, &KINDS)).await?.as_deref() {
        Some("store_disk_low") => Level::Low,
        _ => Level::Ample,
    };
    let level = judge(app.config.disk_reserve.0, room.free, true, was).0.min(Level::Low);
    let folder = store.display().to_string();
    let said = match level {
        Level::Ample => ample(said!("disk_of_store"), &folder, room),
        Level::Low | Level::Full => low(said!("disk_of_store"), &folder, room),
    };
    app.disk.refuse("store", (level > Level::Ample).then(|| said.clone()));
    say(app, KINDS, level, said).await
}

/// Says it when the level is another one than was said last.
async fn say(app: &App, kinds: [&'static str; 3], level: Level, said: Said) -> Result<()> {
    let last = ask(db::events::last_of(&app.db, &kinds)).await?;
    let (kind, word) = match level {
        Level::Ample => (kinds[0], "info"),
        Level::Low => (kinds[1], "warn"),
        Level::Full => (kinds[2], "error"),
    };
    if last.as_deref().unwrap_or(kinds[0]) != kind {
        app.event(NewEvent { kind, level: word, said, ..NewEvent::default() }).await;
    }
    Ok(())
}

/// Says it when the database comes near its budget, and refuses what grows when it is beyond.
///
/// # Errors
/// When Postgres refuses.
pub async fn watch_database(app: App) -> Result<()> {
    let Some(budget) = app.config.database_budget else { return Ok(()) };
    let used = Bytes(ask(db::usage::bytes(&app.db)).await?);
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = used.0 as f64 / budget.0.max(1) as f64;
    let is_over = share >= 1.0;
    app.disk.refuse("database", is_over.then(|| said!("database_over_budget", used = used, budget = budget)));
    let (level, said) = match share >= NEARLY_FULL {
        true => {
            let percent = decimal(share * 100.0, 0);
            (Level::Low, said!("database_nearly_full", used = used, percent = percent, budget = budget))
        }
        false => (Level::Ample, said!("database_has_room", used = used, budget = budget)),
    };
    say(&app, ["database_has_room", "database_nearly_full", "database_nearly_full"], level, said).await
}
