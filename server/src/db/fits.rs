//! Clusterings and tokenizers: fitted once per corpus and settings.

use super::{DbError, Result, Stored, kept, unword};
use crate::domain::advance::experiment::Fit;
use senmon_corpus::hex;
use senmon_protocol::{
    clustering::{ClusteringQuality, ClusteringSpec, ClusteringView, DomainView},
    ids::{ClusteringId, CorpusId, StorageKey},
    spec::TokenizerSpec,
};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

fn hash<T: serde::Serialize>(spec: &T) -> String {
    hex(&Sha256::digest(serde_json::to_vec(spec).unwrap_or_default()))
}

fn key(text: Option<String>) -> Result<Option<StorageKey>> {
    text.map(|text| StorageKey::new(text).map_err(|error| DbError::Impossible(error.to_string()))).transpose()
}

/// The clustering of a corpus with these settings, asked for if there is none or its fit had failed.
///
/// # Errors
/// When Postgres refuses.
pub async fn ensure_clustering(pool: &PgPool, corpus: CorpusId, spec: &ClusteringSpec) -> Result<ClusteringId> {
    let hash = hash(spec);
    sqlx::query!(
        "INSERT INTO clusterings (id, corpus_id, spec, spec_sha256, state) VALUES ($1, $2, $3, $4, 'fitting')
         ON CONFLICT (corpus_id, spec_sha256) DO UPDATE SET state = 'fitting', problem = NULL WHERE clusterings.state = 'failed'",
        ClusteringId::new().0, corpus.0, kept("clustering", spec)? as _, hash
    ).execute(pool).await?;
    let id =
        sqlx::query_scalar!("SELECT id FROM clusterings WHERE corpus_id = $1 AND spec_sha256 = $2", corpus.0, hash)
            .fetch_one(pool)
            .await?;
    Ok(ClusteringId(id))
}

/// A clustering.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn clustering(pool: &PgPool, id: ClusteringId) -> Result<ClusteringView> {
    let row = sqlx::query!(
        r#"SELECT id, corpus_id, spec AS "spec: Stored<ClusteringSpec>", state, problem, router_key, router_sha256,
           quality AS "quality: Stored<ClusteringQuality>", domains AS "domains: Stored<Vec<DomainView>>", created_at
           FROM clusterings WHERE id = $1"#,
        id.0
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| DbError::NotFound { noun: "clustering", id: id.to_string() })?;
    Ok(ClusteringView {
        id: ClusteringId(row.id),
        corpus_id: CorpusId(row.corpus_id),
        state: unword(&row.state)?,
        problem: row.problem,
        spec: row.spec.read("spec")?,
        router: key(row.router_key)?,
        router_sha256: row.router_sha256,
        quality: row.quality.map(|quality| quality.read("quality")).transpose()?,
        domains: row.domains.read("domains")?,
        created_at: row.created_at,
    })
}

