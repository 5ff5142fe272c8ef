//! Tokens, roles, sessions, and who changed what.

use crate::ids::{TokenId, WorkerId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read everything but tokens.
    Viewer,
    /// Submit too, and change what is theirs.
    User,
    /// Change everything, and manage workers and tokens.
    Admin,
    /// Act as one worker; its credential.
    Worker,
    /// Make workers, and nothing else: an enrolment token.
    Enrol,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Id.
    pub id: TokenId,
    /// Name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// First characters, to tell tokens apart.
    pub prefix: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute (a worker's to ten).
    pub used_at: Option<DateTime<Utc>>,
    /// Not accepted from then on; null for never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Workers that may still enrol with it; null for any number, and for other roles.
    pub uses_left: Option<u32>,
    /// The worker whose credential it is.
    pub worker_id: Option<WorkerId>,
}

/// `POST /api/v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Name for people.
    pub name: String,
    /// What it may do. `worker` is refused: workers make their credentials themselves, by an enrolment token.
    pub role: Role,
    /// Days until it ends, 1 to 3,650. An enrolment token without it ends after 7 days; others never.
    #[serde(default)]
    pub days: Option<u16>,
    /// Workers that may enrol with it, 1 to 100,000; only for the role `enrol`. Without it one.
    #[serde(default)]
    pub uses: Option<u32>,
}

/// Answer to [`CreateToken`]: the only time the secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The token's row.
    #[serde(flatten)]
    pub token: TokenView,
    /// The secret.
    pub secret: String,
}

/// `POST /api/v1/session`: signs a browser in with a token, or with the one-time code of the first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// A bearer token, or a one-time code.
    pub token: String,
}

/// `GET /api/v1/session`: who is asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Name of the token.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Version of the server.
    pub version: String,
}

/// `POST /api/v1/login`: a command on some machine asks to be signed in (device authorization, RFC 8628).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginLogin {
    /// The machine that asks, for the person who approves: at most 100 characters.
    pub host: String,
}

/// Answer to [`BeginLogin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BegunLogin {
    /// For the command alone: it asks with it until somebody approves.
    pub device_code: String,
    /// For the person: `WDJB-MJHT`.
    pub user_code: String,
    /// Where the person goes, below the server's address.
    pub verification_path: String,
    /// Seconds until both codes end.
    pub expires_in: u64,
    /// Seconds between two questions.
    pub interval: u64,
}

/// `GET /api/v1/login/{id}`: what a code stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoginView {
    /// The code.
    pub user_code: String,
    /// The machine that asks, as it says.
    pub host: String,
    /// When it asked.
    pub asked_at: DateTime<Utc>,
}

/// `POST /api/v1/login/token`: has somebody approved?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PollLogin {
    /// The code of [`BegunLogin`].
    pub device_code: String,
}

/// Answer to [`PollLogin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolledLogin {
    /// The new token's secret, once: null until somebody approves.
    pub secret: Option<String>,
}

/// One change that somebody asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Id; grows.
    pub id: i64,
    /// When it was asked.
    pub at: DateTime<Utc>,
    /// The token that asked.
    pub token_id: TokenId,
    /// Its name then.
    pub who: String,
    /// Its role then.
    pub role: Role,
    /// Method and path of the operation: `POST /experiments/{id}/cancel`.
    pub operation: String,
    /// What it was about: an id or a name; of what was made, its id; empty for nothing.
    pub target: String,
    /// HTTP status answered; null when no answer was given: the server was killed, or the asker hung up.
    pub status: Option<u16>,
    /// The values that changed, before.
    pub before: serde_json::Value,
    /// The values that changed, after.
    pub after: serde_json::Value,
}
