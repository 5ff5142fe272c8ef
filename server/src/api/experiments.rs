//! Experiments.

use crate::{
    api::{
        auth::Who,
        body::{Body, FileBody},
        error::{ApiError, ApiResult},
        etag,
        gate::Made,
        page::page,
        params::{self, Path, Query},
        plan::known,
        storage::may_grow,
    },
    app::App,
    db::{
        self, Listed,
        edits::Editable,
        events::NewEvent,
        experiments::ExperimentRow,
        lists::{Experiments, Wanted},
        tokens::Identity,
        troubles::Trouble,
    },
    domain::{
        access::USER_PRIORITY_MAX,
        deadline::budget_spent,
        marks,
        planner::shape,
        validate::{budget, not_now, validate},
    },
};
use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use senmon_protocol::{
    ids::ExperimentId,
    problem::Fault,
    report::Report,
    said,
    said::{Said, SaidValue, expected::found},
    spec::ExperimentSpec,
    view::{
        BranchState, BranchView, ChangeExperiment, EvaluationView, ExperimentState, ExperimentSummary, ExperimentView,
        Page, Role, StreamExperiment, StreamMessage, TroubleKind,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, submit))
        .routes(routes!(show, alter, delete))
        .routes(routes!(branches))
        .routes(routes!(report))
        .routes(routes!(evaluations))
        .routes(routes!(spec))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
}

/// Which experiments, in which order.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only what its name contains, in any case.
    q: Option<String>,
    /// Only in one of these states, separated by commas.
    #[param(pattern = "^(running|paused|completed|failed|cancelled)(,(running|paused|completed|failed|cancelled))*$")]
    state: Option<String>,
    /// Only with all of these labels, separated by commas.
    labels: Option<String>,
    /// Only those that this one submitted.
    owner: Option<String>,
    /// Order. Default `newest`.
    #[param(inline)]
    sort: Option<Sort>,
    /// Those that were deleted, instead of the others.
    archived: Option<bool>,
    /// `next_cursor` of the page before.
    cursor: Option<uuid::Uuid>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

/// Order of experiments.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// By submission, the last first.
    #[default]
    Newest,
    /// By submission, the first first.
    Oldest,
    /// By name.
    Name,
}

#[utoipa::path(get, path = "/experiments", tag = "experiments", params(ListQuery), responses((status = 200, description = "experiments", body = Page<ExperimentSummary>)))]
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<ExperimentSummary>>> {
    let limit = params::limit(query.limit)?;
    let states = params::words::<ExperimentState>("state", query.state.as_deref())?;
    let wanted = Experiments {
        of: Wanted { q: query.q, states, cursor: query.cursor, limit: limit + 1 },
        labels: params::split(query.labels.as_deref().unwrap_or_default()),
        owner: query.owner,
        sort: match query.sort.unwrap_or_default() {
            Sort::Newest => "newest",
            Sort::Oldest => "oldest",
            Sort::Name => "name",
        },
        archived: query.archived.unwrap_or_default(),
        ..Experiments::default()
    };
    let mut listed = db::lists::experiments(&app.db, &wanted).await?;
    listed.rows.iter_mut().for_each(|summary| app.forecasts.tell(summary));
    Ok(Json(page(listed, limit, |item| item.id.to_string())))
}

async fn view(app: &App, id: ExperimentId) -> ApiResult<ExperimentView> {
    let row = db::experiments::get(&app.db, id).await?;
    let Listed { rows: mut branches, broken } = db::branches::of_experiment(&app.db, id).await?;
    let all = branches.clone();
    crate::api::branches::explain(app, &mut branches, &all).await?;
    let one = Experiments { id: Some(id), of: Wanted { limit: 1, ..Wanted::default() }, ..Experiments::default() };
    let summary = db::lists::experiments(&app.db, &one).await?.one()?;
    let mut summary = summary.ok_or_else(|| ApiError::missing("experiment", id))?;
    app.forecasts.tell(&mut summary);
    let waits_for = waits_for(app, &row).await?;
    Ok(ExperimentView {
        summary,
        waits_for: waits_for.as_ref().map(Said::text),
        waits_for_said: waits_for,
        note: db::edits::note(&app.db, id).await?,
        spec: row.spec,
        corpus_id: row.corpus_id,
        clustering_id: row.clustering_id,
        branches,
        broken,
    })
}

