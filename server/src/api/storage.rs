//! What the store holds, and what it will.

use crate::{
    api::error::{ApiError, ApiResult},
    app::App,
    db::{self, experiments::Filter},
    disk,
    domain::{
        known::{Known, Room},
        room::checkpoint_bytes,
    },
    usage::Usage,
};
use anyhow::Context;
use axum::{Json, extract::State};
use chrono::TimeDelta;
use senmon_protocol::{
    said,
    storage::{Bytes, DatabaseUsage, DiskUsage, StorageForecast, StorageView},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Age of the count that is shown: a bucket of a million objects takes a minute to list.
const COUNT_AGE_MAX: Duration = Duration::from_secs(30);

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

#[utoipa::path(get, path = "/storage", tag = "storage", responses((status = 200, description = "bytes by kind, the budget, and what the experiments under way may still add", body = StorageView)))]
async fn show(State(app): State<App>) -> ApiResult<Json<StorageView>> {
    let (usage, age) = count(&app).await?;
    let experiments = forecasts(&app).await?;
    let tables = db::usage::tables(&app.db).await?;
    Ok(Json(StorageView {
        url: app.storage.url(),
        checkpoint_bytes: usage.checkpoints,
        shard_bytes: usage.shards,
        other_bytes: usage.other,
        counted_at: db::workers::now(&app.db).await? - TimeDelta::from_std(age).unwrap_or_default(),
        budget_bytes: app.config.storage_budget.map(|budget| budget.0),
        growth_bytes: growth(&experiments),
        database: DatabaseUsage {
            bytes: db::usage::bytes(&app.db).await?,
            budget_bytes: app.config.database_budget.map(|budget| budget.0),
            tables,
        },
        disks: disks(&app).await?,
        experiments,
    }))
}

/// Refuses what grows while a disk is nearly full or a budget spent.
///
/// # Errors
/// [`ApiError::NoRoom`].
pub fn may_grow(app: &App) -> ApiResult<()> {
    match app.disk.refusal() {
        None => Ok(()),
        Some(why) => Err(ApiError::NoRoom(said!("no_room_to_grow", why = why))),
    }
}

/// What the store may still take, where it has a budget.
///
/// # Errors
/// When Postgres or the store refuses.
pub async fn room(app: &App) -> ApiResult<Option<Room>> {
    let Some(budget) = app.config.storage_budget else { return Ok(None) };
    let (usage, _) = count(app).await?;
    Ok(Some(Room { budget, used: Bytes(usage.total()), growth: Bytes(growth(&forecasts(app).await?)) }))
}

/// The disks of the database and of a store that is a folder.
async fn disks(app: &App) -> ApiResult<Vec<DiskUsage>> {
    let look = app.disk.look();
    let (database, store) = (app.disk.folder().to_owned(), app.storage.folder().map(Path::to_owned));
    let reserve = if look.held { app.disk.reserve() } else { 0 };
    let looked = tokio::task::spawn_blocking(move || {
        let of = |name: &str, folder: PathBuf, room: disk::Room, held, reserve_bytes| DiskUsage {
            name: name.into(),
            folder: folder.display().to_string(),
            total_bytes: room.total,
            free_bytes: room.free,
            held_bytes: held,
            reserve_bytes,
        };
        let held = disk::bytes_below(&database)?;
        let mut disks = vec![of("database", database, look.room, Some(held), reserve)];
        if let Some(store) = store {
            let room = disk::room(&store)?;
            disks.push(of("store", store, room, None, 0));
        }
        anyhow::Ok(disks)
    });
    Ok(looked.await.context("a look at the disks panicked")??)
}

async fn count(app: &App) -> ApiResult<(Usage, Duration)> {
    app.usage.count(&app.storage, COUNT_AGE_MAX).await.map_err(ApiError::Internal)
}

async fn forecasts(app: &App) -> ApiResult<Vec<StorageForecast>> {
    let mut forecasts = Vec::new();
    for row in db::experiments::list(&app.db, Filter { open: true, ..Filter::default() }).await?.rows {
        let (bytes, each) = db::retention::held(&app.db, row.id).await?;
        let bytes_forecast = checkpoint_bytes(&row.spec, &Known::default(), each);
        forecasts.push(StorageForecast { experiment_id: row.id, experiment: row.spec.name, bytes, bytes_forecast });
    }
    Ok(forecasts)
}

fn growth(forecasts: &[StorageForecast]) -> u64 {
    forecasts.iter().filter_map(|f| Some(f.bytes_forecast?.saturating_sub(f.bytes))).sum()
}
