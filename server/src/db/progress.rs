//! How experiments get on: what each waits for, and since when nothing has moved.

use super::{Result, Stored, kept, sentence, signed};
use chrono::{DateTime, Utc};
use senmon_protocol::{ids::ExperimentId, said::Said};
use sqlx::PgPool;

/// An experiment moves all the time while it trains; that it does is noted again after so many seconds.
const NOTED_EVERY_S: f64 = 10.0;

/// Notes what an experiment waits for, and whether it got further: whether more units of its stages and jobs are done
/// than ever before, so that what is done again and again is none.
///
/// # Errors
/// When Postgres refuses.
pub async fn note(pool: &PgPool, id: ExperimentId, waits_for: Option<&Said>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO progress AS p (experiment_id, mark, waits_for, waits_for_said)
         SELECT e.id, (SELECT COALESCE(sum(done), 0) FROM stages WHERE experiment_id = e.id)::bigint
             + (SELECT COALESCE(sum(done), 0) FROM jobs WHERE experiment_id = e.id)::bigint, $2, $4 FROM experiments e WHERE e.id = $1
         ON CONFLICT (experiment_id) DO UPDATE SET waits_for = $2, waits_for_said = $4, mark = GREATEST(p.mark, excluded.mark),
             made_at = CASE WHEN excluded.mark > p.mark THEN now() ELSE p.made_at END,
             stalled_at = CASE WHEN excluded.mark > p.mark THEN NULL ELSE p.stalled_at END
         WHERE p.waits_for IS DISTINCT FROM $2
             OR excluded.mark > p.mark AND (p.stalled_at IS NOT NULL OR p.made_at < now() - make_interval(secs => $3))",
        id.0,
        waits_for.map(Said::text),
        NOTED_EVERY_S,
        waits_for.map(|said| kept("waits_for", said)).transpose()? as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Seconds without progress, where they are too many and nobody was told yet; told from now on. Nothing counts before
/// `since`: a server that was away has seen nothing.
///
/// # Errors
/// When Postgres refuses.
pub async fn stalled(pool: &PgPool, id: ExperimentId, since: DateTime<Utc>, after_ms: u64) -> Result<Option<f64>> {
    Ok(sqlx::query_scalar!(
        r#"UPDATE progress SET stalled_at = now() WHERE experiment_id = $1 AND stalled_at IS NULL
             AND GREATEST(made_at, $2) < now() - make_interval(secs => $3::bigint / 1000.0)
           RETURNING EXTRACT(EPOCH FROM now() - made_at)::double precision AS "seconds!""#,
        id.0,
        since,
        signed(after_ms)
    )
    .fetch_optional(pool)
    .await?)
}

/// An experiment goes on from a pause: the time until now was none of its own.
///
/// # Errors
/// When Postgres refuses.
pub async fn begin(pool: &PgPool, id: ExperimentId) -> Result<()> {
    sqlx::query!("UPDATE progress SET made_at = now(), stalled_at = NULL WHERE experiment_id = $1", id.0)
        .execute(pool)
        .await?;
    Ok(())
}

/// What an experiment waits for, as last noted.
///
/// # Errors
/// When Postgres refuses.
pub async fn waits_for(pool: &PgPool, id: ExperimentId) -> Result<Option<Said>> {
    let row = sqlx::query!(
        r#"SELECT waits_for, waits_for_said AS "waits_for_said: Stored<Said>" FROM progress WHERE experiment_id = $1"#,
        id.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.and_then(|row| sentence(row.waits_for, row.waits_for_said)))
}
