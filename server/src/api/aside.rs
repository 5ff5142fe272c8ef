//! What the server's loops set aside, and the way to have it tried again.

use crate::{
    api::{
        auth::Who,
        error::{ApiError, ApiResult},
        params::{PageQuery, Path, Query},
    },
    app::App,
    db::{self, events::NewEvent},
};
use axum::{Json, extract::State, http::StatusCode};
use senmon_protocol::{
    ids::ExperimentId,
    said,
    said::of,
    view::{Page, SetAside, TroubleKind},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(again))
}

#[utoipa::path(get, path = "/set-aside", tag = "set aside", params(PageQuery), responses((status = 200, description = "what the server's loops failed on again and again, the latest first", body = Page<SetAside>)))]
async fn list(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Json<Page<SetAside>>> {
    Ok(Json(query.of(db::troubles::set_aside(&app.db).await?, |item| item.id.to_string())?))
}

#[utoipa::path(delete, path = "/set-aside/{kind}/{id}", tag = "set aside", params(("kind" = TroubleKind, Path, description = "what it is"), ("id" = uuid::Uuid, Path, description = "which one")), responses((status = 204, description = "it is set aside no longer, and tried again at once"), (status = 404, description = "it is not set aside")))]
async fn again(
    State(app): State<App>,
    Who(who): Who,
    Path((kind, id)): Path<(TroubleKind, Uuid)>,
) -> ApiResult<StatusCode> {
    if !db::troubles::forget(&app.db, kind, id).await? {
        return Err(ApiError::NotFound(said!("not_set_aside", noun = of::trouble(kind), id = id.to_string())));
    }
    let experiment_id = (kind == TroubleKind::Experiment).then_some(ExperimentId(id));
    let said = said!("tried_again", who = &who.name, kind = of::trouble(kind), id = id.to_string());
    app.event(NewEvent { kind: "tried_again", level: "info", said, experiment_id, ..NewEvent::default() }).await;
    let wake = match kind {
        TroubleKind::Experiment => &app.wake.advance,
        TroubleKind::Corpus => &app.wake.scan,
        TroubleKind::Clustering | TroubleKind::Tokenizer => &app.wake.discover,
        TroubleKind::Branch | TroubleKind::Checkpoint => &app.wake.scrub,
    };
    wake.notify_one();
    Ok(StatusCode::NO_CONTENT)
}
