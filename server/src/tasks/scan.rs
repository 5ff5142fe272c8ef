//! Takes the snapshot of registered corpora.

use super::ask;
use crate::{app::App, db, db::corpora::ToScan};
use anyhow::{Context, Result};
use senmon_corpus::{
    scan::{ScanReport, encode_dropped, scan},
    snapshot::format_of,
};
use senmon_protocol::{
    corpus::{CorpusFile, DocumentCounts},
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
    let id = CorpusId(corpus.id);
    let paths: Vec<PathBuf> = corpus.paths.iter().map(PathBuf::from).collect();
    let (fields, work) = (corpus.request.fields.clone(), app.config.data_dir.join("scan").join(id.to_string()));
    tracing::info!(corpus.id = %id, corpus.name = corpus.request.name, files = paths.len(), "scanning a corpus");
    let folder = work.clone();
    let report = tokio::task::spawn_blocking(move || scan(&paths, &fields, &folder, |_| {}))
        .await
        .context("the scan panicked")?;
    let _ = std::fs::remove_dir_all(&work);
    let report = match report {
        Ok(report) => report,
        Err(error) => return Ok(ask(db::corpora::finish_scan(&app.db, id, &[], &[], Some(&error.to_string()))).await?),
    };
    let files = store(app, id, &report).await?;
    let mut counts = DocumentCounts::default();
    files.iter().for_each(|file| counts.add(&file.counts));
    let problem = refusal(&counts, corpus.request.tolerated_broken_share, &report);
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
        });
    }
    Ok(files)
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn refusal(counts: &DocumentCounts, tolerated: f64, report: &ScanReport) -> Option<String> {
    let share = counts.broken as f64 / counts.records.max(1) as f64;
    let first = report
        .broken_first
        .first()
        .map(|b| format!("; the first is {} record {}: {}", b.path, b.record, b.why))
        .unwrap_or_default();
    if share > tolerated {
        return Some(format!(
            "{} of {} records are broken, tolerated_broken_share allows {tolerated}{first}",
            counts.broken, counts.records
        ));
    }
    (counts.documents == 0).then(|| {
        format!(
            "no document is left: {} records, {} empty, {} broken{first}",
            counts.records, counts.empty, counts.broken
        )
    })
}
