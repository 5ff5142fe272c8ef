//! What the scheduler does for people: needs, priorities, budgets; jobs and workers that fail are set aside.

use crate::worker_protocol::{beat, grant};
use anyhow::{Context, Result};
use reqwest::Method;
use senmon_protocol::{
    ids::ExperimentId,
    job::{Grant, TerminationReason},
    view::{AttemptView, BranchState, BranchView, EventView, ExperimentState, ExperimentView, JobView, WorkerView},
};
use senmon_tests::{Pretended, World, WorldOptions, spec};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(60);

/// A world with pretended workers only.
async fn world(lease_ttl_ms: u64) -> Result<World> {
    World::start(WorldOptions { workers: 0, lease_ttl_ms, ..WorldOptions::default() }).await
}

async fn fail(worker: &Pretended, grant: &Grant) -> Result<()> {
    let outcome = json!({ "kind": "ended", "reason": "internal_error", "message": "planted" });
    let body = json!({ "fence": grant.fence, "outcome": outcome });
    worker.api.post::<_, Value>(&format!("/api/v1/attempts/{}/complete", grant.attempt_id), &body).await.map(|_| ())
}

async fn jobs(world: &World) -> Result<Vec<JobView>> {
    world.api.list("/api/v1/jobs").await
}

async fn patch(world: &World, id: ExperimentId, body: Value) -> Result<(u16, Value)> {
    world.api.send(Method::PATCH, &format!("/api/v1/experiments/{id}"), Some(&body)).await
}

#[tokio::test]
async fn a_job_waits_for_the_labels_it_needs_and_says_so() -> Result<()> {
    let world = world(20_000).await?;
    let mut spec = spec::small();
    spec.resources.labels = BTreeMap::from([("zone".into(), "x".into())]);
    world.submit(&spec).await?;
    let worker = Pretended::enrol(&world, "pretended").await?;
    let why = world
        .until(LIMIT, "a job waits", async || {
            worker.poll().await?;
            Ok(jobs(&world).await?.into_iter().find_map(|job| job.why))
        })
        .await?;
    assert_eq!(why, "Needs 1 slot with zone=x: worker pretended is not labelled zone=x.");
    Ok(())
}

#[tokio::test]
async fn a_job_that_can_never_run_is_refused_at_submission_and_by_the_plan() -> Result<()> {
    let world = world(20_000).await?;
    let mut spec = spec::small_json();
    spec["seed"]["training"] = json!({ "slots": 2 });
    let says = |faults: &Value| faults.to_string().contains("seed asks for 2 slots on one worker; the largest has 1");
    // Nobody is connected: nothing is known, and that is said.
    let plan: Value = world.api.post("/api/v1/plan", &json!({ "experiment": spec })).await?;
    assert!(!says(&plan["refused"]) && plan["warnings"].to_string().contains("no worker is connected"), "{plan}");
    let early: ExperimentView = world.api.post("/api/v1/experiments", &spec).await?;
    let events: Vec<EventView> = world.api.list("/api/v1/events").await?;
    let waits = |event: &EventView| event.kind == "experiment_waits" && event.experiment_id == Some(early.summary.id);
    assert!(events.iter().any(waits), "{events:?}");
    Pretended::enrol(&world, "pretended").await?;
    let plan: Value = world.api.post("/api/v1/plan", &json!({ "experiment": spec })).await?;
    assert!(says(&plan["refused"]), "{plan}");
    let problem = world.api.refused("/api/v1/experiments", &spec).await?;
    assert!(problem.status == 422 && problem.faults[0].path == "seed.training.slots", "{problem:?}");
    // The same for slots to come: a warning at most.
    let plan: Value = world.api.post("/api/v1/plan", &json!({ "experiment": spec, "slots": 20 })).await?;
    assert!(!says(&plan["refused"]), "{plan}");
    Ok(())
}

