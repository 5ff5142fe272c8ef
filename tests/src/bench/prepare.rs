//! Fills the database as months of work would have: experiments, queued branches with their jobs, and stored points.
//! Rows go straight into the real schema; the points are made by the server's own code.

use super::Size;
use crate::{World, spec};
use anyhow::Result;
use senmon_protocol::{
    ids::{BranchId, ExperimentId},
    report::HeldOutSummary,
};
use senmon_server::domain::metrics::{
    LOSS, Points, compact,
    pyramid::{Buckets, CHUNK_POINTS, FAN, summarise},
};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

const EXPERIMENTS: usize = 20;
/// Fence of what was stored before; the first grant raises it.
const FENCE: i64 = 1;

/// What was stored.
#[derive(Debug)]
pub struct Stored {
    /// The branch with the long curve.
    pub curve_branch: BranchId,
    /// Version of Postgres.
    pub postgres: String,
}

/// Points that arrived after the preparation, wherever they lie.
///
/// # Errors
/// When Postgres does not answer.
pub async fn points_since(world: &World) -> Result<i64> {
    let points = sqlx::query_scalar(
        "SELECT (COALESCE((SELECT sum(points) FROM metric_batches), 0)
               + COALESCE((SELECT sum(points) FROM metric_chunks WHERE level = 0 AND fence > $1), 0))::bigint",
    );
    Ok(points.bind(FENCE).fetch_one(&world.database().await?).await?)
}

/// Fills the database.
///
/// # Errors
/// When Postgres refuses.
pub async fn prepare(world: &World, size: &Size) -> Result<Stored> {
    let db = world.database().await?;
    let postgres: String = sqlx::query_scalar("SHOW server_version").fetch_one(&db).await?;
    let mut branches = Vec::new();
    for i in 0..EXPERIMENTS {
        let count = size.branches / EXPERIMENTS + usize::from(i < size.branches % EXPERIMENTS);
        branches.push(experiment(&db, i, count).await?);
    }
    let curve_branch = curve_in(&db, branches[0], size.curve_points).await?;
    let each = (size.points - size.curve_points).max(0) / i64::try_from(size.branches.max(1))?;
    store(&db, &rows(each, 0), None).await?;
    sqlx::query("UPDATE branches SET step = $1 WHERE id <> $2").bind(each).bind(curve_branch.0).execute(&db).await?;
    // As autovacuum would: it leaves tables alone that are empty.
    sqlx::query("VACUUM ANALYZE experiments, branches, jobs, job_states, metric_chunks").execute(&db).await?;
    Ok(Stored { curve_branch, postgres })
}

/// A branch with a curve of so many points, as compaction leaves them, in an experiment of its own.
///
/// # Errors
/// When Postgres refuses.
pub async fn long_curve(db: &PgPool, points: i64) -> Result<BranchId> {
    let experiment = experiment(db, 0, 0).await?;
    curve_in(db, experiment, points).await
}

async fn curve_in(db: &PgPool, experiment: ExperimentId, points: i64) -> Result<BranchId> {
    let id = BranchId::new();
    sqlx::query(
        "INSERT INTO branches (id, experiment_id, ordinal, name, role, state, steps, batch_tokens, step) VALUES ($1, $2, 100000, 'curve', 'tree', 'paused', $3, 512, $3)",
    )
    .bind(id.0).bind(experiment.0).bind(points).execute(db).await?;
    store(db, &rows(points, 0), Some(id)).await?;
    Ok(id)
}