/// The oldest clustering that waits for its fit; those that rest are left out.
///
/// # Errors
/// When Postgres refuses.
pub async fn next_clustering(
    pool: &PgPool,
    rest: &[Uuid],
) -> Result<Option<(ClusteringId, CorpusId, Result<ClusteringSpec>)>> {
    let row = sqlx::query!(r#"SELECT id, corpus_id, spec AS "spec: Stored<ClusteringSpec>" FROM clusterings WHERE state = 'fitting' AND id <> ALL($1) ORDER BY created_at LIMIT 1"#, rest)
        .fetch_optional(pool).await?;
    Ok(row.map(|row| (ClusteringId(row.id), CorpusId(row.corpus_id), row.spec.read("spec"))))
}

/// Stores a fitted clustering.
///
/// # Errors
/// [`DbError::Unstorable`] when a figure is not finite; when Postgres refuses.
pub async fn finish_clustering(
    pool: &PgPool,
    id: ClusteringId,
    router: &StorageKey,
    sha256: &str,
    quality: &ClusteringQuality,
    domains: &[DomainView],
) -> Result<()> {
    sqlx::query!(
        "UPDATE clusterings SET state = 'ready', router_key = $2, router_sha256 = $3, quality = $4, domains = $5 WHERE id = $1 AND state = 'fitting'",
        id.0, router.as_str(), sha256, kept("quality", quality)? as _, kept("domains", domains)? as _
    ).execute(pool).await?;
    Ok(())
}

/// Gives a clustering up.
///
/// # Errors
/// When Postgres refuses.
pub async fn fail_clustering(pool: &PgPool, id: ClusteringId, problem: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE clusterings SET state = 'failed', problem = $2 WHERE id = $1 AND state = 'fitting'",
        id.0,
        problem
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A tokenizer.
#[derive(Debug, Clone)]
pub struct TokenizerRow {
    /// Id.
    pub id: Uuid,
    /// Where it stands.
    pub fit: Fit,
    /// Place of `tokenizer.json`.
    pub storage_key: Option<StorageKey>,
    /// Entries.
    pub vocab_size: u32,
    /// Token between documents.
    pub separator: String,
    /// Its id.
    pub separator_id: u32,
}

/// The tokenizer of a corpus with these settings, asked for if there is none or its training had failed.
///
/// # Errors
/// When Postgres refuses.
pub async fn ensure_tokenizer(pool: &PgPool, corpus: CorpusId, spec: &TokenizerSpec) -> Result<Uuid> {
    let hash = hash(spec);
    sqlx::query!(
        "INSERT INTO tokenizers (id, corpus_id, spec, spec_sha256, state) VALUES ($1, $2, $3, $4, 'fitting')
         ON CONFLICT (corpus_id, spec_sha256) DO UPDATE SET state = 'fitting', problem = NULL WHERE tokenizers.state = 'failed'",
        Uuid::now_v7(), corpus.0, kept("tokenizer", spec)? as _, hash
    ).execute(pool).await?;
    Ok(sqlx::query_scalar!("SELECT id FROM tokenizers WHERE corpus_id = $1 AND spec_sha256 = $2", corpus.0, hash)
        .fetch_one(pool)
        .await?)
}

/// A tokenizer.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn tokenizer(pool: &PgPool, id: Uuid) -> Result<TokenizerRow> {
    let row = sqlx::query!(
        "SELECT state, problem, storage_key, vocab_size, separator, separator_id FROM tokenizers WHERE id = $1",
        id
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| DbError::NotFound { noun: "tokenizer", id: id.to_string() })?;
    let number = |value: Option<i32>| u32::try_from(value.unwrap_or(0)).unwrap_or(0);
    Ok(TokenizerRow {
        id,
        fit: fit(&row.state, row.problem)?,
        storage_key: key(row.storage_key)?,
        vocab_size: number(row.vocab_size),
        separator: row.separator.unwrap_or_default(),
        separator_id: number(row.separator_id),
    })
}

/// The oldest tokenizer that waits for its training; those that rest are left out.
///
/// # Errors
/// When Postgres refuses.
pub async fn next_tokenizer(pool: &PgPool, rest: &[Uuid]) -> Result<Option<(Uuid, CorpusId, Result<TokenizerSpec>)>> {
    let row = sqlx::query!(r#"SELECT id, corpus_id, spec AS "spec: Stored<TokenizerSpec>" FROM tokenizers WHERE state = 'fitting' AND id <> ALL($1) ORDER BY created_at LIMIT 1"#, rest)
        .fetch_optional(pool).await?;
    Ok(row.map(|row| (row.id, CorpusId(row.corpus_id), row.spec.read("spec"))))
}

/// Stores a tokenizer.
///
/// # Errors
/// When Postgres refuses.
pub async fn finish_tokenizer(
    pool: &PgPool,
    id: Uuid,
    place: &StorageKey,
    vocab_size: u32,
    separator: &str,
    separator_id: u32,
) -> Result<()> {
    let (vocab_size, separator_id) =
        (i32::try_from(vocab_size).unwrap_or(i32::MAX), i32::try_from(separator_id).unwrap_or(i32::MAX));
    sqlx::query!(
        "UPDATE tokenizers SET state = 'ready', storage_key = $2, vocab_size = $3, separator = $4, separator_id = $5 WHERE id = $1 AND state = 'fitting'",
        id, place.as_str(), vocab_size, separator, separator_id
    ).execute(pool).await?;
    Ok(())
}

/// Gives a tokenizer up.
///
/// # Errors
/// When Postgres refuses.
pub async fn fail_tokenizer(pool: &PgPool, id: Uuid, problem: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE tokenizers SET state = 'failed', problem = $2 WHERE id = $1 AND state = 'fitting'",
        id,
        problem
    )
    .execute(pool)
    .await?;
    Ok(())
}

fn fit(state: &str, problem: Option<String>) -> Result<Fit> {
    match state {
        "fitting" => Ok(Fit::Fitting),
        "ready" => Ok(Fit::Ready),
        "failed" => Ok(Fit::Failed(problem.unwrap_or_default())),
        other => Err(DbError::Impossible(format!("state {other:?}"))),
    }
}
