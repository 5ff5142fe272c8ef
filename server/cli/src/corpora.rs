//! `senmon corpus …` and `senmon domains`.

use crate::{
    cell::{self, Cell},
    client::{Client, encoded},
    error::{CliError, CliResult},
    experiments::Id,
    lang::own,
    output::{Format, List, out},
    resolve::{self, short},
    table::{Table, one_line},
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand, ValueEnum};
use senmon_protocol::{
    clustering::DomainView,
    corpus::{CorpusState, CorpusView, DocumentFields, RegisterCorpus, TextDocuments, ZSTD_WINDOW_BYTES_MAX},
    said,
};
use std::{fmt::Write as _, path::Path, time::Duration};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Corpus {
    /// Register files, folders and globs on the server's disk as an immutable corpus.
    Add(Add),
    /// List corpora.
    #[command(visible_alias = "list")]
    Ls,
    /// Show a corpus: files, counts, the first broken records.
    Show(Name),
    /// Delete a corpus that no experiment uses; its files stay where they are.
    #[command(visible_alias = "rm")]
    Delete(Name),
}

/// Arguments of `add`.
#[derive(Debug, Args)]
pub struct Add {
    /// Unique name.
    name: String,
    /// .jsonl, .ndjson, .json and .txt files (each also with .gz or .zst), .parquet files, folders with such, or globs.
    #[arg(required = true)]
    paths: Vec<String>,
    /// Field with the text; meta.text reaches into nested records.
    #[arg(long, default_value = "text")]
    text_field: String,
    /// Field with a stable id.
    #[arg(long)]
    id_field: Option<String>,
    /// Field with a group: records of one group are all trained on, or all held out [default: the id up to #].
    #[arg(long)]
    group_field: Option<String>,
    /// Field with a source label.
    #[arg(long)]
    source_field: Option<String>,
    /// What is one document in .txt files.
    #[arg(long, value_enum, default_value = "auto")]
    text_documents: OneDocument,
    /// Longest window that a zstd frame may ask for, in bytes: memory to read one file.
    #[arg(long, default_value_t = ZSTD_WINDOW_BYTES_MAX)]
    zstd_window_bytes_max: u64,
    /// Share of records (0 to 1) that may be broken.
    #[arg(long, default_value_t = 0.001)]
    tolerated_broken_share: f64,
    /// Take files that end early or have a damaged part up to their damage, instead of refusing the corpus.
    #[arg(long)]
    tolerate_damaged_files: bool,
    /// Wait until it is read.
    #[arg(long)]
    wait: bool,
}

/// What is one document in a text file.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OneDocument {
    /// The file up to 1 MiB of text, blocks where it is longer.
    Auto,
    /// The file, whatever its length.
    File,
    /// Each line that is not blank.
    Line,
    /// Paragraphs gathered up to 8 KiB.
    Block,
}

/// One corpus.
#[derive(Debug, Args)]
pub struct Name {
    /// Name or id.
    #[arg(value_name = "CORPUS")]
    name: String,
}

/// Runs a command.
///
/// # Errors
/// When the server refuses, or (with `--wait`) the corpus is refused after reading.
pub async fn run(client: &Client, format: Format, command: Corpus) -> CliResult {
    match command {
        Corpus::Add(args) => add(client, format, args).await,
        Corpus::Ls => {
            let all: Vec<CorpusView> = client.list("/corpora").await?;
            format.list(&all, |all| List::new(table(all), said!("none_corpora")))
        }
        Corpus::Show(args) => {
            let corpus: CorpusView = client.get(&format!("/corpora/{}", encoded(&args.name))).await?;
            format.print(&corpus, |corpus| describe(corpus, format.width()))
        }
        Corpus::Delete(args) => {
            client.delete(&format!("/corpora/{}", encoded(&args.name))).await?;
            out(&own(&said!("corpus_is_deleted", name = args.name)));
            Ok(())
        }
    }
}

