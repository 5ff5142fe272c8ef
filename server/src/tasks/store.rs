//! Keeps the store tidy: retention, what dead attempts left, the budget. A row's state changes before its bytes do, and
//! every step may be repeated.

use super::{
    aside::{Aside, Tried},
    ask::ask,
    identity,
};
use crate::{
    app::App,
    db::{self, events::NewEvent, retention::Deleting},
    domain::orphans::{ahead, orphans},
};
use anyhow::{Context, Result};
use chrono::TimeDelta;
use senmon_protocol::{said, said::decimal, storage::Bytes, view::TroubleKind};
use std::time::Duration;

/// Share of the budget from which people hear of it.
const NEARLY_FULL: f64 = 0.9;
/// Age of the count that the budget is compared with.
const COUNT_AGE_MAX: Duration = Duration::from_secs(60);

/// Removes the checkpoints that no policy keeps and nothing refers to.
///
/// # Errors
/// When Postgres or the store refuses.
pub async fn retain(app: App) -> Result<()> {
    if !identity::is_seen(&app).await? {
        return Ok(());
    }
    let aside = Aside::load(&app, TroubleKind::Branch).await?;
    for branch in ask(db::retention::branches(&app.db)).await? {
        if !aside.rests(branch.0) {
            aside.attempt(branch.0, "", async { Ok(ask(db::retention::mark(&app.db, branch)).await?) }).await?;
        }
    }
    remove_marked(&app).await
}

/// Removes the bytes of what is marked, whoever marked it and whenever.
async fn remove_marked(app: &App) -> Result<()> {
    let aside = Aside::load(app, TroubleKind::Checkpoint).await?;
    let marked = ask(db::retention::deleting(&app.db)).await?;
    for branch in marked.chunk_by(|a, b| a.branch == b.branch) {
        let mut removed = Vec::new();
        for checkpoint in branch.iter().filter(|checkpoint| !aside.rests(checkpoint.id.0)) {
            let remove = async {
                app.storage.delete_folder(&checkpoint.folder).await?;
                Ok(ask(db::retention::deleted(&app.db, checkpoint.id)).await?)
            };
            let name = said!("checkpoint_of_branch", branch = &checkpoint.branch_name, step = checkpoint.step);
            if aside.attempt(checkpoint.id.0, name, remove).await? == Tried::Done(()) {
                removed.push(checkpoint);
            }
        }
        let committed: Vec<&Deleting> = removed.iter().copied().filter(|c| c.bytes.is_some()).collect();
        let steps: Vec<String> = committed.iter().map(|c| c.step.to_string()).collect();
        tracing::info!(branch.id = %branch[0].branch, branch.name = branch[0].branch_name, checkpoints = removed.len(), "removed checkpoints");
        if committed.is_empty() {
            continue;
        }
        let freed = Bytes(committed.iter().filter_map(|c| c.bytes).sum());
        let name = &branch[0].branch_name;
        let said = said!("checkpoints_removed", branch = name, steps = steps, freed = freed);
        app.event(NewEvent {
            kind: "checkpoints_removed",
            level: "info",
            said,
            experiment_id: Some(branch[0].experiment),
            branch_id: Some(branch[0].branch),
            step: committed.last().map(|c| c.step),
            ..NewEvent::default()
        })
        .await;
    }
    Ok(())
}

/// Removes what attempts that are over left behind, when it is older than the grace.
///
/// # Errors
/// When Postgres or the store refuses.
pub async fn sweep(app: App) -> Result<()> {
    if !identity::is_seen(&app).await? {
        return Ok(());
    }
    let grace = i64::try_from(app.config.orphan_grace_ms).context("orphan_grace_ms")?;
    let before = ask(db::workers::now(&app.db)).await? - TimeDelta::milliseconds(grace);
    ask(db::retention::abandon(&app.db, before)).await?;
    remove_marked(&app).await?;
    // Listed first: what is committed meanwhile has a row by the time that the rows are read.
    let objects = app.storage.list(None).await?;
    let owners = ask(db::retention::owners(&app.db)).await?;
    if let Some(folder) = ahead(&objects, &owners) {
        return say_ahead(&app, folder).await;
    }
    let spoken_for = ask(db::retention::folders(&app.db)).await?;
    for folder in orphans(&objects, &owners, &spoken_for, before) {
        app.storage.delete_folder(&folder).await?;
        let said = said!("orphan_removed", folder = folder.as_str());
        app.event(NewEvent { kind: "orphan_removed", level: "info", said, ..NewEvent::default() }).await;
    }
    Ok(())
}

/// Says once that the database is older than its store: nothing is swept, for it may be what was lost.
async fn say_ahead(app: &App, folder: &str) -> Result<()> {
    if ask(db::events::last_of(&app.db, &["store_ahead", "restored"])).await?.as_deref() == Some("store_ahead") {
        return Ok(());
    }
    let said = said!("store_ahead", folder = folder);
    app.event(NewEvent { kind: "store_ahead", level: "error", said, ..NewEvent::default() }).await;
    Ok(())
}

/// Says so when the store fills up, once until it has room again.
///
/// # Errors
/// When Postgres or the store refuses.
pub async fn watch_budget(app: App) -> Result<()> {
    let Some(budget) = app.config.storage_budget else { return Ok(()) };
    let (usage, _) = app.usage.count(&app.storage, COUNT_AGE_MAX).await?;
    let used = Bytes(usage.total());
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = used.0 as f64 / budget.0.max(1) as f64;
    let last = ask(db::events::last_of(&app.db, &["storage_nearly_full", "storage_has_room"])).await?;
    let was_full = last.as_deref() == Some("storage_nearly_full");
    let percent = decimal(share * 100.0, 0);
    let (kind, level, said) = match (share >= NEARLY_FULL, was_full) {
        (true, false) => {
            let said = said!("storage_nearly_full", used = used, percent = percent, budget = budget);
            ("storage_nearly_full", "warn", said)
        }
        (false, true) => ("storage_has_room", "info", said!("storage_has_room", used = used, budget = budget)),
        _ => return Ok(()),
    };
    app.event(NewEvent { kind, level, said, ..NewEvent::default() }).await;
    Ok(())
}
