//! From what people type to ids: a whole id, a unique beginning or end of one, or a name.
//!
//! Never guesses: what fits several is refused with all of them.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
};
use clap::Args;
use senmon_protocol::{
    alert::AlertView,
    ids::{AlertId, BranchId, CheckpointId, ExperimentId, JobId, TokenId, WorkerId},
    said,
    said::of,
    view::{CheckpointView, ExperimentSummary, ExperimentView, JobView, TokenView, WorkerView},
};
use std::fmt::Display;

/// Experiments looked through for a branch whose experiment is not named.
const EXPERIMENTS_SEARCHED_MAX: usize = 50;

/// One experiment.
#[derive(Debug, Args)]
pub struct Id {
    /// Id, 4 or more characters of its beginning or end, or name (the latest of that name).
    #[arg(value_name = "EXPERIMENT")]
    pub id: String,
}

/// The one of `items` that `text` means, by id or by name. With several of that name the first wins when `items` is
/// ordered latest first and `latest_wins`.
fn one<'a, T, I: Display>(
    noun: &str,
    text: &str,
    items: &'a [T],
    id: impl Fn(&T) -> I,
    name: impl Fn(&T) -> String,
    latest_wins: bool,
) -> CliResult<&'a T> {
    let mut named = items.iter().filter(|item| name(item) == text);
    if let Some(first) = named.next() {
        if latest_wins || named.next().is_none() {
            return Ok(first);
        }
        return Err(CliError::refused(&said!("several_named", noun = of::noun(noun), text = format!("{text:?}"))));
    }
    // Ids begin with their time, so neighbours share their beginnings; their ends differ.
    let typed = text.to_ascii_lowercase();
    let fits = |item: &&T| {
        let id = id(item).to_string();
        typed.len() >= 4 && (id.starts_with(&typed) || id.ends_with(&typed))
    };
    let fitting: Vec<&T> = items.iter().filter(fits).collect();
    match fitting[..] {
        [item] => Ok(item),
        [] => Err(CliError::refused(&said!("none_named", noun = of::noun(noun), text = format!("{text:?}")))),
        _ => {
            let all: Vec<String> = fitting.iter().map(|item| format!("\n  {} {}", id(item), name(item))).collect();
            let (count, noun) = (fitting.len(), of::noun(noun));
            let said = said!("several_fit", text = format!("{text:?}"), count = count, noun = noun);
            Err(CliError::Refused(format!("{}{}", own(&said), all.concat())))
        }
    }
}

/// An experiment.
///
/// # Errors
/// When there is none, or several fit.
pub async fn experiment(client: &Client, text: &str) -> CliResult<ExperimentId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let mut all: Vec<ExperimentSummary> = client.list("/experiments").await?;
    all.sort_by_key(|experiment| std::cmp::Reverse(experiment.created_at));
    one("experiment", text, &all, |item| item.id, |item| item.name.clone(), true).map(|item| item.id)
}

/// A branch: an id, or `EXPERIMENT/BRANCH`.
///
/// # Errors
/// When there is none, or several fit.
pub async fn branch(client: &Client, text: &str) -> CliResult<BranchId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    if let Some((experiment_text, branch_text)) = text.split_once('/') {
        let id = experiment(client, experiment_text).await?;
        let view: ExperimentView = client.get(&format!("/experiments/{id}")).await?;
        let found = one("branch", branch_text, &view.branches, |item| item.id, |item| item.name.clone(), true);
        return found.map(|item| item.id);
    }
    let mut all: Vec<ExperimentSummary> = client.list("/experiments").await?;
    all.sort_by_key(|experiment| std::cmp::Reverse(experiment.created_at));
    let mut branches = Vec::new();
    for experiment in all.iter().take(EXPERIMENTS_SEARCHED_MAX) {
        let view: ExperimentView = client.get(&format!("/experiments/{}", experiment.id)).await?;
        branches.extend(view.branches);
    }
    one("branch", text, &branches, |item| item.id, |item| item.name.clone(), false).map(|item| item.id)
}

/// A branch of an experiment that is named beside it: `demo`, `expert-3`.
///
/// # Errors
/// See [`branch`].
pub async fn branch_in(client: &Client, experiment: Option<&str>, text: &str) -> CliResult<BranchId> {
    match experiment {
        Some(experiment) if !text.contains('/') && text.parse::<BranchId>().is_err() => {
            branch(client, &format!("{experiment}/{text}")).await
        }
        _ => branch(client, text).await,
    }
}

/// A checkpoint.
///
/// # Errors
/// When there is none, or several fit.
pub async fn checkpoint(client: &Client, text: &str) -> CliResult<CheckpointId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let all: Vec<CheckpointView> = client.list("/checkpoints").await?;
    one("checkpoint", text, &all, |item| item.id, |_| String::new(), false).map(|item| item.id)
}

/// A job: an id, or a part of an open one's.
///
/// # Errors
/// When there is none, or several fit.
pub async fn job(client: &Client, text: &str) -> CliResult<JobId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let all: Vec<JobView> = client.list("/jobs").await?;
    one("job", text, &all, |item| item.id, |_| String::new(), false).map(|item| item.id)
}

/// A worker.
///
/// # Errors
/// When there is none, or several fit.
pub async fn worker(client: &Client, text: &str) -> CliResult<WorkerId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let all: Vec<WorkerView> = client.list("/workers").await?;
    one("worker", text, &all, |item| item.id, |item| item.name.clone(), false).map(|item| item.id)
}

/// A token.
///
/// # Errors
/// When there is none, or several fit.
pub async fn token(client: &Client, text: &str) -> CliResult<TokenId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let all: Vec<TokenView> = client.list("/tokens").await?;
    one("token", text, &all, |item| item.id, |item| item.name.clone(), false).map(|item| item.id)
}

/// An alert.
///
/// # Errors
/// When there is none, or several fit.
pub async fn alert(client: &Client, text: &str) -> CliResult<AlertId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let all: Vec<AlertView> = client.list("/alerts").await?;
    one("alert", text, &all, |item| item.id, |item| item.name.clone(), false).map(|item| item.id)
}

/// The end of an id, enough to tell it from the others of its list.
#[must_use]
pub fn short<I: Display>(id: I) -> String {
    let text = id.to_string();
    text[text.len().saturating_sub(8)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<usize, &str>) {
        let items =
            [("0192aaaa-0000-7000-8000-00000000beef", "demo"), ("0192aaaa-0000-7000-8000-00000000cafe", "demo")];
        let found = one("experiment", text, &items, |item| item.0, |item| item.1.to_owned(), true);
        match (found, expect) {
            (Ok(found), Ok(index)) => assert_eq!(found, &items[index], "{text}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (found, expect) => panic!("{text}: {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn an_experiment_is_found_by_name_or_by_part_of_its_id() {
        check("demo", Ok(0));
        check("0000cafe", Ok(1));
        check("0000CAFE", Ok(1));
        check("0192aaaa", Err("fits 2 experiments"));
        check("other", Err("no experiment"));
        check("fe", Err("4 or more"));
    }
}
