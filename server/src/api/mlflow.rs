//! What the clients of MLflow read by, beside the API: experiments, runs and the histories of metrics, in MLflow's own
//! shapes and errors. Whatever would change something is no operation here.
//!
//! It is not in the OpenAPI document, which describes what is Senmon's own: paths, words and errors are MLflow's.

use crate::{
    api::{
        body::{self, read},
        branches::current,
        error::{ApiError, ApiResult},
        gate,
        params::Query,
    },
    app::App,
    db::{
        self,
        lists::{Experiments, Wanted},
    },
    domain::mlflow::{
        self, EXPERIMENT_ATTRIBUTES, Experiment, Last, Metric, Origin, RUN_ATTRIBUTES, Run, compare_experiments,
        compare_runs,
        filter::{Attribute, Filter, Order},
        history, last_values,
    },
};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use senmon_protocol::{
    ids::{BranchId, ExperimentId},
    problem::Problem,
    said::Said,
    view::{BranchView, ExperimentSummary},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Where MLflow's clients look.
pub const ROOT: &str = "/api/2.0/mlflow";

/// Items of a page where nothing is asked, and at most: each run is some look-ups.
const PAGE: usize = 100;
const PAGE_MAX: usize = 500;
/// Experiments whose runs are searched at once.
const EXPERIMENTS_MAX: usize = 200;
/// Points of a history in one answer.
const HISTORY_MAX: usize = 25_000;
/// Steps that are looked at together, and buckets for them: more than enough for one a step.
const STEPS: usize = 5_000;
const STEPS_BUCKETS: usize = 10_000;
/// Looks at steps for one answer: a metric that is measured rarely has few points in many steps.
const LOOKS_MAX: usize = 20;
/// Buckets in which the last values are looked for, from coarse to fine, and how often at most.
const BUCKETS: usize = 1_000;
const ROUNDS_MAX: usize = 6;

/// Routes below [`ROOT`].
pub fn router(app: &App) -> Router<App> {
    Router::new()
        .route("/experiments/search", get(found_experiments).post(search_experiments))
        .route("/experiments/get", get(experiment))
        .route("/experiments/get-by-name", get(experiment_by_name))
        .route("/runs/search", post(search_runs))
        .route("/runs/get", get(run))
        .route("/metrics/get-history", get(metric_history))
        .route_layer(middleware::from_fn_with_state(app.clone(), gate::neighbours))
        .fallback(none)
        .layer(middleware::from_fn(in_its_words))
}

/// There is no such thing: in words that MLflow's client shows as they are.
fn missing(words: String) -> ApiError {
    ApiError::NotFound(Said::verbatim(words))
}

async fn none(method: Method, uri: Uri) -> Response {
    let message = format!(
        "{method} {ROOT}{}: Senmon answers experiments/search, experiments/get, experiments/get-by-name, runs/search, \
         runs/get and metrics/get-history, and lets nothing be changed by way of MLflow",
        uri.path()
    );
    refusal(StatusCode::NOT_FOUND, "ENDPOINT_NOT_FOUND", &message)
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error_code": code, "message": message }))).into_response()
}

/// Says refusals as MLflow says them.
async fn in_its_words(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/problem+json") {
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) else {
        return Response::from_parts(parts, bytes.into());
    };
    let (status, code) = match parts.status {
        StatusCode::UNAUTHORIZED => (parts.status, "UNAUTHENTICATED"),
        StatusCode::FORBIDDEN => (parts.status, "PERMISSION_DENIED"),
        StatusCode::NOT_FOUND => (parts.status, "RESOURCE_DOES_NOT_EXIST"),
        StatusCode::TOO_MANY_REQUESTS => (parts.status, "REQUEST_LIMIT_EXCEEDED"),
        StatusCode::SERVICE_UNAVAILABLE => (parts.status, "TEMPORARILY_UNAVAILABLE"),
        status if status.is_client_error() => (StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE"),
        status => (status, "INTERNAL_ERROR"),
    };
    let mut said = refusal(status, code, &problem.detail);
    for name in [header::RETRY_AFTER, header::ALLOW] {
        said.headers_mut().extend(parts.headers.get(&name).cloned().map(|value| (name, value)));
    }
    said
}

/// A search. What newer clients may send beside it is not read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Search {
    experiment_ids: Vec<String>,
    filter: Option<String>,
    order_by: Vec<String>,
    max_results: Option<usize>,
    page_token: String,
    view_type: View,
    run_view_type: View,
}

