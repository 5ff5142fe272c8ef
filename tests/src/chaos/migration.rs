//! A database that is migrated by a newer server while its workers train: they spool, and deliver to the new one.

use super::{
    Chaos,
    checks::check,
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Takes back the newest migrations, as in a database that they have not reached: what they added is gone.
const BEFORE_MIGRATION_9: &str = "ALTER TABLE workers DROP COLUMN archived_at;
    ALTER TABLE corpora DROP COLUMN archived_at;
    ALTER TABLE corpora ADD CONSTRAINT corpora_name_key UNIQUE (name);
    ALTER TABLE experiments DROP COLUMN archived_at, DROP COLUMN ensemble_vs_dense_percent;
    DROP TABLE store_identity;
    ALTER TABLE experiments DROP COLUMN held_out;
    ALTER TABLE corpora DROP COLUMN left_out;
    ALTER TABLE branches DROP COLUMN repeat;
    ALTER TABLE jobs DROP COLUMN compacted_to;
    ALTER TABLE branches DROP COLUMN start_id;
    DROP VIEW queued_kinds;
    ALTER TABLE jobs DROP COLUMN alike;
    DELETE FROM _sqlx_migrations WHERE version >= 9;";

/// The server is killed, its database set back by the newest migrations, and a server that knows them started.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let options = WorldOptions { slots: 1, lease_ttl_ms: 5_000, ..WorldOptions::default() };
    let mut world = World::start(options).await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    let branch = training.reaches(&world, 60).await?;
    world.kill_server();
    sql(&world, BEFORE_MIGRATION_9)?;
    let before: usize = sql(&world, "SELECT count(*) FROM metric_batches")?.trim().parse()?;
    ensure!(before > 0, "nothing was stored before");
    world.start_server().await?;
    training.reaches(&world, branch.step + 60).await?;
    training.done(&world).await?;
    let verdict = check(&world, &training, calm.as_deref()).await?;
    ensure!(verdict.attempts == 1, "{verdict:?}");
    Ok(vec![
        Figure::count("metric batches stored before", before),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
        Figure::count("checkpoints committed, all verified", verdict.checkpoints),
    ])
}

/// Asks the world's Postgres, which outlives its server.
fn sql(world: &World, text: &str) -> Result<String> {
    let (_, socket) = world.postmaster()?;
    let mut psql = Command::new("psql");
    psql.args(["-U", "senmon", "-d", "postgres", "-X", "-q", "-t", "-A", "-1", "-v", "ON_ERROR_STOP=1", "-c", text]);
    let output = psql.arg("-h").arg(socket).output().context("start psql")?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}
