//! The second half of the worker protocol: fenced writes of attempts.

use crate::{
    api::{
        body::{Body, Message},
        error::{ApiError, ApiResult},
        params::Path,
    },
    app::App,
    db::{self, DbError, ingest::Batch},
    domain::{
        claims,
        disk::Level,
        metrics::{LOSS, Points},
    },
    ending::{changed, end, event},
    tasks::identity,
};
use axum::{Json, extract::State};
use senmon_corpus::hex;
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ids::{AttemptId, Fence, StorageKey},
    job::{JobSpec, Outcome},
    problem::Fault,
    said,
    said::of,
    view::{StreamMessage, StreamMetrics},
    worker::{AnnounceCheckpoint, AttemptStarted, CommitCheckpoint, CompleteAttempt, LogBatch, MetricBatch},
};
use sha2::{Digest, Sha256};
use std::time::Duration;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(started))
        .routes(routes!(metrics))
        .routes(routes!(logs))
        .routes(routes!(announce))
        .routes(routes!(checkpoints))
        .routes(routes!(complete))
}

/// Largest body of what grows with the work: results of large corpora, points and lines that waited for hours.
const WRITES_KIB: usize = 16 << 10;

/// Numbers that JSON's readers hold exactly are below this.
const NUMBER_MAX: u64 = 1 << 53;

fn fault(fault: Fault) -> ApiError {
    ApiError::Invalid(vec![fault])
}

/// The job that an attempt holds, and the domains of its clustering.
async fn held_job(app: &App, id: AttemptId, fence: Fence) -> ApiResult<(JobSpec, u32)> {
    Ok(db::attempts::job(&app.db, id, fence).await?.ok_or_else(|| DbError::StaleFence(id.to_string()))?)
}

/// While the database's disk is full, what is most of what is written waits in the workers' spools.
fn waits_for_room(app: &App) -> ApiResult<()> {
    let full = app.disk.look().level == Level::Full;
    if full { Err(ApiError::NoRoom(said!("no_room_database"))) } else { Ok(()) }
}

#[utoipa::path(post, path = "/attempts/{id}/started", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the attempt")), request_body = AttemptStarted, responses((status = 200, description = "noted"), (status = 409, description = "stale_fence")))]
async fn started(
    State(app): State<App>,
    Path(id): Path<AttemptId>,
    Body(body): Body<AttemptStarted>,
) -> ApiResult<Json<()>> {
    let (job, _) = held_job(&app, id, body.fence).await?;
    claims::started(&job, body.step_start).map_err(fault)?;
    let (held, is_new) = db::attempts::started(&app.db, id, &body).await?;
    if !is_new {
        return Ok(Json(()));
    }
    if body.step_start > 0 {
        let (job, step) = (of::title(&held.title), body.step_start);
        let said = match body.resume_verified {
            Some(true) => said!("attempt_resumed_exactly", job = job, step = step),
            Some(false) => said!("attempt_resumed_otherwise", job = job, step = step),
            None => said!("attempt_resumed", job = job, step = step),
        };
        let level = if body.resume_verified == Some(false) { "error" } else { "info" };
        app.event(event(&held, "attempt_resumed", level, said, Some(step))).await;
    }
    if body.step_start == 0 {
        let said = said!("attempt_started", job = of::title(&held.title));
        app.event(event(&held, "attempt_started", "info", said, Some(0))).await;
    }
    changed(&app, &held);
    Ok(Json(()))
}