/// Which by their life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum View {
    /// Those that were not deleted.
    #[default]
    ActiveOnly,
    /// Those that were.
    DeletedOnly,
    /// Both.
    All,
}

impl Search {
    fn most(&self) -> usize {
        self.max_results.unwrap_or(PAGE).clamp(1, PAGE_MAX)
    }

    fn filter(&self, attributes: &[Attribute]) -> ApiResult<Filter> {
        Filter::parse(self.filter.as_deref().unwrap_or_default(), attributes)
            .map_err(|why| ApiError::unsaid("filter", why))
    }

    fn orders(&self, attributes: &[Attribute]) -> ApiResult<Vec<Order>> {
        let read = self.order_by.iter().map(|text| Order::parse(text, attributes));
        read.collect::<Result<_, _>>().map_err(|why| ApiError::unsaid("order_by", why))
    }
}

async fn body(app: &App, request: Request) -> ApiResult<Search> {
    let bytes = read(app, request, 64 << 10).await?;
    body::json(&bytes)
}

async fn search_experiments(State(app): State<App>, request: Request) -> ApiResult<Json<Value>> {
    let search = body(&app, request).await?;
    experiments_of(&app, &search).await
}

/// The same in the address, as older clients ask.
#[derive(Debug, Deserialize)]
struct Asked {
    filter: Option<String>,
    max_results: Option<usize>,
    #[serde(default)]
    page_token: String,
    #[serde(default)]
    view_type: View,
}

async fn found_experiments(State(app): State<App>, Query(asked): Query<Asked>) -> ApiResult<Json<Value>> {
    let Asked { filter, max_results, page_token, view_type } = asked;
    experiments_of(&app, &Search { filter, max_results, page_token, view_type, ..Search::default() }).await
}

async fn experiments_of(app: &App, search: &Search) -> ApiResult<Json<Value>> {
    let (filter, orders) = (search.filter(EXPERIMENT_ATTRIBUTES)?, search.orders(EXPERIMENT_ATTRIBUTES)?);
    let mut found = Vec::new();
    for archived in [false, true] {
        if search.view_type != View::All && (search.view_type == View::DeletedOnly) != archived {
            continue;
        }
        let mut wanted = Experiments { sort: "newest", archived, ..Experiments::default() };
        wanted.of.limit = i64::MAX;
        let summaries = db::lists::experiments(&app.db, &wanted).await?.rows;
        let headlines = db::lists::headlines(&app.db, &summaries.iter().map(|s| s.id.0).collect::<Vec<_>>()).await?;
        found.extend(summaries.iter().map(|summary| {
            let headline = headlines.get(&summary.id.0).map(String::as_str);
            Experiment::of(summary, headline, archived)
        }));
    }
    found.retain(|experiment| filter.fits(&|entity, key| experiment.look(entity, key)));
    found.sort_by(|one, other| compare_experiments(&orders, one, other));
    let page = mlflow::page(found, &search.page_token, search.most());
    let (experiments, next) = page.map_err(|why| ApiError::unsaid("page_token", why))?;
    Ok(Json(paged("experiments", json!(experiments), next)))
}

/// An answer with a list; without more there is no token.
fn paged(name: &str, items: Value, next: Option<String>) -> Value {
    let mut answer = json!({ name: items });
    if let Some(next) = next {
        answer["next_page_token"] = next.into();
    }
    answer
}

#[derive(Debug, Deserialize)]
struct ExperimentQuery {
    experiment_id: String,
}

async fn experiment(State(app): State<App>, Query(query): Query<ExperimentQuery>) -> ApiResult<Json<Value>> {
    let none = || missing(format!("experiment_id: there is no experiment {:?}", query.experiment_id));
    let id: ExperimentId = query.experiment_id.parse().map_err(|_| none())?;
    let Some((summary, is_archived)) = summary(&app, id).await? else { return Err(none()) };
    shown(&app, &summary, is_archived).await
}