fn table(all: &[CorpusView]) -> Table {
    let mut table =
        Table::new(&["name", "state", ">files", ">documents", ">text", ">dropped", ">broken", "=added", "=id"]);
    for corpus in all {
        let counts = &corpus.counts;
        table.row::<Cell>(vec![
            corpus.name.as_str().into(),
            words::name(&corpus.state).into(),
            corpus.files.len().to_string().into(),
            cell::count(counts.documents),
            cell::bytes(counts.text_bytes),
            cell::count(counts.empty + counts.duplicates),
            cell::count(counts.broken),
            cell::ago(corpus.created_at, Utc::now()),
            short(corpus.id).into(),
        ]);
    }
    table
}

async fn add(client: &Client, format: Format, args: Add) -> CliResult {
    let request = RegisterCorpus {
        name: args.name,
        paths: args.paths.iter().map(|path| absolute(path)).collect::<CliResult<_>>()?,
        fields: DocumentFields {
            text: args.text_field,
            id: args.id_field,
            group: args.group_field,
            source: args.source_field,
            text_documents: match args.text_documents {
                OneDocument::Auto => TextDocuments::Auto,
                OneDocument::File => TextDocuments::File,
                OneDocument::Line => TextDocuments::Line,
                OneDocument::Block => TextDocuments::Block,
            },
            zstd_window_bytes_max: args.zstd_window_bytes_max,
        },
        tolerated_broken_share: args.tolerated_broken_share,
        tolerate_damaged_files: args.tolerate_damaged_files,
    };
    let mut corpus: CorpusView = client.post("/corpora", &request).await?;
    let mut said = String::new();
    while args.wait && corpus.state == CorpusState::Scanning {
        tokio::time::sleep(Duration::from_millis(300)).await;
        corpus = client.get(&format!("/corpora/{}", corpus.id)).await?;
        let waits_for = corpus.scan.as_ref().and_then(|scan| scan.waits_for.as_deref()).unwrap_or(&said);
        // Seconds that run down are no news.
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        if words(waits_for) != words(&said) {
            eprintln!("{waits_for}");
            said = waits_for.to_owned();
        }
    }
    format.print(&corpus, |corpus| match corpus.state {
        CorpusState::Scanning => own(&said!("corpus_is_registered", name = &corpus.name)),
        _ => describe(corpus, format.width()),
    })?;
    match corpus.state {
        CorpusState::Failed => {
            let why = corpus.problem.unwrap_or_else(|| own(&said!("no_reason")));
            Err(CliError::refused(&said!("corpus_problem", name = corpus.name, why = why)))
        }
        CorpusState::Scanning | CorpusState::Ready => Ok(()),
    }
}

/// A path as the server can read it: the server's folder is not this one. A link keeps its name, which says the format.
fn absolute(path: &str) -> CliResult<String> {
    if path.contains("://") {
        return Ok(path.to_owned());
    }
    let bad = |error: std::io::Error| CliError::Refused(format!("{path}: {error}"));
    let found = Path::new(path);
    let whole = match (found.parent(), found.file_name()) {
        (Some(folder), Some(name)) if found.exists() => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            folder.canonicalize().map(|folder| folder.join(name))
        }
        _ if found.exists() => found.canonicalize(),
        _ => std::path::absolute(found),
    };
    whole
        .map_err(bad)?
        .into_os_string()
        .into_string()
        .map_err(|_| CliError::refused(&said!("path_not_carried", path = path)))
}

