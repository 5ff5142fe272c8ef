//! Takes the snapshot of registered corpora.

use super::ask;
use crate::{app::App, db, db::corpora::ToScan};
use anyhow::{Context, Result};
use senmon_corpus::{
    scan::{ScanReport, encode_dropped, refusal, scan},
    snapshot::format_of,
};
use senmon_protocol::{
    corpus::CorpusFile,
    ids::{CorpusId, StorageKey},
};
use std::path::PathBuf;

/// Scans the corpora that wait, one after the other.
///
/// # Errors
/// When Postgres or the disk refuses.
pub async fn run(app: App) -> Result<()> {
    while let Some(corpus) = ask(db::corpora::next_to_scan(&app.db)).await? {
        scan_one(&app, corpus).await?;
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
            return Ok(ask(db::corpora::finish_scan(&app.db, id, &[], &[], Some(&error.to_string()))).await?);
        }
    };
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let roots = app.roots.clone();
    let (fields, work) = (request.fields.clone(), app.config.data_dir.join("scan").join(id.to_string()));
    tracing::info!(corpus.id = %id, corpus.name = request.name, files = paths.len(), "scanning a corpus");
    let read = tokio::task::spawn_blocking(move || {
        let report = scan(&roots, &paths, &fields, &work, |_| {});
        let _ = std::fs::remove_dir_all(&work);
        report
    });
    // What cannot be read must not be tried for ever: the corpora behind it wait.
    let report = match read.await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => {
            return Ok(ask(db::corpora::finish_scan(&app.db, id, &[], &[], Some(&error.to_string()))).await?);
        }
        Err(error) => {
            tracing::error!(corpus.id = %id, error = %error, "a scan panicked");
            let why = "the server failed while it read the files; its log says where";
            return Ok(ask(db::corpora::finish_scan(&app.db, id, &[], &[], Some(why))).await?);
        }
    };
    let files = store(app, id, &report).await?;
    let problem = refusal(&report, &request);
    Ok(ask(db::corpora::finish_scan(&app.db, id, &files, &report.broken_first, problem.as_deref())).await?)
}

async fn store(app: &App, id: CorpusId, report: &ScanReport) -> Result<Vec<CorpusFile>> {
    let mut files = Vec::new();
    for (file, index) in report.files.iter().zip(0_u32..) {
        let dropped = match file.dropped.as_slice() {
            [] => None,
            records => {
                let key = StorageKey::new(format!("corpora/{id}/dropped-{index}.u64"))?;
                app.storage.put(&key, encode_dropped(records)).await?;
                Some(key)
            }
        };
        let path = file.path.display().to_string();
        let format = format_of(&file.path).context("a file of a known format")?;
        files.push(CorpusFile {
            index,
            path,
            format,
            bytes: file.bytes,
            sha256: file.sha256.clone(),
            counts: file.counts,
            dropped,
            problem: file.problem.clone(),
        });
    }
    Ok(files)
}
