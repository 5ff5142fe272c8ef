//! `senmon tensorboard`: an experiment's curves as event files of TensorBoard, one run a branch, live where asked.
//!
//! The files say how far they are: run again, it goes on where it stopped, whenever and however it was stopped.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::Format,
    resolve,
    table::Table,
    tfevents, words,
};
use clap::Args;
use senmon_protocol::{
    ids::BranchId,
    said,
    said::expected::quoted,
    view::{BranchView, ExperimentState, ExperimentView, MetricsView},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Between two looks at a server.
const PACE: Duration = Duration::from_secs(2);
/// A server that restarts is back by then; one that is not is gone.
const AWAY_MAX: Duration = Duration::from_secs(300);
/// Steps asked for at once, and points for them: more than enough for one a step.
const STEPS_MAX: u64 = 5_000;
const POINTS_MAX: u64 = 10_000;

/// Arguments.
#[derive(Debug, Args)]
pub struct TensorBoard {
    /// Id, 4 or more characters of its beginning or end, or name (the latest of that name).
    #[arg(value_name = "EXPERIMENT")]
    id: String,
    /// Folder of the event files, for `tensorboard --logdir`. Each branch has a folder in it, which is its run.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Go on until the experiment is over: TensorBoard shows points as they come.
    #[arg(long)]
    follow: bool,
}

/// What became of one run.
#[derive(Debug, Serialize)]
struct RunView {
    branch: String,
    /// Points in the file that count.
    points: u64,
    /// Points that were added now.
    points_new: u64,
    file: PathBuf,
}

/// `senmon tensorboard`.
///
/// # Errors
/// When there is no such experiment, the server stays away, or the folder holds something else.
pub async fn write(client: &Client, format: Format, args: &TensorBoard) -> CliResult {
    let id = resolve::experiment(client, &args.id).await?;
    let mut runs = HashMap::new();
    let mut away_since: Option<Instant> = None;
    loop {
        match round(client, &format!("/experiments/{id}"), &args.to, &mut runs).await {
            Ok(is_over) if is_over || !args.follow => break,
            Ok(_) => away_since = None,
            Err(CliError::Unreachable(why)) if args.follow => {
                let since = *away_since.get_or_insert_with(|| {
                    eprintln!("{}", own(&said!("trying_again", why = &why)));
                    Instant::now()
                });
                if since.elapsed() > AWAY_MAX {
                    return Err(CliError::Unreachable(why));
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PACE).await;
    }
    let mut views: Vec<RunView> = runs.into_values().map(Run::view).collect();
    views.sort_by(|one, other| one.branch.cmp(&other.branch));
    format.print(&views, |views| render(views, &args.to))
}

fn render(views: &[RunView], folder: &Path) -> String {
    if views.is_empty() {
        return own(&said!("none_branch_points"));
    }
    let mut table = Table::new(&["run", ">points", ">new"]);
    for view in views {
        table.row(vec![view.branch.clone(), words::count(view.points), words::count(view.points_new)]);
    }
    let shows = said!("tensorboard_shows", folder = folder.display().to_string());
    format!("{}\n{}", table.render(), own(&shows))
}

/// Writes what is new of every branch. True where nothing more will come.
async fn round(client: &Client, path: &str, folder: &Path, runs: &mut HashMap<BranchId, Run>) -> CliResult<bool> {
    let view: ExperimentView = client.get(path).await?;
    for branch in view.branches.iter().filter(|branch| branch.step > 0) {
        let run = match runs.entry(branch.id) {
            std::collections::hash_map::Entry::Occupied(run) => run.into_mut(),
            std::collections::hash_map::Entry::Vacant(none) => none.insert(Run::open(folder, branch)?),
        };
        run.catch_up(client, branch).await?;
    }
    Ok(!matches!(view.summary.state, ExperimentState::Running | ExperimentState::Paused))
}

/// The event file of a branch.
struct Run {
    branch: String,
    path: PathBuf,
    file: File,
    /// Steps in the file that count, with the milliseconds of their points.
    points: BTreeMap<u64, i64>,
    points_new: u64,
    /// The branch when it was looked at last: step and attempts.
    seen: Option<(u64, u32)>,
}

impl Run {
    /// Opens the file of a branch, or makes it.
    fn open(folder: &Path, branch: &BranchView) -> CliResult<Self> {
        // A name becomes a folder, whoever the server is.
        if branch.name.starts_with('.') || branch.name.contains(['/', '\\', '\0']) {
            return Err(CliError::refused(&said!("name_no_folder", name = quoted(&branch.name))));
        }
        let folder = folder.join(&branch.name);
        let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", folder.display()));
        fs::create_dir_all(&folder).map_err(failed)?;
        let own = format!(".{}", branch.id);
        let mut path = folder.join(format!("events.out.tfevents.{}{own}", now_ms() / 1000));
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name.ends_with(&own) {
                path = folder.join(name);
            } else if name.contains("tfevents") {
                let folder = folder.display().to_string();
                return Err(CliError::refused(&said!("folder_of_another", folder = folder, name = name)));
            }
        }
        let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", path.display()));
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if file.try_lock().is_err() {
            let path = path.display().to_string();
            return Err(CliError::refused(&said!("file_of_another", path = path)));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let written = tfevents::read(&bytes);
        file.set_len(written.bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        if written.bytes == 0 {
            file.write_all(&tfevents::header(now_ms())).map_err(failed)?;
        }
        Ok(Self { branch: branch.name.clone(), path, file, points: written.points, points_new: 0, seen: None })
    }

    fn view(self) -> RunView {
        let points = self.points.len() as u64;
        RunView { branch: self.branch, points, points_new: self.points_new, file: self.path }
    }

    /// Writes what the server has and the file has not.
    async fn catch_up(&mut self, client: &Client, branch: &BranchView) -> CliResult {
        let now = (branch.step, branch.attempts);
        if self.seen == Some(now) {
            return Ok(());
        }
        let ask = async |from: u64| {
            let to = from + STEPS_MAX - 1;
            let path = format!("/branches/{}/metrics?points_max={POINTS_MAX}&step_from={from}&step_to={to}", branch.id);
            client.get::<MetricsView>(&path).await
        };
        let mut from = self.points.last_key_value().map_or(0, |(step, _)| *step);
        let mut view = ask(from).await?;
        // An attempt that resumed took the last point back, and perhaps more before it.
        if !self.points.is_empty() && difference(&self.points, (from, from), &view).is_some() {
            from = 0;
            view = ask(from).await?;
        }
        loop {
            let to = from + STEPS_MAX - 1;
            if let Some(step) = difference(&self.points, (from, to), &view) {
                self.append(&tfevents::restart(now_ms(), step))?;
                self.points.split_off(&step);
            }
            self.add(&view)?;
            if to >= branch.step.max(self.points.last_key_value().map_or(0, |(step, _)| *step)) {
                break;
            }
            from = to + 1;
            view = ask(from).await?;
        }
        self.seen = Some(now);
        Ok(())
    }

    /// Writes the points behind the last one of the file.
    fn add(&mut self, view: &MetricsView) -> CliResult {
        let mut bytes = Vec::new();
        let mut new = Vec::new();
        let last = self.points.last_key_value().map(|(step, _)| *step);
        for (i, (&step, &at_ms)) in view.steps.iter().zip(&view.at_ms).enumerate() {
            if last.is_some_and(|last| step <= last) {
                continue;
            }
            // Not every metric is measured at every step.
            let values = view.series.iter().filter_map(|(tag, curve)| Some((tag.as_str(), (*curve.mean.get(i)?)?)));
            bytes.extend(tfevents::point(at_ms, step, values));
            new.push((step, at_ms));
        }
        self.append(&bytes)?;
        self.points_new += new.len() as u64;
        self.points.extend(new);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> CliResult {
        let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", self.path.display()));
        self.file.write_all(bytes).map_err(failed)
    }
}

/// The first step from which on the points of a file, of some steps, are not those of the curve. What the curve has
/// behind the last point of the file is no difference, nor is what the server keeps no more point by point.
fn difference(points: &BTreeMap<u64, i64>, (from, to): (u64, u64), view: &MetricsView) -> Option<u64> {
    if view.series.values().any(|curve| curve.min.is_some()) {
        return None;
    }
    let mut curve = view.steps.iter().zip(&view.at_ms).skip_while(|(step, _)| **step < from);
    for (step, at_ms) in points.range(from..=to) {
        match curve.next() {
            Some(found) if found == (step, at_ms) => {}
            Some((found, _)) => return Some(*step.min(found)),
            None => return Some(*step),
        }
    }
    None
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &[(u64, i64)], steps: (u64, u64), curve: &[(u64, i64)], expect: Option<u64>) {
        let view = MetricsView {
            branch_id: BranchId::new(),
            steps: curve.iter().map(|point| point.0).collect(),
            tokens: vec![0; curve.len()],
            at_ms: curve.iter().map(|point| point.1).collect(),
            series: BTreeMap::new(),
            superseded: Vec::new(),
            events: Vec::new(),
        };
        let file = file.iter().copied().collect();
        assert_eq!(difference(&file, steps, &view), expect, "{file:?} {curve:?}");
    }

    #[test]
    fn what_a_resume_took_back_is_found() {
        let all = (0, 99);
        check(&[], all, &[(1, 10)], None);
        check(&[(1, 10), (2, 20)], all, &[(1, 10), (2, 20), (3, 30)], None);
        check(&[(1, 10), (2, 20), (3, 30)], all, &[(1, 10), (2, 25)], Some(2));
        check(&[(1, 10), (2, 20), (3, 30)], all, &[(1, 10)], Some(2));
        check(&[(1, 10), (4, 20)], all, &[(1, 10), (3, 30)], Some(3));
        check(&[(2, 20)], (2, 2), &[(2, 20), (3, 30)], None);
        check(&[(2, 20)], (2, 2), &[(3, 30)], Some(2));
        check(&[(2, 20)], (2, 2), &[], Some(2));
    }
}
