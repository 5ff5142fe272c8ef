//! What reads text and computes on it, in a process of its own: it may take all memory, panic or never end, and the
//! control plane goes on. The request goes in by the standard input, one line of JSON; the answer comes out by the
//! standard output.
//!
//! The child ends when its parent does: the standard input is closed then.

pub mod process;

use anyhow::{Context, Result};
use senmon_corpus::{
    discover::discover,
    read::Document,
    roots::Roots,
    sample::{SampleFile, SampleSize, sample},
    scan::{ScanReport, encode_dropped, refusal, scan},
    tokenizer::{SEPARATOR, train},
};
use senmon_protocol::{
    clustering::{ClusteringQuality, ClusteringSpec, DomainView},
    corpus::{BrokenRecord, DocumentCounts, DocumentFields, FileProblem, RegisterCorpus},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Seed of the tokenizer's sample; its settings have none.
const TOKENIZER_SAMPLE_SEED: u64 = 1;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Fit a clustering.
    Clustering {
        /// The text.
        from: From,
        /// Settings.
        spec: ClusteringSpec,
        /// Where the router goes.
        folder: PathBuf,
    },
    /// Train a tokenizer.
    Tokenizer {
        /// The text.
        from: From,
        /// Its entries.
        vocab_size: u32,
    },
    /// Read files for the first time.
    Scan {
        /// The folders that they are read below.
        roots: Vec<String>,
        /// The files.
        paths: Vec<PathBuf>,
        /// How they are read, and what is tolerated.
        corpus: RegisterCorpus,
        /// Folder for temporary files, and for the lists of records to leave out; the parent removes it.
        work: PathBuf,
    },
}

/// A sample of a corpus.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct From {
    /// The folders that the files are read below.
    pub roots: Vec<String>,
    /// The files to sample from.
    pub files: Vec<SampleFile>,
    /// How they are read.
    pub fields: DocumentFields,
    /// How much to draw.
    pub size: SampleSize,
}

impl From {
    fn sample(&self, seed: u64) -> Result<Vec<Document>> {
        sample(&Roots::new(&self.roots), &self.files, &self.fields, self.size, seed)
    }
}

/// What was done, or why it cannot be.
pub type Answer = std::result::Result<Done, String>;

/// What was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Done {
    /// A clustering is fitted.
    Clustering {
        /// SHA-256 of the router's files.
        sha256: String,
        /// Quality figures.
        quality: Box<ClusteringQuality>,
        /// The domains.
        domains: Vec<DomainView>,
    },
    /// A tokenizer is trained.
    Tokenizer {
        /// Its `tokenizer.json`.
        json: String,
        /// The token between documents.
        separator: String,
    },
    /// Files are read.
    Scan {
        /// The files, in the order of the request.
        files: Vec<ReadFile>,
        /// The first broken records.
        broken_first: Vec<BrokenRecord>,
        /// Why the corpus cannot be used, if it cannot.
        problem: Option<String>,
    },
}

/// A file that was read for the first time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadFile {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Counts.
    pub counts: DocumentCounts,
    /// Where the list of the records to leave out lies; None where all are taken.
    pub dropped: Option<PathBuf>,
    /// Why it was not read to its end.
    pub problem: Option<FileProblem>,
}

/// The child: reads a request, answers it, and is over.
#[must_use]
pub fn child() -> ExitCode {
    match answer_one() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("senmon-server apart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn answer_one() -> Result<()> {
    // Where the machine's memory runs out, this goes before the control plane does.
    let _ = std::fs::write("/proc/self/oom_score_adj", "800");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("read the request")?;
    let request: Request = serde_json::from_str(&line).context("read the request")?;
    // Whatever this process does then: nobody waits for it any more.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(1);
    });
    let answer: Answer = answer(request).unwrap_or_else(|error| Err(format!("{error:#}")));
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &answer).context("write the answer")?;
    out.flush().context("write the answer")
}

fn answer(request: Request) -> Result<Answer> {
    match request {
        Request::Clustering { from, spec, folder } => match discover(&from.sample(spec.seed)?, &spec) {
            Ok(found) => {
                let sha256 = found.router.save(&folder)?;
                Ok(Ok(Done::Clustering { sha256, quality: Box::new(found.quality), domains: found.domains }))
            }
            Err(why) => Ok(Err(why)),
        },
        Request::Tokenizer { from, vocab_size } => {
            let documents = from.sample(TOKENIZER_SAMPLE_SEED)?;
            let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
            let json = String::from_utf8(train(&texts, vocab_size)?).context("a tokenizer is JSON")?;
            Ok(Ok(Done::Tokenizer { json, separator: SEPARATOR.to_owned() }))
        }
        Request::Scan { roots, paths, corpus, work } => {
            let report = scan(&Roots::new(&roots), &paths, &corpus.fields, &work.join("runs"), |_| {})?;
            let problem = refusal(&report, &corpus);
            Ok(Ok(scanned(report, problem, &work)?))
        }
    }
}

/// The lists of what is left out may be long: they go to files.
fn scanned(report: ScanReport, problem: Option<String>, work: &Path) -> Result<Done> {
    let files = report.files.into_iter().zip(0_u32..).map(|(file, index)| {
        let list = work.join(format!("dropped-{index}.u64"));
        let dropped = match file.dropped.as_slice() {
            [] => None,
            records => {
                std::fs::write(&list, encode_dropped(records)).with_context(|| format!("write {}", list.display()))?;
                Some(list)
            }
        };
        let (path, bytes, sha256, counts, problem) = (file.path, file.bytes, file.sha256, file.counts, file.problem);
        Ok(ReadFile { path, bytes, sha256, counts, dropped, problem })
    });
    Ok(Done::Scan { files: files.collect::<Result<_>>()?, broken_first: report.broken_first, problem })
}
