//! Events, as a list and as a stream.

use crate::{
    api::{
        auth::Watched,
        error::ApiResult,
        page::page,
        params::{self, Query},
    },
    app::App,
    db::{self, Listed, events::Wanted},
};
use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Sse,
        sse::{Event, KeepAlive},
    },
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{BranchId, ExperimentId},
    view::{EventView, Page, StreamMessage},
};
use std::{
    convert::Infallible,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::sync::broadcast::error::RecvError;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(stream))
}

/// Which events, in which order.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    /// Of one experiment.
    experiment_id: Option<uuid::Uuid>,
    /// Of one branch.
    branch_id: Option<uuid::Uuid>,
    /// Only of this level and above. Default `info`: all.
    #[param(inline)]
    level: Option<Level>,
    /// Only from then on.
    since: Option<DateTime<Utc>>,
    /// Order. Default `newest`.
    #[param(inline)]
    sort: Option<Sort>,
    /// `next_cursor` of the page before, or the id of the last event that was seen.
    cursor: Option<i64>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    #[default]
    Info,
    /// To look at.
    Warn,
    /// To do something about.
    Error,
}

/// Order of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// The last first.
    #[default]
    Newest,
    /// The first first: to follow.
    Oldest,
}

#[utoipa::path(get, path = "/events", tag = "events", params(EventsQuery), responses((status = 200, description = "what happened", body = Page<EventView>)))]
async fn list(State(app): State<App>, Query(query): Query<EventsQuery>) -> ApiResult<Json<Page<EventView>>> {
    let limit = params::limit(query.limit)?;
    let least = query.level.unwrap_or_default();
    let levels = [(Level::Info, "info"), (Level::Warn, "warn"), (Level::Error, "error")];
    let wanted = Wanted {
        experiment: query.experiment_id.map(ExperimentId),
        branch: query.branch_id.map(BranchId),
        levels: levels.iter().filter(|(level, _)| *level >= least).map(|(_, word)| (*word).to_owned()).collect(),
        since: query.since,
        newest: query.sort.unwrap_or_default() == Sort::Newest,
        cursor: query.cursor,
        limit: limit + 1,
    };
    let listed = Listed { rows: db::events::list(&app.db, &wanted).await?, broken: Vec::new() };
    Ok(Json(page(listed, limit, |event| event.id.to_string())))
}

/// Of what.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct StreamQuery {
    /// Only messages of one experiment (and of the fleet).
    experiment_id: Option<uuid::Uuid>,
}

#[utoipa::path(get, path = "/stream", tag = "events", params(StreamQuery), responses((status = 200, description = "server-sent events: StreamMessage as JSON", content_type = "text/event-stream", body = String)))]
async fn stream(
    State(app): State<App>,
    watched: Watched,
    Query(query): Query<StreamQuery>,
) -> ApiResult<impl IntoResponse> {
    let seat = app.limits.stream(watched.who.id)?;
    let wanted = query.experiment_id.map(ExperimentId);
    let (mut receiver, mut stopping) = (app.stream.subscribe(), app.stopping.clone());
    let messages = async_stream::stream! {
        let _seat = seat;
        let mut budget = Budget::new();
        let mut over = pin!(app.known.over(&app.db, &watched));
        loop {
            let received = tokio::select! {
                received = receiver.recv() => received,
                _ = stopping.wait_for(|stop| *stop) => break,
                () = &mut over => break,
            };
            match received {
                Ok(message) if concerns(&message, wanted) => {
                    if matches!(message, StreamMessage::Metrics(_)) && !budget.take() {
                        continue;
                    }
                    if let Ok(event) = Event::default().event(name(&message)).json_data(&message) {
                        yield Ok::<_, Infallible>(event);
                    }
                }
                Ok(_) => {}
                // Too slow to follow: tell the reader to ask again for what it shows.
                Err(RecvError::Lagged(_)) => yield Ok(Event::default().event("resync").data("{}")),
                Err(RecvError::Closed) => break,
            }
        }
    };
    Ok(Sse::new(messages).keep_alive(KeepAlive::default()))
}

/// Batches of points that one reader is sent in a second. A screen shows no more; the others are in the curve when it is
/// asked for again.
const METRICS_A_SECOND: u32 = 50;

struct Budget {
    since: Instant,
    spent: u32,
}

impl Budget {
    fn new() -> Self {
        Self { since: Instant::now(), spent: 0 }
    }

    fn take(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        self.spent += 1;
        self.spent <= METRICS_A_SECOND
    }
}

fn name(message: &StreamMessage) -> &'static str {
    match message {
        StreamMessage::Metrics(_) => "metrics",
        StreamMessage::Experiment(_) => "experiment",
        StreamMessage::Fleet(_) => "fleet",
        StreamMessage::Event(_) => "event",
    }
}

fn concerns(message: &StreamMessage, wanted: Option<ExperimentId>) -> bool {
    let of = match message {
        StreamMessage::Metrics(metrics) => Some(metrics.experiment_id),
        StreamMessage::Experiment(experiment) => Some(experiment.experiment_id),
        StreamMessage::Event(event) => event.experiment_id,
        StreamMessage::Fleet(_) => None,
    };
    wanted.is_none() || of.is_none() || of == wanted
}
