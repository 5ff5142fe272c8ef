//! Fits the clusterings and trains the tokenizers that wait.

use super::ask;
use crate::{
    app::App,
    db::{self, DbError},
};
use anyhow::{Result, anyhow};
use senmon_corpus::{
    discover::discover,
    sample::{SAMPLE_BYTES_MAX, SampleFile, SampleSize, sample},
    scan::decode_dropped,
    tokenizer::{SEPARATOR, TOKENIZER_BYTES_MAX, Tokenizer, train},
};
use senmon_protocol::{
    clustering::ClusteringSpec,
    corpus::{CorpusState, CorpusView},
    ids::{ClusteringId, CorpusId, StorageKey},
    spec::TokenizerSpec,
};
use std::path::Path;
use uuid::Uuid;

/// Seed of the tokenizer's sample; its settings have none.
const TOKENIZER_SAMPLE_SEED: u64 = 1;

/// Fits what waits, one after the other.
///
/// # Errors
/// When Postgres or the disk refuses.
pub async fn run(app: App) -> Result<()> {
    while let Some((id, corpus, spec)) = ask(db::fits::next_tokenizer(&app.db)).await? {
        match asked(&app, corpus, spec).await? {
            Ok((corpus, spec)) => tokenizer(&app, id, corpus, spec).await?,
            Err(why) => ask(db::fits::fail_tokenizer(&app.db, id, &why)).await?,
        }
        app.wake.advance.notify_one();
    }
    while let Some((id, corpus, spec)) = ask(db::fits::next_clustering(&app.db)).await? {
        match asked(&app, corpus, spec).await? {
            Ok((corpus, spec)) => clustering(&app, id, corpus, spec).await?,
            Err(why) => ask(db::fits::fail_clustering(&app.db, id, &why)).await?,
        }
        app.wake.advance.notify_one();
    }
    Ok(())
}

/// The corpus and the settings of a fit, or why they cannot be read: what waits behind it goes on.
async fn asked<T>(app: &App, corpus: CorpusId, spec: db::Result<T>) -> Result<Result<(CorpusView, T), String>> {
    let corpus = ask(db::corpora::get(&app.db, &corpus.to_string())).await;
    match (corpus, spec) {
        (Ok(corpus), Ok(spec)) => Ok(Ok((corpus, spec))),
        (Err(error @ DbError::Impossible(_)), _) | (Ok(_), Err(error)) => Ok(Err(error.to_string())),
        (Err(error), _) => Err(error.into()),
    }
}

/// The files to sample from, or the sentence that says why there are none.
async fn sample_files(app: &App, corpus: &CorpusView) -> Result<Result<Vec<SampleFile>, String>> {
    if corpus.state != CorpusState::Ready {
        return Ok(Err(format!("the corpus {} has no snapshot", corpus.name)));
    }
    let mut files = Vec::new();
    for file in &corpus.files {
        let dropped = match &file.dropped {
            None => Vec::new(),
            Some(key) => match app.storage.get(key).await?.map(|bytes| decode_dropped(&bytes)) {
                Some(Ok(dropped)) => dropped,
                Some(Err(error)) => return Ok(Err(format!("{key}: list of dropped records: {error:#}"))),
                None => return Ok(Err(format!("{key} is missing in the store"))),
            },
        };
        files.push(SampleFile { path: file.path.clone().into(), sha256: file.sha256.clone(), dropped });
    }
    Ok(Ok(files))
}

fn size(documents: u32) -> SampleSize {
    SampleSize { documents: documents as usize, bytes: SAMPLE_BYTES_MAX }
}

/// A fit that panics would panic again: it is a failure like any other, and what waits behind it goes on.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(error = %error, "a fit panicked");
        Err(anyhow!("the server failed while it worked on this; its log says where"))
    })
}

async fn clustering(app: &App, id: ClusteringId, corpus: CorpusView, spec: ClusteringSpec) -> Result<()> {
    let files = match sample_files(app, &corpus).await? {
        Ok(files) => files,
        Err(why) => return Ok(ask(db::fits::fail_clustering(&app.db, id, &why)).await?),
    };
    let key = StorageKey::new(format!("clusterings/{id}"))?;
    let local = app.storage.local_new(&key)?;
    let folder = local.path.clone();
    tracing::info!(clustering.id = %id, corpus.name = corpus.name, domains = spec.domains, "fitting a clustering");
    let (roots, fields) = (app.roots.clone(), corpus.fields.clone());
    let fitted = apart(move || {
        let documents = sample(&roots, &files, &fields, size(spec.sample_documents), spec.seed)?;
        let discovery = match discover(&documents, &spec) {
            Ok(discovery) => discovery,
            Err(why) => return Ok(Err(why)),
        };
        let sha256 = discovery.router.save(&folder)?;
        Ok(Ok((discovery, sha256)))
    })
    .await;
    match fitted {
        Ok(Ok((discovery, sha256))) => {
            app.storage.publish(&key, &local).await?;
            ask(db::fits::finish_clustering(&app.db, id, &key, &sha256, &discovery.quality, &discovery.domains)).await?
        }
        Ok(Err(why)) => ask(db::fits::fail_clustering(&app.db, id, &why)).await?,
        Err(error) => ask(db::fits::fail_clustering(&app.db, id, &format!("{error:#}"))).await?,
    }
    Ok(())
}

async fn tokenizer(app: &App, id: Uuid, corpus: CorpusView, spec: TokenizerSpec) -> Result<()> {
    let made = match &spec {
        TokenizerSpec::File(file) => {
            let (roots, file) = (app.roots.clone(), file.clone());
            apart(move || {
                let read = roots.read(Path::new(&file.path), TOKENIZER_BYTES_MAX);
                Ok((read.map_err(|error| anyhow!(roots.refusal(&file.path, &error)))?, file.separator))
            })
            .await
        }
        TokenizerSpec::Train(settings) => match sample_files(app, &corpus).await? {
            Ok(files) => {
                let (fields, size, vocab_size) =
                    (corpus.fields.clone(), size(settings.sample_documents), settings.vocab_size);
                tracing::info!(tokenizer.id = %id, corpus.name = corpus.name, vocab_size, "training a tokenizer");
                let roots = app.roots.clone();
                apart(move || {
                    let documents = sample(&roots, &files, &fields, size, TOKENIZER_SAMPLE_SEED)?;
                    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
                    Ok((train(&texts, vocab_size)?, SEPARATOR.to_owned()))
                })
                .await
            }
            Err(why) => Err(anyhow::anyhow!(why)),
        },
    };
    let checked = made
        .and_then(|(bytes, separator)| Ok((Tokenizer::from_bytes(&bytes, &separator, spec.bos())?, bytes, separator)));
    match checked {
        Ok((tokenizer, bytes, separator)) => {
            let key = StorageKey::new(format!("tokenizers/{id}/tokenizer.json"))?;
            app.storage.put(&key, bytes).await?;
            let (vocab_size, separator_id) = (tokenizer.vocab_size(), tokenizer.separator_id());
            ask(db::fits::finish_tokenizer(&app.db, id, &key, vocab_size, &separator, separator_id)).await?
        }
        Err(error) => ask(db::fits::fail_tokenizer(&app.db, id, &format!("{error:#}"))).await?,
    }
    Ok(())
}
