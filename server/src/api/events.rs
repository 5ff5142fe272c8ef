//! Events, as a list and as a stream.

use crate::{
    api::{auth::Who, error::ApiResult},
    app::App,
    db,
};
use axum::{
    Json,
    extract::{Query, State},
    response::{
        IntoResponse, Sse,
        sse::{Event, KeepAlive},
    },
};
use senmon_protocol::{
    ids::{BranchId, ExperimentId},
    view::{EventView, StreamMessage},
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

/// Which events.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
struct EventsQuery {
    /// Of one experiment.
    experiment_id: Option<uuid::Uuid>,
    /// Of one branch.
    branch_id: Option<uuid::Uuid>,
    /// After this id, oldest first; without it the latest.
    after: Option<i64>,
    /// At most so many, 1 to 1,000. Default 200.
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/events", tag = "events", params(EventsQuery), responses((status = 200, description = "what happened, oldest first", body = Vec<EventView>)))]
async fn list(State(app): State<App>, Query(query): Query<EventsQuery>) -> ApiResult<Json<Vec<EventView>>> {
    let limit = query.limit.unwrap_or(200).clamp(1, 1000);
    Ok(Json(
        db::events::list(
            &app.db,
            query.experiment_id.map(ExperimentId),
            query.branch_id.map(BranchId),
            query.after,
            limit,
        )
        .await?,
    ))
}

/// Of what.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
struct StreamQuery {
    /// Only messages of one experiment (and of the fleet).
    experiment_id: Option<uuid::Uuid>,
}

#[utoipa::path(get, path = "/stream", tag = "events", params(StreamQuery), responses((status = 200, description = "server-sent events: StreamMessage as JSON", content_type = "text/event-stream", body = String)))]
async fn stream(
    State(app): State<App>,
    Who(who): Who,
    Query(query): Query<StreamQuery>,
) -> ApiResult<impl IntoResponse> {
    let seat = app.limits.stream(who.id)?;
    let wanted = query.experiment_id.map(ExperimentId);
    let (mut receiver, mut stopping) = (app.stream.subscribe(), app.stopping.clone());
    let messages = async_stream::stream! {
        let _seat = seat;
        let mut budget = Budget::new();
        let mut over = pin!(app.known.over(&app, &who));
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
