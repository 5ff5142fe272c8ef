//! `senmon export`: the curves of an experiment or a branch, every point, as CSV, JSON Lines or Parquet.

use crate::{
    client::{Client, encoded},
    columns,
    error::{CliError, CliResult},
    lang::own,
    points::{self, Curves, HEADS},
    resolve, words,
};
use chrono::SecondsFormat;
use clap::{Args, ValueEnum};
use senmon_protocol::{
    ids::BranchId,
    said,
    view::{BranchView, ExperimentView, MetricsView},
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufWriter, IsTerminal as _, Write},
    path::PathBuf,
};

/// Steps asked for at once: as many points as the server gives, so that none are averaged.
const STEPS_MAX: u64 = 10_000;

/// Arguments.
#[derive(Debug, Args)]
pub struct Export {
    /// An experiment, or EXPERIMENT/BRANCH.
    #[arg(value_name = "EXPERIMENT")]
    of: String,
    /// Form of the file.
    #[arg(long, value_enum, default_value_t = As::Csv)]
    format: As,
    /// Metric names, separated by commas; all when absent.
    #[arg(long, value_name = "A,B")]
    keys: Option<String>,
    /// Points of a curve, at most: longer ones are averaged. Without it every point that the server has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    points: Option<u32>,
    /// The file; standard output when absent.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Forms of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum As {
    /// A line with the names, then one a point; a column a metric.
    Csv,
    /// An object a line.
    Jsonl,
    /// Columns, for pandas and its like.
    Parquet,
}

/// Exports.
///
/// # Errors
/// When there is no such experiment or branch, or the file cannot be written.
pub async fn export(client: &Client, args: &Export) -> CliResult {
    if args.format == As::Parquet && args.file.is_none() && std::io::stdout().is_terminal() {
        return Err(CliError::Refused(own(&said!("parquet_needs_file"))));
    }
    let (experiment, branches) = branches(client, &args.of).await?;
    let mut all = Vec::new();
    for branch in branches {
        let pieces = pieces(client, branch.id, branch.step, args).await?;
        all.push(Curves { branch: branch.name, role: words::name(&branch.role), pieces });
    }
    let failed = |error: std::io::Error| match &args.file {
        Some(path) => CliError::Failed(format!("{}: {error}", path.display())),
        None => CliError::failed(&said!("curves_unwritten", why = error.to_string())),
    };
    match &args.file {
        Some(path) => {
            let mut file = BufWriter::new(File::create(path).map_err(failed)?);
            write(&mut file, args.format, &experiment, &all).and_then(|()| file.flush()).map_err(failed)
        }
        None => {
            let mut stdout = BufWriter::new(std::io::stdout());
            match write(&mut stdout, args.format, &experiment, &all).and_then(|()| stdout.flush()) {
                // A reader that has gone away (| head) had enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                done => done.map_err(failed),
            }
        }
    }
}

/// The name of the experiment, and the branches asked for.
async fn branches(client: &Client, text: &str) -> CliResult<(String, Vec<BranchView>)> {
    if text.contains('/') {
        let id = resolve::branch(client, text).await?;
        let branch: BranchView = client.get(&format!("/branches/{id}")).await?;
        let view: ExperimentView = client.get(&format!("/experiments/{}", branch.experiment_id)).await?;
        return Ok((view.summary.name, vec![branch]));
    }
    let id = resolve::experiment(client, text).await?;
    let view: ExperimentView = client.get(&format!("/experiments/{id}")).await?;
    Ok((view.summary.name, view.branches))
}

async fn pieces(client: &Client, id: BranchId, step: u64, args: &Export) -> CliResult<Vec<MetricsView>> {
    let keys = args.keys.as_ref().map(|keys| format!("&keys={}", encoded(keys))).unwrap_or_default();
    let points = args.points.map_or(STEPS_MAX, u64::from);
    let path = format!("/branches/{id}/metrics?points_max={points}{keys}");
    if args.points.is_some() {
        return Ok(vec![client.get(&path).await?]);
    }
    let mut pieces = Vec::new();
    for (from, to) in windows(step) {
        pieces.push(client.get(&format!("{path}&step_from={from}&step_to={to}")).await?);
    }
    Ok(pieces)
}

/// Steps from, to, both within: every step to `last` once.
fn windows(last: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..=last / STEPS_MAX).map(|window| (window * STEPS_MAX, (window + 1) * STEPS_MAX - 1))
}

fn write(to: &mut (impl Write + Send), form: As, experiment: &str, all: &[Curves]) -> std::io::Result<()> {
    let keys = points::keys(all);
    match form {
        As::Parquet => return columns::write(to, experiment, all).map_err(std::io::Error::other),
        As::Csv => {
            let heads = HEADS.into_iter().chain(keys.iter().copied());
            writeln!(to, "{}", heads.map(quoted).collect::<Vec<_>>().join(","))?;
        }
        As::Jsonl => {}
    }
    for point in points::of(all) {
        let at = point.at.to_rfc3339_opts(SecondsFormat::Millis, true);
        if form == As::Csv {
            let begin = [quoted(experiment), quoted(point.branch), quoted(point.role), point.step.to_string()];
            let values = keys.iter().map(|key| point.value(key).map(|value| value.to_string()).unwrap_or_default());
            let all = begin.into_iter().chain([point.tokens.to_string(), at]).chain(values);
            writeln!(to, "{}", all.collect::<Vec<_>>().join(","))?;
        } else {
            let mut line = json!({ "experiment": experiment, "branch": point.branch, "role": point.role, "step": point.step, "tokens": point.tokens, "time": at });
            for key in &keys {
                if let Some(value) = point.value(key) {
                    line[*key] = Value::from(value);
                }
            }
            writeln!(to, "{line}")?;
        }
    }
    Ok(())
}

/// A field of CSV (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::sample;
    use proptest::prelude::*;

    fn text(form: As) -> String {
        let mut text = Vec::new();
        write(&mut text, form, "a, \"b\"", &sample()).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn csv_has_a_column_a_metric() {
        assert_eq!(
            text(As::Csv),
            "experiment,branch,role,step,tokens,time,train/learning_rate,train/loss\n\
             \"a, \"\"b\"\"\",expert-0,expert,5,20480,1970-01-01T00:00:01.000Z,0.001,3.5\n\
             \"a, \"\"b\"\"\",expert-0,expert,10,40960,1970-01-01T00:00:02.500Z,0.002,\n"
        );
    }

    #[test]
    fn json_lines_have_an_object_a_point() {
        let lines: Vec<Value> = text(As::Jsonl).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["train/loss"], &lines[1]["step"]), (&json!(3.5), &json!(10)));
        assert!(lines[1].get("train/loss").is_none());
    }

    proptest! {
        #[test]
        fn every_step_is_asked_for_once(last in 0_u64..1_000_000) {
            let windows: Vec<(u64, u64)> = windows(last).collect();
            prop_assert_eq!(windows[0].0, 0);
            prop_assert!(windows.last().unwrap().1 >= last && windows.last().unwrap().0 <= last);
            prop_assert!(windows.iter().all(|(from, to)| to - from + 1 == STEPS_MAX));
            prop_assert!(windows.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
        }
    }
}
