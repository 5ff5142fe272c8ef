//! Branches: their state, curves, attempts, logs, and what people do to them.

use crate::{
    api::{
        auth::Who,
        body::Body,
        error::{ApiError, ApiResult},
        gate::Made,
        params::{PageQuery, Path, Query},
        storage::may_grow,
    },
    app::App,
    db::{self, events::NewEvent, experiments::ExperimentRow, jobs::Wish},
    domain::{
        advance::experiment::ensemble_title,
        ancestry::why_not_queued,
        expand::beyond,
        metrics::{
            draw::{self, draw},
            pyramid::Buckets,
        },
        validate::is_branch_name,
    },
};
use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use senmon_corpus::{shard_set::windows_by_domain, windows::WindowOrder};
use senmon_protocol::{
    ids::{BranchId, ExperimentId},
    job::{DomainWeight, Mixture},
    lineage::Lineage,
    said,
    said::{
        Said,
        expected::{found, quoted, range},
    },
    view::{
        AttemptView, BranchState, BranchView, ForkBranch, JobState, LogsView, MetricsView, Page, StreamExperiment,
        StreamMessage,
    },
};
use std::collections::HashMap;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(metrics))
        .routes(routes!(all_metrics))
        .routes(routes!(attempts))
        .routes(routes!(logs))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(go_on))
        .routes(routes!(fork))
}

/// Says of waiting and queued branches why they wait. `all` are the branches of their experiments.
///
/// # Errors
/// When Postgres refuses.
pub async fn explain(app: &App, branches: &mut [BranchView], all: &[BranchView]) -> ApiResult<()> {
    for branch in branches.iter_mut().filter(|branch| branch.state == BranchState::Waiting) {
        branch.explain(why_not_queued(branch, all));
    }
    if branches.iter().all(|branch| branch.state != BranchState::Queued) {
        return Ok(());
    }
    let scene = crate::fleet::scene(app).await?;
    let queued = scene.jobs.iter().filter(|job| job.state == JobState::Queued);
    let queued: HashMap<_, _> = queued.filter_map(|job| Some((job.branch_id?, job))).collect();
    for branch in branches.iter_mut().filter(|branch| branch.state == BranchState::Queued) {
        if let Some(job) = queued.get(&branch.id) {
            branch.explain(scene.why(job));
        }
    }
    Ok(())
}

#[utoipa::path(get, path = "/branches/{id}", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "the branch", body = BranchView), (status = 404, description = "no such branch")))]
async fn show(State(app): State<App>, Path(id): Path<BranchId>) -> ApiResult<Json<BranchView>> {
    let mut branch = [db::branches::get(&app.db, id).await?];
    let all = match branch[0].state {
        BranchState::Waiting => db::branches::plain(&app.db, branch[0].experiment_id).await?,
        _ => Vec::new(),
    };
    explain(&app, &mut branch, &all).await?;
    let [branch] = branch;
    Ok(Json(branch))
}

/// Which points of which curves.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct MetricsQuery {
    /// Metric names, separated by commas; all when absent.
    keys: Option<String>,
    /// Points of a curve. Default 2,000.
    #[param(minimum = 1, maximum = 10000)]
    points_max: Option<usize>,
    /// First step.
    step_from: Option<i64>,
    /// Last step.
    step_to: Option<i64>,
}

/// Most points of a curve.
const POINTS_MAX: usize = 10_000;

/// Points of a curve: what was asked for.
fn most(query: &MetricsQuery) -> ApiResult<usize> {
    match query.points_max.unwrap_or(2000) {
        most @ 1..=POINTS_MAX => Ok(most),
        most => Err(ApiError::invalid("points_max", found(most, range(1, POINTS_MAX)))),
    }
}

async fn curves(app: &App, id: BranchId, query: &MetricsQuery) -> ApiResult<MetricsView> {
    let (from, to) = (query.step_from.unwrap_or(0), query.step_to.unwrap_or(i64::MAX));
    let keys: Vec<String> =
        query.keys.as_deref().unwrap_or_default().split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect();
    let most = most(query)?;
    let read = db::metrics::material(&app.db, id, (from, to), &keys, most).await?;
    let (current, tails) = draw(read.pieces, &read.finer, &read.segments, (from, to));
    let drawn = current.fold_to(most);
    let unsigned = |column: &[i64]| column.iter().map(|value| db::count(*value)).collect();
    let events = db::events::on_axis(&app.db, id, 1000).await?;
    Ok(MetricsView {
        branch_id: id,
        steps: unsigned(&drawn.step_last),
        tokens: unsigned(&drawn.tokens),
        series: draw::curves(&drawn, &keys),
        at_ms: drawn.at_ms,
        superseded: tails.iter().map(|(fence, tail)| draw::tail(*fence, &tail.fold_to(most))).collect(),
        events,
    })
}

