//! Carries out what `domain::advance::corpus` asks for, for each corpus that is scanned: workers read its files, the
//! server keeps what they found.

use super::{aside::Aside, ask::ask};
use crate::{
    app::App,
    db::{
        self, DbError,
        corpora::ToScan,
        scans::{Found, NewJob},
    },
    domain::advance::corpus::{Command, advance},
};
use anyhow::{Context, Result, ensure};
use senmon_corpus::{scan::refusal, snapshot::format_of};
use senmon_protocol::{
    corpus::{BrokenRecord, CorpusFile, RegisterCorpus},
    ids::{CorpusId, StorageKey},
    job::{DeduplicateJob, FileTexts, JobSpec, ScanJob, ScanResult},
    scan::{BROKEN_SHOWN, FileDropped, dropped_list},
    view::TroubleKind,
};

/// Brings every corpus that is scanned as far as it goes.
///
/// # Errors
/// When the database or the store is away. A corpus that cannot be brought further holds no other up.
pub async fn run(app: App) -> Result<()> {
    let aside = Aside::load(&app, TroubleKind::Corpus).await?;
    for corpus in ask(db::corpora::scanning(&app.db, &aside.resting())).await? {
        let (id, name) = (corpus.id.0, corpus.name.clone());
        aside.attempt(id, &name, one(&app, corpus)).await?;
    }
    Ok(())
}

async fn one(app: &App, corpus: ToScan) -> Result<()> {
    let (request, paths) = match corpus.asked {
        Ok(asked) => asked,
        Err(error) => return end(app, corpus.id, &[], &[], Some(&error.to_string())).await,
    };
    let corpus = Corpus { app, id: corpus.id, request, paths };
    let facts = ask(db::scans::facts(&app.db, corpus.id, corpus.paths.len())).await?;
    for command in advance(&facts) {
        match command {
            Command::CreateScans => corpus.create_scans().await?,
            Command::Deduplicate => corpus.deduplicate().await?,
            Command::Finish => corpus.finish().await?,
            Command::Fail(why) => corpus.end(&[], &[], Some(&why)).await?,
        }
    }
    Ok(())
}

/// A corpus on its way.
struct Corpus<'a> {
    app: &'a App,
    id: CorpusId,
    request: RegisterCorpus,
    paths: Vec<String>,
}

impl Corpus<'_> {
    fn key(&self, rest: &str) -> Result<StorageKey> {
        Ok(StorageKey::new(format!("corpora/{}/{rest}", self.id))?)
    }

    async fn ensure(&self, jobs: &[NewJob]) -> Result<()> {
        ask(db::scans::ensure(&self.app.db, self.id, jobs)).await?;
        self.app.wake.schedule.notify_one();
        Ok(())
    }

    async fn create_scans(&self) -> Result<()> {
        tracing::info!(corpus.id = %self.id, corpus.name = self.request.name, files = self.paths.len(), "scanning a corpus");
        let job = |(index, path): (usize, &String)| {
            let name = path.rsplit('/').next().unwrap_or(path);
            let spec = JobSpec::Scan(ScanJob {
                corpus_id: self.id,
                path: path.clone(),
                fields: self.request.fields.clone(),
                output: self.key(&format!("scan/{index:07}"))?,
            });
            Ok(NewJob { key: format!("scan/{index:07}"), title: format!("scan {name}"), spec })
        };
        self.ensure(&self.paths.iter().enumerate().map(job).collect::<Result<Vec<_>>>()?).await
    }

    /// What the files alone say against the corpus is said before they are compared.
    async fn deduplicate(&self) -> Result<()> {
        let Found { scans, .. } = ask(db::scans::found(&self.app.db, self.id)).await?;
        let (files, broken_first) = self.snapshot(&scans, None)?;
        if let Some(why) = refusal(&files, &broken_first, &self.request) {
            return self.end(&files, &broken_first, Some(&why)).await;
        }
        let texts = |scan: ScanResult| FileTexts { folder: scan.folder, texts: scan.counts.documents };
        let spec = JobSpec::Deduplicate(DeduplicateJob {
            corpus_id: self.id,
            files: scans.into_iter().map(texts).collect(),
            output: self.key("dropped")?,
        });
        let title = format!("deduplicate {}", self.request.name);
        self.ensure(&[NewJob { key: "deduplicate".into(), title, spec }]).await
    }

    async fn finish(&self) -> Result<()> {
        let Found { scans, deduplicated } = ask(db::scans::found(&self.app.db, self.id)).await?;
        let deduplicated = deduplicated.context("the comparison of its files has no result")?;
        let (files, broken_first) = self.snapshot(&scans, Some((&deduplicated.folder, &deduplicated.files)))?;
        self.end(&files, &broken_first, None).await
    }

    /// The files as their scans found them, less what the comparison leaves out.
    fn snapshot(
        &self,
        scans: &[ScanResult],
        dropped: Option<(&StorageKey, &[FileDropped])>,
    ) -> Result<(Vec<CorpusFile>, Vec<BrokenRecord>)> {
        ensure!(scans.len() == self.paths.len(), "it has {} scans, and {} files", scans.len(), self.paths.len());
        let mut files = Vec::new();
        for ((at, path), scan) in self.paths.iter().enumerate().zip(scans) {
            let (mut counts, mut list) = (scan.counts, None);
            if let Some((folder, dropped)) = dropped {
                let of_file = dropped.get(at).context("its comparison has fewer files")?;
                counts.duplicates += of_file.duplicates;
                counts.documents = counts.documents.saturating_sub(of_file.duplicates);
                counts.text_bytes = counts.text_bytes.saturating_sub(of_file.text_bytes);
                list = if of_file.records > 0 { Some(folder.join(dropped_list(at))?) } else { None };
            }
            files.push(CorpusFile {
                index: u32::try_from(at)?,
                path: path.clone(),
                format: format_of(path.as_ref()).context("a file of a known format")?,
                bytes: scan.bytes,
                sha256: scan.sha256.clone(),
                counts,
                dropped: list,
                problem: scan.problem.clone(),
            });
        }
        let broken = scans.iter().flat_map(|scan| &scan.broken_first).take(BROKEN_SHOWN).cloned().collect();
        Ok((files, broken))
    }

    async fn end(&self, files: &[CorpusFile], broken_first: &[BrokenRecord], problem: Option<&str>) -> Result<()> {
        end(self.app, self.id, files, broken_first, problem).await
    }
}

/// Ends a scan: the corpus is ready, or refused with the reason. What its jobs left for each other goes.
async fn end(
    app: &App,
    id: CorpusId,
    files: &[CorpusFile],
    broken_first: &[BrokenRecord],
    problem: Option<&str>,
) -> Result<()> {
    let problem = problem.map(senmon_protocol::storable);
    match ask(db::corpora::finish_scan(&app.db, id, files, broken_first, problem.as_deref())).await {
        Err(error @ DbError::Unstorable { .. }) => {
            let why = senmon_protocol::storable(&error.to_string());
            ask(db::corpora::finish_scan(&app.db, id, &[], &[], Some(&why))).await?;
        }
        finished => finished?,
    }
    app.wake.advance.notify_one();
    app.wake.discover.notify_one();
    // Where this does not happen, the sweep does it.
    app.storage.delete_folder(&StorageKey::new(format!("corpora/{id}/scan"))?).await
}
