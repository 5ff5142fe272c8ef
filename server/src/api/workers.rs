//! Workers: what people see and do, and the first half of the worker protocol (enrol, poll, heartbeat).

use crate::{
    api::{
        auth::{Watched, Who},
        body::{Body, Message},
        error::{ApiError, ApiResult},
        page::page,
        params::{self, Path, Query},
    },
    app::App,
    db::{
        self, Listed,
        events::NewEvent,
        ingest::Beat,
        workers::{Asked, Seated},
    },
    fleet::{look, views},
};
use axum::{Json, extract::State, http::StatusCode};
use senmon_protocol::{
    WORKER_PROTOCOL_VERSION,
    ids::WorkerId,
    problem::Fault,
    said,
    view::{FleetView, Page, WorkerMode, WorkerState, WorkerView},
    worker::{EnrolWorker, Enrolled, Heartbeat, Heartbeaten, Poll, Polled},
};
use std::{pin::pin, time::Duration};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Longest wait of a poll.
pub const POLL_MS_MAX: u64 = 30_000;

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, enrol))
        .routes(routes!(show, delete))
        .routes(routes!(fleet))
        .routes(routes!(drain))
        .routes(routes!(enable))
        .routes(routes!(disable))
        .routes(routes!(heartbeat))
}

/// The route that waits for work.
pub fn polling() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(poll))
}

/// Which workers.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only what its name contains, in any case.
    q: Option<String>,
    /// Only in one of these states, separated by commas.
    #[param(pattern = "^(alive|suspect|lost)(,(alive|suspect|lost))*$")]
    state: Option<String>,
    /// Only with all of these labels (`KEY=VALUE`), separated by commas.
    labels: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<uuid::Uuid>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/workers", tag = "workers", params(ListQuery), responses((status = 200, description = "workers by name", body = Page<WorkerView>)))]
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<WorkerView>>> {
    let limit = params::limit(query.limit)?;
    let states = params::words::<WorkerState>("state", query.state.as_deref())?;
    let labels = params::split(query.labels.as_deref().unwrap_or_default());
    let q = query.q.unwrap_or_default().to_lowercase();
    let all = views(&app).await?;
    let from =
        query.cursor.and_then(|cursor| all.iter().position(|worker| worker.id.0 == cursor)).map_or(0, |at| at + 1);
    let is_wanted = |worker: &WorkerView| {
        let has = |label: &String| worker.labels.iter().any(|(key, value)| *label == format!("{key}={value}"));
        worker.name.to_lowercase().contains(&q)
            && states.as_ref().is_none_or(|states| states.contains(&db::word(&worker.state)))
            && labels.iter().all(has)
    };
    let rows = all.into_iter().skip(from).filter(is_wanted).collect();
    Ok(Json(page(Listed { rows, broken: Vec::new() }, limit, |worker| worker.id.to_string())))
}