/// The current curves of a branch over some steps, in at most so many buckets; all metrics when no key is named.
///
/// # Errors
/// When Postgres refuses, or a row is damaged.
pub async fn current(app: &App, id: BranchId, keys: &[String], steps: (i64, i64), most: usize) -> ApiResult<Buckets> {
    let read = db::metrics::material(&app.db, id, steps, keys, most).await?;
    Ok(draw(read.pieces, &read.finer, &read.segments, steps).0.fold_to(most))
}

#[utoipa::path(get, path = "/branches/{id}/metrics", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch"), MetricsQuery), responses((status = 200, description = "its curves", body = MetricsView)))]
async fn metrics(
    State(app): State<App>,
    Path(id): Path<BranchId>,
    Query(query): Query<MetricsQuery>,
) -> ApiResult<Json<MetricsView>> {
    db::branches::ensure(&app.db, id).await?;
    Ok(Json(curves(&app, id, &query).await?))
}

#[utoipa::path(get, path = "/experiments/{id}/metrics", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment"), MetricsQuery), responses((status = 200, description = "curves of all branches that have points", body = Vec<MetricsView>)))]
async fn all_metrics(
    State(app): State<App>,
    Path(id): Path<ExperimentId>,
    Query(query): Query<MetricsQuery>,
) -> ApiResult<Json<Vec<MetricsView>>> {
    most(&query)?;
    db::experiments::get(&app.db, id).await?;
    let mut views = Vec::new();
    for branch in db::branches::of_experiment(&app.db, id).await?.rows {
        if branch.attempts > 0 && branch.steps > 0 {
            views.push(curves(&app, branch.id, &query).await?);
        }
    }
    Ok(Json(views))
}

#[utoipa::path(get, path = "/branches/{id}/attempts", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch"), PageQuery), responses((status = 200, description = "attempts, oldest first", body = Page<AttemptView>)))]
async fn attempts(
    State(app): State<App>,
    Path(id): Path<BranchId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<Page<AttemptView>>> {
    db::branches::ensure(&app.db, id).await?;
    Ok(Json(query.of(db::attempts::of(&app.db, Some(id), None).await?, |attempt| attempt.id.to_string())?))
}

/// Where to read on.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// `next_after` of the answer before.
    pub after: Option<i64>,
}

#[utoipa::path(get, path = "/branches/{id}/logs", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch"), LogsQuery), responses((status = 200, description = "log lines, oldest first", body = LogsView)))]
async fn logs(
    State(app): State<App>,
    Path(id): Path<BranchId>,
    Query(query): Query<LogsQuery>,
) -> ApiResult<Json<LogsView>> {
    db::branches::ensure(&app.db, id).await?;
    Ok(Json(db::events::logs(&app.db, Some(id), None, query.after.unwrap_or(0)).await?))
}

async fn changed(app: &App, id: BranchId, say: impl Fn(&str) -> Said) -> ApiResult<Json<BranchView>> {
    let branch = db::branches::get(&app.db, id).await?;
    app.event(NewEvent {
        kind: "branch_changed",
        level: "info",
        said: say(&branch.name),
        experiment_id: Some(branch.experiment_id),
        branch_id: Some(id),
        step: Some(branch.step),
        ..NewEvent::default()
    })
    .await;
    app.wake.advance.notify_one();
    app.wake.schedule.notify_one();
    app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: branch.experiment_id }));
    Ok(Json(branch))
}

#[utoipa::path(post, path = "/branches/{id}/pause", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "paused; what runs saves and is released", body = BranchView), (status = 409, description = "over or paused")))]
async fn pause(State(app): State<App>, Who(who): Who, Path(id): Path<BranchId>) -> ApiResult<Json<BranchView>> {
    db::jobs::wish(&app.db, id, Wish::Pause).await?;
    changed(&app, id, |branch| said!("branch_paused", who = &who.name, branch = branch)).await
}

#[utoipa::path(post, path = "/branches/{id}/resume", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "goes on", body = BranchView), (status = 409, description = "not paused")))]
async fn resume(State(app): State<App>, Who(who): Who, Path(id): Path<BranchId>) -> ApiResult<Json<BranchView>> {
    db::jobs::wish(&app.db, id, Wish::Resume).await?;
    changed(&app, id, |branch| said!("branch_resumed", who = &who.name, branch = branch)).await
}

#[utoipa::path(post, path = "/branches/{id}/cancel", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "cancelled", body = BranchView), (status = 409, description = "over")))]
async fn cancel(State(app): State<App>, Who(who): Who, Path(id): Path<BranchId>) -> ApiResult<Json<BranchView>> {
    db::jobs::wish(&app.db, id, Wish::Cancel).await?;
    changed(&app, id, |branch| said!("branch_cancelled", who = &who.name, branch = branch)).await
}