#[utoipa::path(post, path = "/attempts/{id}/metrics", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the attempt")), request_body = MetricBatch, responses((status = 200, description = "stored, once"), (status = 409, description = "stale_fence"), (status = 422, description = "columns of different lengths")))]
async fn metrics(
    State(app): State<App>,
    Path(id): Path<AttemptId>,
    Message(body): Message<MetricBatch, WRITES_KIB>,
) -> ApiResult<Json<()>> {
    waits_for_room(&app)?;
    let n = body.steps.len();
    for (path, found) in [("tokens", body.tokens.len()), ("at_ms", body.at_ms.len())] {
        if found != n {
            return Err(ApiError::unsaid(path, format!("found {found} values, expected {n} as in steps")));
        }
    }
    claims::series(&body.series, n).map_err(fault)?;
    if n == 0 || body.steps.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(ApiError::unsaid("steps", "expected at least one step, ascending"));
    }
    let plain = body.steps.iter().chain(&body.tokens).all(|value| *value < NUMBER_MAX)
        && body.at_ms.iter().all(|at| at.unsigned_abs() < NUMBER_MAX);
    if !plain {
        return Err(ApiError::unsaid("steps", "found a step, a count or a time of 2^53 or more, expected less"));
    }
    let signed = |values: &[u64]| values.iter().map(|value| db::signed(*value)).collect::<Vec<_>>();
    let points = Points {
        steps: signed(&body.steps),
        tokens: signed(&body.tokens),
        at_ms: body.at_ms.clone(),
        series: body.series,
    };
    let batch = Batch {
        attempt: id,
        fence: body.fence,
        step_first: points.steps[0],
        step_last: points.steps[n - 1],
        points: i32::try_from(n).unwrap_or(i32::MAX),
        loss: points.series.get(LOSS).and_then(|values| values[n - 1]),
        body: points.encode(false),
    };
    let last = batch.step_last;
    let place = app.ingest.batch(batch).await?;
    if let Some(steps) = place.steps.filter(|steps| last > *steps) {
        return Err(ApiError::unsaid("steps", format!("found step {last}, the branch has {steps}")));
    }
    if let Some((experiment_id, branch_id)) = place.experiment.zip(place.branch) {
        app.hint(StreamMessage::Metrics(StreamMetrics {
            experiment_id,
            branch_id,
            steps: body.steps,
            tokens: body.tokens,
            at_ms: body.at_ms,
            series: points.series,
        }));
    }
    Ok(Json(()))
}

#[utoipa::path(post, path = "/attempts/{id}/logs", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the attempt")), request_body = LogBatch, responses((status = 200, description = "stored, once"), (status = 409, description = "stale_fence")))]
async fn logs(
    State(app): State<App>,
    Path(id): Path<AttemptId>,
    Message(body): Message<LogBatch, WRITES_KIB>,
) -> ApiResult<Json<()>> {
    waits_for_room(&app)?;
    claims::lines(&body).map_err(fault)?;
    for event in db::attempts::logs(&app.db, id, &body).await? {
        app.hint(StreamMessage::Event(event));
    }
    Ok(Json(()))
}

#[utoipa::path(post, path = "/attempts/{id}/announce", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the attempt")), request_body = AnnounceCheckpoint, responses((status = 200, description = "noted"), (status = 409, description = "stale_fence")))]
async fn announce(
    State(app): State<App>,
    Path(id): Path<AttemptId>,
    Body(body): Body<AnnounceCheckpoint>,
) -> ApiResult<Json<()>> {
    let (job, _) = held_job(&app, id, body.fence).await?;
    claims::checkpoint_place(&job, body.fence, &body.folder, body.step).map_err(fault)?;
    db::attempts::announce(&app.db, id, &body).await?;
    Ok(Json(()))
}

