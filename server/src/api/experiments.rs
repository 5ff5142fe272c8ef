//! Experiments.

use crate::{
    api::{
        ListQuery,
        auth::Who,
        body::{Body, FileBody},
        error::{ApiError, ApiResult},
        gate::Made,
        idempotency::IdempotencyKey,
        page,
        plan::known,
        storage::may_grow,
    },
    app::App,
    db::{
        self, Listed,
        events::NewEvent,
        experiments::{ExperimentRow, Filter},
        tokens::Identity,
        troubles::Trouble,
    },
    domain::{
        access::USER_PRIORITY_MAX,
        deadline::budget_spent,
        report::ensemble_vs_dense_percent,
        validate::{budget, not_now, validate},
    },
};
use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::IntoResponse,
};
use senmon_protocol::{
    ids::ExperimentId,
    problem::Fault,
    report::Report,
    spec::ExperimentSpec,
    view::{
        BranchView, ChangeExperiment, EvaluationView, ExperimentState, ExperimentSummary, ExperimentView, Page, Role,
        StreamExperiment, StreamMessage, TroubleKind,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, submit))
        .routes(routes!(show, alter))
        .routes(routes!(report))
        .routes(routes!(evaluations))
        .routes(routes!(spec))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
}

#[utoipa::path(get, path = "/experiments", tag = "experiments", params(ListQuery), responses((status = 200, description = "experiments, newest first", body = Page<ExperimentSummary>)))]
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<ExperimentSummary>>> {
    let filter = Filter { before: query.cursor.map(ExperimentId), limit: query.limit() + 1, ..Filter::default() };
    let Listed { rows, broken } = db::experiments::list(&app.db, filter).await?;
    let mut listed = Listed { rows: Vec::new(), broken };
    for row in rows {
        let branches = db::branches::of_experiment(&app.db, row.id).await?.rows;
        listed.rows.push(summary(&app, &row, &branches).await?);
    }
    Ok(Json(page(listed, query.limit(), |item| item.id.to_string())))
}

async fn summary(app: &App, row: &ExperimentRow, branches: &[BranchView]) -> ApiResult<ExperimentSummary> {
    let stages = db::experiments::stages(&app.db, row.id).await?;
    let tokens_done = branches.iter().map(|branch| branch.tokens).sum();
    let tokens_total: u64 = branches.iter().map(|branch| branch.tokens_total).sum();
    let rate: f64 = branches.iter().filter_map(|branch| branch.tokens_per_second).sum();
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds_left = (rate > 0.0 && row.state == ExperimentState::Running)
        .then(|| tokens_total.saturating_sub(tokens_done) as f64 / rate);
    Ok(ExperimentSummary {
        id: row.id,
        name: row.spec.name.clone(),
        labels: row.spec.labels.clone(),
        state: row.state,
        problem: row.problem.clone(),
        priority: row.spec.priority,
        stages,
        tokens_done,
        tokens_total,
        ensemble_vs_dense_percent: row.report.as_ref().and_then(ensemble_vs_dense_percent),
        seconds_left,
        owner: row.owner.clone(),
        created_at: row.created_at,
        finished_at: row.finished_at,
    })
}

async fn view(app: &App, id: ExperimentId) -> ApiResult<ExperimentView> {
    let row = db::experiments::get(&app.db, id).await?;
    let Listed { rows: mut branches, broken } = db::branches::of_experiment(&app.db, id).await?;
    let all = branches.clone();
    crate::api::branches::explain(app, &mut branches, &all).await?;
    let summary = summary(app, &row, &branches).await?;
    Ok(ExperimentView {
        summary,
        waits_for: waits_for(app, &row).await?,
        spec: row.spec,
        corpus_id: row.corpus_id,
        clustering_id: row.clustering_id,
        branches,
        broken,
    })
}

