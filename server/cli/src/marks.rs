//! `senmon label`, `note`: what people mark experiments with.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::{Format, out},
    resolve::{self, Id},
};
use clap::Args;
use senmon_protocol::{
    said,
    view::{ChangeExperiment, ExperimentView},
};
use std::io::Read as _;

/// Tries of an edit, while others edit the same experiment.
const TRIES: usize = 5;

/// Arguments of `label`.
#[derive(Debug, Args)]
pub struct Label {
    #[command(flatten)]
    experiment: Id,
    /// Labels to add: words, or pairs (team=speech), of which there is one of a key. With - behind it, one to take away,
    /// a pair by its key (team-). Without any, the labels are shown.
    #[arg(value_name = "LABEL")]
    edits: Vec<String>,
}

/// Arguments of `note`.
#[derive(Debug, Args)]
pub struct Note {
    #[command(flatten)]
    experiment: Id,
    /// The note, instead of the one so far: Markdown; - reads standard input, '' takes it away. Without it, the note is
    /// shown.
    #[arg(value_name = "TEXT")]
    text: Option<String>,
}

/// One change of a set of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edit {
    Add(String),
    Remove(String),
}

/// The key of a pair; a word is its own.
fn key(label: &str) -> &str {
    label.split_once('=').map_or(label, |(key, _)| key)
}

fn edit(text: &str) -> CliResult<Edit> {
    let edit = match text.strip_suffix('-') {
        Some(label) => Edit::Remove(label.to_owned()),
        None => Edit::Add(text.to_owned()),
    };
    match &edit {
        Edit::Add(label) | Edit::Remove(label) if !key(label).trim().is_empty() => Ok(edit),
        _ => Err(CliError::Refused(own(&said!("label_edit_malformed", found = format!("{text:?}"))))),
    }
}

/// The labels after the edits, in their order: a pair takes the place of the one of its key.
fn edited(mut labels: Vec<String>, edits: &[Edit]) -> Vec<String> {
    for edit in edits {
        match edit {
            Edit::Remove(gone) => labels.retain(|label| label != gone && key(label) != gone),
            Edit::Add(new) if labels.contains(new) => {}
            Edit::Add(new) => match labels.iter_mut().find(|label| new.contains('=') && key(label) == key(new)) {
                Some(label) => label.clone_from(new),
                None => labels.push(new.clone()),
            },
        }
    }
    labels
}

/// Shows labels, or changes them.
///
/// # Errors
/// When one is malformed or refused.
pub async fn label(client: &Client, format: Format, args: &Label) -> CliResult {
    let edits: Vec<Edit> = args.edits.iter().map(|text| edit(text)).collect::<CliResult<_>>()?;
    let id = resolve::experiment(client, &args.experiment.id).await?;
    let path = format!("/experiments/{id}");
    let mut done = None;
    for _ in 0..TRIES {
        let (view, tag) = client.tagged::<ExperimentView>(&path).await?;
        let labels = Some(edited(view.summary.labels.clone(), &edits));
        let body = ChangeExperiment { labels, ..ChangeExperiment::default() };
        // None where somebody else edited it between reading and writing.
        done = if edits.is_empty() { Some(view) } else { client.patch_since(&path, &tag, &body).await? };
        if done.is_some() {
            break;
        }
    }
    let view = done.ok_or_else(|| CliError::Refused(own(&said!("label_edited_meanwhile", tries = TRIES))))?;
    format.print(&view, |ExperimentView { summary, .. }| match summary.labels.join(", ") {
        labels if labels.is_empty() => own(&said!("labels_none", name = &summary.name)),
        labels => own(&said!("labels_are", name = &summary.name, labels = labels)),
    })
}

/// Shows the note, or writes it.
///
/// # Errors
/// When it cannot be read, or is refused.
pub async fn note(client: &Client, format: Format, args: &Note) -> CliResult {
    let id = resolve::experiment(client, &args.experiment.id).await?;
    let path = format!("/experiments/{id}");
    let Some(text) = &args.text else {
        let view: ExperimentView = client.get(&path).await?;
        if format.is_text() && !view.note.is_empty() {
            out(view.note.trim_end());
            return Ok(());
        }
        return format.print(&view, |view| own(&said!("note_none", name = &view.summary.name)));
    };
    let mut note = text.clone();
    if text == "-" {
        note.clear();
        let read = std::io::stdin().read_to_string(&mut note);
        read.map_err(|error| CliError::Refused(format!("-: {error}")))?;
    }
    let body = ChangeExperiment { note: Some(note), ..ChangeExperiment::default() };
    let view: ExperimentView = client.patch(&path, &body).await?;
    format.print(&view, |view| match view.note.chars().count() {
        0 => own(&said!("note_none", name = &view.summary.name)),
        characters => own(&said!("note_kept", name = &view.summary.name, characters = characters)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[&str], edits: &[&str], expect: &[&str]) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let edits: Vec<Edit> = edits.iter().map(|text| edit(text).unwrap()).collect();
        assert_eq!(edited(labels, &edits), expect, "{edits:?}");
    }

    #[test]
    fn words_are_added_pairs_replaced_and_either_is_taken_away() {
        check(&["demo"], &["night", "demo"], &["demo", "night"]);
        check(&["team=nlp", "demo"], &["team=speech"], &["team=speech", "demo"]);
        check(&["team=nlp", "demo", "team"], &["team-"], &["demo"]);
        check(&["team=nlp", "team=speech"], &["team=nlp-"], &["team=speech"]);
        check(&["team"], &["team=nlp"], &["team=nlp"]);
        check(&["a"], &["a-", "a"], &["a"]);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["-", "", "=x", " -"] {
            assert!(edit(text).unwrap_err().to_string().contains("KEY=VALUE"), "{text:?}");
        }
    }
}
