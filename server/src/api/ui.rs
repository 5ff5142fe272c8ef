//! The dashboard: embedded files, or those of `ui_dir`. Pages are an application of their own, so every path that
//! asks for a page gets its index.

use crate::{api::error::ApiError, app::App};
use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use rust_embed::RustEmbed;
use senmon_protocol::said;
use std::borrow::Cow;

#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct Dist;

const NOT_BUILT: &str = "<!doctype html><meta charset=utf-8><title>Senmon</title><p>The dashboard is not built into this server. \
    Run <code>scripts/setup-web</code> and build again, or start the server with <code>ui_dir</code>. The API is at <code>/api/v1</code>.";

/// Serves a file of the dashboard, or its index for a page.
pub async fn serve(State(app): State<App>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let wants_page = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if path.starts_with("api/") || (method != Method::GET && method != Method::HEAD) {
        return ApiError::NotFound(said!("no_such_page", method = method.as_str(), path = uri.path())).into_response();
    }
    if let Some(bytes) = file(&app, path).await {
        let kind = mime_guess::from_path(path).first_or_octet_stream();
        let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
        return ([(header::CONTENT_TYPE, kind.as_ref()), (header::CACHE_CONTROL, cache)], bytes).into_response();
    }
    if !wants_page && !path.is_empty() {
        return ApiError::NotFound(said!("no_such_file", path = uri.path())).into_response();
    }
    let page = file(&app, "index.html").await;
    let page = page.map(|page| based(&page, app.config.base()));
    let status = if page.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let page = page.unwrap_or_else(|| NOT_BUILT.as_bytes().to_vec());
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], page)
        .into_response()
}

/// The page's addresses go from its base; behind a proxy it lies below a path.
fn based(page: &[u8], base: &str) -> Vec<u8> {
    String::from_utf8_lossy(page).replacen("<base href=\"/\"", &format!("<base href=\"{base}/\""), 1).into_bytes()
}

async fn file(app: &App, path: &str) -> Option<Cow<'static, [u8]>> {
    let good = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "..");
    if !good {
        return None;
    }
    match &app.config.ui_dir {
        Some(folder) => tokio::fs::read(folder.join(path)).await.ok().map(Cow::Owned),
        None => Dist::get(path).map(|file| file.data),
    }
}
