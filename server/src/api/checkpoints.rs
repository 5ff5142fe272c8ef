//! Checkpoints.

use crate::{
    api::{
        ListQuery,
        auth::Viewer,
        error::{ApiError, ApiResult},
        page,
    },
    app::App,
    db,
};
use axum::{
    Json,
    extract::{Path, Query, State},
};
use senmon_protocol::{
    ids::{BranchId, CheckpointId, ExperimentId},
    view::{CheckpointView, Page},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(of_branch)).routes(routes!(show))
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
    _: Viewer,
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

#[utoipa::path(get, path = "/branches/{id}/checkpoints", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "its checkpoints, newest first", body = Vec<CheckpointView>)))]
async fn of_branch(
    State(app): State<App>,
    _: Viewer,
    Path(id): Path<BranchId>,
) -> ApiResult<Json<Vec<CheckpointView>>> {
    Ok(Json(db::checkpoints::list(&app.db, None, Some(id), None, None, 1000).await?))
}

#[utoipa::path(get, path = "/checkpoints/{id}", tag = "checkpoints", params(("id" = uuid::Uuid, Path, description = "the checkpoint")), responses((status = 200, description = "the checkpoint", body = CheckpointView), (status = 404, description = "no such checkpoint")))]
async fn show(State(app): State<App>, _: Viewer, Path(id): Path<CheckpointId>) -> ApiResult<Json<CheckpointView>> {
    let found = db::checkpoints::list(&app.db, None, None, Some(id), None, 1).await?.pop();
    found.map(Json).ok_or_else(|| ApiError::NotFound(format!("no checkpoint {id}")))
}
