//! `senmon init CORPUS`: an experiment file for a corpus, sized by it and by the fleet, with a remark on each key.
//!
//! The remarks are the file's own reference ([`crate::explain`]); the sizes are first guesses by the rules of
//! docs/explanation/choosing.md.

mod sizes;

use crate::{
    client::{Client, encoded},
    error::{CliError, CliResult},
    explain::{Entry, entries},
    lang::own,
    output::out,
    schema::Schemas,
    words,
};
use clap::Args;
use senmon_protocol::{
    corpus::{CorpusState, CorpusView},
    said,
    view::{WorkerState, WorkerView},
};
use sizes::{Facts, Sizes};
use std::{fmt::Write as _, fs, io::Write as _, path::PathBuf};

/// Arguments.
#[derive(Debug, Args)]
pub struct Init {
    /// The corpus: name or id.
    #[arg(value_name = "CORPUS")]
    corpus: String,
    /// Name of the experiment; the corpus's when absent.
    #[arg(long)]
    name: Option<String>,
    /// Domains, instead of as many as its text feeds.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    domains: Option<u32>,
    /// The file, which must not exist; standard output when absent.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Writes the file.
///
/// # Errors
/// When there is no such corpus, it was refused, or the file exists.
pub async fn init(client: &Client, args: &Init) -> CliResult {
    let corpus: CorpusView = client.get(&format!("/corpora/{}", encoded(&args.corpus))).await?;
    if corpus.state != CorpusState::Ready {
        let why = corpus.problem.unwrap_or_else(|| own(&said!("files_still_read")));
        let state = words::name(&corpus.state);
        return Err(CliError::refused(&said!("corpus_not_usable", name = corpus.name, state = state, why = why)));
    }
    let workers: Vec<WorkerView> = client.list("/workers").await?;
    let alive = workers.iter().filter(|worker| worker.state == WorkerState::Alive);
    let devices: Vec<&str> = alive.flat_map(|worker| &worker.slots).map(|slot| slot.slot.device.as_str()).collect();
    let facts = Facts {
        documents: corpus.counts.documents,
        text_bytes: corpus.counts.text_bytes,
        slots: devices.len() as u64,
        has_gpu: devices.iter().any(|device| device.starts_with("cuda")),
        domains: args.domains,
    };
    let text = written(&args.name.clone().unwrap_or_else(|| corpus.name.clone()), &corpus.name, &facts);
    let Some(path) = &args.file else {
        out(&text);
        return Ok(());
    };
    let made = fs::OpenOptions::new().write(true).create_new(true).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| CliError::Refused(format!("{}: {error}", path.display())))?;
    out(&own(&said!("file_is_written", path = path.display().to_string())));
    Ok(())
}

/// The file under construction.
struct Draft {
    keys: Vec<Entry>,
    text: String,
}

impl Draft {
    /// A key with its value, what it is, and why it has this value here.
    fn key(&mut self, indent: usize, path: &str, value: &str, why: &str) {
        let about = self.keys.iter().find(|entry| entry.path == path).map(|entry| first_sentence(&entry.about));
        let space = " ".repeat(indent);
        let name = path.rsplit('.').next().unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!(" Here: {why}.") };
        let _ = writeln!(self.text, "{space}# {}{why}", about.unwrap_or_default());
        let value = if value.is_empty() { String::new() } else { format!(" {value}") };
        let _ = writeln!(self.text, "{space}{name}:{value}");
    }

    /// What else the object at `path` takes, with its defaults, for people to take the sign away.
    fn others(&mut self, indent: usize, path: &str, said: &[&str]) {
        let space = " ".repeat(indent);
        let depth = if path.is_empty() { 0 } else { path.split('.').count() };
        for entry in &self.keys {
            let below = path.is_empty() || entry.path.starts_with(&format!("{path}."));
            let name = entry.path.rsplit('.').next().unwrap_or_default();
            let is_plain = !["none", "as below", "empty", "must be given"].contains(&entry.default.as_str());
            if below && entry.path.split('.').count() == depth + 1 && is_plain && !said.contains(&name) {
                let _ = writeln!(self.text, "{space}# {name}: {}  # {}", entry.default, first_sentence(&entry.about));
            }
        }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }
}

fn first_sentence(about: &str) -> &str {
    about.split_inclusive(". ").next().unwrap_or_default().trim()
}

