//! Sign-in of browsers, and tokens.

use crate::{
    api::{
        auth::{COOKIE, Who, cookie, hash, new_secret},
        body::Body,
        error::{ApiError, ApiResult},
        gate::Made,
        params::{PageQuery, Path, Query},
        peer,
    },
    app::App,
    db,
};
use axum::{
    Extension, Json,
    extract::State,
    http::{Extensions, HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use senmon_protocol::{
    ids::TokenId,
    problem::Fault,
    said,
    said::{
        Said,
        expected::{found, quoted, range},
    },
    view::{CreateToken, CreatedToken, Page, Role, SessionView, SignIn, TokenView},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Longest life of a token that ends.
const DAYS_MAX: u16 = 3650;
/// Life of an enrolment token that says nothing.
const ENROL_DAYS: u16 = 7;
/// Most workers that one token enrols.
const USES_MAX: u32 = 100_000;
/// Hours that a browser stays signed in.
const SESSION_HOURS: i32 = 24 * 30;

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sign_in, who, sign_out))
        .routes(routes!(tokens, create_token))
        .routes(routes!(revoke_token))
}

#[utoipa::path(post, path = "/session", tag = "session", request_body = SignIn, security(()), responses((status = 204, description = "signed in; the cookie is set"), (status = 401, description = "unknown token or used code")))]
async fn sign_in(
    State(app): State<App>,
    extensions: Extensions,
    Body(body): Body<SignIn, 4>,
) -> ApiResult<impl IntoResponse> {
    let peer = peer::of(&extensions);
    app.limits.may_be_looked_up(peer.address)?;
    let secret_hash = hash(body.token.trim());
    let token = match db::tokens::by_secret(&app.db, &secret_hash).await? {
        Some(identity) if matches!(identity.role, Role::Worker | Role::Enrol) => {
            return Err(ApiError::Forbidden(said!("refused_worker_sign_in")));
        }
        Some(identity) => match identity.over(chrono::Utc::now()) {
            Some(why) => return Err(ApiError::TokenOver(why)),
            None => identity.id,
        },
        None => db::tokens::take_code(&app.db, &secret_hash).await?.ok_or_else(|| {
            app.limits.was_a_stranger(peer.address);
            ApiError::Unauthenticated
        })?,
    };
    let secret = new_secret(Role::Viewer)?;
    db::tokens::insert_session(&app.db, &hash(&secret), token, SESSION_HOURS, false).await?;
    let secure = if peer.is_https { "; Secure" } else { "" };
    let (base, seconds) = (app.config.base(), i64::from(SESSION_HOURS) * 3600);
    let value = format!("{COOKIE}={secret}; HttpOnly; SameSite=Strict; Path={base}/; Max-Age={seconds}{secure}");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, value)]))
}

#[utoipa::path(get, path = "/session", tag = "session", responses((status = 200, description = "who is asking", body = SessionView), (status = 401, description = "nobody known")))]
async fn who(Who(identity): Who) -> Json<SessionView> {
    Json(SessionView { name: identity.name.clone(), role: identity.role, version: env!("CARGO_PKG_VERSION").into() })
}

#[utoipa::path(delete, path = "/session", tag = "session", responses((status = 204, description = "signed out")))]
async fn sign_out(State(app): State<App>, headers: HeaderMap) -> ApiResult<StatusCode> {
    if let Some(secret) = cookie(&headers) {
        db::tokens::delete_session(&app.db, &hash(&secret)).await?;
        app.known.signed_out();
    }
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/tokens", tag = "tokens", params(PageQuery), responses((status = 200, description = "tokens that count, oldest first, without secrets", body = Page<TokenView>)))]
async fn tokens(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Json<Page<TokenView>>> {
    Ok(Json(query.of(db::tokens::list(&app.db).await?, |token| token.id.to_string())?))
}

#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = CreateToken, responses((status = 201, description = "the token; its secret is shown this once", body = CreatedToken)))]
async fn create_token(State(app): State<App>, Body(body): Body<CreateToken, 4>) -> ApiResult<impl IntoResponse> {
    let CreateToken { name, role, days, uses } = body;
    let mut faults = Vec::new();
    let mut fault = |path: &str, said: Said| faults.push(Fault::said(path, said));
    if name.trim().is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        fault("name", found(quoted(&name), said!("expected_characters", most = 100)));
    }
    if role == Role::Worker {
        fault("role", said!("refused_role_worker"));
    }
    if days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
        fault("days", found(days.unwrap_or(0), range(1, DAYS_MAX)));
    }
    if uses.is_some_and(|uses| role != Role::Enrol || !(1..=USES_MAX).contains(&uses)) {
        fault("uses", said!("refused_uses", uses = uses.unwrap_or(0), role = db::word(&role), most = USES_MAX));
    }
    if !faults.is_empty() {
        return Err(ApiError::Invalid(faults));
    }
    let is_enrol = role == Role::Enrol;
    let secret = new_secret(role)?;
    let new = db::tokens::New {
        name: name.trim(),
        role,
        prefix: &secret[..10],
        secret_sha256: &hash(&secret),
        days: days.or(is_enrol.then_some(ENROL_DAYS)),
        uses: uses.or(is_enrol.then_some(1)),
    };
    let token = db::tokens::insert(&app.db, &new).await?;
    // Never written down, not even to answer a repeat.
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Extension(Made(token.id.0)), Json(CreatedToken { token, secret })))
}

#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = uuid::Uuid, Path, description = "the token")), responses((status = 204, description = "revoked: its sessions and streams end"), (status = 404, description = "no such token"), (status = 409, description = "the last admin's")))]
async fn revoke_token(State(app): State<App>, Path(id): Path<TokenId>) -> ApiResult<StatusCode> {
    db::tokens::revoke(&app.db, id).await?;
    app.known.forget();
    Ok(StatusCode::NO_CONTENT)
}
