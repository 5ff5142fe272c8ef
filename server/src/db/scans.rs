//! The jobs of corpora: their scans, and the comparison of their files.

use super::{Result, Stored, count, kept, transaction};
use crate::domain::advance::corpus::{Facts, Step};
use senmon_protocol::{
    ids::{CorpusId, JobId},
    job::{DeduplicateResult, JobResult, JobSpec, ScanResult},
    spec::PRIORITY,
};
use sqlx::PgPool;
use uuid::Uuid;

/// A job to create.
#[derive(Debug)]
pub struct NewJob {
    /// What it is in its corpus; asking twice creates it once.
    pub key: String,
    /// For people.
    pub title: String,
    /// What to do.
    pub spec: JobSpec,
}

/// Creates those jobs of a corpus that are not there already. Its row is held, so that an end that comes at the same
/// moment sees them; one that is not scanned any more gets none.
///
/// # Errors
/// [`super::DbError::Unstorable`]; when Postgres refuses.
pub async fn ensure(pool: &PgPool, corpus: CorpusId, jobs: &[NewJob]) -> Result<()> {
    let mut tx = transaction(pool).await?;
    let held = sqlx::query_scalar!(
        "SELECT id FROM corpora WHERE id = $1 AND state = 'scanning' AND archived_at IS NULL FOR SHARE",
        corpus.0
    );
    if held.fetch_optional(&mut *tx).await?.is_none() {
        return Ok(tx.rollback().await?);
    }
    let ids: Vec<Uuid> = jobs.iter().map(|_| JobId::new().0).collect();
    let keys: Vec<String> = jobs.iter().map(|job| job.key.clone()).collect();
    let kinds: Vec<String> = jobs.iter().map(|job| job.spec.kind().word().to_owned()).collect();
    let titles: Vec<String> = jobs.iter().map(|job| job.title.clone()).collect();
    let specs = jobs.iter().map(|job| kept("job", &job.spec)).collect::<Result<Vec<_>>>()?;
    sqlx::query!(
        "INSERT INTO jobs (id, corpus_id, key, kind, title, spec, priority, slots)
         SELECT u.id, $1, u.key, u.kind, u.title, u.spec, $7, 1 FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[]) AS u(id, key, kind, title, spec)
         ON CONFLICT (corpus_id, key) DO NOTHING",
        corpus.0, &ids, &keys, &kinds, &titles, &specs as _, i16::from(PRIORITY)
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Where the jobs of a corpus stand.
///
/// # Errors
/// When Postgres refuses.
pub async fn facts(pool: &PgPool, corpus: CorpusId, files: usize) -> Result<Facts> {
    let row = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE kind = 'scan') AS "asked!", count(*) FILTER (WHERE kind = 'scan' AND state = 'completed') AS "done!",
             count(*) FILTER (WHERE kind = 'deduplicate') AS "deduplications!", count(*) FILTER (WHERE kind = 'deduplicate' AND state = 'completed') AS "deduplicated!",
             (SELECT j.title || ': ' || COALESCE(j.problem, j.state) FROM jobs j WHERE j.corpus_id = $1 AND j.state IN ('failed', 'cancelled') ORDER BY j.key LIMIT 1) AS problem
           FROM jobs WHERE corpus_id = $1"#,
        corpus.0
    )
    .fetch_one(pool)
    .await?;
    let deduplication = match (row.deduplications, row.deduplicated) {
        (0, _) => Step::Absent,
        (_, 0) => Step::UnderWay,
        _ => Step::Done,
    };
    let problem = row.problem;
    let (scans_asked, scans_done) = (count(row.asked), count(row.done));
    Ok(Facts { files: files as u64, scans_asked, scans_done, deduplication, problem })
}

/// What the jobs of a corpus found.
#[derive(Debug, Default)]
pub struct Found {
    /// Its files, in their order.
    pub scans: Vec<ScanResult>,
    /// What is left out of them.
    pub deduplicated: Option<DeduplicateResult>,
}

/// Results of the jobs of a corpus, all completed.
///
/// # Errors
/// [`super::DbError::Impossible`] when one cannot be read.
pub async fn found(pool: &PgPool, corpus: CorpusId) -> Result<Found> {
    let rows = sqlx::query!(
        r#"SELECT result AS "result!: Stored<JobResult>" FROM jobs WHERE corpus_id = $1 AND state = 'completed' ORDER BY key"#,
        corpus.0
    )
    .fetch_all(pool)
    .await?;
    let mut found = Found::default();
    for row in rows {
        match row.result.read("result")? {
            JobResult::Scan(scan) => found.scans.push(scan),
            JobResult::Deduplicate(result) => found.deduplicated = Some(result),
            _ => {}
        }
    }
    Ok(found)
}
