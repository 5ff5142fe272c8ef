//! `senmon job …` and `senmon queue`.

use crate::{
    cell::{self, Cell},
    client::{Client, encoded},
    error::CliResult,
    logs,
    output::{Format, List as Listed},
    resolve::{self, short},
    table::Table,
    words,
};
use clap::{Args, Subcommand};
use senmon_protocol::{
    said,
    view::{JobState, JobView},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List jobs, open or over, in the order of creation.
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show the log of a job: of a scan, a shard, an evaluation, a training.
    Logs(Logs),
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Only of this experiment.
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,
    /// Only in this state: queued, running, paused, completed, failed or cancelled; several with commas. Without it, those
    /// that are open.
    #[arg(long)]
    state: Option<String>,
    /// Only what its title contains.
    #[arg(short = 'q', long)]
    search: Option<String>,
    /// At most so many.
    #[arg(short = 'n', long)]
    lines: Option<usize>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Id, or the beginning or end of the id of an open job.
    #[arg(value_name = "JOB")]
    id: String,
    /// Wait for more until the job is over.
    #[arg(short, long)]
    follow: bool,
    /// At most so many lines, the last ones.
    #[arg(short = 'n', long)]
    lines: Option<usize>,
}

/// Runs a command.
///
/// # Errors
/// When there is no such job.
pub async fn run(client: &Client, format: Format, command: Job) -> CliResult {
    match command {
        Job::Ls(args) => {
            let mut path = "/jobs?".to_owned();
            if let Some(experiment) = &args.experiment {
                path.push_str(&format!("experiment_id={}&", resolve::experiment(client, experiment).await?));
            }
            let given = [("state", &args.state), ("q", &args.search)];
            for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
                path.push_str(&format!("{name}={}&", encoded(value)));
            }
            list(client, format, path.trim_end_matches(['&', '?']), args.lines.unwrap_or(usize::MAX)).await
        }
        Job::Logs(args) => logs(client, format, &args).await,
    }
}

/// `senmon queue`: what waits and what runs.
///
/// # Errors
/// When the server does not answer.
pub async fn queue(client: &Client, format: Format) -> CliResult {
    list(client, format, "/jobs", usize::MAX).await
}

async fn list(client: &Client, format: Format, path: &str, most: usize) -> CliResult {
    let jobs: Vec<JobView> = client.list_up_to(path, most).await?;
    format.list(&jobs, |jobs| {
        let mut table =
            Table::new(&["=id", "job", "owner", "state", ">priority", ">slots", ">tries", "worker", ">done", "why"]);
        for job in jobs {
            table.row::<Cell>(vec![
                short(job.id).into(),
                job.title.as_str().into(),
                job.owner.name().into(),
                words::name(&job.state).into(),
                cell::count(job.priority),
                cell::count(job.slots),
                cell::count(job.attempts),
                job.worker.clone().unwrap_or_default().into(),
                job.progress.map(cell::share).into(),
                job.why.clone().unwrap_or_default().into(),
            ]);
        }
        Listed::new(table, said!("none_jobs"))
    })
}

async fn logs(client: &Client, format: Format, args: &Logs) -> CliResult {
    let path = format!("/jobs/{}", resolve::job(client, &args.id).await?);
    let is_over = async || {
        let job: JobView = client.get(&path).await?;
        Ok(matches!(job.state, JobState::Completed | JobState::Failed | JobState::Cancelled))
    };
    logs::show(client, format, &path, (args.follow, args.lines), is_over).await
}
