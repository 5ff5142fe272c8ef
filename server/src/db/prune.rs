//! What has grown old goes, a bounded number of rows a statement. Each function says how many went; fewer than asked
//! for means that no more is due.

use super::Result;
use sqlx::PgPool;

/// Rows that one statement removes, at most: it keeps its locks for some milliseconds.
pub const ROWS_MAX: i64 = 1000;
/// Summaries that one statement thins: each stands for up to sixteen rows of some tens of KiB.
pub const CHUNKS_MAX: i64 = 50;

/// Sign-ins that are over.
///
/// # Errors
/// When Postgres refuses.
pub async fn sessions(pool: &PgPool) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM sessions WHERE secret_sha256 IN (SELECT secret_sha256 FROM sessions WHERE expires_at < now() LIMIT $1)",
        ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Days that the row of a token outlives it: its holder hears why it is refused.
const TOMBSTONE_DAYS: i32 = 90;

/// Tokens that ended long ago.
///
/// # Errors
/// When Postgres refuses.
pub async fn tokens(pool: &PgPool) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM tokens WHERE id IN (
             SELECT id FROM tokens WHERE LEAST(revoked_at, expires_at) < now() - make_interval(days => $1) LIMIT $2)",
        TOMBSTONE_DAYS,
        ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Who changed what.
