//! How an attempt ends: written down, said, and what its end wakes.

use crate::{
    app::App,
    db::{
        self, DbError,
        attempts::{Ended, Held},
        events::NewEvent,
    },
    domain::lease::Next,
};
use senmon_protocol::{
    ids::AttemptId,
    job::{Outcome, TerminationReason},
    said,
    said::{Said, of},
    view::{StreamExperiment, StreamMessage},
    worker::CompleteAttempt,
};

/// An event of an attempt.
pub(crate) fn event(held: &Held, kind: &'static str, level: &'static str, said: Said, step: Option<u64>) -> NewEvent {
    NewEvent {
        kind,
        level,
        said,
        experiment_id: held.experiment,
        branch_id: held.branch,
        worker_id: Some(held.worker),
        step,
    }
}

/// Tells whoever looks at the job's owner that it changed.
pub(crate) fn changed(app: &App, held: &Held) {
    if let Some(experiment_id) = held.experiment {
        app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id }));
    }
}

/// Ends an attempt and says so. None when it had ended so before.
///
/// # Errors
/// [`DbError::StaleFence`].
pub async fn end(app: &App, id: AttemptId, body: CompleteAttempt) -> Result<Option<Ended>, DbError> {
    let Some(ended) = db::attempts::complete(&app.db, id, &body).await? else { return Ok(None) };
    let held = &ended.held;
    if let (Outcome::Ended(outcome), Some(next)) = (&body.outcome, ended.next) {
        let next = match next {
            Next::Retry(pause) if pause.num_seconds() > 0 => {
                said!("next_retry_in", seconds = pause.num_seconds().unsigned_abs())
            }
            Next::Retry(_) => said!("next_goes_on"),
            Next::GiveUp => said!("next_given_up"),
            Next::Hold => said!("next_waits"),
            Next::Cancelled => said!("next_cancelled"),
        };
        let calm = outcome.reason.is_planned() && outcome.reason != TerminationReason::LossSpike;
        let said = said!("attempt_ended", job = of::title(&held.title), how = of::end(outcome), next = next);
        let (kind, level) = match (ended.next, held.branch) {
            (Some(Next::GiveUp), Some(_)) => ("branch_failed", "error"),
            _ if calm => ("attempt_ended", "info"),
            _ => ("attempt_ended", "warn"),
        };
        app.event(event(held, kind, level, said, ended.step)).await;
        if let (TerminationReason::CorruptData, Some(branch)) = (outcome.reason, held.branch) {
            db::checkpoints::doubt(&app.db, branch).await?;
            app.wake.scrub.notify_one();
        }
        if !outcome.reason.is_planned()
            && !outcome.reason.is_users_fault()
            && let Some(why) = db::attempts::judge_worker(&app.db, held.worker).await?
        {
            app.event(NewEvent {
                kind: "worker_set_aside",
                level: "error",
                said: said!("worker_set_aside", why = why),
                worker_id: Some(held.worker),
                ..NewEvent::default()
            })
            .await;
        }
    }
    if let (Outcome::Completed(_), Some(_)) = (&body.outcome, held.branch) {
        let said = said!("attempt_done", job = of::title(&held.title));
        app.event(event(held, "attempt_ended", "info", said, ended.step)).await;
    }
    // A job that goes on brings its owner no further.
    if !matches!(ended.next, Some(Next::Retry(_))) {
        let owners = if held.experiment.is_some() { &app.wake.advance } else { &app.wake.scan };
        owners.notify_one();
    }
    app.wake.schedule.notify_one();
    changed(app, held);
    Ok(Some(ended))
}
