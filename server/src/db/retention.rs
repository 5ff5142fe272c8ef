//! Checkpoints between announcement and history: what may be removed, what is being removed, what the store may hold.

use super::{DbError, Result, Stored, count, transaction, unword};
use crate::domain::{
    orphans::Owner,
    retention::{CheckpointFacts, Needs, removable},
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{BranchId, CheckpointId, ExperimentId, StorageKey},
    spec::{RetentionSpec, SpikeAction, SpikeSpec},
};
use sqlx::{PgConnection, PgPool};
use std::collections::{BTreeSet, HashSet};

/// Branches with more committed checkpoints than their newest, where one was committed or read back in the last day:
/// of the others nothing has changed since they were looked at.
///
/// # Errors
/// When Postgres refuses.
pub async fn branches(pool: &PgPool) -> Result<Vec<BranchId>> {
    let ids = sqlx::query_scalar!(
        "SELECT c.branch_id FROM checkpoints c JOIN experiments e ON e.id = c.experiment_id WHERE c.state = 'committed'
         GROUP BY c.branch_id, e.id HAVING count(*) > COALESCE((e.spec->'retention'->>'keep_latest')::bigint, 1)
             AND max(GREATEST(c.created_at, c.verified_at)) > now() - interval '1 day'"
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BranchId).collect())
}

/// Marks what the policy does not keep. Decided over locked rows: what a scrub or a grant does at the same time sees
/// all of it or nothing.
///
/// # Errors
/// When Postgres refuses.
pub async fn mark(pool: &PgPool, branch: BranchId) -> Result<Vec<CheckpointId>> {
    let mut tx = transaction(pool).await?;
    let all = facts(&mut tx, branch).await?;
    let row = sqlx::query!(
        r#"SELECT b.state, b.training->'loss_spikes' AS "spikes: Stored<SpikeSpec>", e.id, e.spec->'retention' AS "policy: Stored<RetentionSpec>"
           FROM branches b JOIN experiments e ON e.id = b.experiment_id WHERE b.id = $1"#,
        branch.0
    )
    .fetch_one(&mut *tx)
    .await?;
    let spikes = row
        .spikes
        .map(|spikes| spikes.read("training.loss_spikes"))
        .transpose()?
        .filter(|spikes| spikes.action == SpikeAction::RollBack);
    let needs =
        Needs { unfinished: row.state != "completed", roll_back_steps: spikes.map(|spikes| spikes.roll_back_steps) };
    let referenced = references(&mut tx, ExperimentId(row.id)).await?;
    let policy = row.policy.map(|policy| policy.read("spec.retention")).transpose()?.unwrap_or_default();
    let removed = removable(&all, &policy, needs, &referenced);
    let ids: Vec<uuid::Uuid> = removed.iter().map(|id| id.0).collect();
    sqlx::query!("UPDATE checkpoints SET state = 'deleting' WHERE id = ANY($1) AND state = 'committed'", &ids)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(removed)
}

async fn facts(tx: &mut PgConnection, branch: BranchId) -> Result<Vec<CheckpointFacts>> {
    let rows = sqlx::query!(
        r#"SELECT id, step, (meta->>'tokens')::bigint AS "tokens!", meta->>'kind' AS "kind!", (meta->>'loss')::float8 AS loss,
               verified_at IS NOT NULL AS "verified!", problem IS NOT NULL AS "damaged!"
           FROM checkpoints WHERE branch_id = $1 AND state = 'committed' ORDER BY created_at, step FOR UPDATE"#,
        branch.0
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .zip(0..)
        .map(|(row, order)| {
            Ok(CheckpointFacts {
                id: CheckpointId(row.id),
                step: count(row.step),
                tokens: count(row.tokens),
                order,
                kind: unword(&row.kind)?,
                verified: row.verified,
                damaged: row.damaged,
                loss: row.loss,
            })
        })
        .collect()
}

/// Checkpoints of an experiment that a branch's start, a running attempt, a merge or an evaluation refers to; ensembles
/// and reports stand on evaluations.
async fn references(tx: &mut PgConnection, experiment: ExperimentId) -> Result<BTreeSet<CheckpointId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT r.id::uuid AS "id!" FROM jobs j CROSS JOIN LATERAL (VALUES (j.spec->'start'->>'id'), (j.spec->'checkpoint'->>'id'),
                   (CASE WHEN j.state = 'running' THEN j.spec->'resume'->>'id' END)) r(id)
               WHERE j.experiment_id = $1 AND j.kind IN ('train', 'evaluate') AND r.id IS NOT NULL
           UNION SELECT (m.value->'checkpoint'->>'id')::uuid FROM jobs j CROSS JOIN LATERAL jsonb_array_elements(j.spec->'members') m
               WHERE j.experiment_id = $1 AND j.kind = 'merge'
           UNION SELECT start_id FROM branches WHERE experiment_id = $1 AND start_id IS NOT NULL
           UNION SELECT checkpoint_id FROM evaluations WHERE experiment_id = $1 AND checkpoint_id IS NOT NULL"#,
        experiment.0
    )
    .fetch_all(tx)
    .await?;
    Ok(ids.into_iter().map(CheckpointId).collect())
}