#[derive(Debug, Deserialize)]
struct NameQuery {
    experiment_name: String,
}

/// The latest of that name: in Senmon several may have one.
async fn experiment_by_name(State(app): State<App>, Query(query): Query<NameQuery>) -> ApiResult<Json<Value>> {
    let name = query.experiment_name;
    let mut wanted = Experiments { sort: "newest", ..Experiments::default() };
    wanted.of = Wanted { q: Some(name.clone()), limit: i64::MAX, ..Wanted::default() };
    let found = db::lists::experiments(&app.db, &wanted).await?.rows;
    match found.iter().find(|summary| summary.name == name) {
        Some(summary) => shown(&app, summary, false).await,
        None => Err(missing(format!("experiment_name: there is no experiment {name:?}"))),
    }
}

async fn shown(app: &App, summary: &ExperimentSummary, is_archived: bool) -> ApiResult<Json<Value>> {
    let headlines = db::lists::headlines(&app.db, &[summary.id.0]).await?;
    let headline = headlines.get(&summary.id.0).map(String::as_str);
    Ok(Json(json!({ "experiment": Experiment::of(summary, headline, is_archived) })))
}

/// An experiment in a list, and whether it was deleted.
async fn summary(app: &App, id: ExperimentId) -> ApiResult<Option<(ExperimentSummary, bool)>> {
    for archived in [false, true] {
        let of = Wanted { limit: 1, ..Wanted::default() };
        let wanted = Experiments { of, id: Some(id), archived, ..Experiments::default() };
        if let Some(summary) = db::lists::experiments(&app.db, &wanted).await?.one()? {
            return Ok(Some((summary, archived)));
        }
    }
    Ok(None)
}

async fn search_runs(State(app): State<App>, request: Request) -> ApiResult<Json<Value>> {
    let search = body(&app, request).await?;
    let (filter, orders) = (search.filter(RUN_ATTRIBUTES)?, search.orders(RUN_ATTRIBUTES)?);
    if search.experiment_ids.len() > EXPERIMENTS_MAX {
        let found = format!("found {}, expected at most {EXPERIMENTS_MAX}", search.experiment_ids.len());
        return Err(ApiError::unsaid("experiment_ids", found));
    }
    let mut runs = Vec::new();
    for id in search.experiment_ids.iter().filter_map(|id| id.parse().ok()) {
        let Some((summary, is_archived)) = summary(&app, id).await? else { continue };
        if search.run_view_type == View::All || (search.run_view_type == View::DeletedOnly) == is_archived {
            let branches = db::branches::of_experiment(&app.db, id).await?.rows;
            runs.extend(runs_of(&app, &summary, is_archived, &branches).await?);
        }
    }
    let first = filter.needs_metrics() || orders.iter().any(Order::needs_metrics);
    if first {
        with_metrics(&app, &mut runs).await?;
    }
    runs.retain(|run| filter.fits(&|entity, key| run.look(entity, key)));
    runs.sort_by(|one, other| compare_runs(&orders, one, other));
    let page = mlflow::page(runs, &search.page_token, search.most());
    let (mut runs, next) = page.map_err(|why| ApiError::unsaid("page_token", why))?;
    if !first {
        with_metrics(&app, &mut runs).await?;
    }
    Ok(Json(paged("runs", json!(runs), next)))
}

/// Branches of one experiment as runs, without the values of their metrics.
async fn runs_of(
    app: &App,
    summary: &ExperimentSummary,
    is_archived: bool,
    branches: &[BranchView],
) -> ApiResult<Vec<Run>> {
    let ids: Vec<Uuid> = branches.iter().map(|branch| branch.id.0).collect();
    let spans = db::branches::spans(&app.db, &ids).await?;
    let spec = db::lists::file(&app.db, summary.id).await?;
    let headlines = db::lists::headlines(&app.db, &[summary.id.0]).await?;
    let headline = headlines.get(&summary.id.0).map(String::as_str);
    let origin = Origin { summary, spec: &spec, headline, is_archived };
    let run = |branch: &BranchView| Run::of(&origin, branch, spans.get(&branch.id).copied().unwrap_or_default());
    Ok(branches.iter().map(run).collect())
}

