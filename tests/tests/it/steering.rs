//! People pause, drain and cancel; a pretended worker hears of it and the queue says why it waits.

use crate::worker_protocol::{beat, grant};
use anyhow::{Context, Result};
use senmon_protocol::{
    ids::ExperimentId,
    job::Grant,
    view::{JobState, JobView},
};
use senmon_tests::{Pretended, World, WorldOptions, spec};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

struct Scene {
    world: World,
    worker: Pretended,
    experiment: ExperimentId,
    grant: Grant,
}

/// A submitted experiment and a pretended worker that has its first job.
async fn scene() -> Result<Scene> {
    let world = World::start(WorldOptions { workers: 0, lease_ttl_ms: 20_000, ..WorldOptions::default() }).await?;
    let experiment = world.submit(&spec::small()).await?.summary.id;
    let worker = Pretended::enrol(&world, "pretended").await?;
    let grant = grant(&world, &worker).await?;
    Ok(Scene { world, worker, experiment, grant })
}

impl Scene {
    async fn ask(&self, path: &str) -> Result<Value> {
        self.world.api.post(&format!("/api/v1/{path}"), &()).await
    }

    async fn command(&self) -> Result<String> {
        let answer = beat(&self.worker, &[&self.grant]).await?;
        Ok(answer["attempts"][0]["command"].as_str().unwrap_or_default().to_owned())
    }

    async fn release(&self) -> Result<()> {
        let outcome = json!({ "kind": "ended", "reason": "released", "message": "given back" });
        let body = json!({ "fence": self.grant.fence, "outcome": outcome });
        let path = format!("/api/v1/attempts/{}/complete", self.grant.attempt_id);
        self.worker.api.post::<_, Value>(&path, &body).await.map(|_| ())
    }

    async fn job(&self) -> Result<JobView> {
        let jobs: Vec<JobView> = self.world.api.list("/api/v1/jobs").await?;
        jobs.into_iter().find(|job| job.id == self.grant.job_id).context("the job is in the queue")
    }

    async fn check_waits(&self, expected: &str) -> Result<()> {
        self.release().await?;
        assert!(self.worker.poll().await?.grants.is_empty(), "the job was granted again");
        let job = self.job().await?;
        assert_eq!(job.state, JobState::Queued);
        let why = job.why.unwrap_or_default();
        assert!(why.contains(expected), "{why}");
        Ok(())
    }

    async fn check_goes_on(&self) -> Result<()> {
        let again = grant(&self.world, &self.worker).await?;
        assert!(again.fence > self.grant.fence || again.job_id != self.grant.job_id);
        Ok(())
    }
}

#[tokio::test]
async fn a_drained_worker_gives_its_job_back_and_gets_none() -> Result<()> {
    let scene = scene().await?;
    assert_eq!(scene.command().await?, "continue");
    scene.ask(&format!("workers/{}/drain", scene.worker.id())).await?;
    assert_eq!(scene.command().await?, "release");
    scene.check_waits("Needs 1 slot: worker pretended is draining.").await?;
    scene.ask(&format!("workers/{}/enable", scene.worker.id())).await?;
    scene.check_goes_on().await
}

#[tokio::test]
async fn a_paused_experiment_gives_no_work() -> Result<()> {
    let scene = scene().await?;
    scene.ask(&format!("experiments/{}/pause", scene.experiment)).await?;
    assert_eq!(scene.command().await?, "release");
    // Resumed before the attempt has let go, it simply goes on.
    scene.ask(&format!("experiments/{}/resume", scene.experiment)).await?;
    assert_eq!(scene.command().await?, "continue");
    scene.ask(&format!("experiments/{}/pause", scene.experiment)).await?;
    scene.check_waits("paused").await?;
    scene.ask(&format!("experiments/{}/resume", scene.experiment)).await?;
    scene.check_goes_on().await
}

#[tokio::test]
async fn a_cancelled_experiment_leaves_nothing_in_the_queue() -> Result<()> {
    let scene = scene().await?;
    scene.ask(&format!("experiments/{}/cancel", scene.experiment)).await?;
    assert_eq!(scene.command().await?, "cancel");
    // The worker dies instead of answering: the job is over all the same.
    let outcome = json!({ "kind": "ended", "reason": "worker_lost", "message": "its process ended" });
    let body = json!({ "fence": scene.grant.fence, "outcome": outcome });
    let _: Value =
        scene.worker.api.post(&format!("/api/v1/attempts/{}/complete", scene.grant.attempt_id), &body).await?;
    let empty = async || {
        let jobs: Vec<JobView> = scene.world.api.list("/api/v1/jobs").await?;
        Ok(jobs.is_empty().then_some(()))
    };
    scene.world.until(LIMIT, "the queue is empty", empty).await
}

#[tokio::test]
async fn a_worker_that_does_not_ask_gets_nothing() -> Result<()> {
    let scene = scene().await?;
    scene.release().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.job().await?.state, JobState::Queued, "a job went to a worker that does not wait for one");
    scene.check_goes_on().await
}

#[tokio::test]
async fn a_result_of_another_kind_is_refused() -> Result<()> {
    let scene = scene().await?;
    let result = json!({ "kind": "train", "steps": 1, "tokens": 1, "loss_last": null });
    let body = json!({ "fence": scene.grant.fence, "outcome": { "kind": "completed", "result": result } });
    let path = format!("/api/v1/attempts/{}/complete", scene.grant.attempt_id);
    let problem = scene.worker.api.refused(&path, &body).await?;
    assert_eq!((problem.status, problem.code.as_str()), (422, "invalid_input"), "{problem:?}");
    assert_eq!(scene.command().await?, "continue", "the lease was lost with the refusal");
    Ok(())
}
