//! `senmon pause`, `resume`, `cancel`, `delete`: experiments by name, one or several.
//!
//! All names are resolved before anything is done: a typing error in the last changes nothing about the first.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::{Format, out},
    resolve::{self, short},
    term, words,
};
use clap::Args;
use senmon_protocol::{ids::ExperimentId, said, view::ExperimentView};

/// Experiments.
#[derive(Debug, Args)]
pub struct Ids {
    /// Ids, 4 or more characters of their beginnings or ends, or names (the latest of that name).
    #[arg(value_name = "EXPERIMENT", required = true)]
    ids: Vec<String>,
}

/// Experiments, and whether to go on without asking.
#[derive(Debug, Args)]
pub struct SureIds {
    #[command(flatten)]
    ids: Ids,
    /// Do not ask. (Nobody is asked where there is no terminal.)
    #[arg(short, long)]
    yes: bool,
}

/// Pauses or resumes.
///
/// # Errors
/// When an experiment's state does not allow it; the others are done all the same.
pub async fn experiments(client: &Client, format: Format, args: &Ids, verb: &str) -> CliResult {
    let ids = resolved(client, args).await?;
    steer(client, format, &ids, verb).await
}

/// Cancels, after a question.
///
/// # Errors
/// See [`experiments`].
pub async fn cancel(client: &Client, format: Format, args: &SureIds) -> CliResult {
    let ids = resolved(client, &args.ids).await?;
    sure(args, &own(&said!("asks_cancel", names = named(&args.ids.ids, &ids))))?;
    steer(client, format, &ids, "cancel").await
}

/// Deletes those that are over, after a question: their checkpoints, shards and scores.
///
/// # Errors
/// When one is not over; the others are done all the same.
pub async fn delete(client: &Client, args: &SureIds) -> CliResult {
    let ids = resolved(client, &args.ids).await?;
    sure(args, &own(&said!("asks_delete", names = named(&args.ids.ids, &ids))))?;
    let mut failures = Vec::new();
    for id in ids {
        match client.delete(&format!("/experiments/{id}")).await {
            Ok(()) => out(&own(&said!("experiment_is_deleted", id = id.to_string()))),
            Err(error) => failures.push(error),
        }
    }
    together(failures)
}

async fn resolved(client: &Client, args: &Ids) -> CliResult<Vec<ExperimentId>> {
    let mut ids: Vec<ExperimentId> = Vec::new();
    for text in &args.ids {
        let id = resolve::experiment(client, text).await?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn named(texts: &[String], ids: &[ExperimentId]) -> String {
    match (texts, ids) {
        ([text], [id]) => format!("{text} ({})", short(id)),
        _ => texts.join(", "),
    }
}

fn sure(args: &SureIds, question: &str) -> CliResult {
    if args.yes || term::confirmed(question) {
        return Ok(());
    }
    Err(CliError::refused(&said!("nothing_changed")))
}

async fn steer(client: &Client, format: Format, ids: &[ExperimentId], verb: &str) -> CliResult {
    let mut failures = Vec::new();
    for id in ids {
        match client.verb::<ExperimentView>(&format!("/experiments/{id}/{verb}")).await {
            Ok(view) => {
                let text = |view: &ExperimentView| {
                    own(&said!("stands", name = &view.summary.name, state = words::name(&view.summary.state)))
                };
                // One answer is the object, several are a line each.
                if ids.len() == 1 { format.print(&view, text) } else { format.line(&view, text) }?;
            }
            Err(error) => failures.push(error),
        }
    }
    together(failures)
}

/// One failure for all: with the code of the first.
///
/// # Errors
/// Where there is one.
pub fn together(failures: Vec<CliError>) -> CliResult {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(first.said(|_| texts.join("\nsenmon: "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_failures_are_told_with_the_code_of_the_first() {
        let both = together(vec![CliError::Refused("a is over".into()), CliError::Failed("b".into())]).unwrap_err();
        assert_eq!((both.exit_code(), both.to_string().as_str()), (4, "a is over\nsenmon: b"));
        assert!(together(Vec::new()).is_ok());
    }
}