fn describe(corpus: &CorpusView, width: Option<usize>) -> String {
    let counts = &corpus.counts;
    let mut text = format!("{}  {}  {}\n", corpus.name, words::name(&corpus.state), corpus.id);
    if let Some(scan) = &corpus.scan {
        let (done, all) = (scan.files_done, scan.files);
        let read = match &scan.waits_for {
            Some(why) => said!("files_read_waits", done = done, all = all, why = why),
            None => said!("files_read", done = done, all = all),
        };
        let _ = writeln!(text, "{}", own(&read));
    }
    if let Some(problem) = &corpus.problem {
        let _ = writeln!(text, "{problem}");
    }
    let counted = said!(
        "corpus_counts",
        documents = words::count(counts.documents),
        text = words::bytes(counts.text_bytes),
        records = words::count(counts.records),
        empty = words::count(counts.empty),
        duplicates = words::count(counts.duplicates),
        broken = words::count(counts.broken)
    );
    let without_id = said!("records_without_id", count = words::count(counts.ids_missing));
    let halves = said!("records_with_halves", count = words::count(counts.surrogates_replaced));
    let mended = [(1, counted), (counts.ids_missing, without_id), (counts.surrogates_replaced, halves)];
    for (_, said) in mended.into_iter().filter(|(n, _)| *n > 0) {
        let _ = writeln!(text, "{}", own(&said));
    }
    text.push('\n');
    let mut table = Table::new(&["file", "format", ">size", ">documents", ">dropped", ">broken"]);
    for file in &corpus.files {
        let name = Path::new(&file.path).file_name().map_or(file.path.clone(), |name| name.to_string_lossy().into());
        table.row(vec![
            name,
            words::name(&file.format),
            words::bytes(file.bytes),
            words::count(file.counts.documents),
            words::count(file.counts.empty + file.counts.duplicates),
            words::count(file.counts.broken),
        ]);
    }
    text.push_str(&table.render_in(width));
    for (file, problem) in corpus.files.iter().filter_map(|file| Some((file, file.problem.as_ref()?))) {
        let (kind, why) = (words::name(&problem.kind), one_line(&problem.why));
        let said = said!("file_from_record_on", kind = kind, path = &file.path, record = problem.record, why = why);
        let _ = writeln!(text, "{}", own(&said));
    }
    for file in &corpus.left_out.first {
        let said = said!("file_left_out", path = &file.path, why = one_line(&file.why));
        let _ = writeln!(text, "{}", own(&said));
    }
    if corpus.left_out.count > corpus.left_out.first.len() as u64 {
        let _ = writeln!(text, "{}", own(&said!("left_out_in_all", count = words::count(corpus.left_out.count))));
    }
    for broken in &corpus.broken_first {
        let why = one_line(&broken.why);
        let said = said!("record_broken", path = &broken.path, record = broken.record, why = why);
        let _ = writeln!(text, "{}", own(&said));
    }
    text
}

/// `senmon domains`.
///
/// # Errors
/// When there is no such experiment.
pub async fn domains(client: &Client, format: Format, args: &Id) -> CliResult {
    let id = resolve::experiment(client, &args.id).await?;
    let all: Vec<DomainView> = client.list(&format!("/experiments/{id}/domains")).await?;
    format.list(&all, |all| {
        let mut table =
            Table::new(&[">#", ">documents", ">held out", ">tokens", "languages", "sources", "nearest", "top terms"]);
        for domain in all {
            let share = |name: &str, share: f64| format!("{name} {:.0} %", share * 100.0);
            let languages = domain.languages.iter().filter(|part| part.share >= 0.005);
            let sources = domain.sources.iter().take(2).filter(|part| part.share >= 0.005);
            let nearest = domain.nearest_domains.iter().map(ToString::to_string);
            table.row::<Cell>(vec![
                domain.index.to_string().into(),
                domain.documents.map(cell::count).into(),
                domain.documents_held_out.map(cell::count).into(),
                domain.tokens.map(cell::tokens).into(),
                languages.map(|part| share(&part.language, part.share)).collect::<Vec<_>>().join(" ").into(),
                sources.map(|part| share(&part.source, part.share)).collect::<Vec<_>>().join(" ").into(),
                nearest.collect::<Vec<_>>().join(" ").into(),
                domain.top_terms.join(" ").into(),
            ]);
        }
        List::new(table, said!("none_domains"))
    })
}
