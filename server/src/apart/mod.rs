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
    tokenizer::{SEPARATOR, train},
};
use senmon_protocol::{
    clustering::{ClusteringQuality, ClusteringSpec, DomainView},
    corpus::DocumentFields,
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Write},
    path::PathBuf,
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
    }
}
