//! Takes the snapshot of registered corpora.

use super::{aside::Aside, ask};
use crate::{
    apart::{Done, ReadFile, Request, process},
    app::App,
    db::{self, DbError, corpora::ToScan},
};
use anyhow::{Context, Result, anyhow};
use senmon_corpus::snapshot::format_of;
use senmon_protocol::{
    corpus::{BrokenRecord, CorpusFile},
    ids::{CorpusId, StorageKey},
    view::TroubleKind,
};
use std::{fs, path::PathBuf};

/// Scans the corpora that wait, one after the other.
///
/// # Errors
/// When the database or the store is away.
pub async fn run(app: App) -> Result<()> {
    loop {
        let aside = Aside::load(&app, TroubleKind::Corpus).await?;
        let Some(corpus) = ask(db::corpora::next_to_scan(&app.db, &aside.resting())).await? else { break };
        let (id, name) = (corpus.id.0, corpus.name.clone());
        aside.attempt(id, &name, scan_one(&app, corpus)).await?;
        app.wake.advance.notify_one();
        app.wake.discover.notify_one();
    }
    Ok(())
}

async fn scan_one(app: &App, corpus: ToScan) -> Result<()> {
    let id = corpus.id;
    let (request, paths) = match corpus.asked {
        Ok(asked) => asked,
        Err(error) => {
            return refuse(app, id, &error.to_string()).await;
        }
    };
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let work = app.config.data_dir.join("scan").join(id.to_string());
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    tracing::info!(corpus.id = %id, corpus.name = request.name, files = paths.len(), "scanning a corpus");
    let scan = Request::Scan { roots: app.root_names.to_vec(), paths, corpus: request, work: work.clone() };
    let finished = match process::run(app, &scan, None).await {
        Ok(Ok(Done::Scan { files, broken_first, problem })) => finish(app, id, files, &broken_first, problem).await,
        Ok(Ok(other)) => Err(anyhow!("it was asked for a scan, and did {other:?}")),
        Ok(Err(why)) => refuse(app, id, &why).await,
        Err(error) => Err(error),
    };
    let _ = fs::remove_dir_all(&work);
    finished
}

/// The corpus cannot be used: it fails with the reason.
async fn refuse(app: &App, id: CorpusId, why: &str) -> Result<()> {
    let why = senmon_protocol::storable(why);
    Ok(ask(db::corpora::finish_scan(&app.db, id, &[], &[], Some(&why))).await?)
}

async fn finish(
    app: &App,
    id: CorpusId,
    read: Vec<ReadFile>,
    broken_first: &[BrokenRecord],
    problem: Option<String>,
) -> Result<()> {
    let mut files = Vec::new();
    for (file, index) in read.into_iter().zip(0_u32..) {
        let dropped = match file.dropped {
            None => None,
            Some(list) => {
                let key = StorageKey::new(format!("corpora/{id}/dropped-{index}.u64"))?;
                let bytes = fs::read(&list).with_context(|| format!("read {}", list.display()))?;
                app.storage.put(&key, bytes).await?;
                Some(key)
            }
        };
        let format = format_of(&file.path).context("a file of a known format")?;
        let (path, bytes, sha256, counts) = (file.path.display().to_string(), file.bytes, file.sha256, file.counts);
        files.push(CorpusFile { index, path, format, bytes, sha256, counts, dropped, problem: file.problem });
    }
    let problem = problem.map(|why| senmon_protocol::storable(&why));
    match ask(db::corpora::finish_scan(&app.db, id, &files, broken_first, problem.as_deref())).await {
        Err(error @ DbError::Unstorable { .. }) => refuse(app, id, &error.to_string()).await,
        finished => Ok(finished?),
    }
}
