//! What the loops could not do something with: tried again with growing pauses, then set aside until somebody asks.

use super::{Result, unword, word};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    said,
    said::Said,
    view::{SetAside, TroubleKind},
};
use sqlx::PgPool;
use std::collections::HashMap;
use uuid::Uuid;

/// Failures in a row after which a thing is set aside.
pub const TRIES_MAX: i32 = 3;

/// How a thing fares that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// Failures in a row.
    pub tries: i32,
    /// The last one.
    pub problem: String,
    /// Whether it is not tried now: it is set aside, or its pause goes on.
    pub rests: bool,
    /// When it was set aside.
    pub set_aside_at: Option<DateTime<Utc>>,
}

impl Trouble {
    /// In a sentence, for those that are set aside.
    #[must_use]
    pub fn sentence(&self) -> Option<Said> {
        self.set_aside_at.map(|_| self.said())
    }

    /// In a sentence.
    #[must_use]
    pub fn said(&self) -> Said {
        let (tries, problem) = (self.tries.unsigned_abs(), self.problem.trim_end_matches('.'));
        match self.set_aside_at {
            Some(_) => said!("set_aside_after", tries = tries, problem = problem),
            None => said!("tried_again_soon", problem = problem),
        }
    }
}

/// Notes a failure; what it comes to, and whether the thing is set aside from now on.
///
/// # Errors
/// When Postgres refuses.
pub async fn failed(pool: &PgPool, kind: TroubleKind, id: Uuid, problem: &str) -> Result<(Trouble, bool)> {
    let row = sqlx::query!(
        r#"INSERT INTO troubles AS t (kind, id, tries, problem) VALUES ($1, $2, 1, $3)
           ON CONFLICT (kind, id) DO UPDATE SET tries = t.tries + 1, problem = $3, tried_at = now(),
               set_aside_at = CASE WHEN t.tries + 1 >= $4 THEN COALESCE(t.set_aside_at, now()) END
           RETURNING tries, set_aside_at, (set_aside_at = now()) IS TRUE AS "is_new!""#,
        word(&kind),
        id,
        problem,
        TRIES_MAX
    )
    .fetch_one(pool)
    .await?;
    let (tries, set_aside_at) = (row.tries, row.set_aside_at);
    Ok((Trouble { tries, problem: problem.to_owned(), rests: true, set_aside_at }, row.is_new))
}

/// A thing works, or is to be tried again: forgotten. Whether there was anything to forget.
///
/// # Errors
/// When Postgres refuses.
pub async fn forget(pool: &PgPool, kind: TroubleKind, id: Uuid) -> Result<bool> {
    let done = sqlx::query!("DELETE FROM troubles WHERE kind = $1 AND id = $2", word(&kind), id).execute(pool).await?;
    Ok(done.rows_affected() == 1)
}

/// The troubles of a kind; of one thing or of all. A pause doubles with each failure, from a second.
///
/// # Errors
/// When Postgres refuses.
pub async fn of(pool: &PgPool, kind: TroubleKind, id: Option<Uuid>) -> Result<HashMap<Uuid, Trouble>> {
    let rows = sqlx::query!(
        r#"SELECT id, tries, problem, set_aside_at,
               set_aside_at IS NOT NULL OR tried_at + make_interval(secs => 2 ^ (tries - 1)) > now() AS "rests!"
           FROM troubles WHERE kind = $1 AND ($2::uuid IS NULL OR id = $2)"#,
        word(&kind),
        id
    )
    .fetch_all(pool)
    .await?;
    let trouble = rows.into_iter().map(|row| {
        let (tries, problem, rests, set_aside_at) = (row.tries, row.problem, row.rests, row.set_aside_at);
        (row.id, Trouble { tries, problem, rests, set_aside_at })
    });
    Ok(trouble.collect())
}

/// All that is set aside, the latest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn set_aside(pool: &PgPool) -> Result<Vec<SetAside>> {
    let rows = sqlx::query!(
        r#"SELECT t.kind, t.id, t.tries, t.problem, t.set_aside_at AS "since!",
               COALESCE(e.name, c.name, b.name || ' of ' || be.name, cb.name || ' at step ' || k.step, '') AS "name!"
           FROM troubles t LEFT JOIN experiments e ON t.kind = 'experiment' AND e.id = t.id
               LEFT JOIN clusterings g ON t.kind = 'clustering' AND g.id = t.id LEFT JOIN tokenizers z ON t.kind = 'tokenizer' AND z.id = t.id
               LEFT JOIN corpora c ON c.id = COALESCE(g.corpus_id, z.corpus_id, t.id)
               LEFT JOIN branches b ON t.kind = 'branch' AND b.id = t.id LEFT JOIN experiments be ON be.id = b.experiment_id
               LEFT JOIN checkpoints k ON t.kind = 'checkpoint' AND k.id = t.id LEFT JOIN branches cb ON cb.id = k.branch_id
           WHERE t.set_aside_at IS NOT NULL ORDER BY t.set_aside_at DESC"#
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SetAside {
                kind: unword(&row.kind)?,
                id: row.id,
                name: row.name,
                tries: u32::try_from(row.tries).unwrap_or(0),
                problem: row.problem,
                since: row.since,
            })
        })
        .collect()
}
