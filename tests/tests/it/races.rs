//! Two things at once, in the one order that hurts: held by locks, never by luck.
#![expect(clippy::disallowed_methods, reason = "these transactions are held here, and dropped by nobody else")]

use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    ids::{BranchId, CheckpointId, EvaluationId, ExperimentId, Fence, JobId},
    job::{EndedOutcome, Mixture, Outcome, TerminationReason},
    report::Report,
    view::{ExperimentState, JobState},
    worker::CompleteAttempt,
};
use senmon_server::{
    db::{
        self, DbError,
        evaluations::{NewEvaluation, Subject},
        jobs::Wish,
    },
    domain::schedule::Placement,
    tasks::scrub,
};
use senmon_tests::hand::{Hand, planned};
use serde_json::json;
use sqlx::Row;
use std::time::Duration;

/// What an old snapshot asked for, carried out now: nothing comes of it.
async fn makes_nothing(hand: &Hand, experiment: ExperimentId, branch: BranchId) -> Result<()> {
    let pool = &hand.app.db;
    db::jobs::ensure(pool, &hand.training(experiment, branch)?).await?;
    let mut scoring = hand.training(experiment, branch)?;
    let of = Subject::Checkpoint(branch, CheckpointId::new());
    scoring.evaluation = Some(NewEvaluation { id: EvaluationId::new(), of, title: "b0".into() });
    scoring.key = "evaluate".into();
    db::jobs::ensure(pool, &scoring).await?;
    let made = hand
        .sql(&format!(
            "SELECT key FROM jobs WHERE experiment_id = '{experiment}' UNION SELECT title FROM evaluations WHERE experiment_id = '{experiment}'"
        ))
        .await?;
    ensure!(made.is_empty(), "{made:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_an_old_snapshot_makes_nothing() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let pool = &hand.app.db;
    for (name, state) in [("paused", ExperimentState::Paused), ("cancelled", ExperimentState::Cancelled)] {
        let experiment = hand.experiment(name).await?;
        let branches = hand.branches(experiment, 1).await?;
        db::experiments::set_state(pool, experiment, state).await?;
        makes_nothing(&hand, experiment, branches[0]).await.with_context(|| name.to_owned())?;
        let bare = hand.experiment(&format!("bare-{name}")).await?;
        db::experiments::set_state(pool, bare, state).await?;
        db::branches::insert_all(pool, bare, &planned(2)).await?;
        ensure!(db::branches::plain(pool, bare).await?.is_empty(), "branches of an experiment that is {name}");
    }
    for (name, wish) in [("branch-paused", Wish::Pause), ("branch-cancelled", Wish::Cancel)] {
        let experiment = hand.experiment(name).await?;
        let branch = hand.branches(experiment, 1).await?[0];
        db::jobs::wish(pool, branch, wish).await?;
        let before = db::branches::get(pool, branch).await?.state;
        makes_nothing(&hand, experiment, branch).await.with_context(|| name.to_owned())?;
        ensure!(db::branches::get(pool, branch).await?.state == before, "{name}");
        if wish == Wish::Pause {
            // Resumed, it is queued by the next snapshot.
            db::jobs::wish(pool, branch, Wish::Resume).await?;
            db::jobs::ensure(pool, &hand.training(experiment, branch)?).await?;
            ensure!(db::jobs::open(pool).await?.rows.iter().any(|job| job.branch_id == Some(branch)));
        }
    }
    hand.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_ends_while_its_experiment_is_cancelled_leaves_no_job_behind() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let pool = &hand.app.db;
    let experiment = hand.experiment("ends").await?;
    let branch = hand.branches(experiment, 1).await?[0];
    db::jobs::ensure(pool, &hand.training(experiment, branch)?).await?;
    let (attempt, fence) = hand.grant(hand.worker().await?).await?;
    // The end has decided on another try, and waits for the branch; the cancel comes in between.
    let mut held = pool.begin().await?;
    sqlx::query("SELECT 1 FROM branches WHERE id = $1 FOR UPDATE").bind(branch.0).execute(&mut *held).await?;
    let ended = EndedOutcome::new(TerminationReason::InternalError, "a test");
    let body = CompleteAttempt { fence, outcome: Outcome::Ended(ended), time: None };
    let ending = tokio::spawn({
        let pool = pool.clone();
        async move { db::attempts::complete(&pool, attempt, &body).await }
    });
    hand.blocked(1).await?;
    let cancelling = tokio::spawn({
        let pool = pool.clone();
        async move { db::experiments::set_state(&pool, experiment, ExperimentState::Cancelled).await }
    });
    hand.blocked(2).await?;
    held.rollback().await?;
    ending.await??;
    cancelling.await??;
    let states = hand.sql(&format!("SELECT state FROM jobs WHERE experiment_id = '{experiment}'")).await?;
    ensure!(states == ["cancelled"], "the job is {states:?} in a cancelled experiment");
    let states = hand.sql(&format!("SELECT state FROM branches WHERE id = '{branch}'")).await?;
    ensure!(states == ["cancelled"], "the branch is {states:?} in a cancelled experiment");
    hand.stop().await
}

/// Commits a checkpoint of a branch as if a worker had; its folder is in the store.
async fn committed(hand: &Hand, experiment: ExperimentId, branch: BranchId) -> Result<CheckpointId> {
    let id = CheckpointId::new();
    let meta = CheckpointMeta {
        kind: CheckpointKind::Resumable,
        experiment_id: experiment,
        branch_id: branch,
        fence: Fence(1),
        step: 6,
        tokens: 6,
        lineage: Default::default(),
        parent_id: None,
        bytes: 1,
        loss: None,
        config_sha256: String::new(),
        state_sha256: String::new(),
    };
    sqlx::query(
        "INSERT INTO checkpoints (id, experiment_id, branch_id, fence, step, folder, manifest_sha256, meta, state)
         VALUES ($1, $2, $3, 1, 6, $4, '0', $5, 'committed')",
    )
    .bind(id.0)
    .bind(experiment.0)
    .bind(branch.0)
    .bind(format!("checkpoints/{branch}/6-f1"))
    .bind(serde_json::to_value(&meta)?)
    .execute(&hand.app.db)
    .await?;
    Ok(id)
}

fn report(experiment: ExperimentId) -> Result<Report> {
    Ok(serde_json::from_value(json!({
        "experiment_id": experiment, "name": "r", "created_at": "2026-01-01T00:00:00Z", "headline": "h", "contestants": [],
        "domains": [], "clustering": senmon_protocol::clustering::ClusteringQuality::default(), "matrix": [], "costs": [],
        "chains": [], "method": [],
    }))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_beside_the_report_is_neither_lost_nor_left_in_a_completed_experiment() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let pool = &hand.app.db;
    let experiment = hand.experiment("forks").await?;
    let branch = hand.branches(experiment, 1).await?[0];
    let checkpoint = committed(&hand, experiment, branch).await?;
    hand.tell("UPDATE branches SET state = 'completed', step = 6").await?;
    let from = db::branches::get(pool, branch).await?;
    let mixture = Mixture { version: 2, weights: Vec::new(), part: None, reshuffle: None };
    // The fork holds the experiment, and waits for the checkpoint; the report is written meanwhile.
    let mut held = pool.begin().await?;
    sqlx::query("SELECT 1 FROM checkpoints FOR UPDATE").execute(&mut *held).await?;
    let forking = tokio::spawn({
        let (pool, from, mixture) = (pool.clone(), from.clone(), mixture.clone());
        async move { db::branches::insert_fork(&pool, &from, checkpoint, "fork", &mixture, 1).await }
    });
    hand.blocked(1).await?;
    let completing = tokio::spawn({
        let (pool, report) = (pool.clone(), report(experiment)?);
        async move { db::experiments::complete(&pool, experiment, &report, 1, &[]).await }
    });
    hand.blocked(2).await?;
    held.rollback().await?;
    let fork = forking.await??;
    ensure!(!completing.await??, "the report covers one branch, and there are two");
    ensure!(db::experiments::get(pool, experiment).await?.state == ExperimentState::Running);

    // A branch that is continued is as open as a fork; a fork that is over is one branch more than the report has.
    hand.tell("UPDATE branches SET state = 'failed'").await?;
    ensure!(!db::experiments::complete(pool, experiment, &report(experiment)?, 1, &[]).await?);
    db::branches::go_on(pool, fork).await?;
    ensure!(!db::experiments::complete(pool, experiment, &report(experiment)?, 2, &[]).await?);
    hand.tell("UPDATE branches SET state = 'failed'").await?;
    ensure!(db::experiments::complete(pool, experiment, &report(experiment)?, 2, &[]).await?);

    // The report was faster: both are refused, and leave nothing.
    let forked = db::branches::insert_fork(pool, &from, checkpoint, "late", &mixture, 1).await;
    ensure!(matches!(forked, Err(DbError::Conflict(_))), "{forked:?}");
    let continued = db::branches::go_on(pool, fork).await;
    ensure!(matches!(continued, Err(DbError::Conflict(_))), "{continued:?}");
    let open = hand.sql("SELECT name FROM branches WHERE state NOT IN ('failed', 'completed', 'cancelled')").await?;
    ensure!(open.is_empty(), "{open:?} in a completed experiment");
    hand.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_removed_while_it_is_read_is_not_damaged() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let pool = &hand.app.db;
    let experiment = hand.experiment("scrubs").await?;
    let branch = hand.branches(experiment, 1).await?[0];
    let checkpoint = committed(&hand, experiment, branch).await?;
    // As the scrub saw it before retention came; its bytes are gone now. The store is ours: it has our identity.
    let seen = db::checkpoints::get(pool, checkpoint).await?;
    hand.tell("UPDATE checkpoints SET state = 'deleting'").await?;
    let id = "6b0a1b70-0000-7000-8000-000000000000";
    hand.app
        .storage
        .put(&senmon_protocol::ids::StorageKey::new("senmon-store.json")?, format!("{{\"id\":\"{id}\"}}").into_bytes())
        .await?;
    hand.tell(&format!("INSERT INTO store_identity (id) VALUES ('{id}')")).await?;
    let verdict = scrub::verify(&hand.app, &seen).await?;
    ensure!(verdict.problem.is_none(), "{verdict:?}");
    db::retention::deleted(pool, checkpoint).await?;
    let verdict = scrub::verify(&hand.app, &seen).await?;
    ensure!(verdict.problem.is_none(), "{verdict:?}");
    let told = hand.sql("SELECT text FROM events WHERE kind = 'checkpoint_damaged'").await?;
    let noted = hand.sql("SELECT problem FROM checkpoints WHERE problem IS NOT NULL").await?;
    ensure!(told.is_empty() && noted.is_empty(), "{told:?} {noted:?}");
    // While it is committed, the same is damage.
    hand.tell("UPDATE checkpoints SET state = 'committed'").await?;
    ensure!(scrub::verify(&hand.app, &seen).await?.problem.is_some());
    hand.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_completes_what_was_cancelled_does_not_revive_it() -> Result<()> {
    let hand = Hand::start(|_| ()).await?;
    let pool = &hand.app.db;
    let experiment = hand.experiment("late").await?;
    let branch = hand.branches(experiment, 1).await?[0];
    db::jobs::ensure(pool, &hand.training(experiment, branch)?).await?;
    let (attempt, fence) = hand.grant(hand.worker().await?).await?;
    committed(&hand, experiment, branch).await?;
    db::experiments::set_state(pool, experiment, ExperimentState::Cancelled).await?;
    let outcome = serde_json::from_value(
        json!({ "kind": "completed", "result": { "kind": "train", "steps": 6, "tokens": 6, "loss_last": null } }),
    )?;
    db::attempts::complete(pool, attempt, &CompleteAttempt { fence, outcome, time: None }).await?;
    let found = db::branches::get(pool, branch).await?.state;
    ensure!(found == senmon_protocol::view::BranchState::Cancelled, "{found:?}");
    let open = db::jobs::open(pool).await?.rows;
    ensure!(open.iter().all(|job| job.state != JobState::Queued), "{open:?}");
    hand.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_nobody_waited_for_is_left_to_nobody() -> Result<()> {
    let hand = Hand::start(|_| {}).await?;
    let pool = &hand.app.db;
    for n in 0..400_u64 {
        let _ = tokio::time::timeout(Duration::from_micros(5 * (n % 100)), db::snapshot(pool)).await;
    }
    let mut held = Vec::new();
    for _ in 0..pool.size() {
        let mut connection = pool.acquire().await?;
        let row = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(&mut *connection).await?;
        ensure!(row.try_get::<bool, _>(0)?, "a connection came back with a transaction");
        held.push(connection);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_locks_several_jobs_begins_with_the_lowest() -> Result<()> {
    let hand = Hand::start(|_| {}).await?;
    let (pool, worker) = (hand.app.db.clone(), hand.worker().await?);
    for name in ["change", "cancel", "grant"] {
        let experiment = hand.experiment(name).await?;
        for branch in hand.branches(experiment, 3).await? {
            db::jobs::ensure(&pool, &hand.training(experiment, branch)?).await?;
        }
        let of = format!("FROM jobs WHERE experiment_id = '{experiment}' ORDER BY id");
        let ids = hand.sql(&format!("SELECT id::text {of}")).await?;
        // The lowest is found last by whoever takes them as they lie there, or as an index has them.
        hand.tell(&format!("UPDATE jobs SET key = 'z' WHERE id = '{}'", ids[0])).await?;
        let mut holder = pool.begin().await?;
        sqlx::query("SELECT id FROM jobs WHERE id = $1::uuid FOR UPDATE")
            .bind(uuid(&ids[0])?)
            .fetch_one(&mut *holder)
            .await?;
        let (asks, jobs) = (pool.clone(), ids.clone());
        let work = tokio::spawn(async move {
            match name {
                "change" => db::edits::change::<DbError>(&asks, experiment, true, Ok).await.map(drop),
                "cancel" => db::experiments::set_state(&asks, experiment, ExperimentState::Cancelled).await,
                _ => {
                    let place = |id: &String| Ok(Placement { job: JobId(uuid(id)?), worker, slots: vec![0] });
                    let places = jobs.iter().map(place).collect::<Result<Vec<_>>>().unwrap_or_default();
                    db::leases::grant(&asks, &places, 1000).await.map(drop)
                }
            }
        });
        hand.blocked(1).await?;
        let mut other = pool.begin().await?;
        for id in &ids[1..] {
            let free = sqlx::query("SELECT id FROM jobs WHERE id = $1::uuid FOR UPDATE NOWAIT")
                .bind(uuid(id)?)
                .fetch_one(&mut *other);
            ensure!(free.await.is_ok(), "{name} took a higher job before the lowest");
        }
        other.rollback().await?;
        holder.rollback().await?;
        work.await??;
    }
    hand.stop().await
}

fn uuid(text: &str) -> Result<uuid::Uuid> {
    Ok(text.parse()?)
}