#[utoipa::path(delete, path = "/workers/{id}", tag = "workers", params(("id" = uuid::Uuid, Path, description = "the worker")), responses((status = 204, description = "deleted, and its credential revoked"), (status = 404, description = "no such worker"), (status = 409, description = "heard of lately, or in use: by which jobs")))]
async fn delete(State(app): State<App>, Who(who): Who, Path(id): Path<WorkerId>) -> ApiResult<StatusCode> {
    db::archive::worker(&app.db, id).await?;
    app.known.forget();
    let said = said!("worker_deleted", who = &who.name);
    app.event(NewEvent { kind: "worker_deleted", level: "info", said, worker_id: Some(id), ..NewEvent::default() })
        .await;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/workers/{id}", tag = "workers", params(("id" = uuid::Uuid, Path, description = "the worker")), responses((status = 200, description = "the worker", body = WorkerView), (status = 404, description = "no such worker")))]
async fn show(State(app): State<App>, Path(id): Path<WorkerId>) -> ApiResult<Json<WorkerView>> {
    let found = views(&app).await?.into_iter().find(|worker| worker.id == id);
    found.map(Json).ok_or_else(|| ApiError::missing("worker", id))
}

#[utoipa::path(get, path = "/fleet", tag = "workers", responses((status = 200, description = "the fleet in one look", body = FleetView)))]
async fn fleet(State(app): State<App>) -> ApiResult<Json<FleetView>> {
    Ok(Json(look(&app).await?))
}

async fn set_mode(app: &App, id: WorkerId, mode: WorkerMode, who: &str) -> ApiResult<Json<WorkerView>> {
    db::workers::set_mode(&app.db, id, mode).await?;
    let worker =
        views(app).await?.into_iter().find(|worker| worker.id == id).ok_or_else(|| ApiError::missing("worker", id))?;
    let name = worker.name.as_str();
    let said = match mode {
        WorkerMode::Draining => said!("worker_drained", who = who, name = name),
        WorkerMode::Enabled => said!("worker_enabled", who = who, name = name),
        WorkerMode::Disabled => said!("worker_disabled", who = who, name = name),
    };
    app.event(NewEvent { kind: "worker_changed", level: "info", said, worker_id: Some(id), ..NewEvent::default() })
        .await;
    app.wake.schedule.notify_one();
    Ok(Json(worker))
}

#[utoipa::path(post, path = "/workers/{id}/drain", tag = "workers", params(("id" = uuid::Uuid, Path, description = "the worker")), responses((status = 200, description = "what runs saves and moves; nothing new starts", body = WorkerView)))]
async fn drain(State(app): State<App>, Who(who): Who, Path(id): Path<WorkerId>) -> ApiResult<Json<WorkerView>> {
    set_mode(&app, id, WorkerMode::Draining, &who.name).await
}

#[utoipa::path(post, path = "/workers/{id}/enable", tag = "workers", params(("id" = uuid::Uuid, Path, description = "the worker")), responses((status = 200, description = "given new jobs again", body = WorkerView)))]
async fn enable(State(app): State<App>, Who(who): Who, Path(id): Path<WorkerId>) -> ApiResult<Json<WorkerView>> {
    set_mode(&app, id, WorkerMode::Enabled, &who.name).await
}

#[utoipa::path(post, path = "/workers/{id}/disable", tag = "workers", params(("id" = uuid::Uuid, Path, description = "the worker")), responses((status = 200, description = "nothing new starts; what runs goes on", body = WorkerView)))]
async fn disable(State(app): State<App>, Who(who): Who, Path(id): Path<WorkerId>) -> ApiResult<Json<WorkerView>> {
    set_mode(&app, id, WorkerMode::Disabled, &who.name).await
}

/// Longest name of a worker, and longest text that it says of itself, in characters.
const TEXT_MAX: usize = 200;
/// Most slots, and most labels, of a worker.
const PARTS_MAX: usize = 1024;

fn enrolment_faults(body: &EnrolWorker) -> Vec<Fault> {
    let mut faults = Vec::new();
    // Read by the worker, which writes it into its log.
    let mut fault = |path: &str, message: String| faults.push(Fault::new(path, message));
    let printable = |text: &str| text.chars().count() <= TEXT_MAX && !text.chars().any(char::is_control);
    if body.name.trim().is_empty() || body.name.chars().count() > 100 || !printable(&body.name) {
        fault("name", format!("found {:?}, expected 1 to 100 printable characters", body.name));
    }
    for (path, text) in [("host", &body.host), ("version", &body.version)] {
        if !printable(text) {
            fault(
                path,
                format!("found {} characters, expected at most {TEXT_MAX} printable ones", text.chars().count()),
            );
        }
    }
    if !(1..=PARTS_MAX).contains(&body.slots.len()) {
        fault("slots", format!("found {}, expected 1 to {PARTS_MAX}", body.slots.len()));
    }
    if body.slots.iter().any(|slot| !printable(&slot.device) || !printable(&slot.device_name)) {
        fault(
            "slots",
            format!("found a device of more than {TEXT_MAX} characters, expected at most so many printable ones"),
        );
    }
    for (index, why) in body.slots.iter().filter_map(|slot| Some((slot.index, slot.set_aside.as_ref()?))) {
        if !printable(why) {
            let found = why.chars().count();
            let path = format!("slots[{index}].set_aside");
            fault(&path, format!("found {found} characters, expected at most {TEXT_MAX} printable ones"));
        }
    }
    if body.labels.len() > PARTS_MAX || body.labels.iter().any(|(key, value)| !printable(key) || !printable(value)) {
        fault(
            "labels",
            format!(
                "found {}, expected at most {PARTS_MAX}, each key and value of at most {TEXT_MAX} printable characters",
                body.labels.len()
            ),
        );
    }
    if body.credential_sha256.as_deref().is_some_and(|text| unhex(text).is_none()) {
        fault("credential_sha256", "expected 64 hexadecimal digits in lower case".into());
    }
    faults
}

/// The bytes of a SHA-256 in lower-case hex.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let pairs = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    (text.len() == 64 && text.bytes().all(digit)).then(|| pairs.collect::<Option<_>>())?
}