/// What an experiment waits for that runs, or why it is set aside.
async fn waits_for(app: &App, row: &ExperimentRow) -> ApiResult<Option<Said>> {
    let troubles = db::troubles::of(&app.db, TroubleKind::Experiment, Some(row.id.0)).await?;
    match row.state {
        ExperimentState::Running | ExperimentState::Paused if troubles.contains_key(&row.id.0) => {
            Ok(troubles.get(&row.id.0).map(Trouble::said))
        }
        ExperimentState::Running => Ok(db::progress::waits_for(&app.db, row.id).await?),
        _ => Ok(None),
    }
}

#[utoipa::path(post, path = "/experiments", tag = "experiments", request_body(content((ExperimentSpec = "application/json"), (ExperimentSpec = "application/yaml"))),
    responses((status = 202, description = "accepted", body = ExperimentView), (status = 422, description = "every fault of the file"), (status = 507, description = "no_room: a disk is nearly full")))]
async fn submit(
    State(app): State<App>,
    Who(identity): Who,
    FileBody(mut spec): FileBody<ExperimentSpec>,
) -> ApiResult<impl IntoResponse> {
    high_priority(&identity, spec.priority)?;
    may_grow(&app)?;
    let workers = db::workers::list(&app.db, None).await?.rows;
    let (known, corpus) = known(&app, &mut spec, workers).await?;
    let judge = move || {
        let faults = validate(&spec, &known);
        let model = shape(&spec, &known);
        (spec, known, faults, model)
    };
    let (spec, known, faults, model) = app.heavy.run(judge).await?;
    let Some(corpus) = corpus.filter(|_| faults.is_empty()) else { return Err(ApiError::Invalid(faults)) };
    let id = db::experiments::insert(&app.db, &spec, model.as_ref(), corpus.id, &identity.name).await?;
    app.event(NewEvent {
        kind: "experiment_submitted",
        level: "info",
        said: said!("experiment_submitted", who = &identity.name, name = &spec.name),
        experiment_id: Some(id),
        ..NewEvent::default()
    })
    .await;
    for Fault { path, message, said } in not_now(&spec, &known.fleet) {
        let why = said.map_or_else(|| SaidValue::from(message), SaidValue::from);
        app.event(NewEvent {
            kind: "experiment_waits",
            level: "warn",
            said: said!("experiment_waits", name = &spec.name, path = path, why = why),
            experiment_id: Some(id),
            ..NewEvent::default()
        })
        .await;
    }
    app.wake.advance.notify_one();
    Ok((StatusCode::ACCEPTED, Extension(Made(id.0)), Json(view(&app, id).await?)))
}

/// Priorities that let others wait are the admin's.
fn high_priority(who: &Identity, priority: u8) -> ApiResult<()> {
    if priority <= USER_PRIORITY_MAX || who.role == Role::Admin {
        return Ok(());
    }
    Err(ApiError::Forbidden(said!("refused_priority", priority = priority, most = USER_PRIORITY_MAX)))
}

#[utoipa::path(get, path = "/experiments/{id}", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "the experiment", body = ExperimentView), (status = 404, description = "no such experiment")))]
async fn show(State(app): State<App>, Path(id): Path<ExperimentId>, headers: HeaderMap) -> ApiResult<Response> {
    let view = view(&app, id).await?;
    etag::answer(StatusCode::OK, &headers, &view)
}

#[utoipa::path(delete, path = "/experiments/{id}", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 204, description = "deleted: its checkpoints, shards and scores go, lists show it with `archived` alone"), (status = 409, description = "not over, or a worker holds a job of it: which")))]
async fn delete(State(app): State<App>, Who(who): Who, Path(id): Path<ExperimentId>) -> ApiResult<StatusCode> {
    db::archive::experiment(&app.db, id).await?;
    announce(&app, id, said!("experiment_deleted", who = &who.name)).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Which branches of an experiment.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct BranchesQuery {
    /// Only what its name contains, in any case.
    q: Option<String>,
    /// Only in one of these states, separated by commas.
    #[param(
        pattern = "^(waiting|queued|running|paused|completed|failed|cancelled)(,(waiting|queued|running|paused|completed|failed|cancelled))*$"
    )]
    state: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<uuid::Uuid>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/experiments/{id}/branches", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment"), BranchesQuery), responses((status = 200, description = "its branches, parents before children", body = Page<BranchView>), (status = 404, description = "no such experiment")))]
