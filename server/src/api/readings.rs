//! How workers' machines and devices were: what a worker says once a minute, and its history.

use crate::{
    api::{
        body::Body,
        error::{ApiError, ApiResult},
        params::{Path, Query},
    },
    app::App,
    db::{
        self,
        events::NewEvent,
        readings::{Point, Reading},
    },
    domain::readings::{MINUTE_MS, faults, minutes_of},
};
use axum::{Json, extract::State, http::StatusCode};
use chrono::DateTime;
use senmon_protocol::{
    ids::WorkerId,
    readings::{Readings, SourceMetrics, WorkerMetrics},
    said,
    said::expected::{found, range},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Points of a curve where nobody says how many.
const POINTS: i64 = 1000;

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(tell)).routes(routes!(metrics))
}

#[utoipa::path(post, path = "/workers/{id}/readings", tag = "worker protocol", params(("id" = uuid::Uuid, Path, description = "the worker")), request_body = Readings, responses((status = 204, description = "stored; a second one of a minute is left out"), (status = 409, description = "an old session")))]
async fn tell(
    State(app): State<App>,
    Path(id): Path<WorkerId>,
    Body(body): Body<Readings, 64>,
) -> ApiResult<StatusCode> {
    let faults = faults(&body);
    if !faults.is_empty() {
        return Err(ApiError::Invalid(faults));
    }
    db::readings::store(&app.db, id, &body).await?;
    for (device, code) in body.devices.iter().filter_map(|device| Some((&device.device, device.xid?))) {
        app.event(NewEvent {
            kind: "device_xid",
            level: "error",
            said: said!("device_xid", device = device, code = code),
            worker_id: Some(id),
            ..NewEvent::default()
        })
        .await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Which time, and how finely.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct MetricsQuery {
    /// From this moment on, in milliseconds since the Unix epoch. Default: all that is kept.
    from_ms: Option<i64>,
    /// Up to this moment. Default: now.
    to_ms: Option<i64>,
    /// Most points of a curve. Default 1000.
    #[param(minimum = 1, maximum = 10_000)]
    points_max: Option<i64>,
}

/// The last moment of the year 9999, beyond which no time is written.
const MOMENT_MAX: i64 = 253_402_300_799_000;

fn moment(name: &str, ms: i64) -> ApiResult<DateTime<chrono::Utc>> {
    let read = (0..=MOMENT_MAX).contains(&ms).then(|| DateTime::from_timestamp_millis(ms)).flatten();
    read.ok_or_else(|| ApiError::invalid(name, found(ms, range(0, MOMENT_MAX))))
}

#[utoipa::path(get, path = "/workers/{id}/metrics", tag = "workers", params(("id" = uuid::Uuid, Path, description = "the worker"), MetricsQuery), responses((status = 200, description = "how its machine and devices were", body = WorkerMetrics), (status = 404, description = "no such worker")))]
async fn metrics(
    State(app): State<App>,
    Path(id): Path<WorkerId>,
    Query(query): Query<MetricsQuery>,
) -> ApiResult<Json<WorkerMetrics>> {
    let most = query.points_max.unwrap_or(POINTS);
    if !(1..=10_000).contains(&most) {
        return Err(ApiError::invalid("points_max", found(most, range(1, 10_000))));
    }
    if db::workers::list(&app.db, Some(&[id.0])).await?.rows.is_empty() {
        return Err(ApiError::missing("worker", id));
    }
    let now = db::workers::now(&app.db).await?;
    let to = query.to_ms.map_or(Ok(now), |ms| moment("to_ms", ms))?;
    let from = match query.from_ms {
        Some(ms) => moment("from_ms", ms)?,
        None => db::readings::oldest(&app.db, id).await?.unwrap_or(to),
    };
    let minutes = minutes_of((to - from).num_milliseconds(), most);
    let points = db::readings::over(&app.db, id, (from, to), minutes).await?;
    let every_ms = MINUTE_MS * u64::from(minutes.unsigned_abs());
    Ok(Json(WorkerMetrics { worker_id: id, every_ms, sources: sources(points) }))
}

/// A name of a machine's or a device's series, and where it stands in a reading.
type Named = (&'static str, fn(&Reading) -> Option<f32>);

const MACHINE: [Named; 7] = [
    ("cpu/share", |reading| reading.share),
    ("memory/used_bytes", |reading| reading.memory_used),
    ("memory/total_bytes", |reading| reading.memory),
    ("network/received_bytes_per_second", |reading| reading.received),
    ("network/sent_bytes_per_second", |reading| reading.sent),
    ("disk/read_bytes_per_second", |reading| reading.read),
    ("disk/written_bytes_per_second", |reading| reading.written),
];
const DEVICE: [Named; 7] = [
    ("device/utilisation", |reading| reading.share),
    ("device/memory_used_bytes", |reading| reading.memory_used),
    ("device/memory_total_bytes", |reading| reading.memory),
    ("device/celsius", |reading| reading.celsius),
    ("device/watts", |reading| reading.watts),
    ("device/throttled", |reading| reading.throttled),
    ("device/ecc_uncorrected", |reading| reading.ecc_uncorrected),
];

fn sources(points: Vec<Point>) -> Vec<SourceMetrics> {
    let mut grouped: Vec<(String, Vec<Point>)> = Vec::new();
    for point in points {
        match grouped.last_mut() {
            Some((source, own)) if *source == point.source => own.push(point),
            _ => grouped.push((point.source.clone(), vec![point])),
        }
    }
    // The machine first; devices come by name.
    grouped.sort_by_key(|(source, _)| source != "machine");
    let view = |(source, points): (String, Vec<Point>)| {
        let names: &[Named] = if source == "machine" { &MACHINE } else { &DEVICE };
        let column = |of: fn(&Reading) -> Option<f32>| -> Vec<Option<f64>> {
            points.iter().map(|point| of(&point.reading).map(f64::from)).collect()
        };
        let series = names.iter().map(|(name, of)| ((*name).to_owned(), column(*of)));
        SourceMetrics {
            at_ms: points.iter().map(|point| point.at.timestamp_millis()).collect(),
            series: series.filter(|(_, values)| values.iter().any(Option::is_some)).collect(),
            source,
        }
    };
    grouped.into_iter().map(view).collect()
}
