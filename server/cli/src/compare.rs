//! `senmon compare A B`: what differs between two experiment files, and the figures of their reports side by side.

use crate::{
    cell::{self, Cell},
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::Format,
    resolve::{self, short},
    table::Table,
    words,
};
use clap::Args;
use senmon_protocol::{
    ids::ExperimentId,
    report::{Contestant, Report},
    said,
    view::ExperimentView,
};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write as _};

/// Arguments.
#[derive(Debug, Args)]
pub struct Compare {
    /// An experiment: id, part of one, or name.
    #[arg(value_name = "A")]
    a: String,
    /// The other one.
    #[arg(value_name = "B")]
    b: String,
}

/// A key whose value differs; null where a file does not say it.
#[derive(Debug, Serialize, PartialEq)]
struct Difference {
    path: String,
    a: Value,
    b: Value,
}

/// One experiment of the two.
#[derive(Debug, Serialize)]
struct Side {
    id: ExperimentId,
    name: String,
    state: String,
    report: Option<Report>,
    #[serde(skip)]
    file: Value,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Compared {
    a: Side,
    b: Side,
    file: Vec<Difference>,
}

/// What must be equal for perplexities to compare: the same held-out text in the same tokens.
const COMPARABLE: [&str; 5] = ["corpus", "clustering", "tokenizer", "data", "evaluation"];

/// Compares.
///
/// # Errors
/// When there is no such experiment.
pub async fn compare(client: &Client, format: Format, args: &Compare) -> CliResult {
    let (a, b) = (side(client, &args.a).await?, side(client, &args.b).await?);
    let file = differences(&a.file, &b.file);
    let compared = Compared { a, b, file };
    format.print(&compared, |compared| render(compared, format.width()))
}

async fn side(client: &Client, text: &str) -> CliResult<Side> {
    let id = resolve::experiment(client, text).await?;
    let view: ExperimentView = client.get(&format!("/experiments/{id}")).await?;
    // One that is under way has none yet.
    let report = match client.get(&format!("/experiments/{id}/report")).await {
        Ok(report) => Some(report),
        Err(CliError::Refused(_)) => None,
        Err(error) => return Err(error),
    };
    let file = serde_json::to_value(&view.spec)
        .map_err(|error| CliError::failed(&said!("spec_unwritten", why = error.to_string())))?;
    Ok(Side { id, name: view.summary.name, state: words::name(&view.summary.state), report, file })
}

/// The keys that differ, by path.
fn differences(a: &Value, b: &Value) -> Vec<Difference> {
    let (a, b) = (flat(a), flat(b));
    let value = |side: &BTreeMap<String, Value>, path: &String| side.get(path).cloned().unwrap_or_default();
    let paths: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differing = paths.into_iter().filter(|path| a.get(*path) != b.get(*path));
    differing.map(|path| Difference { path: path.clone(), a: value(&a, path), b: value(&b, path) }).collect()
}

/// Values by path; lists of plain values and what is empty are values. Null is what a file does not say.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    fn walk(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                for (name, value) in entries {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(value, &path, into);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (i, item) in items.iter().enumerate() {
                    walk(item, &format!("{path}[{i}]"), into);
                }
            }
            Value::Null => {}
            other => drop(into.insert(path.to_owned(), other.clone())),
        }
    }
    let mut into = BTreeMap::new();
    walk(value, "", &mut into);
    into
}

fn render(compared: &Compared, width: Option<usize>) -> String {
    let Compared { a, b, file } = compared;
    let title = |side: &Side| format!("{} {}", side.name, short(side.id));
    let (title_a, title_b) = (title(a), title(b));
    let word = |value: &Value| match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut table = Table::new(&["", &title_a, &title_b]);
    table.row(vec!["state", a.state.as_str(), b.state.as_str()]);
    for difference in file {
        table.row(vec![difference.path.clone(), word(&difference.a), word(&difference.b)]);
    }
    let mut text = table.render_in(width);
    if file.is_empty() {
        let _ = writeln!(text, "{}", own(&said!("files_alike")));
    }
    let (Some(report_a), Some(report_b)) = (&a.report, &b.report) else {
        for side in [a, b].into_iter().filter(|side| side.report.is_none()) {
            let _ = writeln!(text, "\n{}", own(&said!("has_no_report", name = title(side))));
        }
        return text;
    };
    let _ = write!(text, "\n{}", figures(report_a, report_b).render_in(width));
    let unlike: Vec<&str> = COMPARABLE
        .into_iter()
        .filter(|key| file.iter().any(|found| found.path == *key || found.path.starts_with(&format!("{key}."))))
        .collect();
    if !unlike.is_empty() {
        let _ = writeln!(text, "{}", own(&said!("perplexities_unlike", keys = unlike)));
    }
    let _ = write!(text, "\nA: {}\nB: {}\n", report_a.headline, report_b.headline);
    text
}

fn figures(a: &Report, b: &Report) -> Table {
    let mut table = Table::new(&["", ">perplexity A", ">B", ">B over A", ">vs dense A", ">B", ">hours A", ">B"]);
    let find = |report: &'_ Report, key: &str| report.contestants.iter().position(|line| line.key == key);
    let mut keys: Vec<&Contestant> = a.contestants.iter().collect();
    keys.extend(b.contestants.iter().filter(|line| find(a, &line.key).is_none()));
    for contestant in keys {
        let of = |report| find(report, &contestant.key);
        let (in_a, in_b) = (of(a).map(|i| &a.contestants[i]), of(b).map(|i| &b.contestants[i]));
        let perplexity = |line: Option<&Contestant>| line.and_then(|line| line.perplexity);
        let against = |line: Option<&Contestant>| -> Cell {
            line.and_then(|line| line.vs_dense.map(|found| found.percent).or(line.vs_dense_percent))
                .map(cell::percent_signed)
                .into()
        };
        let hours = |line: Option<&Contestant>| -> Cell {
            line.map(|line| cell::number(line.cost.gpu_hours + line.cost.cpu_slot_hours, 2)).into()
        };
        let change = perplexity(in_a).zip(perplexity(in_b)).map(|(a, b)| cell::percent_signed(100.0 * (b / a - 1.0)));
        table.row::<Cell>(vec![
            contestant.title.as_str().into(),
            perplexity(in_a).map(|found| cell::number(found, 2)).into(),
            perplexity(in_b).map(|found| cell::number(found, 2)).into(),
            change.into(),
            against(in_a),
            against(in_b),
            hours(in_a),
            hours(in_b),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_shown_by_its_path() {
        let a = json!({ "name": "a", "training": { "slots": 1, "rate": 0.1 }, "plan": [{ "kind": "fan_out" }], "top_k": [1, 2], "budget": null });
        let b = json!({ "name": "b", "training": { "slots": 1, "rate": 0.2 }, "plan": [{ "kind": "fan_out", "share": "equal" }], "top_k": [1] });
        let found: Vec<String> =
            differences(&a, &b).iter().map(|found| format!("{} {} {}", found.path, found.a, found.b)).collect();
        assert_eq!(
            found,
            ["name \"a\" \"b\"", "plan[0].share null \"equal\"", "top_k [1,2] [1]", "training.rate 0.1 0.2"]
        );
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(json!(null)), any::<bool>().prop_map(Value::from), any::<u8>().prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[ab]{1,2}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_file_differs_in_nothing_from_itself(a in json_value(), b in json_value()) {
            prop_assert_eq!(differences(&a, &a), []);
            prop_assert_eq!(differences(&a, &b).len(), differences(&b, &a).len());
        }
    }
}
