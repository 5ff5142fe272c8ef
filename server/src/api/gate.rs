//! The one gate in front of every operation: who asks, whether the table of `domain::access` lets them, whose the thing is,
//! and, for what people change, the entry in the audit.

use crate::{
    api::{
        auth::{Watched, identify},
        error::{ApiError, ApiResult},
        peer,
    },
    app::App,
    db::{self, tokens::Identity},
    domain::access::{ACCESS, NEIGHBOURS, Noun, Operation, Rule, Verdict, changes, neighbour, operation, verdict, who},
    traces,
};
use axum::{
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::request::Parts,
    middleware::Next,
    response::Response,
};
use senmon_protocol::{
    ids::WorkerId,
    said,
    said::{Said, expected::quoted},
};
use uuid::Uuid;

/// Where the API begins.
pub const ROOT: &str = "/api/v1";

/// Put into an answer by a handler that made something: its id, for the audit.
#[derive(Debug, Clone, Copy)]
pub struct Made(pub Uuid);

/// Somebody who may read, of what is no operation: `/metrics`, the API's description.
#[derive(Debug, Clone, Copy)]
pub struct Reader;

impl FromRequestParts<App> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let from = peer::of(&parts.extensions).address;
        let (identity, _) = identify(app, &parts.method, &parts.headers, from).await?;
        if verdict(Rule::Read, identity.role) == Verdict::Yes { Ok(Self) } else { Err(needs(Rule::Read, &identity)) }
    }
}

fn needs(rule: Rule, identity: &Identity) -> ApiError {
    ApiError::Forbidden(said!(
        "refused_role",
        roles = who(rule),
        token = quoted(&identity.name),
        role = db::word(&identity.role)
    ))
}

/// Lets a request through, or answers it.
///
/// # Errors
/// 401, 403, 405; and when the database does not answer.
pub async fn gate<F: Future<Output = Response>>(
    app: &App,
    path: &MatchedPath,
    params: &RawPathParams,
    mut request: Request,
    next: impl FnOnce(Request) -> F,
) -> ApiResult<Response> {
    traces::routed(request.method(), path.as_str());
    let path = path.as_str().strip_prefix(ROOT).unwrap_or(path.as_str());
    let Some(operation) = operation(request.method().as_str(), path) else {
        let methods: Vec<&str> = ACCESS.iter().filter(|row| row.path == path).map(|row| row.method).collect();
        return Err(ApiError::Method(methods.join(", ")));
    };
    if operation.rule == Rule::Open {
        return Ok(next(request).await);
    }
    let revocations = app.known.revocations();
    let from = peer::of(request.extensions()).address;
    let (identity, session) = identify(app, request.method(), request.headers(), from).await?;
    let target = params.iter().find(|(name, _)| *name == "id").map(|(_, id)| id.to_owned()).unwrap_or_default();
    match verdict(operation.rule, identity.role) {
        Verdict::Yes => {}
        Verdict::IfOwn => is_own(app, operation, &target, &identity).await?,
        Verdict::No => return Err(needs(operation.rule, &identity)),
    }
    request.extensions_mut().insert(Watched { who: identity.clone(), session, revocations });
    if !operation.is_audited() {
        return Ok(next(request).await);
    }
    let before = db::audit::picture(&app.db, operation.noun, &target).await?;
    let entry = db::audit::asked(&app.db, &identity, &operation.name(), &target).await?;
    let response = next(request).await;
    let target = response.extensions().get::<Made>().map_or(target, |made| made.0.to_string());
    let status = response.status().as_u16();
    // What was done is done: an entry that cannot be completed stays without an outcome.
    let completed = async {
        let after = db::audit::picture(&app.db, operation.noun, &target).await?;
        db::audit::answered(&app.db, entry, &target, status, &changes(before, after)).await
    };
    if let Err(error) = completed.await {
        tracing::warn!(audit.entry = entry, %error, "an entry of the audit has no outcome");
    }
    Ok(response)
}

/// The same of what other programs' clients ask, which is to read.
///
/// # Errors
/// 401, 403, 405; and when the database does not answer.
pub async fn neighbours(
    State(app): State<App>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    traces::routed(request.method(), path.as_str());
    let Some(operation) = neighbour(request.method().as_str(), path.as_str()) else {
        let methods: Vec<&str> =
            NEIGHBOURS.iter().filter(|row| row.path == path.as_str()).map(|row| row.method).collect();
        return Err(ApiError::Method(methods.join(", ")));
    };
    let from = peer::of(request.extensions()).address;
    let (identity, _) = identify(&app, request.method(), request.headers(), from).await?;
    if verdict(operation.rule, identity.role) == Verdict::Yes {
        Ok(next.run(request).await)
    } else {
        Err(needs(operation.rule, &identity))
    }
}

/// Whether a thing is a user's, or a worker's. Of what there is not, the handler says so.
async fn is_own(app: &App, operation: &Operation, target: &str, identity: &Identity) -> ApiResult<()> {
    let refused = |said: Said| Err(ApiError::Forbidden(said));
    match (operation.rule, operation.noun) {
        (Rule::Join, _) => Ok(()),
        (Rule::Act, Noun::Worker) => match target.parse::<WorkerId>() {
            Ok(asked) if Some(asked) == identity.worker => Ok(()),
            _ => refused(said!("refused_other_worker", worker = target, name = &identity.name)),
        },
        (Rule::Act, _) => {
            let Ok(attempt) = target.parse() else { return Ok(()) };
            match app.known.worker_of(&app.db, attempt).await? {
                Some(worker) if Some(worker) != identity.worker => {
                    refused(said!("refused_other_attempt", attempt = target, name = &identity.name))
                }
                _ => Ok(()),
            }
        }
        _ => match db::audit::owner(&app.db, operation.noun, target).await? {
            Some(owner) if owner != identity.name => {
                let token = quoted(&identity.name);
                refused(match owner.as_str() {
                    "" => said!("refused_admins", token = token),
                    owner => said!("refused_not_own", owner = owner, token = token),
                })
            }
            _ => Ok(()),
        },
    }
}