#[tokio::test]
async fn a_new_priority_reaches_the_queue() -> Result<()> {
    let world = world(20_000).await?;
    let first = world.submit(&spec::small()).await?.summary.id;
    let worker = Pretended::enrol(&world, "pretended").await?;
    let held = grant(&world, &worker).await?;
    let second = world.submit(&spec::small()).await?.summary.id;
    world
        .until(LIMIT, "both wait", async || {
            beat(&worker, &[&held]).await?;
            Ok(jobs(&world).await?.iter().any(|job| job.owner.experiment() == Some(second)).then_some(()))
        })
        .await?;
    let (status, answer) = patch(&world, second, json!({ "priority": 101, "budget": { "slot_hours": 0.0 } })).await?;
    assert_eq!(status, 422, "{answer}");
    let text = answer.to_string();
    assert!(text.contains("priority") && text.contains("budget.slot_hours"), "{text}");
    let (status, answer) = patch(&world, second, json!({ "priority": 80 })).await?;
    assert_eq!(status, 200, "{answer}");
    let of = |id, jobs: &[JobView]| jobs.iter().find(|job| job.owner.experiment() == Some(id)).map(|job| job.priority);
    let now = jobs(&world).await?;
    assert_eq!((of(first, &now), of(second, &now)), (Some(50), Some(80)));
    fail(&worker, &held).await?;
    let next = grant(&world, &worker).await?;
    assert_eq!(now.iter().find(|job| job.id == next.job_id).and_then(|job| job.owner.experiment()), Some(second));
    Ok(())
}

#[tokio::test]
async fn a_spent_budget_pauses_and_a_larger_one_lets_it_go_on() -> Result<()> {
    let world = world(20_000).await?;
    let mut spec = spec::small();
    spec.budget.slot_hours = Some(1.0 / 3600.0);
    let id = world.submit(&spec).await?.summary.id;
    let worker = Pretended::enrol(&world, "pretended").await?;
    let held = grant(&world, &worker).await?;
    let paused = world
        .until(LIMIT, "the experiment is paused", async || {
            let view: ExperimentView = world.experiment(id).await?;
            Ok((view.summary.state == ExperimentState::Paused).then_some(view))
        })
        .await?;
    let problem = paused.summary.problem.context("it says why")?;
    assert!(problem.contains("slot-hours is spent; raise budget.slot_hours"), "{problem}");
    let answer = beat(&worker, &[&held]).await?;
    assert_eq!(answer["attempts"][0]["command"], "release");
    assert!(jobs(&world).await?.iter().filter_map(|job| job.why.as_ref()).all(|why| *why == problem));
    let refused = world.api.refused(&format!("/api/v1/experiments/{id}/resume"), &()).await?;
    assert_eq!(refused.status, 409, "{refused:?}");
    let (status, answer) = patch(&world, id, json!({ "budget": { "slot_hours": 1.0 } })).await?;
    assert_eq!((status, &answer["state"]), (200, &json!("running")), "{answer}");
    let answer = beat(&worker, &[&held]).await?;
    assert_eq!(answer["attempts"][0]["command"], "continue");
    Ok(())
}

#[tokio::test]
async fn a_job_that_fails_the_same_way_on_two_workers_is_set_aside() -> Result<()> {
    let world = world(20_000).await?;
    let id = world.submit(&spec::small()).await?.summary.id;
    let first = Pretended::enrol(&world, "first").await?;
    let poison = grant(&world, &first).await?;
    fail(&first, &poison).await?;
    let second = Pretended::enrol(&world, "second").await?;
    let mut held: Vec<Grant> = Vec::new();
    let start = Instant::now();
    let again = loop {
        // Until its back-off is over, the second worker is given the others, one after the other.
        anyhow::ensure!(start.elapsed() < LIMIT, "the job is not granted again");
        let next = grant_beside(&second, &held).await?;
        match next {
            Some(next) if next.job_id == poison.job_id => break next,
            Some(next) => held.push(next),
            None => {}
        }
        if let Some(other) = held.pop() {
            release(&second, &other).await?;
        }
    };
    fail(&second, &again).await?;
    let failed =
        world.until(LIMIT, "the experiment says why", async || Ok(world.experiment(id).await?.summary.problem)).await?;
    assert!(failed.contains("Set aside: failed 2 times on 2 workers at step 0: planted."), "{failed}");
    Ok(())
}

async fn grant_beside(worker: &Pretended, held: &[Grant]) -> Result<Option<Grant>> {
    beat(worker, &held.iter().collect::<Vec<_>>()).await?;
    Ok(worker.poll().await?.grants.into_iter().next())
}

async fn release(worker: &Pretended, grant: &Grant) -> Result<()> {
    let body =
        json!({ "fence": grant.fence, "outcome": { "kind": "ended", "reason": "released", "message": "given back" } });
    worker.api.post::<_, Value>(&format!("/api/v1/attempts/{}/complete", grant.attempt_id), &body).await.map(|_| ())
}

