//! Reads committed checkpoints again, one at a time, and sets damaged ones aside: branches resume from whole ones only.

use crate::{
    app::App,
    db::{self, events::NewEvent},
};
use anyhow::Result;
use senmon_protocol::view::{CheckpointVerdict, CheckpointView};

/// Reads what is due, oldest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn run(app: App) -> Result<()> {
    while let Some(due) = db::checkpoints::next_to_verify(&app.db, app.config.scrub_days).await? {
        verify(&app, &due).await?;
        if *app.stopping.borrow() {
            break;
        }
    }
    Ok(())
}

/// Reads every file of a checkpoint, compares it with the manifest, and keeps the verdict.
///
/// # Errors
/// When Postgres refuses.
pub async fn verify(app: &App, view: &CheckpointView) -> Result<CheckpointVerdict> {
    let (folder, sha256) = (app.storage.path(&view.folder), view.manifest_sha256.clone());
    let read = tokio::task::spawn_blocking(move || senmon_corpus::manifest::verify(&folder, &sha256)).await?;
    let (files, bytes, problem) = match read {
        Ok(manifest) => (manifest.files.len() as u64 + 1, manifest.meta.bytes, None),
        Err(error) => (0, 0, Some(format!("{error:#}"))),
    };
    db::checkpoints::set_verified(&app.db, view.id, problem.as_deref()).await?;
    if let Some(problem) = &problem
        && view.problem.is_none()
    {
        let (branch, step) = (&view.branch, view.meta.step);
        tracing::error!(checkpoint.id = %view.id, branch, step, problem, "a checkpoint is not what was committed");
        let text = format!("Checkpoint of {branch} at step {step} is damaged and set aside: {problem}.");
        app.event(NewEvent {
            kind: "checkpoint_damaged",
            level: "error",
            text,
            experiment_id: Some(view.meta.experiment_id),
            branch_id: Some(view.meta.branch_id),
            step: Some(step),
            ..NewEvent::default()
        })
        .await;
    }
    Ok(CheckpointVerdict { id: view.id, problem, files, bytes })
}