#[utoipa::path(post, path = "/branches/{id}/continue", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "goes on from its last checkpoint", body = BranchView), (status = 409, description = "neither failed nor cancelled")))]
async fn go_on(State(app): State<App>, Who(who): Who, Path(id): Path<BranchId>) -> ApiResult<Json<BranchView>> {
    db::branches::go_on(&app.db, id).await?;
    changed(&app, id, |branch| said!("branch_continued", who = &who.name, branch = branch)).await
}

#[utoipa::path(post, path = "/branches/{id}/fork", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), request_body = ForkBranch, responses((status = 201, description = "the new branch", body = BranchView), (status = 409, description = "no whole checkpoint, or the experiment is over"), (status = 422, description = "faults of the input")))]
async fn fork(
    State(app): State<App>,
    Who(who): Who,
    Path(id): Path<BranchId>,
    Body(body): Body<ForkBranch>,
) -> ApiResult<impl IntoResponse> {
    may_grow(&app)?;
    let branch = db::branches::get(&app.db, id).await?;
    let experiment = db::experiments::get(&app.db, branch.experiment_id).await?;
    let name = body.name.trim();
    // Among the contestants of the report the experts used together are called so.
    if !is_branch_name(name) || name == ensemble_title(0) {
        let expected = said!("expected_fork_name", taken = quoted(&ensemble_title(0)));
        return Err(ApiError::invalid("name", found(quoted(name), expected)));
    }
    let open = matches!(
        experiment.state,
        senmon_protocol::view::ExperimentState::Running | senmon_protocol::view::ExperimentState::Paused
    );
    if !open {
        return Err(ApiError::Conflict(said!("fork_needs_open")));
    }
    let checkpoints = db::checkpoints::list(&app.db, None, Some(id), body.checkpoint_id, None, 1000).await?.rows;
    let checkpoint = match (checkpoints.into_iter().find(|found| found.problem.is_none()), body.checkpoint_id) {
        (Some(checkpoint), _) => checkpoint,
        (None, Some(named)) => {
            let expected = said!("expected_checkpoint_of", branch = &branch.name);
            return Err(ApiError::invalid("checkpoint_id", found(named.to_string(), expected)));
        }
        (None, None) => return Err(ApiError::Conflict(said!("no_checkpoint_yet", branch = branch.name))),
    };
    let domains = experiment.spec.clustering.domains;
    let mixture = match body.mixture {
        Some(weights) if weights.is_empty() => {
            return Err(ApiError::invalid("mixture", said!("mixture_empty")));
        }
        Some(weights) => {
            if let Some((domain, weight)) =
                weights.iter().find(|(domain, weight)| **domain >= domains || !weight.is_finite() || **weight <= 0.0)
            {
                let said = said!("mixture_wrong", domain = *domain, weight = *weight, domains = domains);
                return Err(ApiError::invalid("mixture", said));
            }
            Mixture {
                version: 2,
                weights: weights.into_iter().map(|(domain, weight)| DomainWeight { domain, weight }).collect(),
                part: None,
                reshuffle: None,
            }
        }
        None => branch.mixture.clone().ok_or_else(|| ApiError::invalid("mixture", said!("mixture_missing")))?,
    };
    let batch = branch.training.as_ref().map_or(0, |training| u64::from(training.batch_windows))
        * u64::from(experiment.spec.data.sequence_length);
    if body.tokens.0 < batch || batch == 0 {
        return Err(ApiError::invalid("tokens", found(body.tokens.0, said!("expected_one_step", tokens = batch))));
    }
    let steps = body.tokens.0 / batch;
    if let Some(message) = beyond_epochs(&experiment, &branch, &mixture, &checkpoint.meta.lineage, steps) {
        return Err(ApiError::invalid("tokens", message));
    }
    let new = db::branches::insert_fork(&app.db, &branch, checkpoint.id, name, &mixture, steps).await?;
    let forked = changed(&app, new, |branch| said!("branch_forked", who = &who.name, branch = branch)).await?;
    Ok((StatusCode::CREATED, Extension(Made(new.0)), forked))
}

/// What is wrong with a fork's budget: domains that hold nothing, or would be read too often along its lineage.
fn beyond_epochs(
    experiment: &ExperimentRow,
    branch: &BranchView,
    mixture: &Mixture,
    lineage: &Lineage,
    steps: u64,
) -> Option<Said> {
    let (index, training) = (experiment.shard_index.as_ref()?, branch.training.as_ref()?);
    let length = experiment.spec.data.sequence_length;
    let order = WindowOrder::new(&windows_by_domain(index, length), mixture, lineage, training.random_seed);
    let draws = steps.saturating_mul(training.batch_windows.into());
    let checked = order.and_then(|order| order.ensure_budget(draws, experiment.spec.data.epochs_max));
    checked.err().map(|error| beyond(&error, length))
}
