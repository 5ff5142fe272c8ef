//! Sign-in of browsers, and tokens.

use crate::{
    api::{
        auth::{Admin, Auth, COOKIE, cookie, hash, new_secret},
        body::Body,
        error::{ApiError, ApiResult},
        params::Path,
    },
    app::App,
    db,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use senmon_protocol::{
    ids::TokenId,
    view::{CreateToken, CreatedToken, Role, SessionView, SignIn, TokenView},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Hours that a browser stays signed in.
const SESSION_HOURS: i32 = 24 * 30;

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sign_in, who, sign_out))
        .routes(routes!(tokens, create_token))
        .routes(routes!(delete_token))
}

#[utoipa::path(post, path = "/session", tag = "session", request_body = SignIn, security(()), responses((status = 204, description = "signed in; the cookie is set"), (status = 401, description = "unknown token or used code")))]
async fn sign_in(State(app): State<App>, Body(body): Body<SignIn, 4>) -> ApiResult<impl IntoResponse> {
    let secret_hash = hash(body.token.trim());
    let token = match db::tokens::by_secret(&app.db, &secret_hash).await? {
        Some(identity) if identity.role == Role::Worker => {
            return Err(ApiError::Forbidden("a worker's token cannot sign in".into()));
        }
        Some(identity) => identity.id,
        None => db::tokens::take_code(&app.db, &secret_hash).await?.ok_or(ApiError::Unauthenticated)?,
    };
    let secret = new_secret(Role::Viewer)?;
    db::tokens::insert_session(&app.db, &hash(&secret), token, SESSION_HOURS, false).await?;
    let value =
        format!("{COOKIE}={secret}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}", i64::from(SESSION_HOURS) * 3600);
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, value)]))
}

#[utoipa::path(get, path = "/session", tag = "session", responses((status = 200, description = "who is asking", body = SessionView), (status = 401, description = "nobody known")))]
async fn who(Auth(identity): Auth) -> Json<SessionView> {
    Json(SessionView { name: identity.name, role: identity.role, version: env!("CARGO_PKG_VERSION").into() })
}

#[utoipa::path(delete, path = "/session", tag = "session", responses((status = 204, description = "signed out")))]
async fn sign_out(State(app): State<App>, _: Auth, headers: HeaderMap) -> ApiResult<StatusCode> {
    if let Some(secret) = cookie(&headers) {
        db::tokens::delete_session(&app.db, &hash(&secret)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/tokens", tag = "tokens", responses((status = 200, description = "all tokens, without secrets", body = Vec<TokenView>)))]
async fn tokens(State(app): State<App>, _: Admin) -> ApiResult<Json<Vec<TokenView>>> {
    Ok(Json(db::tokens::list(&app.db).await?))
}

#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = CreateToken, responses((status = 201, description = "the token; its secret is shown this once", body = CreatedToken)))]
async fn create_token(
    State(app): State<App>,
    _: Admin,
    Body(body): Body<CreateToken, 4>,
) -> ApiResult<impl IntoResponse> {
    if body.name.trim().is_empty() || body.name.chars().count() > 100 {
        return Err(ApiError::invalid("name", format!("found {:?}, expected 1 to 100 characters", body.name)));
    }
    let secret = new_secret(body.role)?;
    let token = db::tokens::insert(&app.db, body.name.trim(), body.role, &secret[..10], &hash(&secret)).await?;
    // Never written down, not even to answer a repeat.
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Json(CreatedToken { token, secret })))
}

#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = uuid::Uuid, Path, description = "the token")), responses((status = 204, description = "revoked"), (status = 404, description = "no such token")))]
async fn delete_token(State(app): State<App>, _: Admin, Path(id): Path<TokenId>) -> ApiResult<StatusCode> {
    db::tokens::delete(&app.db, id).await?;
    app.known.forget();
    Ok(StatusCode::NO_CONTENT)
}
