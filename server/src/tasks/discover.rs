//! Fits the clusterings and trains the tokenizers that wait.

use super::{
    aside::{Aside, Tried},
    ask::ask,
};
use crate::{
    apart::{Done, From, Request, process},
    app::App,
    db::{self, DbError},
};
use anyhow::{Result, anyhow, bail};
use senmon_corpus::{
    sample::{SAMPLE_BYTES_MAX, SampleFile, SampleSize},
    scan::decode_dropped,
    tokenizer::{TOKENIZER_BYTES_MAX, Tokenizer},
};
use senmon_protocol::{
    clustering::ClusteringSpec,
    corpus::{CorpusState, CorpusView},
    ids::{ClusteringId, CorpusId, StorageKey},
    spec::TokenizerSpec,
    view::TroubleKind,
};
use std::{path::Path, time::Duration};
use uuid::Uuid;

/// Fits what waits, one after the other. A fit that fails again and again fails for good: whoever needs it asks anew.
///
/// # Errors
/// When the database or the store is away.
pub async fn run(app: App) -> Result<()> {
    loop {
        let aside = Aside::load(&app, TroubleKind::Tokenizer).await?;
        let next = ask(db::fits::next_tokenizer(&app.db, &aside.resting())).await?;
        let Some((id, corpus, spec)) = next else { break };
        let fit = async {
            match asked(&app, corpus, spec).await? {
                Ok((corpus, spec)) => tokenizer(&app, id, corpus, spec).await,
                Err(why) => Ok(ask(db::fits::fail_tokenizer(&app.db, id, &why)).await?),
            }
        };
        if let Tried::SetAside(why) = aside.attempt(id, "", fit).await? {
            ask(db::fits::fail_tokenizer(&app.db, id, &why.text())).await?;
            ask(db::troubles::forget(&app.db, TroubleKind::Tokenizer, id)).await?;
        }
        app.wake.advance.notify_one();
    }
    loop {
        let aside = Aside::load(&app, TroubleKind::Clustering).await?;
        let next = ask(db::fits::next_clustering(&app.db, &aside.resting())).await?;
        let Some((id, corpus, spec)) = next else { break };
        let fit = async {
            match asked(&app, corpus, spec).await? {
                Ok((corpus, spec)) => clustering(&app, id, corpus, spec).await,
                Err(why) => Ok(ask(db::fits::fail_clustering(&app.db, id, &why)).await?),
            }
        };
        if let Tried::SetAside(why) = aside.attempt(id.0, "", fit).await? {
            ask(db::fits::fail_clustering(&app.db, id, &why.text())).await?;
            ask(db::troubles::forget(&app.db, TroubleKind::Clustering, id.0)).await?;
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

fn time_max(app: &App) -> Duration {
    Duration::from_millis(app.config.fit_time_max_ms)
}

async fn clustering(app: &App, id: ClusteringId, corpus: CorpusView, spec: ClusteringSpec) -> Result<()> {
    let files = match sample_files(app, &corpus).await? {
        Ok(files) => files,
        Err(why) => return Ok(ask(db::fits::fail_clustering(&app.db, id, &why)).await?),
    };
    let key = StorageKey::new(format!("clusterings/{id}"))?;
    let local = app.storage.local_new(&key)?;
    tracing::info!(clustering.id = %id, corpus.name = corpus.name, domains = spec.domains, "fitting a clustering");
    let from = From { roots: app.root_names.to_vec(), files, fields: corpus.fields, size: size(spec.sample_documents) };
    let request = Request::Clustering { from, spec, folder: local.path.clone() };
    let why = match process::run(app, &request, time_max(app)).await? {
        Ok(Done::Clustering { sha256, quality, domains }) => {
            app.storage.publish(&key, &local).await?;
            match ask(db::fits::finish_clustering(&app.db, id, &key, &sha256, &quality, &domains)).await {
                Err(error @ DbError::Unstorable { .. }) => error.to_string(),
                stored => return Ok(stored?),
            }
        }
        Ok(other) => bail!("it was asked for a clustering, and did {other:?}"),
        Err(why) => why,
    };
    Ok(ask(db::fits::fail_clustering(&app.db, id, &senmon_protocol::storable(&why))).await?)
}

async fn tokenizer(app: &App, id: Uuid, corpus: CorpusView, spec: TokenizerSpec) -> Result<()> {
    let made = match &spec {
        TokenizerSpec::File(file) => {
            let (roots, file) = (app.roots.clone(), file.clone());
            let read = move || {
                let read = roots.read(Path::new(&file.path), TOKENIZER_BYTES_MAX);
                let refusal = |error| anyhow!(roots.refusal(&file.path, &error).text());
                read.map(|bytes| (bytes, file.separator)).map_err(refusal)
            };
            tokio::task::spawn_blocking(read).await?
        }
        TokenizerSpec::Train(settings) => match sample_files(app, &corpus).await? {
            Ok(files) => {
                let vocab_size = settings.vocab_size;
                tracing::info!(tokenizer.id = %id, corpus.name = corpus.name, vocab_size, "training a tokenizer");
                let from = From {
                    roots: app.root_names.to_vec(),
                    files,
                    fields: corpus.fields,
                    size: size(settings.sample_documents),
                };
                match process::run(app, &Request::Tokenizer { from, vocab_size }, time_max(app)).await? {
                    Ok(Done::Tokenizer { json, separator }) => Ok((json.into_bytes(), separator)),
                    Ok(other) => bail!("it was asked for a tokenizer, and did {other:?}"),
                    Err(why) => Err(anyhow!(why)),
                }
            }
            Err(why) => Err(anyhow!(why)),
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
        Err(error) => {
            let why = senmon_protocol::storable(&format!("{error:#}"));
            ask(db::fits::fail_tokenizer(&app.db, id, &why)).await?
        }
    }
    Ok(())
}
