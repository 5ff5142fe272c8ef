//! What the database itself takes.

use super::{Result, count};
use senmon_protocol::storage::TableUsage;
use sqlx::PgPool;

/// Which tables are shown together, and what they are called; the rest is `other`.
const FAMILIES: [(&str, &[&str]); 9] = [
    ("metrics", &["metric_batches", "metric_chunks"]),
    ("logs", &["log_batches"]),
    ("readings", &["readings"]),
    ("events", &["events"]),
    ("access", &["audit", "tokens", "sessions", "idempotency_keys"]),
    ("experiments", &["experiments", "stages", "branches", "evaluations", "checkpoints", "skips"]),
    ("jobs", &["jobs", "attempts"]),
    ("history", &["job_states", "experiment_states", "worker_states"]),
    ("corpora", &["corpora", "clusterings", "tokenizers"]),
];

/// Bytes of the database.
///
/// # Errors
/// When Postgres refuses.
pub async fn bytes(pool: &PgPool) -> Result<u64> {
    let bytes =
        sqlx::query_scalar!(r#"SELECT pg_database_size(current_database()) AS "bytes!""#).fetch_one(pool).await?;
    Ok(count(bytes))
}

/// Bytes of the tables by family, with their indexes, and about how many rows; the largest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn tables(pool: &PgPool) -> Result<Vec<TableUsage>> {
    let rows = sqlx::query!(
        r#"SELECT c.relname::text AS "name!", pg_total_relation_size(c.oid) AS "bytes!", GREATEST(s.n_live_tup, 0) AS "rows!"
           FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.relkind = 'r'"#
    )
    .fetch_all(pool)
    .await?;
    let mut families: Vec<TableUsage> = Vec::new();
    for row in rows {
        let family = FAMILIES.iter().find(|(_, tables)| tables.contains(&row.name.as_str()));
        let name = family.map_or("other", |(name, _)| name);
        let at = families.iter().position(|known| known.family == name).unwrap_or_else(|| {
            families.push(TableUsage { family: name.into(), bytes: 0, rows: 0 });
            families.len() - 1
        });
        families[at].bytes += count(row.bytes);
        families[at].rows += count(row.rows);
    }
    families.sort_by_key(|family| std::cmp::Reverse(family.bytes));
    Ok(families)
}
