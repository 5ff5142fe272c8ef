//! `senmon run`, `ls`, `show`, `set`.

pub use crate::resolve::Id;
use crate::{
    cell::{self, Cell},
    client::{Client, encoded},
    error::{CliError, CliResult},
    follow,
    lang::own,
    moment,
    output::{Format, List as Listed, out},
    resolve::{self, short},
    spec_file,
    table::Table,
    words,
};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use senmon_protocol::{
    resources::BudgetSpec,
    said,
    said::Said,
    view::{BranchView, ChangeExperiment, ExperimentSummary, ExperimentView, StageState},
};
use std::{fmt::Write as _, path::PathBuf};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Experiment file (YAML or JSON); `-` reads standard input.
    file: PathBuf,
    /// Watch until it ends, then show the report.
    #[arg(short, long)]
    follow: bool,
    /// Name, instead of the file's.
    #[arg(long)]
    name: Option<String>,
}

/// Arguments of `set`.
#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    experiment: Id,
    /// 0 to 100, higher first.
    #[arg(long)]
    priority: Option<u8>,
    /// When it should be done: 2027-01-31T08:00:00Z, 2027-01-31 or '2027-01-31 08:00' where you are, or from now on: +3d, +12h.
    #[arg(long, value_name = "TIME", value_parser = moment::ahead)]
    deadline: Option<DateTime<Utc>>,
    /// Hours of slots that it may take in all.
    #[arg(long)]
    slot_hours: Option<f64>,
    /// Hours that it may take since its first attempt began.
    #[arg(long)]
    wall_hours: Option<f64>,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Only what its name contains.
    #[arg(value_name = "TEXT")]
    search: Option<String>,
    /// Only in this state: running, paused, completed, failed or cancelled; several with commas.
    #[arg(long)]
    state: Option<String>,
    /// Only with this label; several with commas.
    #[arg(long = "label")]
    labels: Option<String>,
    /// Only those that this one submitted.
    #[arg(long)]
    owner: Option<String>,
    /// Order.
    #[arg(long, value_enum, default_value_t = Sort::Newest)]
    sort: Sort,
    /// Those that were deleted, instead of the others.
    #[arg(long)]
    archived: bool,
    /// At most so many.
    #[arg(short = 'n', long)]
    lines: Option<usize>,
}

/// Order of experiments.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    /// The last first.
    Newest,
    /// The first first.
    Oldest,
    /// By name.
    Name,
}

/// Submits.
///
/// # Errors
/// When the file is refused, here or by the server; with `--follow` also when the experiment fails.
pub async fn run(client: &Client, format: Format, args: &Run) -> CliResult {
    let mut spec = spec_file::load(&args.file)?;
    if let Some(name) = &args.name {
        spec.name.clone_from(name);
    }
    let view: ExperimentView = client.post("/experiments", &spec).await?;
    if args.follow {
        if format.is_text() {
            out(&format!("{} {}", view.summary.name, view.summary.id));
        }
        return follow::watch(client, format, view.summary.id).await;
    }
    format.print(&view, |view| {
        let id = view.summary.id;
        own(&said!("submitted_as", name = &view.summary.name, id = id.to_string(), short = short(id)))
    })
}

/// Lists.
///
/// # Errors
/// When the server does not answer.
pub async fn list(client: &Client, format: Format, args: &List) -> CliResult {
    let mut path = format!(
        "/experiments?sort={}",
        args.sort.to_possible_value().map_or("newest".into(), |sort| sort.get_name().to_owned())
    );
    let given = [("q", &args.search), ("state", &args.state), ("labels", &args.labels), ("owner", &args.owner)];
    for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        path.push_str(&format!("&{name}={}", encoded(value)));
    }
    if args.archived {
        path.push_str("&archived=true");
    }
    let all: Vec<ExperimentSummary> = client.list_up_to(&path, args.lines.unwrap_or(usize::MAX)).await?;
    format.list(&all, |all| {
        let mut table = Table::new(&[
            "=id",
            "name",
            "state",
            "stage",
            ">tokens",
            ">budget",
            ">vs dense",
            ">left",
            "=submitted",
            "by",
            "labels",
        ]);
        for experiment in all {
            let running = experiment.stages.iter().find(|stage| stage.state == StageState::Running);
            table.row::<Cell>(vec![
                short(experiment.id).into(),
                experiment.name.as_str().into(),
                words::name(&experiment.state).into(),
                running.map(|stage| words::name(&stage.stage)).unwrap_or_default().into(),
                cell::tokens(experiment.tokens_done),
                cell::tokens(experiment.tokens_total),
                experiment.ensemble_vs_dense_percent.map(cell::percent_signed).into(),
                experiment.seconds_left.map(cell::duration).into(),
                cell::ago(experiment.created_at, Utc::now()),
                experiment.owner.as_str().into(),
                experiment.labels.join(", ").into(),
            ]);
        }
        Listed::new(table, said!("none_experiments"))
    })
}

