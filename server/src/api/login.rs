//! Signing a command in without carrying a token about: it shows a code, a person who is signed in approves it
//! (device authorization, RFC 8628). What waits is in memory only: a restart of the server ends it.

use crate::{
    api::{
        auth::{Who, hash, new_secret},
        body::Body,
        error::{ApiError, ApiResult},
        gate::Made,
        params::Path,
        peer,
    },
    app::App,
    db,
    domain::forwarded::machine,
    limits::Wait,
    logins::{LIFE, Waiting},
};
use axum::{
    Extension, Json,
    extract::State,
    http::{Extensions, StatusCode},
    response::IntoResponse,
};
use chrono::Utc;
use senmon_protocol::said;
use senmon_protocol::view::{BeginLogin, BegunLogin, LoginView, PollLogin, PolledLogin, Role, TokenView};
use std::time::{Duration, Instant};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Seconds between two questions of a command.
const INTERVAL: u64 = 2;
/// Commands that may wait at the same time, in all and of one address: nobody fills the places of all others.
const WAITING_MAX: usize = 200;
const WAITING_ADDRESS_MAX: usize = 10;
/// Days that a token lives which was approved.
const TOKEN_DAYS: u16 = 90;
/// Letters of a code: none that reads as another, none that makes words (RFC 8628, 6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(begin)).routes(routes!(poll)).routes(routes!(show)).routes(routes!(approve))
}

fn over() -> ApiError {
    ApiError::NotFound(said!("refused_login"))
}

#[utoipa::path(post, path = "/login", tag = "session", request_body = BeginLogin, security(()), responses((status = 201, description = "a code for the command, a code for the person", body = BegunLogin), (status = 429, description = "too many wait")))]
async fn begin(
    State(app): State<App>,
    extensions: Extensions,
    Body(body): Body<BeginLogin, 4>,
) -> ApiResult<impl IntoResponse> {
    if body.host.chars().count() > 100 || body.host.chars().any(char::is_control) {
        return Err(ApiError::unsaid("host", "expected at most 100 printable characters"));
    }
    let (device_code, user_code) = (new_secret(Role::Viewer)?, code()?);
    let mut waiting = app.logins.fresh();
    let address = machine(peer::of(&extensions).address);
    let beside = waiting.values().filter(|one| one.address == address).count();
    if waiting.len() >= WAITING_MAX || beside >= WAITING_ADDRESS_MAX {
        return Err(Wait(Duration::from_secs(60)).into());
    }
    let one = Waiting {
        device_sha256: hash(&device_code),
        address,
        host: body.host,
        asked_at: Utc::now(),
        since: Instant::now(),
        approved: false,
        secret: None,
    };
    waiting.insert(user_code.clone(), one);
    let verification_path = format!("/login?code={user_code}");
    let expires_in = LIFE.as_secs();
    Ok((
        StatusCode::CREATED,
        Json(BegunLogin { device_code, user_code, verification_path, expires_in, interval: INTERVAL }),
    ))
}

/// `WDJB-MJHT`.
fn code() -> anyhow::Result<String> {
    use rand::TryRngCore;
    let mut bytes = [0_u8; 8];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes)?;
    let mut letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    let first: String = letters.by_ref().take(4).collect();
    Ok(format!("{first}-{}", letters.collect::<String>()))
}

#[utoipa::path(post, path = "/login/token", tag = "session", request_body = PollLogin, security(()), responses((status = 200, description = "the secret, once it was approved", body = PolledLogin), (status = 404, description = "no such code (any more)")))]
async fn poll(
    State(app): State<App>,
    extensions: Extensions,
    Body(body): Body<PollLogin, 4>,
) -> ApiResult<Json<PolledLogin>> {
    let from = peer::of(&extensions).address;
    app.limits.may_be_looked_up(from)?;
    let asked = hash(&body.device_code);
    let mut waiting = app.logins.fresh();
    let found = waiting.iter().find(|(_, one)| one.device_sha256 == asked).map(|(code, _)| code.clone());
    let Some(code) = found else {
        app.limits.was_a_stranger(from);
        return Err(over());
    };
    let secret = waiting.get_mut(&code).and_then(|one| one.secret.take());
    if secret.is_some() {
        waiting.remove(&code);
    }
    Ok(Json(PolledLogin { secret }))
}

#[utoipa::path(get, path = "/login/{id}", tag = "session", params(("id" = String, Path, description = "the code for people")), responses((status = 200, description = "what waits", body = LoginView), (status = 404, description = "no such code (any more)")))]
async fn show(State(app): State<App>, Path(code): Path<String>) -> ApiResult<Json<LoginView>> {
    let waiting = app.logins.fresh();
    let one = waiting.get(&code).filter(|one| !one.approved).ok_or_else(over)?;
    Ok(Json(LoginView { user_code: code, host: one.host.clone(), asked_at: one.asked_at }))
}

#[utoipa::path(post, path = "/login/{id}/approve", tag = "session", params(("id" = String, Path, description = "the code for people")), responses((status = 201, description = "the command is given a token of the approver's name and role, for 90 days", body = TokenView), (status = 404, description = "no such code (any more)")))]
async fn approve(State(app): State<App>, Who(who): Who, Path(code): Path<String>) -> ApiResult<impl IntoResponse> {
    let secret = new_secret(who.role)?;
    // Of two who approve at the same time, one does.
    let approves = |one: &mut Waiting| !std::mem::replace(&mut one.approved, true);
    if !app.logins.fresh().get_mut(&code).is_some_and(approves) {
        return Err(over());
    }
    let new = db::tokens::New {
        name: &who.name,
        role: who.role,
        prefix: &secret[..10],
        secret_sha256: &hash(&secret),
        days: Some(TOKEN_DAYS),
        uses: None,
    };
    let made = db::tokens::insert(&app.db, &new).await;
    if let Some(one) = app.logins.fresh().get_mut(&code) {
        match &made {
            Ok(_) => one.secret = Some(secret),
            Err(_) => one.approved = false,
        }
    }
    let token = made?;
    Ok((StatusCode::CREATED, Extension(Made(token.id.0)), Json(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_two_groups_of_letters_that_read_alike_for_everybody() {
        let code = code().unwrap();
        let (one, two) = code.split_once('-').unwrap();
        assert!(
            [one, two].iter().all(|part| part.len() == 4 && part.bytes().all(|byte| LETTERS.contains(&byte))),
            "{code}"
        );
    }
}
