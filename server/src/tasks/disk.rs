//! Says it when a disk or the database fills up, and keeps what grows from being begun: before Postgres stops, not after.

use super::ask::ask;
use crate::{
    app::App,
    db::{self, events::NewEvent},
    disk::{self, Room},
    domain::disk::{Level, judge},
};
use anyhow::{Context, Result};
use senmon_protocol::storage::Bytes;
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
    let text = match look.level {
        Level::Ample => format!("The disk of the database ({folder}) has room again: {}.", Bytes(look.room.free)),
        Level::Low => low("database", &folder, look.room),
        Level::Full => format!(
            "The disk of the database ({folder}) is full: {} free. Its reserve is in use; points and log lines wait with the workers until there is room.",
            Bytes(look.room.free)
        ),
    };
    say(&app, ["disk_has_room", "disk_low", "disk_full"], look.level, text).await?;
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

fn low(what: &str, folder: &str, room: Room) -> String {
    format!(
        "The disk of the {what} ({folder}) is nearly full: {} of {} free. New experiments and corpora are refused until there is room.",
        Bytes(room.free),
        Bytes(room.total)
    )
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
    let text = match level {
        Level::Ample => format!("The disk of the store ({folder}) has room again: {}.", Bytes(room.free)),
        Level::Low | Level::Full => low("store", &folder, room),
    };
    app.disk.refuse("store", (level > Level::Ample).then(|| text.clone()));
    say(app, KINDS, level, text).await
}

/// Says it when the level is another one than was said last.
async fn say(app: &App, kinds: [&'static str; 3], level: Level, text: String) -> Result<()> {
    let last = ask(db::events::last_of(&app.db, &kinds)).await?;
    let (kind, word) = match level {
        Level::Ample => (kinds[0], "info"),
        Level::Low => (kinds[1], "warn"),
        Level::Full => (kinds[2], "error"),
    };
    if last.as_deref().unwrap_or(kinds[0]) != kind {
        app.event(NewEvent { kind, level: word, text, ..NewEvent::default() }).await;
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
    let beyond = format!("The database holds {used}, its budget is {budget} (database_budget).");
    app.disk.refuse("database", is_over.then_some(beyond));
    let (level, text) = match share >= NEARLY_FULL {
        true => (
            Level::Low,
            format!(
                "The database holds {used}, {:.0} % of its budget of {budget}; `senmon storage` says what.",
                share * 100.0
            ),
        ),
        false => (Level::Ample, format!("The database has room again: {used} of {budget}.")),
    };
    say(&app, ["database_has_room", "database_nearly_full", "database_nearly_full"], level, text).await
}