/// Shows one.
///
/// # Errors
/// When there is none such.
pub async fn show(client: &Client, format: Format, args: &Id) -> CliResult {
    let id = resolve::experiment(client, &args.id).await?;
    let view: ExperimentView = client.get(&format!("/experiments/{id}")).await?;
    format.print(&view, |view| describe(view, format.width()))
}

/// Changes priority, deadline or budget.
///
/// # Errors
/// When nothing is given, or the experiment is over.
pub async fn set(client: &Client, format: Format, args: &Set) -> CliResult {
    let id = resolve::experiment(client, &args.experiment.id).await?;
    let given = [args.slot_hours, args.wall_hours].iter().any(Option::is_some);
    if !given && args.priority.is_none() && args.deadline.is_none() {
        return Err(CliError::refused(&said!("nothing_to_set")));
    }
    let mut budget = None;
    if given {
        let view: ExperimentView = client.get(&format!("/experiments/{id}")).await?;
        let so_far = view.spec.budget;
        budget = Some(BudgetSpec {
            slot_hours: args.slot_hours.or(so_far.slot_hours),
            wall_hours: args.wall_hours.or(so_far.wall_hours),
        });
    }
    let body =
        ChangeExperiment { priority: args.priority, deadline: args.deadline, budget, ..ChangeExperiment::default() };
    let view: ExperimentView = client.patch(&format!("/experiments/{id}"), &body).await?;
    format.print(&view, |view| {
        let summary = &view.summary;
        own(&said!(
            "stands_with_priority",
            name = &summary.name,
            state = words::name(&summary.state),
            priority = u64::from(summary.priority),
        ))
    })
}

fn describe(view: &ExperimentView, width: Option<usize>) -> String {
    let summary = &view.summary;
    let mut text = format!("{}  {}  {}\n", summary.name, words::name(&summary.state), summary.id);
    if !view.spec.description.is_empty() {
        let _ = writeln!(text, "{}", view.spec.description);
    }
    if !summary.labels.is_empty() {
        let _ = writeln!(text, "{}", summary.labels.join(", "));
    }
    if !view.note.is_empty() {
        let _ = writeln!(text, "\n{}\n", view.note.trim_end());
    }
    if let Some(problem) = &summary.problem {
        let _ = writeln!(text, "{problem}");
    }
    if let Some(waits_for) = &view.waits_for {
        let _ = writeln!(text, "{waits_for}");
    }
    let submitted = said!(
        "experiment_submitted_by",
        corpus = &view.spec.corpus,
        priority = summary.priority,
        ago = words::ago(summary.created_at, Utc::now()),
        owner = &summary.owner
    );
    let _ = writeln!(text, "{}\n", own(&submitted));
    let mut limits: Vec<Said> = Vec::new();
    limits.extend(view.spec.deadline.map(|at| said!("limit_deadline", at = words::at_zone(at))));
    limits.extend(view.spec.budget.slot_hours.map(|hours| said!("limit_slot_hours", hours = hours)));
    limits.extend(view.spec.budget.wall_hours.map(|hours| said!("limit_wall_hours", hours = hours)));
    if !limits.is_empty() {
        let _ = writeln!(text, "{}\n", own(&said!("listed", items = limits)));
    }
    for stage in &summary.stages {
        text.push_str(&follow::stage_line(stage, width));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&branch_table(&view.branches).render_in(width));
    text.push_str(&why(&view.branches));
    text
}

/// The branches of an experiment.
#[must_use]
pub fn branch_table(branches: &[BranchView]) -> Table {
    let mut table = Table::new(&[
        "branch", "role", "state", ">step", ">steps", ">tokens", ">budget", ">loss", ">rate", ">left", "worker", "=id",
    ]);
    for branch in branches {
        table.row::<Cell>(vec![
            branch.name.as_str().into(),
            words::name(&branch.role).into(),
            words::name(&branch.state).into(),
            cell::count(branch.step),
            cell::count(branch.steps),
            cell::tokens(branch.tokens),
            cell::tokens(branch.tokens_total),
            branch.loss.map(|loss| cell::number(loss, 3)).into(),
            branch.tokens_per_second.map(cell::rate).into(),
            branch.seconds_left.map(cell::duration).into(),
            branch.worker.clone().unwrap_or_default().into(),
            short(branch.id).into(),
        ]);
    }
    table
}

/// Why branches are where they are, a line each.
#[must_use]
pub fn why(branches: &[BranchView]) -> String {
    let line = |branch: &BranchView| Some(format!("{}: {}\n", branch.name, branch.why.as_deref()?));
    branches.iter().filter_map(line).collect()
}