/// An experiment whose branches all wait in the queue.
pub(super) async fn experiment(db: &PgPool, number: usize, count: usize) -> Result<ExperimentId> {
    let (corpus, clustering, tokenizer, id) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), ExperimentId::new());
    let name = format!("load-{number}");
    let request = json!({ "name": name, "paths": [], "fields": { "text": "text" } });
    sqlx::query("INSERT INTO corpora (id, name, state, request, paths) VALUES ($1, $2, 'ready', $3, '[]')")
        .bind(corpus)
        .bind(&name)
        .bind(request)
        .execute(db)
        .await?;
    let submitted = spec::small();
    let quality = json!({ "sample_documents": 1, "vocabulary": 1, "dimensions": 1, "iterations": 1, "inertia_mean": 0.0,
        "balance_max_over_mean": 1.0, "silhouette": null, "stability_nmi": null, "source_nmi": null });
    sqlx::query("INSERT INTO clusterings (id, corpus_id, spec, spec_sha256, state, router_key, router_sha256, quality) VALUES ($1, $2, $3, '', 'ready', 'router', '', $4)")
        .bind(clustering).bind(corpus).bind(json!(submitted.clustering)).bind(quality).execute(db).await?;
    sqlx::query("INSERT INTO tokenizers (id, corpus_id, spec, spec_sha256, state, storage_key, vocab_size, separator, separator_id) VALUES ($1, $2, $3, '', 'ready', 'tokenizer', 512, '', 0)")
        .bind(tokenizer).bind(corpus).bind(json!(submitted.tokenizer)).execute(db).await?;
    let index = json!({ "domains": 3, "vocab_size": 512, "separator_id": 0, "shards": [] });
    sqlx::query("INSERT INTO experiments (id, name, spec, state, priority, owner, corpus_id, clustering_id, tokenizer_id, shard_index, held_out) VALUES ($1, $2, $3, 'running', 50, 'bench', $4, $5, $6, $7, $8)")
        .bind(id.0).bind(&name).bind(json!(submitted)).bind(corpus).bind(clustering).bind(tokenizer).bind(index).bind(json!(HeldOutSummary::default())).execute(db).await?;
    let mixture = json!({ "version": 1, "weights": [{ "domain": 0, "weight": 1.0 }] });
    sqlx::query(
        "INSERT INTO branches (id, experiment_id, ordinal, name, role, domain, state, mixture, training, steps, batch_tokens)
         SELECT gen_random_uuid(), $1, n, 'branch-' || n, 'expert', 0, 'queued', $2, $3, 100000000, 512 FROM generate_series(1, $4::bigint) AS s(n)",
    )
    .bind(id.0).bind(&mixture).bind(json!(submitted.training)).bind(i64::try_from(count)?).execute(db).await?;
    let job = json!({
        "kind": "train", "start": { "kind": "init", "model": submitted.model }, "resume": null, "tokenizer": "tokenizer", "shards": "index.json",
        "sequence_length": 64, "mixture": mixture, "epochs_max": 20.0, "steps": 100_000_000, "training": submitted.training, "output": "checkpoints",
        "experiment_id": id,
    });
    sqlx::query(
        "INSERT INTO jobs (id, experiment_id, branch_id, key, kind, title, spec, priority, slots, remaining, fence)
         SELECT gen_random_uuid(), experiment_id, id, 'train/' || name, 'train', 'train ' || name, $2 || jsonb_build_object('branch_id', id, 'branch', name),
             50, 1, steps * batch_tokens - ordinal, $3 FROM branches WHERE experiment_id = $1",
    )
    .bind(id.0).bind(job).bind(FENCE).execute(db).await?;
    Ok(id)
}

/// A row of `metric_chunks`.
pub(super) struct Row {
    level: i16,
    step_first: i64,
    step_last: i64,
    points: i64,
    covered: bool,
    sparks: (Vec<i64>, Vec<f64>),
    body: Vec<u8>,
}

fn row(level: i16, buckets: &Buckets) -> Row {
    let (step_first, step_last) = (buckets.step_first[0], buckets.step_last[buckets.len() - 1]);
    Row {
        level,
        step_first,
        step_last,
        points: buckets.total(),
        covered: false,
        sparks: Default::default(),
        body: buckets.encode(),
    }
}

/// Chunks and pyramid of a curve, as the server's compaction leaves them; curves of other numbers have other values.
pub(super) fn rows(points: i64, number: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    let (mut level, mut summaries) = (1, Vec::new());
    for first in (1..=points).step_by(usize::try_from(CHUNK_POINTS).unwrap_or(1)) {
        let points = curve(first, (first + CHUNK_POINTS - 1).min(points), number);
        let (body, sparks) = (points.encode(true), compact::sparks(&points));
        let buckets = Buckets::of(points);
        rows.push(Row { level: 0, covered: true, sparks, body, ..row(0, &buckets) });
        summaries.push(buckets.fold());
    }
    while !summaries.is_empty() {
        let whole = summaries.len() / FAN * FAN;
        for (i, summary) in summaries.iter().enumerate() {
            rows.push(Row { covered: i < whole, ..row(level, summary) });
        }
        summaries = summaries[..whole].chunks(FAN).map(summarise).collect();
        level += 1;
    }
    rows
}

/// A falling loss with noise, from the bits of the step.
#[expect(clippy::cast_precision_loss, reason = "synthetic numbers")]
fn curve(first: i64, last: i64, number: i64) -> Points {
    let above = number as f32 / 100.0;
    let noise = |step: i64| {
        let mixed = (step + number * 1_000_003).cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / 16_777_216.0
    };
    let loss = |step: i64| Some(f64::from(2.0 + above + 8.0 / (1.0 + step as f32 / 1000.0) + 0.2 * noise(step)));
    let steps: Vec<i64> = (first..=last).collect();
    Points {
        tokens: steps.iter().map(|step| step * 512).collect(),
        at_ms: steps.iter().map(|step| 1_700_000_000_000 + step * 20).collect(),
        series: [(LOSS.to_owned(), steps.iter().map(|step| loss(*step)).collect())].into(),
        steps,
    }
}

/// Stores rows under one branch, or under all but those that have some.
pub(super) async fn store(db: &PgPool, rows: &[Row], branch: Option<BranchId>) -> Result<()> {
    for row in rows {
        sqlx::query(
            "INSERT INTO metric_chunks (branch_id, fence, level, step_first, step_last, points, covered, spark_steps, spark_losses, body)
             SELECT b.id, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM branches b WHERE CASE WHEN $1::uuid IS NULL THEN b.name <> 'curve' ELSE b.id = $1 END",
        )
        .bind(branch.map(|id| id.0)).bind(FENCE).bind(row.level).bind(row.step_first).bind(row.step_last).bind(row.points).bind(row.covered)
        .bind(&row.sparks.0).bind(&row.sparks.1).bind(&row.body)
        .execute(db).await?;
    }
    Ok(())
}
