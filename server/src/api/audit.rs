//! Who changed what.

use crate::{
    api::{
        error::ApiResult,
        page::page,
        params::{self, Query},
    },
    app::App,
    db,
};
use axum::{Json, extract::State};
use senmon_protocol::view::{AuditView, Page};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which entries.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    /// `next_cursor` of the page before.
    cursor: Option<i64>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Of one thing: its id, or the name that it was asked for by.
    target: Option<String>,
    /// Of one token's name.
    who: Option<String>,
}

#[utoipa::path(get, path = "/audit", tag = "session", params(AuditQuery), responses((status = 200, description = "every change that people asked for, newest first", body = Page<AuditView>)))]
async fn list(State(app): State<App>, Query(query): Query<AuditQuery>) -> ApiResult<Json<Page<AuditView>>> {
    let limit = params::limit(query.limit)?;
    let of = (query.target.as_deref(), query.who.as_deref());
    let listed = db::audit::list(&app.db, query.cursor, of, limit + 1).await?;
    Ok(Json(page(listed, limit, |entry| entry.id.to_string())))
}
