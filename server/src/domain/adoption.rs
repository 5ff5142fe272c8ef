//! Whether a checkpoint that the store has and a restored database does not know belongs to one of its branches.

use chrono::{DateTime, Utc};
use senmon_protocol::{
    checkpoint::Manifest,
    ids::{BranchId, ExperimentId, StorageKey},
};

/// A branch as the database knows it.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Id.
    pub id: BranchId,
    /// Its experiment.
    pub experiment: ExperimentId,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Tokens of a step.
    pub batch_tokens: u64,
    /// Domains of its clustering.
    pub domains: u32,
    /// Whether it is completed: then its checkpoints are all known.
    pub is_over: bool,
}

/// Checks what a manifest says against its folder and its branch.
///
/// # Errors
/// What does not fit, in words.
pub fn check(branch: &Branch, folder: &StorageKey, manifest: &Manifest) -> Result<(), String> {
    let meta = &manifest.meta;
    let fits = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_owned()) };
    fits(!branch.is_over, "its branch is completed")?;
    fits(meta.branch_id == branch.id && meta.experiment_id == branch.experiment, "its manifest names another branch")?;
    fits(meta.fence.0 > 0, "its manifest has no fence")?;
    let expected = format!("checkpoints/{}/{:08}-f{}", branch.id, meta.step, meta.fence);
    let rest = folder.as_str().strip_prefix(&expected);
    let is_own = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("-s"));
    fits(is_own, "its folder is not that of its manifest's step and fence")?;
    fits(meta.step <= branch.steps, "its branch has fewer steps")?;
    fits(meta.step.checked_mul(branch.batch_tokens) == Some(meta.tokens), "its steps are another number of tokens")?;
    let drawn = meta.lineage.drawn.iter().chain(meta.lineage.reshuffles.iter().flat_map(|shuffle| &shuffle.drawn));
    fits(drawn.into_iter().all(|draws| draws.domain < branch.domains), "it drew from domains that there are not")
}

/// Order in which checkpoints of a branch were committed, by what they say: the last one is what the branch goes on
/// from. A clock is asked last: fences only grow.
#[must_use]
pub fn order(manifest: &Manifest) -> (i64, DateTime<Utc>, u64) {
    (manifest.meta.fence.0, manifest.created_at, manifest.meta.step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::{
        checkpoint::{CheckpointKind, CheckpointMeta},
        ids::{CheckpointId, Fence},
    };

    #[test]
    fn only_what_fits_its_branch_is_adopted() {
        let branch = Branch {
            id: BranchId::new(),
            experiment: ExperimentId::new(),
            steps: 100,
            batch_tokens: 512,
            domains: 3,
            is_over: false,
        };
        let manifest = Manifest {
            format: 1,
            id: CheckpointId::new(),
            files: [].into(),
            meta: CheckpointMeta {
                kind: CheckpointKind::Resumable,
                experiment_id: branch.experiment,
                branch_id: branch.id,
                fence: Fence(7),
                step: 40,
                tokens: 40 * 512,
                lineage: Default::default(),
                parent_id: None,
                bytes: 0,
                loss: None,
                config_sha256: String::new(),
                state_sha256: String::new(),
            },
            created_at: DateTime::UNIX_EPOCH,
            writer: "test".into(),
        };
        let folder = |name: &str| StorageKey::new(format!("checkpoints/{}/{name}", branch.id)).unwrap();
        let good = folder("00000040-f7");
        assert_eq!(check(&branch, &good, &manifest), Ok(()));
        assert_eq!(check(&branch, &folder("00000040-f7-s1"), &manifest), Ok(()));
        for name in ["00000040-f8", "00000041-f7", "00000040-f77"] {
            assert!(check(&branch, &folder(name), &manifest).is_err(), "{name} was adopted");
        }
        let refused = |change: fn(&mut Branch, &mut Manifest)| {
            let (mut branch, mut manifest) = (branch.clone(), manifest.clone());
            change(&mut branch, &mut manifest);
            check(&branch, &good, &manifest).unwrap_err()
        };
        refused(|branch, _| branch.is_over = true);
        refused(|branch, _| branch.steps = 39);
        refused(|branch, _| branch.batch_tokens = 256);
        refused(|_, manifest| manifest.meta.experiment_id = ExperimentId::new());
        refused(|_, manifest| manifest.meta.branch_id = BranchId::new());
    }
}
