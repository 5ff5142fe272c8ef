//! Corpora.

use super::{DbError, Listed, Result, Stored, begin, count, each, kept, lists::Wanted, transaction, unword};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    corpus::{
        BrokenRecord, CorpusFile, CorpusState, CorpusView, DocumentCounts, LeftOut, RegisterCorpus, ScanProgress,
    },
    ids::CorpusId,
    said,
    said::expected::quoted,
};
use sqlx::PgPool;

struct Row {
    id: uuid::Uuid,
    name: String,
    state: String,
    problem: Option<String>,
    scanned: i64,
    paths: i64,
    owner: String,
    request: Stored<RegisterCorpus>,
    files: Stored<Vec<CorpusFile>>,
    left_out: Stored<LeftOut>,
    broken_first: Stored<Vec<BrokenRecord>>,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for CorpusView {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self> {
        let mut counts = DocumentCounts::default();
        let files = row.files.read("files")?;
        files.iter().for_each(|file| counts.add(&file.counts));
        let state = unword(&row.state)?;
        let scan = (state == CorpusState::Scanning).then(|| ScanProgress {
            files_done: count(row.scanned),
            files: count(row.paths),
            waits_for: None,
            waits_for_said: None,
        });
        Ok(Self {
            id: CorpusId(row.id),
            name: row.name,
            state,
            problem: row.problem,
            problem_said: None,
            scan,
            owner: row.owner,
            fields: row.request.read("request")?.fields,
            files,
            left_out: row.left_out.read("left_out")?,
            counts,
            broken_first: row.broken_first.read("broken_first")?,
            created_at: row.created_at,
        })
    }
}

/// Registers a corpus.
///
/// # Errors
/// [`DbError::Conflict`] when the name is taken.
pub async fn insert(
    pool: &PgPool,
    request: &RegisterCorpus,
    owner: &str,
    paths: &[String],
    left_out: &LeftOut,
) -> Result<CorpusId> {
    let id = CorpusId::new();
    let mut tx = begin(pool).await?;
    let done = sqlx::query!(
        "INSERT INTO corpora (id, name, state, request, paths, left_out, owner) VALUES ($1, $2, 'scanning', $3, $4, $5, $6)
         ON CONFLICT (name) WHERE archived_at IS NULL DO NOTHING",
        id.0,
        request.name,
        kept("body", request)? as _,
        kept("paths", paths)? as _,
        kept("left_out", left_out)? as _,
        owner
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        tx.commit().await?;
        return Ok(id);
    }
    Err(DbError::Conflict(said!("corpus_name_taken", name = quoted(&request.name))))
}

/// By id or name.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn get(pool: &PgPool, id_or_name: &str) -> Result<CorpusView> {
    let id = id_or_name.parse::<uuid::Uuid>().ok();
    let row = sqlx::query_as!(Row,
        r#"SELECT id, name, state, problem, COALESCE((SELECT count(*) FROM jobs j WHERE j.corpus_id = corpora.id AND j.kind = 'scan' AND j.state = 'completed'), 0) AS "scanned!",
           COALESCE(CASE WHEN jsonb_typeof(paths) = 'array' THEN jsonb_array_length(paths) END, 0)::bigint AS "paths!", owner, request AS "request: _", files AS "files: _", left_out AS "left_out: _", broken_first AS "broken_first: _", created_at
           FROM corpora WHERE (id = $1 OR name = $2) AND archived_at IS NULL"#, id, id_or_name
    ).fetch_optional(pool).await?;
    row.ok_or_else(|| DbError::NotFound { noun: "corpus", id: id_or_name.to_owned() })?.try_into()
}

/// Corpora, newest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(pool: &PgPool, wanted: &Wanted) -> Result<Listed<CorpusView>> {
    let rows = sqlx::query_as!(Row,
        r#"SELECT id, name, state, problem, COALESCE((SELECT count(*) FROM jobs j WHERE j.corpus_id = corpora.id AND j.kind = 'scan' AND j.state = 'completed'), 0) AS "scanned!",
           COALESCE(CASE WHEN jsonb_typeof(paths) = 'array' THEN jsonb_array_length(paths) END, 0)::bigint AS "paths!", owner, request AS "request: _", files AS "files: _", left_out AS "left_out: _", broken_first AS "broken_first: _", created_at
           FROM corpora WHERE archived_at IS NULL AND ($1::text IS NULL OR strpos(lower(name), lower($1)) > 0)
             AND ($2::text[] IS NULL OR state = ANY($2)) AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4"#,
        wanted.q, wanted.states.as_deref(), wanted.cursor, wanted.limit
    ).fetch_all(pool).await?;
    Ok(each("corpus", rows, |row| row.id, TryInto::try_into))
}

/// Names of all corpora.
///
/// # Errors
/// When Postgres refuses.
pub async fn names(pool: &PgPool) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar!("SELECT name FROM corpora WHERE archived_at IS NULL ORDER BY id DESC LIMIT 1000")
        .fetch_all(pool)
        .await?)
}

/// A corpus that is scanned.
#[derive(Debug)]
pub struct ToScan {
    /// Id.
    pub id: CorpusId,
    /// Name.
    pub name: String,
    /// The registration and its files, or why they cannot be read.
    pub asked: Result<(RegisterCorpus, Vec<String>)>,
}

/// Corpora that are scanned, oldest first; those that rest are left out.
///
/// # Errors
/// When Postgres refuses.
pub async fn scanning(pool: &PgPool, rest: &[uuid::Uuid]) -> Result<Vec<ToScan>> {
    let rows = sqlx::query!(
        r#"SELECT id, name, request AS "request: Stored<RegisterCorpus>", paths AS "paths: Stored<Vec<String>>" FROM corpora
           WHERE state = 'scanning' AND archived_at IS NULL AND id <> ALL($1) ORDER BY created_at"#,
        rest
    )
    .fetch_all(pool)
    .await?;
    let to_scan = rows.into_iter().map(|row| {
        let asked = row.request.read("request").and_then(|request| Ok((request, row.paths.read("paths")?)));
        ToScan { id: CorpusId(row.id), name: row.name, asked }
    });
    Ok(to_scan.collect())
}

/// Stores what the scan found, and ends what is left of it.
///
/// # Errors
/// [`DbError::Unstorable`]; when Postgres refuses.
pub async fn finish_scan(
    pool: &PgPool,
    id: CorpusId,
    files: &[CorpusFile],
    broken: &[BrokenRecord],
    problem: Option<&str>,
) -> Result<()> {
    let mut tx = transaction(pool).await?;
    sqlx::query!(
        "UPDATE corpora SET state = CASE WHEN $4::text IS NULL THEN 'ready' ELSE 'failed' END, files = $2, broken_first = $3, problem = $4
         WHERE id = $1 AND state = 'scanning'",
        id.0, kept("files", files)? as _, kept("broken_first", broken)? as _, problem
    ).execute(&mut *tx).await?;
    // One that is refused for one of its jobs needs the others no more.
    super::open_jobs::end_of(&mut tx, id.into()).await?;
    Ok(tx.commit().await?)
}
