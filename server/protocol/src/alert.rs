//! Alerts: which occasions are told to whom, and what became of each message.

use crate::{
    ids::{AlertId, ExperimentId},
    said::Said,
    view::EventView,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What people want to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// An experiment has its report.
    Finished,
    /// An experiment or a branch failed.
    Failed,
    /// A loss far above those before it.
    LossSpike,
    /// A loss or a gradient that is not finite.
    NotFinite,
    /// A chain has forgotten of a domain what it had learned.
    Forgetting,
    /// An experiment makes no progress.
    Stalled,
    /// A budget is spent, or a deadline was missed.
    Budget,
    /// A worker is lost, or set aside.
    WorkerLost,
    /// The store, the database or a disk is nearly full.
    StorageLow,
    /// The server itself has trouble: a loop that fails, something set aside, a store that is not its own.
    Server,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AlertTarget {
    /// A POST of [`AlertMessage`] as JSON; `Idempotency-Key` is the delivery's number.
    Webhook(Hook),
    /// A POST of `{"text": …}`, as Slack, Mattermost and others take it.
    Slack(Hook),
    /// A mail with the sentence as its subject, through the server's `smtp_url`.
    Mail(Mailbox),
}

/// Somebody's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mailbox {
    /// `name@example.com`.
    pub address: String,
}

/// An address that takes a POST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// `https://` or `http://`; in answers its host alone is shown, because the rest is often a secret.
    pub url: String,
}

impl AlertTarget {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::Webhook(hook) | Self::Slack(hook) => &hook.url,
            Self::Mail(mailbox) => &mailbox.address,
        }
    }

    /// The same kind at another address.
    #[must_use]
    pub fn at(&self, address: String) -> Self {
        match self {
            Self::Webhook(_) => Self::Webhook(Hook { url: address }),
            Self::Slack(_) => Self::Slack(Hook { url: address }),
            Self::Mail(_) => Self::Mail(Mailbox { address }),
        }
    }
}

/// `POST /api/v1/alerts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAlert {
    /// Name, unique: 1 to 100 letters, digits, -, _ and .
    pub name: String,
    /// What is told; at least one.
    pub on: Vec<Occasion>,
    /// Of this experiment only; of the whole fleet where it is absent.
    #[serde(default)]
    pub experiment_id: Option<ExperimentId>,
    /// Where it goes.
    pub target: AlertTarget,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlertView {
    /// Id.
    pub id: AlertId,
    /// Name.
    pub name: String,
    /// Who made it.
    pub owner: String,
    /// What is told.
    pub on: Vec<Occasion>,
    /// Of this experiment only.
    pub experiment_id: Option<ExperimentId>,
    /// Where it goes; the host alone.
    pub target: AlertTarget,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Its newest message.
    pub last: Option<DeliveryView>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is sent, or sent again, in a moment.
    Waiting,
    /// The other side took it.
    Delivered,
    /// It was sent again and again, and never taken.
    GivenUp,
}

/// A message of an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// Number, in the order of arrival.
    pub id: i64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// What it says.
    pub text: String,
    /// The same as a kind and values; none of what was told before there were kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// What became of it.
    pub state: DeliveryState,
    /// How often it was sent.
    pub tries: u32,
    /// Why the last time failed.
    pub problem: Option<String>,
    /// When it is sent again, or was taken.
    pub then_at: Option<DateTime<Utc>>,
}

/// What a webhook gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlertMessage {
    /// Name of the alert.
    pub alert: String,
    /// The sentence for people, in the language of the server's `alerts_lang`.
    pub text: String,
    /// The same as a kind and values.
    pub said: Said,
    /// What happened; none where somebody only tried the alert.
    pub event: Option<EventView>,
}
