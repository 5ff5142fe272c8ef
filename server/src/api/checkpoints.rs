//! Checkpoints.

use crate::{
    api::{
        error::{ApiError, ApiResult},
        etag,
        page::page,
        params::{self, Path, Query},
        ranges::{self, Asked},
    },
    app::App,
    db,
    tasks::{identity, scrub},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ids::{BranchId, CheckpointId, ExperimentId},
    said,
    said::expected::quoted,
    view::{CheckpointVerdict, CheckpointView, Page},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(file))
}

/// The route that takes as long as the store needs to give out a whole checkpoint.
pub fn verifying() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(verify))
}

/// Whose checkpoints.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Of one experiment.
    experiment_id: Option<uuid::Uuid>,
    /// Of one branch.
    branch_id: Option<uuid::Uuid>,
    /// `next_cursor` of the page before.
    cursor: Option<uuid::Uuid>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/checkpoints", tag = "checkpoints", params(ListQuery), responses((status = 200, description = "committed checkpoints, newest first", body = Page<CheckpointView>)))]
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<CheckpointView>>> {
    let limit = params::limit(query.limit)?;
    let before = query.cursor.map(CheckpointId);
    let rows = db::checkpoints::list(
        &app.db,
        query.experiment_id.map(ExperimentId),
        query.branch_id.map(BranchId),
        None,
        before,
        limit + 1,
    )
    .await?;
    Ok(Json(page(rows, limit, |item| item.id.to_string())))
}

#[utoipa::path(get, path = "/checkpoints/{id}", tag = "checkpoints", params(("id" = uuid::Uuid, Path, description = "the checkpoint")), responses((status = 200, description = "the checkpoint", body = CheckpointView), (status = 404, description = "no such checkpoint")))]
async fn show(State(app): State<App>, Path(id): Path<CheckpointId>) -> ApiResult<Json<CheckpointView>> {
    Ok(Json(db::checkpoints::get(&app.db, id).await?))
}

#[utoipa::path(post, path = "/checkpoints/{id}/verify", tag = "checkpoints", params(("id" = uuid::Uuid, Path, description = "the checkpoint")), responses((status = 200, description = "every file was read and compared with the manifest", body = CheckpointVerdict), (status = 404, description = "no such checkpoint")))]
async fn verify(State(app): State<App>, Path(id): Path<CheckpointId>) -> ApiResult<Json<CheckpointVerdict>> {
    if !identity::is_seen(&app).await? {
        return Err(ApiError::Unavailable(anyhow::anyhow!("the store that is there is not the one of this database")));
    }
    Ok(Json(scrub::verify(&app, &db::checkpoints::get(&app.db, id).await?).await?))
}

#[utoipa::path(get, path = "/checkpoints/{id}/files/{name}", tag = "checkpoints", params(("id" = uuid::Uuid, Path, description = "the checkpoint"), ("name" = String, Path, description = "`manifest.json` or a file that it names")), responses((status = 200, description = "the file; its `ETag` is its SHA-256", content_type = "application/octet-stream", body = Vec<u8>), (status = 206, description = "the range that was asked for", content_type = "application/octet-stream", body = Vec<u8>), (status = 304, description = "the reader has it"), (status = 404, description = "no such checkpoint or file"), (status = 416, description = "the range begins beyond the end")))]
async fn file(
    State(app): State<App>,
    Path((id, name)): Path<(CheckpointId, String)>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let view = db::checkpoints::get(&app.db, id).await?;
    let missing = || ApiError::NotFound(said!("checkpoint_lacks_file", id = id.to_string(), name = quoted(&name)));
    let key = |name: &str| view.folder.join(name).map_err(|_| missing());
    let manifest = app.storage.get(&key(MANIFEST_FILE)?).await.map_err(ApiError::Internal)?.ok_or_else(missing)?;
    let known: Manifest = serde_json::from_slice(&manifest).map_err(|error| ApiError::Internal(error.into()))?;
    let (bytes, sha256) = match known.files.get(&name) {
        _ if name == MANIFEST_FILE => (manifest.len() as u64, &view.manifest_sha256),
        Some(entry) => (entry.bytes, &entry.sha256),
        None => {
            let names: Vec<&String> = known.files.keys().collect();
            let (id, name) = (id.to_string(), quoted(&name));
            return Err(ApiError::NotFound(said!("checkpoint_has_files", id = id, name = name, names = names)));
        }
    };
    let (key, tag) = (key(&name)?, format!("\"{sha256}\""));
    let about = [(header::ETAG, tag.clone()), (header::ACCEPT_RANGES, "bytes".into())];
    if etag::is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let (status, length, chunks, range) = match ranges::asked(&headers, bytes, &tag) {
        Asked::Beyond => return Err(ApiError::NoSuchRange(bytes)),
        Asked::Whole => {
            let (length, chunks) = app.storage.read(&key).await.map_err(ApiError::Internal)?.ok_or_else(missing)?;
            (StatusCode::OK, length, chunks, None)
        }
        Asked::Part(part) => {
            let chunks = app.storage.read_range(&key, part.clone()).await.map_err(ApiError::Internal)?;
            let range = format!("bytes {}-{}/{bytes}", part.start, part.end - 1);
            (StatusCode::PARTIAL_CONTENT, part.end - part.start, chunks.ok_or_else(missing)?, Some(range))
        }
    };
    let described =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    let range = range.map(|range| (header::CONTENT_RANGE, range));
    Ok((status, described, about, AppendHeaders(range), axum::body::Body::from_stream(chunks)).into_response())
}
