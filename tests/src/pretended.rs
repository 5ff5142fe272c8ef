//! Workers that only speak the protocol: a test decides what they say.

use crate::{World, client::Api};
use anyhow::Result;
use senmon_protocol::{
    WORKER_PROTOCOL_VERSION,
    ids::WorkerId,
    worker::{Enrolled, Polled},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A worker that is enrolled, and its own credential's client.
#[derive(Debug, Clone)]
pub struct Pretended {
    /// Speaks as this worker.
    pub api: Api,
    /// What the server said.
    pub enrolled: Enrolled,
}

/// The credential that a pretended worker makes for itself.
#[must_use]
pub fn credential(name: &str) -> String {
    format!("smn_w_{name}")
}

/// What a worker says of itself.
#[must_use]
pub fn enrolment(name: &str) -> Value {
    let hash = Sha256::digest(credential(name).as_bytes());
    json!({
        "name": name, "protocol_version": WORKER_PROTOCOL_VERSION, "version": "test", "host": "here",
        "slots": [{ "index": 0, "device": "cpu", "device_name": "pretended", "memory_bytes": 1_u64 << 40, "threads": 1 }],
        "capabilities": ["shard", "train", "evaluate", "merge", "ensemble"],
        "credential_sha256": hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    })
}

impl Pretended {
    /// Enrols a new worker by the enrolment token of the first start.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn enrol(world: &World, name: &str) -> Result<Self> {
        let token = Api::new(world.api.base(), &world.worker_token()?);
        Self::enrol_by(&token, &enrolment(name)).await
    }

    /// The same, by a token's client and with any enrolment.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn enrol_by(token: &Api, enrolment: &Value) -> Result<Self> {
        let enrolled = token.post("/api/v1/workers", enrolment).await?;
        let api = token.with_token(&credential(enrolment["name"].as_str().unwrap_or_default()));
        Ok(Self { api, enrolled })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.enrolled.worker_id
    }

    /// Asks for work for its one slot.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn poll(&self) -> Result<Polled> {
        let body = json!({ "session": self.enrolled.session, "slots_free": [0], "wait_ms": 200 });
        self.api.post(&format!("/api/v1/workers/{}/poll", self.id()), &body).await
    }
}
