//! Metric points as they are stored: batches that landed, chunks and the pyramid above them, and the segments that say
//! which points are current.

use super::{DbError, Result, snapshot, transaction};
use crate::domain::metrics::{
    LOSS, Points, Segment,
    codec::Damaged,
    compact,
    draw::Piece,
    last_current,
    pyramid::{Buckets, FAN, level, summarise},
};
use senmon_protocol::ids::BranchId;
use sqlx::{PgConnection, PgPool};
use std::collections::BTreeSet;

/// Batches that one chunk is made of, at most: points come one a batch where a step is slow.
const CHUNK_BATCHES: i64 = 5000;

impl From<Damaged> for DbError {
    fn from(damaged: Damaged) -> Self {
        Self::Impossible(damaged.to_string())
    }
}

/// What a curve is drawn from.
#[derive(Debug, Default)]
pub struct Material {
    /// Every point once, in buckets that are no larger than what is drawn.
    pub pieces: Vec<Piece>,
    /// The rows below them through which the start of some later attempt cuts.
    pub finer: Vec<Piece>,
    /// Attempts of the branch that said where they start.
    pub segments: Vec<Segment>,
}

/// Reads what a curve of at most `most` buckets over some steps needs, at one moment. `keys` are the metrics wanted;
/// all when empty.
///
/// # Errors
/// When Postgres refuses, or a row is damaged.
pub async fn material(
    pool: &PgPool,
    branch: BranchId,
    (from, to): (i64, i64),
    keys: &[String],
    most: usize,
) -> Result<Material> {
    let wanted = |name: &str| keys.is_empty() || name == LOSS || keys.iter().any(|key| key == name);
    let mut tx = snapshot(pool).await?;
    let segments = sqlx::query_as!(Segment, r#"SELECT fence, step_start AS "step_start!" FROM attempts WHERE branch_id = $1 AND step_start IS NOT NULL ORDER BY fence"#, branch.0)
        .fetch_all(&mut *tx).await?;
    let landed = sqlx::query!(
        "SELECT fence, body FROM metric_batches WHERE branch_id = $1 AND step_last >= $2 AND step_first <= $3 ORDER BY fence, step_first", branch.0, from, to
    ).fetch_all(&mut *tx).await?;
    let mut pieces = Vec::new();
    for row in landed {
        pieces.push(Piece { fence: row.fence, level: 0, buckets: Buckets::of(Points::decode(&row.body, wanted)?) });
    }
    let roots = sqlx::query!(
        "SELECT fence, step_first, step_last, points FROM metric_chunks WHERE branch_id = $1 AND NOT covered AND step_last >= $2 AND step_first <= $3",
        branch.0, from, to
    ).fetch_all(&mut *tx).await?;
    let inside = roots.iter().map(|row| {
        let steps = i128::from(row.step_last - row.step_first) + 1;
        let shown = i128::from(row.step_last.min(to) - row.step_first.max(from)) + 1;
        i64::try_from(i128::from(row.points) * shown / steps).unwrap_or(row.points)
    });
    let points = inside.sum::<i64>() + pieces.iter().map(|piece| piece.buckets.total()).sum::<i64>();
    let level = i16::try_from(level(points, most)).unwrap_or(i16::MAX);
    let rows = sqlx::query!(
        "SELECT fence, level, body FROM metric_chunks WHERE branch_id = $1 AND step_last >= $2 AND step_first <= $3
           AND (level = $4 OR (level < $4 AND NOT covered) OR (level > $4 AND thinned))",
        branch.0,
        from,
        to,
        level
    )
    .fetch_all(&mut *tx)
    .await?;
    for row in rows {
        pieces.push(piece(row.fence, row.level, &row.body, wanted)?);
    }
    let fences: BTreeSet<i64> = roots.iter().map(|row| row.fence).collect();
    let cuts =
        fences.into_iter().map(|fence| (fence, last_current(fence, &segments))).filter(|(_, cut)| *cut < i64::MAX);
    let (fences, cuts): (Vec<i64>, Vec<i64>) = cuts.unzip();
    let rows = sqlx::query!(
        "SELECT c.fence, c.level, c.body FROM unnest($2::bigint[], $3::bigint[]) AS u(fence, cut)
         JOIN metric_chunks c ON c.branch_id = $1 AND c.fence = u.fence AND c.level < $4 AND c.step_first <= u.cut AND c.step_last > u.cut",
        branch.0, &fences, &cuts, level
    ).fetch_all(&mut *tx).await?;
    let mut finer = Vec::new();
    for row in rows {
        finer.push(piece(row.fence, row.level, &row.body, wanted)?);
    }
    tx.commit().await?;
    Ok(Material { pieces, finer, segments })
}

fn piece(fence: i64, level: i16, body: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Piece> {
    let buckets = if level == 0 { Buckets::of(Points::decode(body, wanted)?) } else { Buckets::decode(body, wanted)? };
    Ok(Piece { fence, level: u32::try_from(level).unwrap_or(0), buckets })
}

/// Branches and fences that have something to compact: enough points, or no attempt any more that would add some.
///
/// # Errors
/// When Postgres refuses.
pub async fn uncompacted(pool: &PgPool, points: i64) -> Result<Vec<(BranchId, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT b.branch_id, b.fence FROM metric_batches b LEFT JOIN jobs j ON j.branch_id = b.branch_id AND j.fence = b.fence AND j.state = 'running'
           GROUP BY b.branch_id, b.fence, j.id HAVING sum(b.points) >= $1 OR j.id IS NULL"#, points
    ).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| (BranchId(row.branch_id), row.fence)).collect())
}