#[tokio::test]
async fn a_worker_where_job_after_job_fails_is_set_aside_until_somebody_enables_it() -> Result<()> {
    let world = world(20_000).await?;
    world.submit(&spec::small()).await?;
    let good = Pretended::enrol(&world, "good").await?;
    let progressing = grant(&world, &good).await?;
    let attempt = json!({ "attempt_id": progressing.attempt_id, "fence": progressing.fence, "done": 5, "total": 9,
        "tokens_per_second": 0.0 });
    let path = format!("/api/v1/workers/{}/heartbeat", good.id());
    let _: Value = good.api.post(&path, &json!({ "session": good.enrolled.session, "attempts": [attempt] })).await?;
    let bad = Pretended::enrol(&world, "bad").await?;
    for _ in 0..3 {
        fail(&bad, &grant(&world, &bad).await?).await?;
    }
    let worker = async || -> Result<WorkerView> { world.api.get(&format!("/api/v1/workers/{}", bad.id())).await };
    let why = worker().await?.set_aside.context("it is set aside")?;
    assert_eq!(why, "3 attempts in a row failed here while others succeeded elsewhere.");
    let events: Vec<EventView> = world.api.list("/api/v1/events").await?;
    assert!(events.iter().any(|event| event.kind == "worker_set_aside" && event.worker_id == Some(bad.id())));
    tokio::time::sleep(Duration::from_secs(5)).await; // longer than the back-off of what failed
    assert!(bad.poll().await?.grants.is_empty(), "a job went to a worker that is set aside");
    let waits = jobs(&world).await?.into_iter().find_map(|job| job.why).unwrap_or_default();
    assert!(waits.contains("the one worker that can shard has none free"), "{waits}");
    let _: Value = world.api.post(&format!("/api/v1/workers/{}/enable", bad.id()), &()).await?;
    assert_eq!(worker().await?.set_aside, None);
    grant(&world, &bad).await?;
    Ok(())
}

#[tokio::test]
async fn what_a_worker_no_longer_reports_is_granted_again_before_its_lease_ends() -> Result<()> {
    let world = world(9_000).await?;
    world.submit(&spec::small()).await?;
    let worker = Pretended::enrol(&world, "forgetful").await?;
    let lost = grant(&world, &worker).await?;
    let start = Instant::now();
    let again = world
        .until(LIMIT, "the job is granted again", async || {
            beat(&worker, &[]).await?;
            Ok(worker.poll().await?.grants.into_iter().find(|grant| grant.job_id == lost.job_id))
        })
        .await?;
    assert!(again.fence > lost.fence);
    assert!(start.elapsed() < Duration::from_secs(9), "only after {:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_training_gives_its_slot_to_a_higher_priority_and_goes_on_afterwards() -> Result<()> {
    let options = WorldOptions { slots: 1, server_settings: "preempt_after_ms = 0".into(), ..WorldOptions::default() };
    let world = World::start(options).await?;
    let low = world.submit(&spec::long_seed(1_600)).await?.summary.id;
    let seed = async |id| -> Result<Option<BranchView>> {
        Ok(world.experiment(id).await?.branches.into_iter().find(|branch| branch.name == "seed"))
    };
    let limit = Duration::from_secs(240);
    let is = async |id, state, step| Ok(seed(id).await?.filter(|branch| branch.state == state && branch.step >= step));
    world.until(limit, "the first one trains", async || is(low, BranchState::Running, 50).await).await?;
    let mut urgent = spec::long_seed(100);
    urgent.priority = 90;
    let high = world.submit(&urgent).await?.summary.id;
    world.until(limit, "the urgent one is done", async || is(high, BranchState::Completed, 100).await).await?;
    let done =
        world.until(limit, "the first one is done", async || is(low, BranchState::Completed, 1600).await).await?;
    let attempts: Vec<AttemptView> = world.api.list(&format!("/api/v1/branches/{}/attempts", done.id)).await?;
    let reasons: Vec<_> = attempts.iter().filter_map(|attempt| attempt.reason).collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| *reason == TerminationReason::Preempted), "{reasons:?}");
    assert!(attempts.iter().skip(1).all(|attempt| attempt.step_start.is_some_and(|step| step >= 50)), "{attempts:?}");
    let events: Vec<EventView> = world.api.list("/api/v1/events").await?;
    assert!(events.iter().any(|event| event.kind == "job_preempted" && event.text.contains("priority 90")));
    Ok(())
}
