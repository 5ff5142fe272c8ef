//! What attempts measured of the speed of work.

use super::{Result, Stored, count, each, signed, transaction, unword, word};
use crate::domain::rates::{Measured, Rate, Shape};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    job::{JobResult, JobSpec},
    worker::SlotInfo,
};
use sqlx::PgPool;
use uuid::Uuid;

/// An attempt that ended.
#[derive(Debug)]
pub struct Ended {
    /// When, and which: the place where the next look begins.
    pub at: (DateTime<Utc>, Uuid),
    /// What it did.
    pub measured: Measured,
}

/// When the last attempt ended that was counted, if any ever was.
///
/// # Errors
/// When Postgres refuses.
pub async fn counted_to(pool: &PgPool) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar!("SELECT max(measured_at) FROM rates").fetch_one(pool).await?)
}

/// Attempts that ended after another one, oldest first, at most `limit`.
///
/// # Errors
/// When Postgres refuses.
pub async fn ended(pool: &PgPool, after: (DateTime<Utc>, Uuid), limit: i64) -> Result<Vec<Ended>> {
    let rows = sqlx::query!(
        r#"SELECT a.id, a.finished_at AS "finished_at!", j.kind, CASE WHEN j.kind <> 'train' AND j.state = 'completed' AND j.fence = a.fence THEN j.spec END AS "done: Stored<JobSpec>", e.model AS "model: Stored<Shape>",
           CASE WHEN j.kind IN ('evaluate', 'ensemble') THEN j.result END AS "result: Stored<JobResult>",
           a.slots AS "held: Stored<Vec<u16>>", w.slots AS "infos: Stored<Vec<SlotInfo>>", a.training_ms,
           GREATEST(a.step_last - COALESCE(a.step_start, 0), 0) * COALESCE(b.batch_tokens, 0) AS "tokens!",
           EXTRACT(EPOCH FROM a.finished_at - COALESCE(a.delivered_at, a.started_at))::double precision AS "seconds!"
           FROM attempts a JOIN jobs j ON j.id = a.job_id JOIN workers w ON w.id = a.worker_id LEFT JOIN branches b ON b.id = a.branch_id
               LEFT JOIN experiments e ON e.id = j.experiment_id
           WHERE a.finished_at IS NOT NULL AND (a.finished_at, a.id) > ($1, $2) ORDER BY a.finished_at, a.id LIMIT $3"#,
        after.0, after.1, limit
    ).fetch_all(pool).await?;
    let listed = each(
        "attempt",
        rows,
        |row| row.id,
        |row| {
            let at = (row.finished_at, row.id);
            let (held, infos) = (row.held.read("slots")?, row.infos.read("slots")?);
            let device = infos.into_iter().find(|slot| held.contains(&slot.index)).map(|slot| slot.device_name);
            let result = row.result.map(|result| result.read("result")).transpose()?;
            let done = row.done.map(|spec| spec.read("spec")).transpose()?;
            let measured = Measured {
                kind: unword(&row.kind)?,
                shape: row.model.map(|shape| shape.read("model")).transpose()?,
                device,
                slots: held.len(),
                tokens: count(row.tokens),
                training_s: f64::from(u32::try_from(row.training_ms).unwrap_or(u32::MAX)) / 1000.0,
                seconds: row.seconds,
                done: done.map(|spec| (spec, result)),
            };
            Ok(Ended { at, measured })
        },
    );
    Ok(listed.rows)
}

/// Adds what was measured to what is known of the same, all or nothing; `at` is the end of the last attempt among it.
///
/// # Errors
/// When Postgres refuses.
pub async fn add(pool: &PgPool, rates: &[Rate], at: DateTime<Utc>) -> Result<()> {
    if rates.is_empty() {
        return Ok(());
    }
    let mut tx = transaction(pool).await?;
    for rate in rates {
        let before = read(&mut *tx, Some(rate)).await?.pop();
        let sum = before.map_or_else(|| rate.clone(), |before| before.and(rate));
        sqlx::query!(
            "INSERT INTO rates (kind, shape, device, slots, parameters, flops, precision, units, seconds, jobs, overhead_seconds, measured_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (kind, shape, device, slots) DO UPDATE SET units = $8, seconds = $9, jobs = $10, overhead_seconds = $11, measured_at = $12",
            word(&rate.kind), rate.shape, rate.device, i32::from(rate.slots), signed(rate.parameters), rate.flops, rate.precision,
            sum.units, sum.seconds, sum.jobs, sum.overhead_seconds, at
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(tx.commit().await?)
}

/// All that is known.
///
/// # Errors
/// When Postgres refuses.
pub async fn all(pool: &PgPool) -> Result<Vec<Rate>> {
    read(pool, None).await
}

async fn read(executor: impl sqlx::PgExecutor<'_>, of: Option<&Rate>) -> Result<Vec<Rate>> {
    let rows = sqlx::query!(
        "SELECT kind, shape, device, slots, parameters, flops, precision, units, seconds, jobs, overhead_seconds FROM rates
         WHERE $1::text IS NULL OR kind = $1 AND shape = $2 AND device = $3 AND slots = $4",
        of.map(|rate| word(&rate.kind)),
        of.map(|rate| rate.shape.as_str()),
        of.map(|rate| rate.device.as_str()),
        of.map(|rate| i32::from(rate.slots))
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Rate {
                kind: unword(&row.kind)?,
                shape: row.shape,
                device: row.device,
                slots: u16::try_from(row.slots).unwrap_or(1),
                parameters: count(row.parameters),
                flops: row.flops,
                precision: row.precision,
                units: row.units,
                seconds: row.seconds,
                jobs: row.jobs,
                overhead_seconds: row.overhead_seconds,
            })
        })
        .collect()
}