#[utoipa::path(post, path = "/workers", tag = "worker protocol", request_body = EnrolWorker, responses((status = 200, description = "enrolled", body = Enrolled), (status = 409, description = "another machine lives under the name; or the token is used up"), (status = 422, description = "another protocol, or faults of the input")))]
async fn enrol(State(app): State<App>, Who(who): Who, Body(body): Body<EnrolWorker, 256>) -> ApiResult<Json<Enrolled>> {
    if body.protocol_version != WORKER_PROTOCOL_VERSION {
        let found = body.protocol_version;
        return Err(ApiError::invalid(
            "protocol_version",
            said!(
                "worker_other_protocol",
                found = found,
                own = WORKER_PROTOCOL_VERSION,
                version = env!("CARGO_PKG_VERSION")
            ),
        ));
    }
    let faults = enrolment_faults(&body);
    if !faults.is_empty() {
        return Err(ApiError::Invalid(faults));
    }
    let credential = body.credential_sha256.as_deref().and_then(unhex);
    let by = match (who.worker, &credential) {
        (Some(worker), _) => Asked::Credential(worker),
        (None, Some(credential_sha256)) => Asked::Token { token: who.id, credential_sha256 },
        (None, None) => {
            return Err(ApiError::invalid("credential_sha256", said!("worker_needs_credential")));
        }
    };
    let _turn = app.enrolling.acquire().await.map_err(anyhow::Error::from)?;
    let revocations = app.known.revocations();
    let patience = |now| {
        app.listened(now);
        app.patience()
    };
    let Seated { worker: worker_id, session, credential: made } =
        db::workers::enrol(&app.db, &by, &body, patience).await?;
    match (credential, made) {
        // What a worker had before is revoked. A new one had nothing, and its first poll asks nobody who it is.
        (_, Some(_)) if session > 1 => app.known.forget(),
        (Some(secret_sha256), Some(made)) => app.known.learn(secret_sha256, made, revocations),
        _ => {}
    }
    let name = body.name;
    app.event(NewEvent {
        kind: "worker_enrolled",
        level: "info",
        said: said!("worker_enrolled", name = &name, host = body.host, slots = body.slots.len()),
        worker_id: Some(worker_id),
        ..NewEvent::default()
    })
    .await;
    for slot in &body.slots {
        let Some(why) = &slot.set_aside else { continue };
        app.event(NewEvent {
            kind: "slot_set_aside",
            level: "error",
            said: said!("slot_set_aside", slot = slot.index, name = &name, device = &slot.device, why = why),
            worker_id: Some(worker_id),
            ..NewEvent::default()
        })
        .await;
    }
    app.wake.schedule.notify_one();
    Ok(Json(Enrolled {
        worker_id,
        session,
        storage_url: app.storage.url(),
        lease_ttl_ms: app.config.lease_ttl_ms,
        heartbeat_ms: app.config.lease_ttl_ms / 3,
        server_version: env!("CARGO_PKG_VERSION").into(),
    }))
}

#[utoipa::path(post, path = "/workers/{id}/poll", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the worker")), request_body = Poll, responses((status = 200, description = "grants, empty when the wait was over first", body = Polled), (status = 409, description = "an old session")))]
async fn poll(
    State(app): State<App>,
    watched: Watched,
    Path(id): Path<WorkerId>,
    Body(body): Body<Poll>,
) -> ApiResult<Json<Polled>> {
    db::workers::seen(&app.db, id, body.session).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(body.wait_ms.min(POLL_MS_MAX));
    let mut stopping = app.stopping.clone();
    let waiting = app.polls.wait(id, &body.slots_free);
    // What was granted, but did not reach a poll before this one.
    let mut grants = db::leases::fetch_grants(&app.db, id, app.config.lease_ttl_ms).await?;
    if grants.is_empty() {
        app.wake.schedule.notify_one();
    }
    let mut over = pin!(app.known.over(&app.db, &watched));
    while grants.is_empty() && !waiting.has_grants() {
        tokio::select! {
            () = waiting.rung() => {}
            () = tokio::time::sleep_until(deadline) => break,
            _ = stopping.wait_for(|stop| *stop) => break,
            () = &mut over => return Err(ApiError::Unauthenticated),
        }
    }
    grants.extend(waiting.finish());
    Ok(Json(Polled { grants, corpus_roots: app.root_names.to_vec() }))
}

#[utoipa::path(post, path = "/workers/{id}/heartbeat", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the worker")), request_body = Heartbeat, responses((status = 200, description = "one command for each attempt", body = Heartbeaten), (status = 409, description = "an old session")))]
async fn heartbeat(
    State(app): State<App>,
    Path(id): Path<WorkerId>,
    Message(body): Message<Heartbeat, 1024>,
) -> ApiResult<Json<Heartbeaten>> {
    Ok(Json(app.ingest.beat(Beat { worker: id, body }).await?))
}