async fn branches(
    State(app): State<App>,
    Path(id): Path<ExperimentId>,
    Query(query): Query<BranchesQuery>,
) -> ApiResult<Json<Page<BranchView>>> {
    let limit = params::limit(query.limit)?;
    let states = params::words::<BranchState>("state", query.state.as_deref())?;
    db::experiments::get(&app.db, id).await?;
    let wanted = Wanted { q: query.q, states, cursor: query.cursor, limit: limit + 1 };
    let mut listed = db::branches::page(&app.db, id, &wanted).await?;
    let all = db::branches::plain(&app.db, id).await?;
    crate::api::branches::explain(&app, &mut listed.rows, &all).await?;
    Ok(Json(page(listed, limit, |item| item.id.to_string())))
}

#[utoipa::path(get, path = "/experiments/{id}/report", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "the report", body = Report), (status = 404, description = "not written yet")))]
async fn report(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<Json<Report>> {
    let row = db::experiments::get(&app.db, id).await?;
    row.report.map(Json).ok_or_else(|| ApiError::NotFound(said!("no_report_yet")))
}

/// A page of a list.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// `next_cursor` of the page before.
    cursor: Option<uuid::Uuid>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/experiments/{id}/evaluations", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment"), PageQuery), responses((status = 200, description = "evaluations, oldest first", body = Page<EvaluationView>), (status = 404, description = "no such experiment")))]
async fn evaluations(
    State(app): State<App>,
    Path(id): Path<ExperimentId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<Page<EvaluationView>>> {
    let limit = params::limit(query.limit)?;
    db::experiments::get(&app.db, id).await?;
    let Listed { rows, broken } = db::evaluations::evaluations(&app.db, id).await?;
    let after = |id: &uuid::Uuid| query.cursor.is_none_or(|cursor| *id > cursor);
    let rows = rows.into_iter().filter(|row| after(&row.id.0)).map(|row| EvaluationView {
        id: row.id,
        branch_id: row.branch_id,
        checkpoint_id: row.checkpoint_id,
        title: row.title,
        done: row.result.is_some(),
        domains: match row.result {
            Some(senmon_protocol::job::JobResult::Evaluate(result)) => result.domains,
            _ => Vec::new(),
        },
    });
    let listed = Listed { rows: rows.collect(), broken: if query.cursor.is_none() { broken } else { Vec::new() } };
    Ok(Json(page(listed, limit, |item| item.id.to_string())))
}

#[utoipa::path(get, path = "/experiments/{id}/spec", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "the file, as YAML", content_type = "application/yaml", body = String)))]
async fn spec(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<impl IntoResponse> {
    let row = db::experiments::get(&app.db, id).await?;
    let text = serde_yaml_ng::to_string(&row.spec).map_err(anyhow::Error::from)?;
    Ok(([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], text))
}

async fn change(app: &App, id: ExperimentId, to: ExperimentState, said: Said) -> ApiResult<Json<ExperimentView>> {
    if let Err(error) = db::experiments::set_state(&app.db, id, to).await {
        db::experiments::get(&app.db, id).await?;
        return Err(error.into());
    }
    announce(app, id, said).await;
    Ok(Json(view(app, id).await?))
}

async fn announce(app: &App, id: ExperimentId, said: Said) {
    app.event(NewEvent {
        kind: "experiment_changed",
        level: "info",
        said,
        experiment_id: Some(id),
        ..NewEvent::default()
    })
    .await;
    app.wake.advance.notify_one();
    app.wake.schedule.notify_one();
    app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: id }));
}