/// Makes one chunk out of the first batches of a fence, with its summary. False when there is none to make.
///
/// # Errors
/// When Postgres refuses, or a row is damaged.
pub async fn compact(pool: &PgPool, branch: BranchId, fence: i64) -> Result<bool> {
    let running = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM jobs WHERE branch_id = $1 AND fence = $2 AND state = 'running') AS "running!""#,
        branch.0,
        fence
    )
    .fetch_one(pool)
    .await?;
    let rows = sqlx::query!(
        "SELECT step_first, points, body FROM metric_batches WHERE branch_id = $1 AND fence = $2 ORDER BY step_first LIMIT $3",
        branch.0, fence, CHUNK_BATCHES
    ).fetch_all(pool).await?;
    // Nobody writes with a fence that once stopped running, so what is there then is all that will be.
    let count = compact::chunk(rows.iter().map(|row| i64::from(row.points)), !running);
    if count == 0 {
        return Ok(false);
    }
    let mut points = Points::default();
    let mut firsts = Vec::with_capacity(count);
    for row in rows.into_iter().take(count) {
        firsts.push(row.step_first);
        points.append(Points::decode(&row.body, |_| true)?);
    }
    let mut tx = transaction(pool).await?;
    lock_and_relax(&mut tx, branch).await?;
    let taken = sqlx::query!(
        "DELETE FROM metric_batches WHERE branch_id = $1 AND fence = $2 AND step_first = ANY($3)",
        branch.0,
        fence,
        &firsts
    )
    .execute(&mut *tx)
    .await?;
    if taken.rows_affected() != firsts.len() as u64 {
        return Ok(false); // somebody else was faster
    }
    let last = points.steps.iter().max().copied();
    insert_chunk(&mut tx, branch, fence, points).await?;
    sqlx::query!(
        "UPDATE jobs SET compacted_to = GREATEST(compacted_to, $3) WHERE branch_id = $1 AND fence = $2",
        branch.0,
        fence,
        last
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    while rise(pool, branch, fence).await? {}
    Ok(true)
}

/// Keeps writers of the branch away for this transaction: one that repeats a batch finds either the batch or the chunk.
/// The transaction moves what is stored already and acknowledges nothing, so its commit need not wait for the disk.
async fn lock_and_relax(tx: &mut PgConnection, branch: BranchId) -> Result<()> {
    sqlx::query!("SET LOCAL synchronous_commit = off").execute(&mut *tx).await?;
    sqlx::query!("SELECT id FROM jobs WHERE branch_id = $1 FOR NO KEY UPDATE", branch.0).fetch_all(&mut *tx).await?;
    Ok(())
}

/// Stores points as a chunk and its summary; they must have been taken out of the batches in the same transaction.
async fn insert_chunk(tx: &mut PgConnection, branch: BranchId, fence: i64, points: Points) -> Result<()> {
    let (Some(&first), Some(&last)) = (points.steps.first(), points.steps.iter().max()) else { return Ok(()) };
    let (spark_steps, spark_losses) = compact::sparks(&points);
    let body = points.encode(true);
    let buckets = Buckets::of(points);
    sqlx::query!(
        "INSERT INTO metric_chunks (branch_id, fence, level, step_first, step_last, points, covered, spark_steps, spark_losses, body)
         VALUES ($1, $2, 0, $3, $4, $5, true, $6, $7, $8), ($1, $2, 1, $3, $4, $5, false, '{}', '{}', $9)",
        branch.0, fence, first, last, buckets.total(), &spark_steps, &spark_losses, body, buckets.fold().encode()
    ).execute(&mut *tx).await?;
    Ok(())
}

/// Summarises [`FAN`] neighbouring rows by one of the next level. False when no level has so many.
async fn rise(pool: &PgPool, branch: BranchId, fence: i64) -> Result<bool> {
    let fan = i64::try_from(FAN).unwrap_or(i64::MAX);
    let mut tx = transaction(pool).await?;
    lock_and_relax(&mut tx, branch).await?;
    let level = sqlx::query_scalar!(
        "SELECT level FROM metric_chunks WHERE branch_id = $1 AND fence = $2 AND NOT covered GROUP BY level HAVING count(*) >= $3 ORDER BY level LIMIT 1",
        branch.0, fence, fan
    ).fetch_optional(&mut *tx).await?;
    let Some(level) = level else { return Ok(false) };
    let rows = sqlx::query!(
        r#"UPDATE metric_chunks SET covered = true WHERE branch_id = $1 AND fence = $2 AND level = $3 AND step_first IN (
               SELECT step_first FROM metric_chunks WHERE branch_id = $1 AND fence = $2 AND level = $3 AND NOT covered ORDER BY step_first LIMIT $4)
           RETURNING step_first, step_last, points, body"#, branch.0, fence, level, fan
    ).fetch_all(&mut *tx).await?;
    let mut rows: Vec<_> = rows.into_iter().map(|row| (row.step_first, row.step_last, row.points, row.body)).collect();
    rows.sort_by_key(|row| row.0);
    let mut children = Vec::with_capacity(rows.len());
    for (_, _, _, body) in &rows {
        children.push(Buckets::decode(body, |_| true)?);
    }
    let (Some(first), Some(last)) = (rows.first().map(|row| row.0), rows.iter().map(|row| row.1).max()) else {
        return Ok(false);
    };
    sqlx::query!(
        "INSERT INTO metric_chunks (branch_id, fence, level, step_first, step_last, points, body) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        branch.0, fence, level + 1, first, last, rows.iter().map(|row| row.2).sum::<i64>(), summarise(&children).encode()
    ).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}
