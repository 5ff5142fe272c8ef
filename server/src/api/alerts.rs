//! Alerts: who is told of what, tried, and what became of each message.

use crate::{
    api::{
        auth::Who,
        body::Body,
        error::{ApiError, ApiResult},
        gate::Made,
        page::page,
        params::{self, PageQuery, Path, Query},
    },
    app::App,
    db::{self, Listed, events::NewEvent},
    domain::alerts::{no_mail, shown},
    mail::mailbox,
};
use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use senmon_protocol::{
    alert::{AlertTarget, AlertView, CreateAlert, DeliveryView},
    ids::AlertId,
    problem::Fault,
    said,
    said::expected::{at_most, found},
    view::Page,
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(delete))
        .routes(routes!(test))
        .routes(routes!(deliveries))
}

/// Longest address, in bytes.
const URL_MAX: usize = 2000;

fn masked(mut view: AlertView) -> AlertView {
    if !matches!(view.target, AlertTarget::Mail(_)) {
        view.target = view.target.at(shown(view.target.address()));
    }
    view
}

/// What is wrong with where an alert goes.
fn target_fault(app: &App, target: &AlertTarget) -> Option<Fault> {
    let (path, address) = match target {
        AlertTarget::Webhook(hook) | AlertTarget::Slack(hook) => ("target.url", &hook.url),
        AlertTarget::Mail(mailbox) => ("target.address", &mailbox.address),
    };
    if address.len() > URL_MAX {
        let bytes = said!("found_bytes", bytes = address.len());
        return Some(Fault::said(path, found(bytes, at_most(URL_MAX))));
    }
    let judged = match target {
        AlertTarget::Mail(_) if app.mail.is_none() => Err(no_mail()),
        AlertTarget::Mail(_) => mailbox(address).map(drop),
        _ => app.outgoing.check(address).map(drop),
    };
    judged.err().map(|why| Fault::said(path, why))
}

#[utoipa::path(get, path = "/alerts", tag = "alerts", params(PageQuery), responses((status = 200, description = "alerts by name", body = Page<AlertView>)))]
async fn list(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Json<Page<AlertView>>> {
    let Listed { rows, broken } = db::alerts::list(&app.db, None).await?;
    let page = query.of(rows.into_iter().map(masked).collect(), |item: &AlertView| item.id.to_string())?;
    Ok(Json(Page { broken, ..page }))
}

#[utoipa::path(post, path = "/alerts", tag = "alerts", request_body = CreateAlert, responses((status = 201, description = "made", body = AlertView), (status = 404, description = "no such experiment"), (status = 409, description = "the name is taken"), (status = 422, description = "faults of the input")))]
async fn create(State(app): State<App>, Who(who): Who, Body(body): Body<CreateAlert>) -> ApiResult<impl IntoResponse> {
    let mut faults: Vec<Fault> = params::name_fault(&body.name).into_iter().collect();
    if body.on.is_empty() {
        faults.push(Fault::said("on", said!("alert_no_occasion")));
    }
    faults.extend(target_fault(&app, &body.target));
    if !faults.is_empty() {
        return Err(ApiError::Invalid(faults));
    }
    let id = db::alerts::insert(&app.db, &body, &who.name).await?;
    let said = said!("alert_made", who = &who.name, name = body.name);
    let experiment_id = body.experiment_id;
    app.event(NewEvent { kind: "alert_made", level: "info", said, experiment_id, ..NewEvent::default() }).await;
    Ok((StatusCode::CREATED, Extension(Made(id.0)), Json(masked(one(&app, id).await?))))
}

async fn one(app: &App, id: AlertId) -> ApiResult<AlertView> {
    let found = db::alerts::list(&app.db, Some(id)).await?.rows.into_iter().next();
    found.ok_or_else(|| ApiError::missing("alert", id))
}

#[utoipa::path(delete, path = "/alerts/{id}", tag = "alerts", params(("id" = uuid::Uuid, Path, description = "the alert")), responses((status = 204, description = "deleted, with its messages"), (status = 404, description = "no such alert")))]
async fn delete(State(app): State<App>, Who(who): Who, Path(id): Path<AlertId>) -> ApiResult<StatusCode> {
    let name = one(&app, id).await?.name;
    db::alerts::delete(&app.db, id).await?;
    let said = said!("alert_deleted", who = &who.name, name = name);
    app.event(NewEvent { kind: "alert_deleted", level: "info", said, ..NewEvent::default() }).await;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/alerts/{id}/test", tag = "alerts", params(("id" = uuid::Uuid, Path, description = "the alert")), responses((status = 202, description = "a message is sent at once; `last` says what becomes of it", body = AlertView), (status = 404, description = "no such alert")))]
async fn test(State(app): State<App>, Path(id): Path<AlertId>) -> ApiResult<impl IntoResponse> {
    db::alerts::try_out(&app.db, id).await?;
    app.wake.tell.notify_one();
    Ok((StatusCode::ACCEPTED, Json(masked(one(&app, id).await?))))
}

/// Which messages.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct DeliveriesQuery {
    /// `next_cursor` of the page before.
    cursor: Option<i64>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/alerts/{id}/deliveries", tag = "alerts", params(("id" = uuid::Uuid, Path, description = "the alert"), DeliveriesQuery), responses((status = 200, description = "its messages, newest first", body = Page<DeliveryView>), (status = 404, description = "no such alert")))]
async fn deliveries(
    State(app): State<App>,
    Path(id): Path<AlertId>,
    Query(query): Query<DeliveriesQuery>,
) -> ApiResult<Json<Page<DeliveryView>>> {
    one(&app, id).await?;
    let limit = params::limit(query.limit)?;
    let rows = db::alerts::deliveries(&app.db, id, query.cursor, limit + 1).await?;
    Ok(Json(page(Listed { rows, broken: Vec::new() }, limit, |item| item.id.to_string())))
}
