//! Jobs: the queue, what became of each, and its log.

use crate::{
    api::{
        branches::LogsQuery,
        error::{ApiError, ApiResult},
        page::page,
        params::{self, PageQuery, Path, Query},
    },
    app::App,
    db::{
        self, Listed,
        lists::{Jobs, Wanted},
    },
    fleet::scene,
};
use axum::{Json, extract::State};
use senmon_protocol::{
    ids::{BranchId, CorpusId, ExperimentId, JobId},
    job::JobKind,
    said::Said,
    view::{AttemptView, JobState, JobView, LogsView, Page},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(attempts)).routes(routes!(logs))
}

/// Which jobs.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only what its title contains, in any case.
    q: Option<String>,
    /// Only in one of these states, separated by commas. Default: those that are open, `queued,running,paused`.
    #[param(
        pattern = "^(queued|running|paused|completed|failed|cancelled)(,(queued|running|paused|completed|failed|cancelled))*$"
    )]
    state: Option<String>,
    /// Only of one experiment.
    experiment_id: Option<uuid::Uuid>,
    /// Only of one corpus.
    corpus_id: Option<uuid::Uuid>,
    /// Only of one branch.
    branch_id: Option<uuid::Uuid>,
    /// Only of one kind.
    #[param(inline)]
    kind: Option<JobKind>,
    /// `next_cursor` of the page before.
    cursor: Option<uuid::Uuid>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/jobs", tag = "jobs", params(ListQuery), responses((status = 200, description = "jobs, in the order of creation", body = Page<JobView>)))]
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<JobView>>> {
    let limit = params::limit(query.limit)?;
    let states = params::words::<JobState>("state", Some(query.state.as_deref().unwrap_or("queued,running,paused")))?;
    let wanted = Jobs {
        of: Wanted { q: query.q, states, cursor: query.cursor, limit: limit + 1 },
        experiment: query.experiment_id.map(ExperimentId),
        corpus: query.corpus_id.map(CorpusId),
        branch: query.branch_id.map(BranchId),
        kind: query.kind.map(|kind| kind.word().to_owned()),
        ..Jobs::default()
    };
    let mut page = page(db::lists::jobs(&app.db, &wanted).await?, limit, |job| job.id.to_string());
    explain(&app, &mut page.items).await?;
    Ok(Json(page))
}

/// Says of queued jobs why they wait.
async fn explain(app: &App, jobs: &mut [JobView]) -> ApiResult<()> {
    if jobs.iter().all(|job| job.state != JobState::Queued) {
        return Ok(());
    }
    let scene = scene(app).await?;
    for job in jobs.iter_mut().filter(|job| job.state == JobState::Queued) {
        job.why_said = scene.jobs.iter().find(|row| row.id == job.id).map(|row| scene.why(row));
        job.why = job.why_said.as_ref().map(Said::text);
    }
    Ok(())
}

async fn one(app: &App, id: JobId) -> ApiResult<JobView> {
    let wanted = Jobs { id: Some(id), of: Wanted { limit: 1, ..Wanted::default() }, ..Jobs::default() };
    let found: Listed<JobView> = db::lists::jobs(&app.db, &wanted).await?;
    found.one()?.ok_or_else(|| ApiError::missing("job", id))
}

#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = uuid::Uuid, Path, description = "the job")), responses((status = 200, description = "the job", body = JobView), (status = 404, description = "no such job")))]
async fn show(State(app): State<App>, Path(id): Path<JobId>) -> ApiResult<Json<JobView>> {
    let mut job = [one(&app, id).await?];
    explain(&app, &mut job).await?;
    let [job] = job;
    Ok(Json(job))
}

#[utoipa::path(get, path = "/jobs/{id}/attempts", tag = "jobs", params(("id" = uuid::Uuid, Path, description = "the job"), PageQuery), responses((status = 200, description = "attempts, oldest first", body = Page<AttemptView>), (status = 404, description = "no such job")))]
async fn attempts(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<Page<AttemptView>>> {
    one(&app, id).await?;
    Ok(Json(query.of(db::attempts::of(&app.db, None, Some(id)).await?, |attempt| attempt.id.to_string())?))
}

#[utoipa::path(get, path = "/jobs/{id}/logs", tag = "jobs", params(("id" = uuid::Uuid, Path, description = "the job"), LogsQuery), responses((status = 200, description = "log lines of all its attempts, oldest first", body = LogsView), (status = 404, description = "no such job")))]
async fn logs(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<LogsQuery>,
) -> ApiResult<Json<LogsView>> {
    one(&app, id).await?;
    Ok(Json(db::events::logs(&app.db, None, Some(id), query.after.unwrap_or(0)).await?))
}
