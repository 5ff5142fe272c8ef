//! Reads committed checkpoints again, one at a time, and sets damaged ones aside: branches resume from whole ones only.

use super::{aside::Aside, ask::ask, identity};
use crate::{
    app::App,
    db::{self, events::NewEvent},
};
use anyhow::{Result, ensure};
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    said,
    view::{CheckpointVerdict, CheckpointView, TroubleKind},
};

/// Reads what is due, oldest first. A store that cannot be read now condemns nothing: it is asked again later.
///
/// # Errors
/// When Postgres or the store refuses.
pub async fn run(app: App) -> Result<()> {
    if !identity::is_seen(&app).await? {
        return Ok(());
    }
    while !*app.stopping.borrow() {
        let aside = Aside::load(&app, TroubleKind::Checkpoint).await?;
        let due = ask(db::checkpoints::next_to_verify(&app.db, app.config.scrub_days, &aside.resting())).await?;
        let Some(id) = due else { break };
        let read = async {
            let view = ask(db::checkpoints::get(&app.db, id)).await?;
            verify(&app, &view).await
        };
        aside.attempt(id.0, "", read).await?;
    }
    Ok(())
}

/// Reads every file of a checkpoint, compares it with the manifest, and keeps the verdict. One that was removed while
/// it was read is not damaged.
///
/// # Errors
/// When Postgres refuses, or the store cannot be read now.
pub async fn verify(app: &App, view: &CheckpointView) -> Result<CheckpointVerdict> {
    let mut found = read(app, view).await?;
    if found.is_err() {
        // A disk that goes away in between looks like damage: only what is so twice, in the right store, counts.
        ensure!(identity::is_seen(app).await?, "the store that is there is not the one of this database");
        found = read(app, view).await?;
    }
    let (files, bytes, problem) = match found {
        Ok(manifest) => (manifest.files.len() as u64 + 1, manifest.meta.bytes, None),
        Err(problem) => (0, 0, Some(problem)),
    };
    let counts = ask(db::checkpoints::set_verified(&app.db, view.id, problem.as_deref())).await?;
    let problem = problem.filter(|_| counts);
    if let Some(problem) = &problem
        && view.problem.is_none()
    {
        let (branch, step) = (&view.branch, view.meta.step);
        tracing::error!(checkpoint.id = %view.id, branch, step, problem, "a checkpoint is not what was committed");
        let said = said!("checkpoint_damaged", branch = branch, step = step, problem = problem);
        app.event(NewEvent {
            kind: "checkpoint_damaged",
            level: "error",
            said,
            experiment_id: Some(view.meta.experiment_id),
            branch_id: Some(view.meta.branch_id),
            step: Some(step),
            ..NewEvent::default()
        })
        .await;
    }
    Ok(CheckpointVerdict { id: view.id, problem, files, bytes })
}

/// The manifest, when it and all of its files are what was committed; else the first difference.
async fn read(app: &App, view: &CheckpointView) -> Result<Result<Manifest, String>> {
    let Some(bytes) = app.storage.get(&view.folder.join(MANIFEST_FILE)?).await? else {
        return Ok(Err(format!("{MANIFEST_FILE} is missing")));
    };
    let manifest = match senmon_corpus::manifest::parse(&bytes, &view.manifest_sha256) {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    for (name, entry) in &manifest.files {
        let Some((bytes, sha256)) = app.storage.hash(&view.folder.join(name)?).await? else {
            return Ok(Err(format!("{name} is missing")));
        };
        if let Err(error) = senmon_corpus::manifest::compare(name, entry, bytes, &sha256) {
            return Ok(Err(format!("{error:#}")));
        }
    }
    Ok(Ok(manifest))
}