fn written(name: &str, corpus: &str, facts: &Facts) -> String {
    let sizes = Sizes::of(facts);
    let Sizes { model, .. } = &sizes;
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let count = |tokens: u64| words::tokens(tokens).replace(' ', "");
    let mut draft = Draft { keys: entries(&Schemas::of_experiment_file()), text: String::new() };
    draft.line(&format!(
        "# An experiment on the corpus {corpus}: {} documents, {} of text, about {} tokens.",
        words::count(facts.documents),
        words::bytes(facts.text_bytes),
        words::tokens(facts.tokens())
    ));
    draft.line("# What it would do: senmon plan FILE. Go: senmon run FILE --follow. Any key: senmon explain KEY.");
    draft.line("# The numbers are first guesses; the plan says what they cost.\n");
    draft.key(0, "name", &quoted(name), "");
    draft.key(0, "corpus", &quoted(corpus), "");
    draft.others(0, "", &["description", "name", "corpus"]);
    draft.line("");
    draft.key(0, "clustering", "", "");
    let each =
        format!("so that each expert gets about {} tokens", count(sizes.experts_tokens / u64::from(sizes.domains)));
    draft.key(2, "clustering.domains", &sizes.domains.to_string(), &each);
    draft.others(2, "clustering", &["domains"]);
    draft.line("");
    draft.key(0, "tokenizer", "", "");
    draft.line("  kind: train");
    draft.key(2, "tokenizer.train.vocab_size", &model.vocab_size.to_string(), "small beside the model's blocks");
    draft.others(2, "tokenizer.train", &["vocab_size"]);
    draft.line("");
    let fed = format!("{} parameters, about as many as the seed's tokens feed", count(model.parameters));
    draft.key(0, "model", "", &fed);
    for (key, value) in [
        ("hidden_size", model.hidden_size),
        ("intermediate_size", model.intermediate_size),
        ("num_hidden_layers", model.layers),
        ("num_attention_heads", model.heads),
        ("max_position_embeddings", model.window),
    ] {
        draft.key(2, &format!("model.{key}"), &value.to_string(), "");
    }
    draft.line("");
    draft.key(0, "data", "", "");
    draft.key(2, "data.sequence_length", &model.window.to_string(), "");
    draft.others(2, "data", &["sequence_length"]);
    draft.line("");
    draft.key(0, "training", "", "");
    let step = format!("{} tokens a step", count(u64::from(model.batch_windows) * u64::from(model.window)));
    draft.key(2, "training.batch_windows", &model.batch_windows.to_string(), &step);
    draft.key(2, "training.learning_rate", &model.rate(0.5), "half of the seed's");
    draft.key(2, "training.schedule", "linear", "every branch ends at rate 0, so that it has come to rest");
    draft.key(2, "training.precision", "bf16", "");
    draft.others(2, "training", &["batch_windows", "learning_rate", "schedule", "precision"]);
    draft.line("");
    draft.key(0, "seed", "", "a model of its own; `kind: checkpoint` with a `path` takes one that exists");
    draft.line("  kind: train");
    draft.key(2, "seed.train.tokens", &count(sizes.seed_tokens), &sizes.why);
    draft.line(&format!("  training: {{ learning_rate: {}, final_fraction: 0.1 }}", model.rate(1.0)));
    draft.line("");
    draft.key(0, "plan", "", "one expert a domain; dense and random-split controls come by themselves");
    draft.line("  - kind: fan_out");
    draft.key(4, "plan.fan_out.tokens", &count(sizes.experts_tokens), "half of the seed's");
    draft.others(4, "plan.fan_out", &["tokens"]);
    draft.line("");
    draft.key(0, "evaluation", "", "");
    draft.key(
        2,
        "evaluation.documents_per_domain",
        &sizes.documents_scored.to_string(),
        "more show smaller differences",
    );
    draft.key(2, "evaluation.top_k", &format!("{:?}", sizes.top_k()), "");
    draft.others(2, "evaluation", &["documents_per_domain", "top_k", "temperatures"]);
    draft.text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec_file;
    use proptest::prelude::*;

    #[test]
    fn the_file_says_what_each_key_is() {
        let facts = Facts { documents: 5_355, text_bytes: 12_000_000, slots: 2, has_gpu: false, domains: None };
        let text = written("first", "first", &facts);
        for part in [
            "5355 documents, 11.4 MiB of text, about 4.0 M tokens",
            "  # Peak learning rate. Here: half of the seed's.\n  learning_rate: 0.002\n",
            "  # clip_norm: 1.0  # Largest global gradient norm.",
            "# priority: 50  # 0 to 100, higher first.",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        spec_file::check_text(&text).unwrap();
    }

    #[test]
    fn what_is_commented_out_are_the_defaults() {
        let facts = Facts { documents: 5_355, text_bytes: 12_000_000, slots: 2, has_gpu: false, domains: None };
        let text = written("first", "first", &facts);
        let plain = spec_file::check_text(&text).unwrap();
        // Without the signs in front of `key: default  # what it is`, the file means the same.
        let given: String = text
            .lines()
            .map(|line| match line.trim_start().strip_prefix("# ") {
                Some(rest) if rest.contains("  # ") => {
                    format!("{}{rest}\n", &line[..line.len() - line.trim_start().len()])
                }
                _ => format!("{line}\n"),
            })
            .collect();
        assert!(given.lines().count() > 50 && given.contains("\n  beta1: 0.9 "), "{given}");
        assert_eq!(spec_file::check_text(&given).unwrap(), plain);
    }

    proptest! {
        #[test]
        fn a_file_for_any_corpus_is_an_experiment(
            name in "[a-zA-Z0-9._-]{1,20}",
            documents in 1_u64..1_000_000_000,
            text_bytes in 1_u64..20_000_000_000_000,
            slots in 0_u64..5_000,
            has_gpu: bool,
            domains in proptest::option::of(1_u32..=4096),
        ) {
            let facts = Facts { documents, text_bytes, slots, has_gpu, domains };
            let text = written(&name, &name, &facts);
            let spec = spec_file::check_text(&text);
            prop_assert!(spec.is_ok(), "{:?}\n{}", spec, text);
        }
    }
}