#[utoipa::path(patch, path = "/experiments/{id}", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), request_body = ChangeExperiment, responses((status = 200, description = "changed; paused for a spent budget, it goes on when the new one is not; labels and note are changed when it is over, too", body = ExperimentView), (status = 409, description = "over already"), (status = 422, description = "faults of the input")))]
async fn alter(
    State(app): State<App>,
    Who(who): Who,
    Path(id): Path<ExperimentId>,
    headers: HeaderMap,
    Body(body): Body<ChangeExperiment>,
) -> ApiResult<Response> {
    if let Some(priority) = body.priority {
        high_priority(&who, priority)?;
    }
    let steers = body.steers();
    let edit = |mut edits: Editable| {
        etag::ensure_unchanged(&headers, &edits)?;
        let mut faults = Vec::new();
        if let Some(labels) = body.labels {
            marks::labels(&labels, &mut faults);
            edits.spec.labels = labels;
        }
        if let Some(note) = body.note {
            marks::note(&note, &mut faults);
            edits.note = note;
        }
        let spec = &mut edits.spec;
        spec.priority = body.priority.unwrap_or(spec.priority);
        spec.deadline = body.deadline.or(spec.deadline);
        spec.budget = body.budget.unwrap_or(spec.budget);
        budget(&spec.budget, "budget", &mut faults);
        if spec.priority > 100 {
            faults.push(Fault::said("priority", found(spec.priority, said!("expected_priority", low = 0, high = 100))));
        }
        if faults.is_empty() { Ok(edits) } else { Err(ApiError::Invalid(faults)) }
    };
    let spec = db::edits::change(&app.db, id, steers, edit).await?.spec;
    if !steers {
        announce(&app, id, said!("experiment_marked", who = &who.name)).await;
        return edited(&app, id).await;
    }
    let (slot_hours, wall_hours) = db::experiments::spent(&app.db, id).await?;
    let row = db::experiments::get(&app.db, id).await?;
    let held = row.state == ExperimentState::Paused && row.problem.is_some();
    let said = if held && budget_spent(&spec.budget, slot_hours, wall_hours).is_none() {
        db::experiments::set_state(&app.db, id, ExperimentState::Running).await?;
        said!("experiment_budget_raised", who = &who.name)
    } else {
        said!("experiment_edited", who = &who.name, priority = u64::from(spec.priority))
    };
    announce(&app, id, said).await;
    edited(&app, id).await
}

/// An experiment as an edit left it, with its new tag.
async fn edited(app: &App, id: ExperimentId) -> ApiResult<Response> {
    let view = view(app, id).await?;
    etag::answer(StatusCode::OK, &HeaderMap::new(), &view)
}

#[utoipa::path(post, path = "/experiments/{id}/pause", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "paused; what runs is released at its next step", body = ExperimentView), (status = 409, description = "not running")))]
async fn pause(State(app): State<App>, Who(who): Who, Path(id): Path<ExperimentId>) -> ApiResult<Json<ExperimentView>> {
    change(&app, id, ExperimentState::Paused, said!("experiment_paused", who = &who.name)).await
}

#[utoipa::path(post, path = "/experiments/{id}/resume", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "goes on", body = ExperimentView), (status = 409, description = "not paused")))]
async fn resume(
    State(app): State<App>,
    Who(who): Who,
    Path(id): Path<ExperimentId>,
) -> ApiResult<Json<ExperimentView>> {
    let row = db::experiments::get(&app.db, id).await?;
    let (slot_hours, wall_hours) = db::experiments::spent(&app.db, id).await?;
    if let Some(why) = budget_spent(&row.spec.budget, slot_hours, wall_hours) {
        return Err(ApiError::Conflict(why));
    }
    change(&app, id, ExperimentState::Running, said!("experiment_resumed", who = &who.name)).await
}

#[utoipa::path(post, path = "/experiments/{id}/cancel", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "cancelled", body = ExperimentView), (status = 409, description = "over already")))]
async fn cancel(
    State(app): State<App>,
    Who(who): Who,
    Path(id): Path<ExperimentId>,
) -> ApiResult<Json<ExperimentView>> {
    change(&app, id, ExperimentState::Cancelled, said!("experiment_cancelled", who = &who.name)).await
}
