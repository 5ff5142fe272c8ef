//! The set of experts that an experiment made.

use crate::{
    api::{
        error::{ApiError, ApiResult},
        params::Path,
    },
    app::App,
    db,
    domain::ensemble::{Places, assemble},
};
use axum::{Json, extract::State};
use senmon_protocol::{ensemble::Ensemble, ids::ExperimentId, said};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

#[utoipa::path(get, path = "/experiments/{id}/ensemble", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "its experts and how they are mixed: what `senmon-worker score` needs", body = Ensemble), (status = 404, description = "no such experiment, or its report is not written yet")))]
async fn show(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<Json<Ensemble>> {
    let row = db::experiments::get(&app.db, id).await?;
    let missing = || ApiError::NotFound(said!("no_ensemble_yet"));
    let (Some(report), Some(clustering), Some(tokenizer)) = (row.report, row.clustering_id, row.tokenizer_id) else {
        return Err(missing());
    };
    let places = Places {
        storage_url: app.storage.url(),
        router: db::fits::clustering(&app.db, clustering).await?.router.ok_or_else(missing)?,
        separator: db::fits::tokenizer(&app.db, tokenizer).await?.separator,
    };
    let checkpoints = db::checkpoints::list(&app.db, Some(id), None, None, None, i64::MAX).await?.rows;
    Ok(Json(assemble(places, &row.spec, &report, &checkpoints)))
}
