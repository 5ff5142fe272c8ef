//! Is it up, is it ready, how is it doing. Anybody hears whether; how is for those who may read.

use crate::{
    api::{
        error::{ApiError, ApiResult},
        gate::Reader,
    },
    app::App,
    db,
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use std::fmt::Write as _;

/// Routes outside the API.
pub fn router() -> Router<App> {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

async fn ready(State(app): State<App>, reader: Result<Reader, ApiError>) -> impl IntoResponse {
    match db::workers::now(&app.db).await {
        Ok(_) if reader.is_err() => (StatusCode::OK, "ready\n".to_owned()),
        Ok(_) => {
            let failing = app.loops.failing();
            let lines = failing.iter().map(|(name, failing)| {
                format!("the loop {name} failed {} times in a row: {}\n", failing.times, failing.error)
            });
            let full = app.disk.refusal().map_or_else(String::new, |why| format!("{}\n", why.text()));
            (StatusCode::OK, format!("ready\n{}{full}", lines.collect::<String>()))
        }
        Err(error) => {
            tracing::warn!(%error, "not ready: the database does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: the database does not answer\n".to_owned())
        }
    }
}

/// Prometheus text: gauges of the fleet.
async fn metrics(State(app): State<App>, _: Reader) -> ApiResult<impl IntoResponse> {
    let fleet = crate::fleet::look(&app).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    let free = app.disk.look().room.free as f64;
    let gauges = [
        ("senmon_disk_free_bytes", "room on the disk of the database", free),
        ("senmon_workers_alive", "workers heard of lately", f64::from(fleet.workers_alive)),
        ("senmon_workers_suspect", "workers silent for a lease", f64::from(fleet.workers_suspect)),
        ("senmon_workers_lost", "workers given up", f64::from(fleet.workers_lost)),
        ("senmon_slots", "slots of workers that are alive", f64::from(fleet.slots)),
        ("senmon_slots_busy", "slots with a job", f64::from(fleet.slots_busy)),
        ("senmon_jobs_queued", "jobs that wait", f64::from(fleet.jobs_queued)),
        ("senmon_tokens_per_second", "tokens trained per second", fleet.tokens_per_second),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    let name = "senmon_loop_failures";
    let _ = writeln!(text, "# HELP {name} failures in a row of the server's own loops\n# TYPE {name} gauge");
    for (task, failing) in app.loops.failing() {
        let _ = writeln!(text, "{name}{{loop=\"{task}\"}} {}", failing.times);
    }
    // No counters: a productive step becomes a wasted one when a resume takes it back.
    if let Ok(hour) = super::goodput::recent(&app, 1.0).await {
        let name = "senmon_slot_seconds_last_hour";
        let _ = writeln!(text, "# HELP {name} slot-seconds of the last hour by cause\n# TYPE {name} gauge");
        for time in &hour.causes {
            let (cause, good) = (db::word(&time.cause), time.is_goodput);
            let _ = writeln!(text, "{name}{{cause=\"{cause}\",goodput=\"{good}\"}} {}", time.seconds);
        }
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
