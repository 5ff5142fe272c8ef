//! A worker that the process before told which slots' devices failed: it tests a slot that failed once, and gives one that
//! failed again no work.

use anyhow::{Context, Result, ensure};
use senmon_protocol::view::{AttemptView, BranchState, EventView, WorkerView};
use senmon_tests::{World, WorldOptions, spec};
use serde_json::json;
use std::{fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);
const SAID: &str = "CUDA error: uncorrectable ECC error encountered";

#[tokio::test]
async fn a_slot_that_failed_is_tested_and_one_that_failed_again_is_set_aside() -> Result<()> {
    let told = json!({ "0": { "times": 2, "said": SAID }, "1": { "times": 1, "said": "CUDA error: unknown error" } });
    let worker_by = vec!["env".to_owned(), format!("SENMON_SLOT_FAULTS={told}")];
    let world = World::start(WorldOptions { slots: 2, worker_by, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::long_seed(20)).await?.summary.id;
    let seed = world
        .until(LIMIT, "the seed is done", async || {
            let branches = world.experiment(id).await?.branches;
            Ok(branches.into_iter().find(|one| one.name == "seed" && one.state == BranchState::Completed))
        })
        .await?;
    let attempts: Vec<AttemptView> = world.api.list(&format!("/api/v1/branches/{}/attempts", seed.id)).await?;
    ensure!(attempts.iter().all(|attempt| attempt.slots == [1]), "{attempts:?}");
    let workers: Vec<WorkerView> = world.api.list("/api/v1/workers").await?;
    let slots = &workers.first().context("a worker")?.slots;
    let aside: Vec<_> = slots.iter().map(|slot| slot.slot.set_aside.as_deref()).collect();
    ensure!(aside == [Some(SAID), None], "{aside:?}");
    let events: Vec<EventView> = world.api.list("/api/v1/events?level=error").await?;
    let events: Vec<_> = events.into_iter().filter(|event| event.kind == "slot_set_aside").collect();
    ensure!(events.len() == 1 && events[0].text.contains(SAID), "{events:?}");
    let log = fs::read_to_string(world.path("worker-0.log"))?;
    ensure!(log.contains("its device failed, and computes rightly now"), "{log}");
    Ok(())
}
