//! Nothing runs for ever without a word, and one that cannot get on holds no other up.

use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    corpus::LeftOut,
    ids::ExperimentId,
    view::{ExperimentState, TroubleKind},
};
use senmon_server::{
    db,
    tasks::{advance, discover, scan},
};
use senmon_tests::hand::Hand;
use serde_json::json;

/// From now on the database refuses to write a row of a table for which `condition` holds, for a reason that nobody
/// knows; or for one that will not change, by its SQLSTATE.
async fn poison(hand: &Hand, table: &str, condition: &str, sqlstate: &str) -> Result<()> {
    hand.tell(&format!(
        "CREATE FUNCTION poison_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{sqlstate}'; END $$;
         CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION poison_{table}()"
    ))
    .await
}

async fn cure(hand: &Hand, table: &str) -> Result<()> {
    hand.tell(&format!("DROP FUNCTION poison_{table}() CASCADE")).await
}

/// The pauses between tries are over.
async fn later(hand: &Hand) -> Result<()> {
    hand.tell("UPDATE troubles SET tried_at = tried_at - interval '1 hour'").await
}

async fn corpus(hand: &Hand, name: &str) -> Result<()> {
    let path = hand.path(&format!("{name}.jsonl"));
    std::fs::write(&path, "{\"text\": \"a document\"}\n")?;
    let request = serde_json::from_value(json!({ "name": name, "paths": [path], "fields": { "text": "text" } }))?;
    let paths = vec![path.display().to_string()];
    db::corpora::insert(&hand.app.db, &request, "test", &paths, &LeftOut::default()).await?;
    Ok(())
}