async fn with_metrics(app: &App, runs: &mut [Run]) -> ApiResult<()> {
    for run in runs {
        if let Ok(id) = run.info.run_id.parse() {
            run.data.metrics = latest(app, id).await?;
        }
    }
    Ok(())
}

/// The last value of each metric.
async fn latest(app: &App, id: BranchId) -> ApiResult<Vec<Metric>> {
    let mut found = Vec::new();
    let mut places = BTreeMap::from([((0, i64::MAX), Vec::new())]);
    for round in 0..ROUNDS_MAX {
        for ((from, to), keys) in std::mem::take(&mut places) {
            let buckets = current(app, id, &keys, (from, to), BUCKETS).await?;
            for (key, last) in last_values(&buckets, (round > 0).then_some(keys.as_slice())) {
                match last {
                    Last::Value(metric) => found.push(metric),
                    // What is not kept point by point any more is a mean in its place.
                    Last::Within(first, last) if (first, last) == (from, to) || round + 1 == ROUNDS_MAX => {
                        found.extend(history(&buckets, &key).pop());
                    }
                    Last::Within(first, last) => places.entry((first, last)).or_default().push(key),
                }
            }
        }
    }
    found.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(found)
}

/// A run, by its name of today or of before.
#[derive(Debug, Deserialize)]
struct RunQuery {
    run_id: Option<String>,
    run_uuid: Option<String>,
}

async fn branch(app: &App, query: &RunQuery) -> ApiResult<BranchView> {
    let asked = query.run_id.as_deref().or(query.run_uuid.as_deref());
    let asked = asked.ok_or_else(|| ApiError::unsaid("run_id", "is missing"))?;
    let none = || missing(format!("run_id: there is no run {asked:?}"));
    Ok(db::branches::get(&app.db, asked.parse().map_err(|_| none())?).await?)
}

async fn run(State(app): State<App>, Query(query): Query<RunQuery>) -> ApiResult<Json<Value>> {
    let branch = branch(&app, &query).await?;
    let none = || missing(format!("there is no experiment of run {}", branch.id));
    let (summary, is_archived) = summary(&app, branch.experiment_id).await?.ok_or_else(none)?;
    let mut runs = runs_of(&app, &summary, is_archived, std::slice::from_ref(&branch)).await?;
    with_metrics(&app, &mut runs).await?;
    Ok(Json(json!({ "run": runs.pop() })))
}

/// Which points of which metric.
#[derive(Debug, Deserialize)]
struct HistoryQuery {
    run_id: Option<String>,
    run_uuid: Option<String>,
    metric_key: String,
    max_results: Option<usize>,
    #[serde(default)]
    page_token: String,
}

/// Values of one metric by their steps. A token is the step at which the next page begins.
async fn metric_history(State(app): State<App>, Query(query): Query<HistoryQuery>) -> ApiResult<Json<Value>> {
    let HistoryQuery { run_id, run_uuid, metric_key, max_results, page_token } = query;
    let branch = branch(&app, &RunQuery { run_id, run_uuid }).await?;
    let most = max_results.unwrap_or(HISTORY_MAX).clamp(1, HISTORY_MAX);
    let unknown = |_| ApiError::unsaid("page_token", format!("found {page_token:?}, expected one of an answer"));
    let mut from: i64 = if page_token.is_empty() { 0 } else { page_token.parse().map_err(unknown)? };
    let step_last = db::signed(branch.step);
    let (mut metrics, keys) = (Vec::new(), [metric_key]);
    for _ in 0..LOOKS_MAX {
        let room = STEPS.min(most - metrics.len());
        if from > step_last || room == 0 {
            break;
        }
        let to = from.saturating_add(i64::try_from(room).unwrap_or(1) - 1);
        let points = current(&app, branch.id, &keys, (from, to), STEPS_BUCKETS).await?;
        metrics.extend(history(&points, &keys[0]));
        from = to.saturating_add(1);
    }
    Ok(Json(paged("metrics", json!(metrics), (from <= step_last).then(|| from.to_string()))))
}