#[utoipa::path(post, path = "/attempts/{id}/checkpoints", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the attempt")), request_body = CommitCheckpoint, responses((status = 200, description = "committed, once"), (status = 409, description = "stale_fence"), (status = 422, description = "the folder has no such manifest, or not the files that it lists")))]
async fn checkpoints(
    State(app): State<App>,
    Path(id): Path<AttemptId>,
    Body(body): Body<CommitCheckpoint>,
) -> ApiResult<Json<()>> {
    let (job, domains) = held_job(&app, id, body.fence).await?;
    if !identity::is_seen(&app).await? {
        // The worker keeps it in its spool, and asks again.
        return Err(ApiError::Unavailable(anyhow::anyhow!("the store that is there is not the one of this database")));
    }
    let written = &body.checkpoint;
    claims::committed(&job, domains, body.fence, written).map_err(fault)?;
    let key =
        written.folder.join(MANIFEST_FILE).map_err(|error| ApiError::unsaid("checkpoint.folder", error.to_string()))?;
    let missing = || ApiError::unsaid("checkpoint.folder", format!("found no {key} in the store"));
    let bytes = app.storage.get(&key).await.map_err(ApiError::Internal)?.ok_or_else(missing)?;
    let found = hex(&Sha256::digest(&bytes));
    if found != written.manifest_sha256 {
        return Err(ApiError::unsaid(
            "checkpoint.manifest_sha256",
            format!("found {}, the store has {found}", written.manifest_sha256),
        ));
    }
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::unsaid("checkpoint.folder", format!("{MANIFEST_FILE}: {error}")))?;
    is_there(&app, &written.folder, &manifest).await?;
    let (held, is_new) = db::attempts::checkpoint(&app.db, id, body.fence, written, &manifest).await?;
    if is_new {
        let step = manifest.meta.step;
        let said = said!("checkpoint_committed", job = of::title(&held.title), step = step);
        app.event(event(&held, "checkpoint_committed", "info", said, Some(step))).await;
    }
    Ok(Json(()))
}

/// Time in which the store says whether a checkpoint is there; beyond it the checkpoint is taken at its word, and the
/// scrub reads it. Well within what a worker waits for an answer.
const ASK_MAX: Duration = Duration::from_secs(10);

/// Whether the store holds every file that a manifest lists, in its size; hashes are the scrub's. A store that cannot
/// be asked now refuses nothing.
async fn is_there(app: &App, folder: &StorageKey, manifest: &Manifest) -> ApiResult<()> {
    let refused = |text: String| Err(ApiError::unsaid("checkpoint.folder", text));
    if manifest.files.contains_key(MANIFEST_FILE) {
        return refused(format!("{MANIFEST_FILE} lists itself: no such checkpoint can ever be verified"));
    }
    match tokio::time::timeout(ASK_MAX, first_unlike(app, folder, manifest)).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(text))) => refused(text),
        Ok(Err(error)) => {
            tracing::warn!(checkpoint.folder = %folder, error = format!("{error:#}"), "a checkpoint is committed unseen");
            Ok(())
        }
        Err(_) => {
            tracing::warn!(checkpoint.folder = %folder, "a checkpoint is committed unseen: the store does not answer");
            Ok(())
        }
    }
}

/// The first file of a manifest that is missing, or of another size, in words.
async fn first_unlike(app: &App, folder: &StorageKey, manifest: &Manifest) -> anyhow::Result<Option<String>> {
    for (name, entry) in &manifest.files {
        match app.storage.size(&folder.join(name)?).await? {
            Some(found) if found == entry.bytes => {}
            None => return Ok(Some(format!("found no {name} in {folder}, its manifest lists it"))),
            Some(found) => {
                return Ok(Some(format!(
                    "found {found} bytes of {name} in {folder}, its manifest says {}",
                    entry.bytes
                )));
            }
        }
    }
    Ok(None)
}

#[utoipa::path(post, path = "/attempts/{id}/complete", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the attempt")), request_body = CompleteAttempt, responses((status = 200, description = "ended, once"), (status = 409, description = "stale_fence")))]
async fn complete(
    State(app): State<App>,
    Path(id): Path<AttemptId>,
    Body(body): Body<CompleteAttempt, WRITES_KIB>,
) -> ApiResult<Json<()>> {
    // One that holds its job no more is answered by its fence, or as it was before.
    if let Outcome::Completed(completed) = &body.outcome
        && let Some((job, domains)) = db::attempts::job(&app.db, id, body.fence).await?
    {
        claims::completed(&job, domains, body.fence, &completed.result).map_err(fault)?;
    }
    if let Some(ended) = end(&app, id, body).await? {
        app.polls.freed(ended.held.worker, &ended.slots);
        app.wake.schedule.notify_one();
    }
    Ok(Json(()))
}