/// What an experiment waits for that runs, or why it is set aside.
async fn waits_for(app: &App, row: &ExperimentRow) -> ApiResult<Option<String>> {
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
    params(("Idempotency-Key" = Option<String>, Header, description = "for a day the same key and body make nothing new: the answer is what they made")),
    responses((status = 202, description = "accepted", body = ExperimentView), (status = 422, description = "every fault of the file"), (status = 507, description = "no_room: a disk is nearly full")))]
async fn submit(
    State(app): State<App>,
    Who(identity): Who,
    key: IdempotencyKey,
    FileBody(mut spec): FileBody<ExperimentSpec>,
) -> ApiResult<impl IntoResponse> {
    high_priority(&identity, spec.priority)?;
    let key = key.of(&identity, "POST /experiments", &spec)?;
    if let Some(before) = db::idempotency::made(&app.db, key.as_ref()).await? {
        return Ok((StatusCode::ACCEPTED, Extension(Made(before)), Json(view(&app, ExperimentId(before)).await?)));
    }
    may_grow(&app)?;
    let (known, corpus) = known(&app, &mut spec).await?;
    let judge = move || {
        let faults = validate(&spec, &known);
        (spec, known, faults)
    };
    let (spec, known, faults) = app.heavy.run(judge).await?;
    let Some(corpus) = corpus.filter(|_| faults.is_empty()) else { return Err(ApiError::Invalid(faults)) };
    let (id, is_new) = db::experiments::insert(&app.db, &spec, corpus.id, &identity.name, key.as_ref()).await?;
    let made = Extension(Made(id.0));
    if !is_new {
        return Ok((StatusCode::ACCEPTED, made, Json(view(&app, id).await?)));
    }
    app.event(NewEvent {
        kind: "experiment_submitted",
        level: "info",
        text: format!("{} submitted the experiment {}.", identity.name, spec.name),
        experiment_id: Some(id),
        ..NewEvent::default()
    })
    .await;
    for Fault { path, message } in not_now(&spec, &known.fleet) {
        app.event(NewEvent {
            kind: "experiment_waits",
            level: "warn",
            text: format!("{}: {path}: {message}.", spec.name),
            experiment_id: Some(id),
            ..NewEvent::default()
        })
        .await;
    }
    app.wake.advance.notify_one();
    Ok((StatusCode::ACCEPTED, made, Json(view(&app, id).await?)))
}

/// Priorities that let others wait are the admin's.
fn high_priority(who: &Identity, priority: u8) -> ApiResult<()> {
    if priority <= USER_PRIORITY_MAX || who.role == Role::Admin {
        return Ok(());
    }
    Err(ApiError::Forbidden(format!(
        "priority: found {priority}, expected at most {USER_PRIORITY_MAX}: higher ones are the admin's"
    )))
}

