//! One training that is disturbed: a seed of some hundred steps, and the moments at which something is done to it.

use super::LIMIT;
use crate::{World, spec};
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::{
    checkpoint::MANIFEST_FILE,
    ids::{BranchId, ExperimentId},
    view::{AttemptView, BranchState, BranchView, CheckpointView},
};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A training under way.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Its experiment.
    pub id: ExperimentId,
    /// Its steps.
    pub steps: u64,
}

impl Training {
    /// Submits a seed of so many steps.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn submit(world: &World, steps: u64) -> Result<Self> {
        let id = world.submit(&spec::long_seed(steps)).await?.summary.id;
        Ok(Self { id, steps })
    }

    /// The branch; none before discovery is done.
    ///
    /// # Errors
    /// When the server does not answer, or the branch failed.
    pub async fn branch(&self, world: &World) -> Result<Option<BranchView>> {
        let experiment = world.experiment(self.id).await?;
        let branch = experiment.branches.into_iter().find(|branch| branch.name == "seed");
        ensure!(branch.as_ref().is_none_or(|branch| branch.state != BranchState::Failed), "it failed: {branch:?}");
        Ok(branch)
    }

    /// Its attempts, oldest first.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn attempts(&self, world: &World) -> Result<Vec<AttemptView>> {
        let branch = self.branch(world).await?.context("there is no branch yet")?.id;
        world.api.list(&format!("/api/v1/branches/{branch}/attempts")).await
    }

    /// Waits for something that comes only while it trains.
    ///
    /// # Errors
    /// [`Over`] when it is over and that has not come; when neither is so within the limit.
    pub async fn meets<T>(&self, world: &World, what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
        let met = world
            .outlast(LIMIT, what, async || {
                // In this order: what came with the last step is seen.
                let over = self.branch(world).await?.is_some_and(|branch| branch.state == BranchState::Completed);
                match look().await? {
                    Some(met) => Ok(Some(Some(met))),
                    None if over => Ok(Some(None)),
                    None => Ok(None),
                }
            })
            .await?;
        met.ok_or_else(|| anyhow::Error::new(Over).context(format!("it is over before {what}")))
    }

    /// Waits until a step is reported, with steps left for what is done to it then.
    ///
    /// # Errors
    /// [`Over`] when it is over by then; when the step is not reached within the limit.
    pub async fn reaches(&self, world: &World, step: u64) -> Result<BranchView> {
        let goes_on = |branch: &BranchView| branch.step >= step && branch.state != BranchState::Completed;
        self.meets(world, &format!("step {step} is reported"), async || {
            Ok(self.branch(world).await?.filter(|branch| goes_on(branch)))
        })
        .await
    }

    /// Waits until an attempt after `fence` has reported a step of its own; that attempt.
    ///
    /// # Errors
    /// [`Over`] when it was over before; when there is none within the limit.
    pub async fn steps_again(&self, world: &World, fence: i64) -> Result<AttemptView> {
        self.meets(world, &format!("an attempt after fence {fence} trains"), async || {
            let step = self.branch(world).await?.context("there is no branch")?.step;
            let last = self.attempts(world).await?.pop();
            Ok(last.filter(|last| last.fence.0 > fence && last.step_start.is_some_and(|start| step > start)))
        })
        .await
    }

    /// Fence of the last attempt.
    ///
    /// # Errors
    /// When there is none.
    pub async fn fence(&self, world: &World) -> Result<i64> {
        Ok(self.attempts(world).await?.last().context("there is no attempt yet")?.fence.0)
    }

    /// Waits until it is done.
    ///
    /// # Errors
    /// When it is not within the limit.
    pub async fn done(&self, world: &World) -> Result<BranchView> {
        world
            .outlast(LIMIT, "the training is done", async || {
                Ok(self.branch(world).await?.filter(|branch| branch.state == BranchState::Completed))
            })
            .await
    }

    /// Folder of the branch's checkpoints.
    #[must_use]
    pub fn checkpoints(world: &World, branch: BranchId) -> PathBuf {
        world.path("server/storage/checkpoints").join(branch.to_string())
    }

    /// Waits until a checkpoint is being written: its folder is there, its manifest is not. The folder.
    ///
    /// # Errors
    /// [`Over`] when the training is over before the next one; when none is within the limit.
    pub async fn saves(&self, world: &World) -> Result<PathBuf> {
        let branch = self.reaches(world, 1).await?.id;
        let (folder, start) = (Self::checkpoints(world, branch), Instant::now());
        let mut looked = Instant::now();
        loop {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // Folders that were torn by an earlier kill stay without a manifest; they are not being written.
                let is_young = entry
                    .metadata()
                    .and_then(|meta| meta.modified())
                    .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < YOUNG));
                if is_young && !path.join(MANIFEST_FILE).exists() {
                    return Ok(path);
                }
            }
            // Seldom: a save takes milliseconds. A server that cannot be asked now says nothing.
            if looked.elapsed() > LOOKS_EVERY {
                let over = |branch: &BranchView| branch.state == BranchState::Completed;
                if self.branch(world).await.ok().flatten().as_ref().is_some_and(over) {
                    return Err(anyhow::Error::new(Over).context("it is over before the next save"));
                }
                looked = Instant::now();
            }
            ensure!(start.elapsed() < LIMIT, "no save was seen within {LIMIT:?}\n{}", world.logs());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until a checkpoint beyond a step is committed; its step.
    ///
    /// # Errors
    /// [`Over`] when the training ended there; when there is none within the limit.
    pub async fn saves_committed_beyond(&self, world: &World, step: u64) -> Result<u64> {
        self.meets(world, &format!("a checkpoint beyond step {step} is committed"), async || {
            let id = self.branch(world).await?.context("there is a branch")?.checkpoint_id;
            let id = id.context("there is a checkpoint")?;
            let checkpoint: CheckpointView = world.api.get(&format!("/api/v1/checkpoints/{id}")).await?;
            Ok(Some(checkpoint.meta.step).filter(|saved| *saved > step))
        })
        .await
    }

    /// Ends the experiment, so that what comes after the seed takes no time; it may have come to its end by itself.
    ///
    /// # Errors
    /// When the server refuses for another reason.
    pub async fn cancel(&self, world: &World) -> Result<()> {
        let path = format!("/api/v1/experiments/{}/cancel", self.id);
        let (status, answer) = world.api.send(Method::POST, &path, Some(&())).await?;
        ensure!(status == 200 || status == 409, "{path}: {status} {answer}");
        Ok(())
    }
}

/// How often it is asked whether a training goes on while its saves are watched.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// A training was over before all was done to it that was to be done: this machine is too fast for so few steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over;

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the training was over before all was done to it")
    }
}

impl std::error::Error for Over {}

/// A folder that was made within this time is being written.
const YOUNG: Duration = Duration::from_millis(300);