async fn events(hand: &Hand, kind: &str) -> Result<Vec<String>> {
    hand.sql(&format!("SELECT text FROM events WHERE kind = '{kind}' ORDER BY id")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_corpus_is_set_aside_and_holds_no_other_up() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    corpus(&hand, "poisoned").await?;
    corpus(&hand, "sound").await?;
    poison(&hand, "jobs", "NEW.title = 'scan poisoned.jsonl'", "XX000").await?;
    let jobs = async |name: &str| hand.sql(&format!("SELECT state FROM jobs WHERE title = 'scan {name}.jsonl'")).await;
    for tries in 1..=3 {
        scan::run(hand.app.clone()).await?;
        ensure!(jobs("sound").await? == ["queued"], "the one behind it waits");
        let noted = hand.sql("SELECT tries::text FROM troubles").await?;
        ensure!(noted == [tries.to_string()], "{noted:?} tries after {tries}");
        // Within its pause it is not tried at all.
        scan::run(hand.app.clone()).await?;
        ensure!(hand.sql("SELECT tries::text FROM troubles").await? == [tries.to_string()]);
        later(&hand).await?;
    }
    let told = events(&hand, "set_aside").await?;
    ensure!(told.len() == 1 && told[0].contains("poisoned") && told[0].contains("planted"), "{told:?}");
    let aside = db::troubles::set_aside(&hand.app.db).await?;
    ensure!(aside.len() == 1 && aside[0].kind == TroubleKind::Corpus && aside[0].name == "poisoned", "{aside:?}");
    cure(&hand, "jobs").await?;
    later(&hand).await?;
    scan::run(hand.app.clone()).await?;
    ensure!(jobs("poisoned").await?.is_empty(), "it was tried without being asked for");
    ensure!(db::troubles::forget(&hand.app.db, aside[0].kind, aside[0].id).await?);
    scan::run(hand.app.clone()).await?;
    ensure!(jobs("poisoned").await? == ["queued"]);
    hand.stop().await
}

async fn waits_for(hand: &Hand, experiment: ExperimentId) -> Result<String> {
    Ok(db::progress::waits_for(&hand.app.db, experiment).await?.map(|said| said.text()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_experiment_is_set_aside_and_holds_no_other_up() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let sound = hand.experiment("sound").await?;
    // The newest comes first.
    let poisoned = hand.experiment("poisoned").await?;
    poison(&hand, "stages", &format!("NEW.experiment_id = '{poisoned}'"), "XX000").await?;
    for _ in 0..3 {
        advance::run(hand.app.clone()).await?;
        later(&hand).await?;
    }
    advance::run(hand.app.clone()).await?;
    ensure!(waits_for(&hand, sound).await?.contains("clustering"), "the other one does not get on");
    let troubles = db::troubles::of(&hand.app.db, TroubleKind::Experiment, Some(poisoned.0)).await?;
    let said = troubles.get(&poisoned.0).context("it has trouble")?.said();
    let said = said.text();
    ensure!(said.contains("Set aside after 3 tries") && said.contains("planted"), "{said}");
    ensure!(db::experiments::get(&hand.app.db, poisoned).await?.state == ExperimentState::Running);
    cure(&hand, "stages").await?;
    db::troubles::forget(&hand.app.db, TroubleKind::Experiment, poisoned.0).await?;
    for _ in 0..2 {
        advance::run(hand.app.clone()).await?;
    }
    ensure!(waits_for(&hand, poisoned).await?.contains("clustering"));
    hand.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_will_not_change_ends_the_experiment_with_it() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let doomed = hand.experiment("doomed").await?;
    let sound = hand.experiment("sound").await?;
    // As a name that is taken.
    poison(&hand, "clusterings", "NEW.state = 'fitting'", "23505").await?;
    advance::run(hand.app.clone()).await?;
    cure(&hand, "clusterings").await?;
    for id in [doomed, sound] {
        let row = db::experiments::get(&hand.app.db, id).await?;
        let problem = row.problem.clone().unwrap_or_default();
        ensure!(row.state == ExperimentState::Failed, "{row:?}");
        ensure!(problem.contains("could not ask for a clustering") && problem.contains("planted"), "{problem}");
    }
    ensure!(events(&hand, "experiment_failed").await?.len() == 2);

    // A result that cannot be read is an end too.
    let experiment = hand.experiment("unreadable").await?;
    hand.tell(
        "INSERT INTO jobs (id, experiment_id, key, kind, title, spec, state, priority, slots, result, needs)
         SELECT gen_random_uuid(), id, 'shard/00000', 'shard', 'shard a', '{}', 'completed', 50, 1, '{\"planted\": 1}', '{}'
         FROM experiments WHERE name = 'unreadable'",
    )
    .await?;
    let (_, shards, problem) = db::experiments::shards(&hand.app.db, experiment).await?;
    ensure!(
        shards.is_empty() && problem.as_ref().is_some_and(|why| why.text().contains("cannot be read")),
        "{problem:?}"
    );
    hand.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fit_that_fails_again_and_again_fails_for_good() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let experiment = hand.experiment("fits").await?;
    advance::run(hand.app.clone()).await?;
    poison(&hand, "tokenizers", "NEW.problem <> '' AND NEW.problem NOT LIKE 'Set aside%'", "XX000").await?;
    for _ in 0..3 {
        discover::run(hand.app.clone()).await?;
        later(&hand).await?;
    }
    for _ in 0..2 {
        advance::run(hand.app.clone()).await?;
    }
    let row = db::experiments::get(&hand.app.db, experiment).await?;
    ensure!(row.state == ExperimentState::Failed, "{row:?}");
    ensure!(db::troubles::set_aside(&hand.app.db).await?.is_empty(), "whoever needs it asks anew");
    hand.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_without_progress_says_so_once() -> Result<()> {
    let hand = Hand::start(|config| config.stalled_after_ms = 500).await?;
    let experiment = hand.experiment("stalls").await?;
    for _ in 0..2 {
        advance::run(hand.app.clone()).await?;
    }
    ensure!(waits_for(&hand, experiment).await? == "It waits for the fit of its clustering.");
    // Not of the test's own clock: the server counts from when it heard its workers.
    while events(&hand, "experiment_stalled").await?.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        advance::run(hand.app.clone()).await?;
    }
    hand.tell("UPDATE progress SET made_at = made_at - interval '1 hour'").await?;
    advance::run(hand.app.clone()).await?;
    let told = events(&hand, "experiment_stalled").await?;
    ensure!(told.len() == 1 && told[0].contains("fit of its clustering"), "{told:?}");
    // It gets on, stands still again, and says so again; a pause is no standstill.
    hand.tell("UPDATE stages SET done = done + 1 WHERE stage = 'report'; UPDATE progress SET mark = -1").await?;
    advance::run(hand.app.clone()).await?;
    ensure!(hand.sql("SELECT 'x' FROM progress WHERE stalled_at IS NULL").await?.len() == 1, "it got on");
    hand.tell("UPDATE progress SET made_at = made_at - interval '1 hour'").await?;
    while events(&hand, "experiment_stalled").await?.len() < 2 {
        advance::run(hand.app.clone()).await?;
    }
    db::experiments::set_state(&hand.app.db, experiment, ExperimentState::Paused).await?;
    hand.tell("UPDATE progress SET made_at = made_at - interval '1 hour', stalled_at = NULL").await?;
    advance::run(hand.app.clone()).await?;
    ensure!(events(&hand, "experiment_stalled").await?.len() == 2);
    db::experiments::set_state(&hand.app.db, experiment, ExperimentState::Running).await?;
    let since = hand.sql("SELECT (made_at > now() - interval '1 minute')::text FROM progress").await?;
    ensure!(since == ["true"], "the pause counted");
    hand.stop().await
}
