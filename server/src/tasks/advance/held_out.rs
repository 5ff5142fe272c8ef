//! The held-out documents that an experiment scores: gathered from the shards, compared with the training text, listed.

use super::{Scene, missing};
use crate::{
    db,
    domain::{
        advance::experiment::{ComparisonFacts, Facts},
        held_out::summary,
    },
    tasks::failure::lasting,
};
use anyhow::{Context, Result};
use senmon_corpus::{
    held_out::{Candidate, HELD_OUT_FILE, HeldOutList, Smallest},
    hex,
};
use senmon_protocol::{
    ids::StorageKey,
    job::{DecontaminateJob, JobSpec, ShardIndex},
    said,
};
use sha2::{Digest, Sha256};

impl Scene<'_> {
    fn candidates_key(&self) -> Result<StorageKey> {
        Ok(StorageKey::new(format!("shards/{}/candidates.json", self.row.id))?)
    }

    pub(super) fn held_out_key(&self) -> Result<StorageKey> {
        Ok(StorageKey::new(format!("shards/{}/held_out.json", self.row.id))?)
    }

    /// None, with the experiment ended, where shards of an older version left none.
    async fn candidates(&self, facts: &Facts) -> Result<Option<Vec<Candidate>>> {
        let key = self.candidates_key()?;
        match self.app.storage.get(&key).await? {
            Some(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| key.to_string())?)),
            None => {
                self.fail(&said!("shards_too_old", key = key.as_str()), facts).await?;
                Ok(None)
            }
        }
    }

    /// Writes what the evaluation may ask for: of every domain the documents with the smallest hashes, over all shards.
    pub(super) async fn gather_candidates(&self, index: &ShardIndex) -> Result<()> {
        let mut smallest = Smallest::new(self.row.spec.evaluation.documents_per_domain);
        for (shard, number) in index.shards.iter().zip(0_u32..) {
            let key = shard.folder.join(HELD_OUT_FILE)?;
            let bytes = self.app.storage.get(&key).await?.ok_or_else(|| missing(&key))?;
            let found = hex(&Sha256::digest(&bytes));
            let expected = shard.held_out_sha256.as_deref().unwrap_or_default();
            if found != expected {
                return Err(lasting(format!("{key}: SHA-256 is {found}, its job said {expected}")));
            }
            let candidates: Vec<Candidate> = serde_json::from_slice(&bytes).with_context(|| key.to_string())?;
            candidates.into_iter().for_each(|found| smallest.add(Candidate { shard: number, ..found }));
        }
        self.app.storage.put(&self.candidates_key()?, serde_json::to_vec(&smallest.into_candidates())?).await
    }

    pub(super) async fn comparison(&self) -> Result<ComparisonFacts> {
        let asked = if self.row.spec.data.decontaminate && self.row.held_out.is_none() {
            db::experiments::comparisons(&self.app.db, self.row.id).await?
        } else {
            Vec::new()
        };
        Ok(ComparisonFacts {
            wanted: self.row.spec.data.decontaminate,
            asked: asked.len(),
            over: asked.iter().filter(|found| found.is_some()).count(),
            listed: self.row.held_out.is_some(),
        })
    }

    /// One job for each input file.
    pub(super) async fn compare_held_out(&self, facts: &Facts) -> Result<()> {
        if self.candidates(facts).await?.is_none() {
            return Ok(());
        }
        for file in &self.corpus.files {
            let name = file.path.rsplit('/').next().unwrap_or(&file.path).to_owned();
            let spec = JobSpec::Decontaminate(DecontaminateJob {
                experiment_id: self.row.id,
                file: file.clone(),
                fields: self.corpus.fields.clone(),
                candidates: self.candidates_key()?,
                held_out_fraction: self.row.spec.data.held_out_fraction,
            });
            let key = format!("decontaminate/{:05}", file.index);
            self.ensure(key, format!("compare {name}"), spec, None, None, 1).await?;
        }
        Ok(())
    }

    /// Writes the list of what is scored, and keeps in the row what was left out.
    pub(super) async fn list_held_out(&self, facts: &Facts) -> Result<()> {
        let Some(candidates) = self.candidates(facts).await? else { return Ok(()) };
        let compared = if self.row.spec.data.decontaminate {
            Some(db::experiments::comparisons(&self.app.db, self.row.id).await?.into_iter().flatten().collect())
        } else {
            None
        };
        let (kept, summary) = summary(&candidates, compared);
        self.app.storage.put(&self.held_out_key()?, serde_json::to_vec(&HeldOutList::new(kept.into_iter()))?).await?;
        Ok(db::experiments::set_held_out(&self.app.db, self.row.id, &summary).await?)
    }
}
