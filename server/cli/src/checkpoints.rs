//! `senmon checkpoint …`.

use crate::{
    cell::{self, Cell},
    client::Client,
    error::{CliError, CliResult},
    export,
    lang::own,
    output::{Format, List, out},
    resolve::{self, short},
    table::Table,
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand};
use senmon_protocol::{
    said,
    view::{CheckpointVerdict, CheckpointView},
};
use std::path::PathBuf;

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Checkpoint {
    /// List checkpoints.
    #[command(visible_alias = "list")]
    Ls(Filter),
    /// Show a checkpoint.
    Show(Id),
    /// Read every file of a checkpoint and compare it with the manifest; ends with 1 where one differs.
    Verify(Id),
    /// Write a checkpoint's model into a folder, for `transformers` and others.
    Export(Export),
}

/// Which checkpoints.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only those of this experiment.
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,
    /// Only those of this branch.
    #[arg(long)]
    branch: Option<String>,
}

/// One checkpoint.
#[derive(Debug, Args)]
pub struct Id {
    /// Id, or part of one.
    #[arg(value_name = "CHECKPOINT")]
    id: String,
}

/// What to export where.
#[derive(Debug, Args)]
pub struct Export {
    /// Id, or part of one.
    #[arg(value_name = "CHECKPOINT")]
    id: String,
    /// A folder that does not exist yet.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Number format of the weights.
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: export::Dtype,
}

/// Runs a command.
///
/// # Errors
/// When there is no such thing.
pub async fn run(client: &Client, format: Format, command: Checkpoint) -> CliResult {
    match command {
        Checkpoint::Ls(filter) => {
            let path = match (&filter.branch, &filter.experiment) {
                (Some(branch), experiment) => {
                    let id = resolve::branch_in(client, experiment.as_deref(), branch).await?;
                    format!("/checkpoints?branch_id={id}")
                }
                (None, Some(experiment)) => {
                    format!("/checkpoints?experiment_id={}", resolve::experiment(client, experiment).await?)
                }
                (None, None) => "/checkpoints".into(),
            };
            let all: Vec<CheckpointView> = client.list(&path).await?;
            format.list(&all, |all| List::new(table(all), said!("none_checkpoints")))
        }
        Checkpoint::Show(args) => {
            let id = resolve::checkpoint(client, &args.id).await?;
            let view: CheckpointView = client.get(&format!("/checkpoints/{id}")).await?;
            format.print(&view, describe)
        }
        Checkpoint::Verify(args) => {
            let id = resolve::checkpoint(client, &args.id).await?;
            let verdict: CheckpointVerdict = client.verb(&format!("/checkpoints/{id}/verify")).await?;
            if let Some(problem) = &verdict.problem {
                return Err(CliError::failed(&said!("checkpoint_problem", id = id.to_string(), why = problem)));
            }
            format.print(&verdict, |verdict| {
                let (files, bytes) = (verdict.files, words::bytes(verdict.bytes));
                own(&said!("checkpoint_whole", id = id.to_string(), files = files, bytes = bytes))
            })
        }
        Checkpoint::Export(args) => {
            let id = resolve::checkpoint(client, &args.id).await?;
            let bytes = export::run(client, id, &args.folder, args.dtype).await?;
            let (folder, bytes) = (args.folder.display().to_string(), words::bytes(bytes));
            out(&own(&said!("checkpoint_exported", folder = folder, bytes = bytes, dtype = words::name(&args.dtype))));
            Ok(())
        }
    }
}

fn table(all: &[CheckpointView]) -> Table {
    let mut table = Table::new(&[
        "=id",
        "experiment",
        "branch",
        ">step",
        ">tokens",
        ">loss",
        "kind",
        ">size",
        "=written",
        "verified",
    ]);
    for checkpoint in all {
        let meta = &checkpoint.meta;
        table.row::<Cell>(vec![
            short(checkpoint.id).into(),
            checkpoint.experiment.as_str().into(),
            checkpoint.branch.as_str().into(),
            cell::count(meta.step),
            cell::tokens(meta.tokens),
            meta.loss.map(|loss| cell::number(loss, 3)).into(),
            words::name(&checkpoint.kind).into(),
            cell::bytes(meta.bytes),
            cell::ago(checkpoint.created_at, Utc::now()),
            match checkpoint.verified_at.filter(|_| checkpoint.problem.is_none()) {
                Some(at) => cell::ago(at, Utc::now()),
                None => verified(checkpoint).into(),
            },
        ]);
    }
    table
}

/// When it was last read whole, or what is wrong with it.
fn verified(checkpoint: &CheckpointView) -> String {
    match (&checkpoint.problem, checkpoint.verified_at) {
        (Some(problem), _) => format!("damaged: {problem}"),
        (None, Some(at)) => words::ago(at, Utc::now()),
        (None, None) => "not yet".into(),
    }
}

fn describe(view: &CheckpointView) -> String {
    let meta = &view.meta;
    let mut facts = Table::facts();
    let mut fact = |name: &str, value: String| facts.row(vec![name.to_owned(), value]);
    fact("experiment", view.experiment.clone());
    fact("branch", view.branch.clone());
    fact("kind", words::name(&view.kind));
    fact("verified", verified(view));
    fact("step", words::count(meta.step));
    fact("tokens", words::tokens(meta.tokens));
    fact("loss", words::or_dash(meta.loss.map(|loss| format!("{loss:.4}"))));
    fact("parent", words::or_dash(meta.parent_id.map(|id| id.to_string())));
    fact("fence", meta.fence.to_string());
    fact("size", words::bytes(meta.bytes));
    fact("folder", view.folder.to_string());
    // A checkpoint of weights alone has no state, and of a model from outside nothing is known of its settings.
    for (name, digest) in
        [("manifest", &view.manifest_sha256), ("state", &meta.state_sha256), ("settings", &meta.config_sha256)]
    {
        if !digest.is_empty() {
            fact(name, digest.clone());
        }
    }
    format!("{}\n{}", view.id, facts.render())
}
