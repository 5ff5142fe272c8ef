//! Rows that no program can read, planted in every table: each hides itself alone.

use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    ids::ExperimentId,
    plan::PlanView,
    view::{ExperimentState, ExperimentSummary, Page},
};
use senmon_tests::{World, WorldOptions, spec};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);

/// Asks the server's own cluster; the first column of each row, which must be text.
async fn sql(world: &World, text: &str) -> Result<Vec<String>> {
    let db = world.database().await?;
    let rows = sqlx::query(AssertSqlSafe(text.to_owned())).fetch_all(&db).await;
    let rows = rows.with_context(|| text.to_owned())?;
    db.close().await;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn lists_stand(world: &World, done: ExperimentId) -> Result<()> {
    let plain = ["corpora", "workers", "fleet", "jobs", "checkpoints?limit=200", "events", "tokens", "goodput"];
    for path in plain.map(|path| format!("/api/v1/{path}")) {
        let _: Value = world.api.get(&path).await?;
    }
    let page: Page<ExperimentSummary> = world.api.get("/api/v1/experiments").await?;
    ensure!(page.items.iter().any(|item| item.id == done), "the other experiment is hidden too: {page:?}");
    let _: Value = world.api.get(&format!("/api/v1/experiments/{done}")).await?;
    let request = json!({ "experiment": spec::small(), "slots": 2 });
    let _: PlanView = world.api.post("/api/v1/plan", &request).await?;
    Ok(())
}

#[tokio::test]
async fn a_row_that_cannot_be_read_hides_itself_alone() -> Result<()> {
    let world = World::start(WorldOptions::default()).await?;
    let mut small = spec::small();
    (small.controls.random_split, small.controls.dense, small.weight_average) = (false, false, false);
    small.plan.truncate(1);
    let other = world.submit(&small).await?.summary.id;
    let done = world.submit(&small).await?.summary.id;
    let branches = world.completed(other, LIMIT).await?.branches;
    world.completed(done, LIMIT).await?;
    world.register("other", "corpus").await?;
    sql(
        &world,
        "INSERT INTO workers (id, name, host, version, slots, capabilities, labels, session)
         SELECT gen_random_uuid(), 'planted', host, version, slots, capabilities, labels, 1 FROM workers LIMIT 1 RETURNING name",
    )
    .await?;

    let columns = "SELECT c.table_name || ' ' || c.column_name FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
         WHERE c.table_schema = 'public' AND c.data_type = 'jsonb' AND t.table_type = 'BASE TABLE' ORDER BY 1";
    let columns = sql(&world, columns).await?;
    ensure!(columns.len() >= 20, "{columns:?}");
    let mut planted = 0;
    for line in &columns {
        let (table, column) = line.split_once(' ').context("a table and a column")?;
        let mine = match table {
            "experiments" => format!("id = '{other}'"),
            "corpora" => "name = 'other'".to_owned(),
            "workers" => "name = 'planted'".to_owned(),
            // One of each serves all experiments of a corpus: see below.
            "clusterings" | "tokenizers" => continue,
            _ => of(&world, table, other).await?,
        };
        let place = format!("ctid = (SELECT ctid FROM {table} WHERE {column} IS NOT NULL AND {mine} LIMIT 1)");
        let Some(before) = sql(&world, &format!("SELECT {column}::text FROM {table} WHERE {place}")).await?.pop()
        else {
            continue;
        };
        // An array stays one: what SQL itself looks into is what the program wrote.
        let junk = if before.starts_with('[') { r#"[{"planted": 1}]"# } else { r#"{"planted": 1}"# };
        let write = async |from: &str, to: &str| {
            let change = format!("UPDATE {table} SET {column} = $junk${to}$junk$ WHERE {from} RETURNING 'x'");
            sql(&world, &change).await
        };
        ensure!(write(&place, junk).await?.len() == 1);
        planted += 1;
        lists_stand(&world, done).await.with_context(|| line.clone())?;
        if line == "log_batches lines" {
            for branch in &branches {
                let _: Value = world.api.get(&format!("/api/v1/branches/{}/logs", branch.id)).await?;
            }
        }
        if line == "experiments spec" {
            let page: Page<ExperimentSummary> = world.api.get("/api/v1/experiments").await?;
            ensure!(page.broken.len() == 1 && page.broken[0].id == other.to_string(), "{page:?}");
        }
        write(&format!("{column} = $junk${junk}$junk$"), &before).await?;
    }
    ensure!(planted >= 12, "planted only {planted}");
    a_broken_one_holds_nobody_up(&world).await
}

/// Whose row it is, where a table has an experiment.
async fn of(world: &World, table: &str, experiment: ExperimentId) -> Result<String> {
    let columns = format!("SELECT column_name::text FROM information_schema.columns WHERE table_name = '{table}'");
    let columns = sql(world, &columns).await?;
    let has = |name: &str| columns.iter().any(|column| column == name);
    if has("experiment_id") {
        return Ok(format!("experiment_id = '{experiment}'"));
    }
    if has("branch_id") {
        return Ok(format!("branch_id IN (SELECT id FROM branches WHERE experiment_id = '{experiment}')"));
    }
    Ok("true".into())
}

/// Experiments that cannot be read, and one with a fit that cannot: the next one goes through.
async fn a_broken_one_holds_nobody_up(world: &World) -> Result<()> {
    let mut small = spec::small();
    (small.controls.random_split, small.controls.dense, small.weight_average) = (false, false, false);
    small.plan.truncate(1);
    let stuck = world.submit(&small).await?.summary.id;
    let broken = r#"'{"planted": 1}'"#;
    sql(world, &format!("UPDATE experiments SET spec = {broken} WHERE id = '{stuck}' RETURNING 'x'")).await?;
    for table in ["clusterings", "tokenizers"] {
        let insert = format!(
            "INSERT INTO {table} (id, corpus_id, spec, spec_sha256, state, created_at)
             SELECT gen_random_uuid(), id, {broken}, repeat('0', 64), 'fitting', '2000-01-01' FROM corpora WHERE name = 'small' RETURNING 'x'"
        );
        sql(world, &insert).await?;
    }
    small.clustering.seed += 1;
    let next = world.submit(&small).await?.summary.id;
    let view = world.completed(next, LIMIT).await?;
    ensure!(view.summary.state == ExperimentState::Completed);
    for table in ["clusterings", "tokenizers"] {
        let failed = format!("SELECT problem FROM {table} WHERE state = 'failed'");
        let failed = sql(world, &failed).await?;
        ensure!(failed.len() == 1 && failed[0].contains("spec:"), "the fit that cannot be read: {failed:?}");
    }
    // It can still be cancelled; what it was is not known any more, and said.
    let problem = world.api.refused(&format!("/api/v1/experiments/{stuck}/cancel"), &Value::Null).await?;
    ensure!(problem.code == "unreadable", "{problem:?}");
    let state = sql(world, &format!("SELECT state::text FROM experiments WHERE id = '{stuck}'")).await?;
    ensure!(state == ["cancelled"], "{state:?}");
    Ok(())
}
