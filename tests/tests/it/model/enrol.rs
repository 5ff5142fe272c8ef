//! Workers of the histories enrol: the first time by a token, then by their credentials.

use super::Both;
use anyhow::{Result, ensure};
use chrono::{DateTime, TimeDelta};
use senmon_protocol::{
    job::JobKind,
    worker::{EnrolWorker, SlotInfo},
};
use senmon_server::{
    db::{self, workers::Asked},
    domain::lease::Patience,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

impl Both {
    pub(super) async fn enrol(&mut self, w: usize) -> Result<()> {
        let slot = SlotInfo {
            index: 0,
            device: "cpu".into(),
            device_name: "cpu".into(),
            memory_bytes: 1,
            threads: 1,
            set_aside: None,
        };
        let request = EnrolWorker {
            name: format!("h{}-w{w}", self.seed),
            protocol_version: senmon_protocol::WORKER_PROTOCOL_VERSION,
            version: "0".into(),
            host: "here".into(),
            slots: vec![slot],
            capabilities: vec![JobKind::Train],
            labels: BTreeMap::new(),
            credential_sha256: None,
        };
        let patience = Patience { since: DateTime::UNIX_EPOCH, ttl: TimeDelta::zero(), lost_after: TimeDelta::zero() };
        let by = match self.workers.get(w) {
            Some(worker) => Asked::Credential(*worker),
            None => Asked::Token { token: self.token, credential_sha256: &Sha256::digest(request.name.as_bytes()) },
        };
        let seated = db::workers::enrol(&self.pool, &by, &request, |_| patience).await?;
        let (id, session) = (seated.worker, seated.session);
        ensure!(self.store.enrol(w, 1) == session, "session {session}");
        if self.workers.len() == w {
            self.workers.push(id);
        }
        Ok(())
    }
}