/// A checkpoint whose bytes are to go.
#[derive(Debug, Clone)]
pub struct Deleting {
    /// Id.
    pub id: CheckpointId,
    /// Its folder.
    pub folder: StorageKey,
    /// Its experiment.
    pub experiment: ExperimentId,
    /// Its branch.
    pub branch: BranchId,
    /// Name of the branch.
    pub branch_name: String,
    /// Its step.
    pub step: u64,
    /// Its size; None where it was never committed.
    pub bytes: Option<u64>,
}

/// All whose bytes are to go, by branch.
///
/// # Errors
/// When Postgres refuses.
pub async fn deleting(pool: &PgPool) -> Result<Vec<Deleting>> {
    let rows = sqlx::query!(
        r#"SELECT c.id, c.folder, c.experiment_id, c.branch_id, b.name, c.step, (c.meta->>'bytes')::bigint AS bytes
           FROM checkpoints c JOIN branches b ON b.id = c.branch_id WHERE c.state = 'deleting' ORDER BY c.branch_id, c.created_at"#
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Deleting {
                id: CheckpointId(row.id),
                folder: key(row.folder)?,
                experiment: ExperimentId(row.experiment_id),
                branch: BranchId(row.branch_id),
                branch_name: row.name,
                step: count(row.step),
                bytes: row.bytes.map(count),
            })
        })
        .collect()
}

/// The bytes are gone: a committed one becomes history, one that never was leaves none.
///
/// # Errors
/// When Postgres refuses.
pub async fn deleted(pool: &PgPool, id: CheckpointId) -> Result<()> {
    sqlx::query!("DELETE FROM checkpoints WHERE id = $1 AND state = 'deleting' AND meta IS NULL", id.0)
        .execute(pool)
        .await?;
    sqlx::query!("UPDATE checkpoints SET state = 'deleted' WHERE id = $1 AND state = 'deleting'", id.0)
        .execute(pool)
        .await?;
    Ok(())
}

/// Announcements older than the grace whose attempt is over: nobody can commit them any more.
///
/// # Errors
/// When Postgres refuses.
pub async fn abandon(pool: &PgPool, before: DateTime<Utc>) -> Result<u64> {
    let done = sqlx::query!(
        "UPDATE checkpoints c SET state = 'deleting' WHERE state = 'pending' AND created_at < $1
             AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.branch_id = c.branch_id AND j.fence = c.fence AND j.state = 'running')",
        before
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Who may write below which folder.
///
/// # Errors
/// When Postgres refuses.
pub async fn owners(pool: &PgPool) -> Result<Vec<Owner>> {
    let rows = sqlx::query!(
        r#"SELECT spec->>'output' AS "output!", fence, state = 'running' AS "is_running!" FROM jobs WHERE spec ? 'output'"#
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| Ok(Owner { output: key(row.output)?, fence: row.fence, is_running: row.is_running }))
        .collect()
}

/// Folders that a row speaks for.
///
/// # Errors
/// When Postgres refuses.
pub async fn folders(pool: &PgPool) -> Result<HashSet<String>> {
    let folders = sqlx::query_scalar!(
        r#"SELECT folder AS "folder!" FROM checkpoints WHERE state <> 'deleted'
           UNION SELECT j.result->>'folder' FROM jobs j WHERE j.result ? 'folder'
               AND NOT EXISTS (SELECT 1 FROM experiments e WHERE e.id = j.experiment_id AND e.archived_at IS NOT NULL)
               AND NOT EXISTS (SELECT 1 FROM corpora c WHERE c.id = j.corpus_id AND (c.archived_at IS NOT NULL OR j.kind = 'scan' AND c.state <> 'scanning'))"#
    )
    .fetch_all(pool)
    .await?;
    Ok(folders.into_iter().collect())
}

/// Checkpoints of each experiment that is not over: bytes now, and the largest one seen.
///
/// # Errors
/// When Postgres refuses.
pub async fn held(pool: &PgPool, experiment: ExperimentId) -> Result<(u64, Option<u64>)> {
    let row = sqlx::query!(
        r#"SELECT COALESCE(sum((meta->>'bytes')::bigint) FILTER (WHERE state IN ('committed', 'deleting')), 0)::bigint AS "bytes!",
               max((meta->>'bytes')::bigint) AS each FROM checkpoints WHERE experiment_id = $1"#,
        experiment.0
    )
    .fetch_one(pool)
    .await?;
    Ok((count(row.bytes), row.each.map(count)))
}

fn key(text: String) -> Result<StorageKey> {
    StorageKey::new(text).map_err(|error| DbError::Impossible(error.to_string()))
}
