//! Checkpoints.

use crate::{
    api::{
        ListQuery,
        error::{ApiError, ApiResult},
        page,
    },
    app::App,
    db,
    tasks::{identity, scrub},
};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::header,
    response::IntoResponse,
};
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ids::{BranchId, CheckpointId, ExperimentId},
    view::{CheckpointVerdict, CheckpointView, Page},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(of_branch)).routes(routes!(show)).routes(routes!(file))
}

/// The route that takes as long as the store needs to give out a whole checkpoint.
pub fn verifying() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(verify))
}

/// Whose checkpoints.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
struct Of {
    /// Of one experiment.
    experiment_id: Option<uuid::Uuid>,
    /// Of one branch.
    branch_id: Option<uuid::Uuid>,
}

#[utoipa::path(get, path = "/checkpoints", tag = "checkpoints", params(Of, ListQuery), responses((status = 200, description = "committed checkpoints, newest first", body = Page<CheckpointView>)))]
async fn list(
    State(app): State<App>,
    Query(of): Query<Of>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<Page<CheckpointView>>> {
    let before = query.cursor.map(CheckpointId);
    let rows = db::checkpoints::list(
        &app.db,
        of.experiment_id.map(ExperimentId),
        of.branch_id.map(BranchId),
        None,
        before,
        query.limit() + 1,
    )
    .await?;
    Ok(Json(page(rows, query.limit(), |item| item.id.to_string())))
}

#[utoipa::path(get, path = "/branches/{id}/checkpoints", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "its newest 1,000 checkpoints, newest first; `/checkpoints?branch_id=` has all, in pages", body = Vec<CheckpointView>)))]
async fn of_branch(State(app): State<App>, Path(id): Path<BranchId>) -> ApiResult<Json<Vec<CheckpointView>>> {
    Ok(Json(db::checkpoints::list(&app.db, None, Some(id), None, None, 1000).await?.rows))
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

#[utoipa::path(get, path = "/checkpoints/{id}/files/{name}", tag = "checkpoints", params(("id" = uuid::Uuid, Path, description = "the checkpoint"), ("name" = String, Path, description = "`manifest.json` or a file that it names")), responses((status = 200, description = "the file", content_type = "application/octet-stream", body = Vec<u8>), (status = 404, description = "no such checkpoint or file")))]
async fn file(
    State(app): State<App>,
    Path((id, name)): Path<(CheckpointId, String)>,
) -> ApiResult<axum::response::Response> {
    let view = db::checkpoints::get(&app.db, id).await?;
    let missing = || ApiError::NotFound(format!("checkpoint {id} has no file {name} in the store"));
    let key = |name: &str| view.folder.join(name).map_err(|error| ApiError::Internal(error.into()));
    let known = app.storage.get(&key(MANIFEST_FILE)?).await.map_err(ApiError::Internal)?.ok_or_else(missing)?;
    let known: Manifest = serde_json::from_slice(&known).map_err(|error| ApiError::Internal(error.into()))?;
    if name != MANIFEST_FILE && !known.files.contains_key(&name) {
        let names: Vec<&String> = known.files.keys().collect();
        return Err(ApiError::NotFound(format!("checkpoint {id} has no file {name}; it has {names:?}")));
    }
    let (length, chunks) = app.storage.read(&key(&name)?).await.map_err(ApiError::Internal)?.ok_or_else(missing)?;
    let body = axum::body::Body::from_stream(chunks);
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, body).into_response())
}
