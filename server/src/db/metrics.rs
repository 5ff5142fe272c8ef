//! Metric batches as they are stored, and the segments that say which points are current.

use super::Result;
use crate::domain::metrics::{Batch, Segment};
use senmon_protocol::ids::BranchId;
use sqlx::{PgPool, types::Json};
use std::collections::BTreeMap;

/// Batches of a branch that overlap a range of steps.
///
/// # Errors
/// When Postgres refuses.
pub async fn batches(pool: &PgPool, branch: BranchId, step_from: i64, step_to: i64) -> Result<Vec<Batch>> {
    let rows = sqlx::query!(
        r#"SELECT fence, steps, tokens, at_ms, series AS "series: Json<BTreeMap<String, Vec<Option<f64>>>>" FROM metric_batches
           WHERE branch_id = $1 AND step_last >= $2 AND step_first <= $3 ORDER BY fence, step_first"#, branch.0, step_from, step_to
    ).fetch_all(pool).await?;
    Ok(rows
        .into_iter()
        .map(|row| Batch {
            fence: row.fence,
            steps: row.steps,
            tokens: row.tokens,
            at_ms: row.at_ms,
            series: row.series.0,
        })
        .collect())
}

/// Attempts of a branch that said where they start.
///
/// # Errors
/// When Postgres refuses.
pub async fn segments(pool: &PgPool, branch: BranchId) -> Result<Vec<Segment>> {
    Ok(sqlx::query_as!(Segment, r#"SELECT fence, step_start AS "step_start!" FROM attempts WHERE branch_id = $1 AND step_start IS NOT NULL ORDER BY fence"#, branch.0)
        .fetch_all(pool).await?)
}
