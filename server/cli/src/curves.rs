//! `senmon export`: the curves of an experiment or a branch, every point, as CSV or JSON Lines.

use crate::{
    client::{Client, encoded},
    error::{CliError, CliResult},
    resolve, words,
};
use chrono::{DateTime, SecondsFormat};
use clap::{Args, ValueEnum};
use senmon_protocol::{
    ids::BranchId,
    said,
    view::{BranchView, ExperimentView, MetricsView},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufWriter, Write},
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
}

/// Curves of one branch.
#[derive(Debug)]
struct Curves {
    branch: String,
    role: String,
    pieces: Vec<MetricsView>,
}

/// Exports.
///
/// # Errors
/// When there is no such experiment or branch, or the file cannot be written.
pub async fn export(client: &Client, args: &Export) -> CliResult {
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
            let mut stdout = BufWriter::new(std::io::stdout().lock());
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

fn write(to: &mut impl Write, form: As, experiment: &str, all: &[Curves]) -> std::io::Result<()> {
    let pieces = || all.iter().flat_map(|curves| &curves.pieces);
    let keys: BTreeSet<&str> = pieces().flat_map(|piece| piece.series.keys().map(String::as_str)).collect();
    if form == As::Csv {
        let heads = ["experiment", "branch", "role", "step", "tokens", "time"];
        writeln!(to, "{}", heads.into_iter().chain(keys.iter().copied()).map(quoted).collect::<Vec<_>>().join(","))?;
    }
    for curves in all {
        for piece in &curves.pieces {
            for (row, step) in piece.steps.iter().enumerate() {
                let tokens = piece.tokens.get(row).copied().unwrap_or_default();
                let at = piece.at_ms.get(row).copied().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
                let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
                let value = |key: &str| piece.series.get(key)?.mean.get(row).copied().flatten();
                match form {
                    As::Csv => {
                        let begin = [
                            quoted(experiment),
                            quoted(&curves.branch),
                            quoted(&curves.role),
                            step.to_string(),
                            tokens.to_string(),
                            at,
                        ];
                        let values =
                            keys.iter().map(|key| value(key).map(|value| value.to_string()).unwrap_or_default());
                        writeln!(to, "{}", begin.into_iter().chain(values).collect::<Vec<_>>().join(","))?;
                    }
                    As::Jsonl => {
                        let mut line = json!({ "experiment": experiment, "branch": curves.branch, "role": curves.role, "step": step, "tokens": tokens, "time": at });
                        for key in &keys {
                            if let Some(value) = value(key) {
                                line[*key] = Value::from(value);
                            }
                        }
                        writeln!(to, "{line}")?;
                    }
                }
            }
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
    use proptest::prelude::*;
    use senmon_protocol::view::Curve;
    use std::collections::BTreeMap;

    fn sample() -> Vec<Curves> {
        let curve = |mean: Vec<Option<f64>>| Curve { mean, min: None, max: None };
        let series = BTreeMap::from([
            ("train/loss".to_owned(), curve(vec![Some(3.5), None])),
            ("train/learning_rate".to_owned(), curve(vec![Some(0.001), Some(0.002)])),
        ]);
        let piece = MetricsView {
            branch_id: uuid::Uuid::nil().to_string().parse().unwrap(),
            steps: vec![5, 10],
            tokens: vec![20_480, 40_960],
            at_ms: vec![1_000, 2_500],
            series,
            superseded: vec![],
            events: vec![],
        };
        vec![Curves { branch: "expert-0".into(), role: "expert".into(), pieces: vec![piece] }]
    }

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