#[utoipa::path(get, path = "/experiments/{id}", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "the experiment", body = ExperimentView), (status = 404, description = "no such experiment")))]
async fn show(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<Json<ExperimentView>> {
    Ok(Json(view(&app, id).await?))
}

#[utoipa::path(get, path = "/experiments/{id}/report", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "the report", body = Report), (status = 404, description = "not written yet")))]
async fn report(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<Json<Report>> {
    let row = db::experiments::get(&app.db, id).await?;
    row.report
        .map(Json)
        .ok_or_else(|| ApiError::NotFound("the report is written when the last evaluation is done".into()))
}

#[utoipa::path(get, path = "/experiments/{id}/evaluations", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "evaluations, oldest first", body = Vec<EvaluationView>)))]
async fn evaluations(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<Json<Vec<EvaluationView>>> {
    let rows = db::evaluations::evaluations(&app.db, id).await?.rows;
    Ok(Json(
        rows.into_iter()
            .map(|row| EvaluationView {
                id: row.id,
                branch_id: row.branch_id,
                checkpoint_id: row.checkpoint_id,
                title: row.title,
                done: row.result.is_some(),
                domains: match row.result {
                    Some(senmon_protocol::job::JobResult::Evaluate(result)) => result.domains,
                    _ => Vec::new(),
                },
            })
            .collect(),
    ))
}

#[utoipa::path(get, path = "/experiments/{id}/spec", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "the file, as YAML", content_type = "application/yaml", body = String)))]
async fn spec(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<impl IntoResponse> {
    let row = db::experiments::get(&app.db, id).await?;
    let text = serde_yaml_ng::to_string(&row.spec).map_err(anyhow::Error::from)?;
    Ok(([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], text))
}

async fn change(
    app: &App,
    id: ExperimentId,
    to: ExperimentState,
    who: &str,
    did: &str,
) -> ApiResult<Json<ExperimentView>> {
    if let Err(error) = db::experiments::set_state(&app.db, id, to).await {
        db::experiments::get(&app.db, id).await?;
        return Err(error.into());
    }
    announce(app, id, who, did).await;
    Ok(Json(view(app, id).await?))
}

async fn announce(app: &App, id: ExperimentId, who: &str, did: &str) {
    app.event(NewEvent {
        kind: "experiment_changed",
        level: "info",
        text: format!("{who} {did} the experiment."),
        experiment_id: Some(id),
        ..NewEvent::default()
    })
    .await;
    app.wake.advance.notify_one();
    app.wake.schedule.notify_one();
    app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: id }));
}

#[utoipa::path(patch, path = "/experiments/{id}", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), request_body = ChangeExperiment, responses((status = 200, description = "changed; paused for a spent budget, it goes on when the new one is not", body = ExperimentView), (status = 409, description = "over already"), (status = 422, description = "faults of the input")))]
async fn alter(
    State(app): State<App>,
    Who(who): Who,
    Path(id): Path<ExperimentId>,
    Body(body): Body<ChangeExperiment>,
) -> ApiResult<Json<ExperimentView>> {
    let row = db::experiments::get(&app.db, id).await?;
    let mut spec = row.spec;
    if let Some(priority) = body.priority {
        high_priority(&who, priority)?;
    }
    spec.priority = body.priority.unwrap_or(spec.priority);
    spec.deadline = body.deadline.or(spec.deadline);
    spec.budget = body.budget.unwrap_or(spec.budget);
    let mut faults = Vec::new();
    budget(&spec.budget, "budget", &mut faults);
    if spec.priority > 100 {
        let message = format!("found {}, expected 0 to 100, higher first", spec.priority);
        faults.push(Fault { path: "priority".into(), message });
    }
    if !faults.is_empty() {
        return Err(ApiError::Invalid(faults));
    }
    db::experiments::change(&app.db, id, &spec).await?;
    let (slot_hours, wall_hours) = db::experiments::spent(&app.db, id).await?;
    let held = row.state == ExperimentState::Paused && row.problem.is_some();
    if held && budget_spent(&spec.budget, slot_hours, wall_hours).is_none() {
        return change(&app, id, ExperimentState::Running, &who.name, "raised the budget of and resumed").await;
    }
    let did = format!("changed priority, deadline or budget (priority {}) of", spec.priority);
    announce(&app, id, &who.name, &did).await;
    Ok(Json(view(&app, id).await?))
}

#[utoipa::path(post, path = "/experiments/{id}/pause", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "paused; what runs is released at its next step", body = ExperimentView), (status = 409, description = "not running")))]
async fn pause(State(app): State<App>, Who(who): Who, Path(id): Path<ExperimentId>) -> ApiResult<Json<ExperimentView>> {
    change(&app, id, ExperimentState::Paused, &who.name, "paused").await
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
    change(&app, id, ExperimentState::Running, &who.name, "resumed").await
}

#[utoipa::path(post, path = "/experiments/{id}/cancel", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "cancelled", body = ExperimentView), (status = 409, description = "over already")))]
async fn cancel(
    State(app): State<App>,
    Who(who): Who,
    Path(id): Path<ExperimentId>,
) -> ApiResult<Json<ExperimentView>> {
    change(&app, id, ExperimentState::Cancelled, &who.name, "cancelled").await
}