///
/// # Errors
/// When Postgres refuses.
pub async fn audit(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM audit WHERE id IN (
             SELECT id FROM (SELECT id, at FROM audit ORDER BY id LIMIT $2) oldest WHERE at < now() - make_interval(days => $1))",
        days, ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Keys of requests that nobody repeats any more.
///
/// # Errors
/// When Postgres refuses.
pub async fn keys(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM idempotency_keys k USING (SELECT token_id, key FROM idempotency_keys WHERE created_at < now() - make_interval(days => $1) LIMIT $2) old
         WHERE k.token_id = old.token_id AND k.key = old.key",
        days, ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Lines of logs. Ids are in the order of arrival, so only the oldest are looked at.
///
/// # Errors
/// When Postgres refuses.
pub async fn logs(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM log_batches WHERE id IN (
             SELECT id FROM (SELECT id, at FROM log_batches ORDER BY id LIMIT $2) oldest WHERE at < now() - make_interval(days => $1))",
        days, ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Events.
///
/// # Errors
/// When Postgres refuses.
pub async fn events(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM events WHERE id IN (
             SELECT id FROM (SELECT id, at FROM events ORDER BY id LIMIT $2) oldest WHERE at < now() - make_interval(days => $1))",
        days, ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Messages that only tried an alert; the others go with their events.
///
/// # Errors
/// When Postgres refuses.
pub async fn alert_tests(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM deliveries WHERE id IN (
             SELECT id FROM deliveries WHERE event_id IS NULL AND created_at < now() - make_interval(days => $1) LIMIT $2)",
        days,
        ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// What each worker brought to the fleet long ago; of each the last one before that stays, from which the later ones go
/// on.
///
/// # Errors
/// When Postgres refuses.
pub async fn worker_states(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM worker_states WHERE id IN (SELECT s.id FROM worker_states s
             WHERE EXISTS (SELECT 1 FROM worker_states n WHERE n.worker_id = s.worker_id AND n.id > s.id AND n.at < now() - make_interval(days => $1))
             ORDER BY s.id LIMIT $2)",
        days, ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Checkpoints whose bytes went long ago and that nothing names.
///
/// # Errors
/// When Postgres refuses.
pub async fn checkpoints(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM checkpoints WHERE state = 'deleted' AND id IN (SELECT c.id FROM checkpoints c JOIN branches b ON b.id = c.branch_id
             WHERE c.state = 'deleted' AND c.created_at < now() - make_interval(days => $1) AND c.step < b.steps
                 AND NOT EXISTS (SELECT 1 FROM branches f WHERE f.start_id = c.id)
                 AND NOT EXISTS (SELECT 1 FROM evaluations v WHERE v.checkpoint_id = c.id) LIMIT $2)",
        days, ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// How the jobs of experiments that ended long ago came to their end: states between the first and the last, and
/// attempts that drew no curve. One experiment a call; 0 when there is none. What is marked is not looked at again.
///
/// # Errors
/// When Postgres refuses.
pub async fn history(pool: &PgPool, days: i32) -> Result<u64> {
    let due = sqlx::query_scalar!(
        "SELECT id FROM experiments WHERE NOT history_pruned AND finished_at < now() - make_interval(days => $1) ORDER BY finished_at LIMIT 1",
        days
    );
    let Some(experiment) = due.fetch_optional(pool).await? else { return Ok(0) };
    let states = sqlx::query!(
        "DELETE FROM job_states WHERE id IN (SELECT s.id FROM job_states s JOIN jobs j ON j.id = s.job_id
             WHERE j.experiment_id = $1 AND EXISTS (SELECT 1 FROM job_states n WHERE n.job_id = s.job_id AND n.id > s.id)
                 AND EXISTS (SELECT 1 FROM job_states p WHERE p.job_id = s.job_id AND p.id < s.id) LIMIT $2)",
        experiment, ROWS_MAX
    );
    let states = states.execute(pool).await?.rows_affected();
    let attempts = sqlx::query!(
        "DELETE FROM attempts WHERE id IN (SELECT a.id FROM attempts a JOIN jobs j ON j.id = a.job_id
             WHERE j.experiment_id = $1 AND a.finished_at IS NOT NULL AND a.step_start IS NULL LIMIT $2)",
        experiment,
        ROWS_MAX
    );
    let attempts = attempts.execute(pool).await?.rows_affected();
    let rows_max = ROWS_MAX.unsigned_abs();
    if states < rows_max && attempts < rows_max {
        sqlx::query!("UPDATE experiments SET history_pruned = true WHERE id = $1", experiment).execute(pool).await?;
    }
    // Whatever went: there may be another experiment.
    Ok((states + attempts).max(1))
}

/// Removes the rows below summaries of one level: points below level 1, finer buckets below the others. The summary
/// stands for them, with a thinner sparkline. What a later attempt's start cuts through keeps its points, so that which
/// of them are current stays exact. Says how many summaries it thinned.
///
/// # Errors
/// When Postgres refuses.
pub async fn curves(pool: &PgPool, level: i16, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "WITH due AS (
             SELECT p.branch_id, p.fence, p.level, p.step_first, p.step_last FROM metric_chunks p
             WHERE p.level = $1 AND NOT p.thinned AND p.at < now() - make_interval(days => $2)
                 AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.branch_id = p.branch_id AND a.fence > p.fence
                     AND a.step_start >= p.step_first AND a.step_start < p.step_last)
                 AND NOT EXISTS (SELECT 1 FROM metric_chunks c WHERE c.branch_id = p.branch_id AND c.fence = p.fence AND c.level = p.level - 1
                     AND c.step_first BETWEEN p.step_first AND p.step_last AND c.level > 0 AND NOT c.thinned)
             ORDER BY p.at LIMIT $3),
         gone AS (
             DELETE FROM metric_chunks c USING due d WHERE c.branch_id = d.branch_id AND c.fence = d.fence AND c.level = d.level - 1
                 AND c.step_first BETWEEN d.step_first AND d.step_last
             RETURNING c.branch_id, c.fence, d.step_first, c.spark_steps, c.spark_losses),
         counted AS (
             SELECT g.branch_id, g.fence, g.step_first, u.step, u.loss, row_number() OVER (PARTITION BY g.branch_id, g.fence, g.step_first ORDER BY u.step DESC) AS place,
                 count(*) OVER (PARTITION BY g.branch_id, g.fence, g.step_first) AS total
             FROM gone g, unnest(g.spark_steps, g.spark_losses) AS u(step, loss)),
         sparks AS (
             SELECT branch_id, fence, step_first, array_agg(step ORDER BY step) AS steps, array_agg(loss ORDER BY step) AS losses
             FROM counted WHERE (place - 1) % GREATEST((total + 31) / 32, 1) = 0 GROUP BY branch_id, fence, step_first)
         UPDATE metric_chunks p SET thinned = true, spark_steps = COALESCE(s.steps, '{}'), spark_losses = COALESCE(s.losses, '{}')
         FROM due d LEFT JOIN sparks s ON s.branch_id = d.branch_id AND s.fence = d.fence AND s.step_first = d.step_first
         WHERE p.branch_id = d.branch_id AND p.fence = d.fence AND p.level = d.level AND p.step_first = d.step_first",
        level, days, CHUNKS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Levels of summaries that there are.
///
/// # Errors
/// When Postgres refuses.
pub async fn levels(pool: &PgPool) -> Result<i16> {
    Ok(sqlx::query_scalar!(
        r#"SELECT COALESCE(max(level), 0::smallint) AS "level!" FROM metric_chunks WHERE level > 0 AND NOT thinned"#
    )
    .fetch_one(pool)
    .await?)
}
