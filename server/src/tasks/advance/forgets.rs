//! Chains that forget: said once of each link, as soon as it is scored, not only in the report.

use super::Scene;
use crate::{
    db::{self, events::NewEvent},
    domain::report::{Scored, forgotten},
};
use anyhow::Result;
use senmon_protocol::view::BranchRole;

impl Scene<'_> {
    /// Says what the links that are scored have forgotten.
    pub(super) async fn tell_forgetting(&self) -> Result<()> {
        let links = self.branches.iter().filter(|branch| branch.role == BranchRole::Chain);
        let scored: Vec<Scored> = links.filter_map(|branch| self.scored(branch)).collect();
        if scored.len() < 2 {
            return Ok(());
        }
        let views = self.clustering.as_ref().map(|view| view.domains.as_slice()).unwrap_or_default();
        let forgotten = forgotten(&self.row.spec, &scored, views);
        if forgotten.is_empty() {
            return Ok(());
        }
        let told = db::events::branches_with(&self.app.db, self.row.id, "chain_forgot").await?;
        for (branch, said) in forgotten.into_iter().filter(|(branch, _)| !told.contains(branch)) {
            self.app
                .event(NewEvent {
                    kind: "chain_forgot",
                    level: "warn",
                    said,
                    experiment_id: Some(self.row.id),
                    branch_id: Some(branch),
                    ..NewEvent::default()
                })
                .await;
        }
        Ok(())
    }
}
