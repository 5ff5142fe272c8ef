//! Experiments and branches in the words of MLflow: an experiment is an experiment, a branch a run.
//!
//! `filter` reads what its clients search by. Nothing here is ever written to.

pub mod filter;

use crate::domain::metrics::pyramid::Buckets;
use chrono::{DateTime, Utc};
use filter::{Attribute, Entity, Kind, Order, Value};
use senmon_protocol::{
    spec::ExperimentSpec,
    view::{BranchState, BranchView, ExperimentSummary},
};
use serde::Serialize;
use std::cmp::Ordering;

/// A tag or parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// Its name.
    pub key: String,
    /// The value.
    pub value: f64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The step.
    pub step: i64,
}

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Experiment {
    /// Its id.
    pub experiment_id: String,
    /// Its name.
    pub name: String,
    /// Empty: files are fetched from Senmon itself.
    pub artifact_location: String,
    /// `active` or `deleted`.
    pub lifecycle_stage: &'static str,
    /// Milliseconds since the Unix epoch.
    pub creation_time: i64,
    /// Milliseconds since the Unix epoch: its end, once it is over.
    pub last_update_time: i64,
    /// Tags.
    pub tags: Vec<Pair>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// What it is.
    pub info: RunInfo,
    /// What it has.
    pub data: RunData,
}

/// What a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunInfo {
    /// The branch's id.
    pub run_id: String,
    /// The same, as older clients read it.
    pub run_uuid: String,
    /// The branch's name.
    pub run_name: String,
    /// The experiment.
    pub experiment_id: String,
    /// Who submitted it.
    pub user_id: String,
    /// MLflow's word for its state.
    pub status: &'static str,
    /// Milliseconds since the Unix epoch: its first attempt, or the submission where there was none yet.
    pub start_time: i64,
    /// Milliseconds since the Unix epoch, once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<i64>,
    /// Empty: files are fetched from Senmon itself.
    pub artifact_uri: String,
    /// `active` or `deleted`.
    pub lifecycle_stage: &'static str,
}

/// What a run has.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunData {
    /// The last value of each metric.
    pub metrics: Vec<Metric>,
    /// Settings.
    pub params: Vec<Pair>,
    /// Tags.
    pub tags: Vec<Pair>,
}

/// What runs are made of, beside their branches.
#[derive(Debug)]
pub struct Origin<'a> {
    /// The experiment in a list.
    pub summary: &'a ExperimentSummary,
    /// Its file.
    pub spec: &'a ExperimentSpec,
    /// The finding of its report.
    pub headline: Option<&'a str>,
    /// Whether it was deleted.
    pub is_archived: bool,
}

/// First beginning and last end of a branch's attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// When the first began.
    pub started_at: Option<DateTime<Utc>>,
    /// When the last ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Attributes of experiments that a search may name.
pub const EXPERIMENT_ATTRIBUTES: &[Attribute] = &[
    ("experiment_id", Kind::Text),
    ("name", Kind::Text),
    ("creation_time", Kind::Number),
    ("last_update_time", Kind::Number),
];

/// Attributes of runs that a search may name.
pub const RUN_ATTRIBUTES: &[Attribute] = &[
    ("run_id", Kind::Text),
    ("run_name", Kind::Text),
    ("Run name", Kind::Text),
    ("status", Kind::Text),
    ("user_id", Kind::Text),
    ("start_time", Kind::Number),
    ("Created", Kind::Number),
    ("end_time", Kind::Number),
];

impl Experiment {
    /// From what a list shows, and the finding of its report.
    #[must_use]
    pub fn of(summary: &ExperimentSummary, headline: Option<&str>, is_archived: bool) -> Self {
        let mut tags = pairs([
            ("senmon.state", Some(word(&summary.state))),
            ("senmon.owner", Some(summary.owner.clone()).filter(|owner| !owner.is_empty())),
            ("senmon.labels", Some(summary.labels.join(",")).filter(|labels| !labels.is_empty())),
            ("senmon.problem", summary.problem.clone()),
            ("senmon.ensemble_vs_dense_percent", summary.ensemble_vs_dense_percent.map(|percent| percent.to_string())),
            ("senmon.headline", headline.map(str::to_owned)),
        ]);
        tags.extend(headline.map(|text| Pair { key: "mlflow.note.content".into(), value: text.into() }));
        Self {
            experiment_id: summary.id.to_string(),
            name: summary.name.clone(),
            artifact_location: String::new(),
            lifecycle_stage: stage(is_archived),
            creation_time: summary.created_at.timestamp_millis(),
            last_update_time: summary.finished_at.unwrap_or(summary.created_at).timestamp_millis(),
            tags,
        }
    }

    /// What a search looks at.
    #[must_use]
    pub fn look(&self, entity: Entity, key: &str) -> Option<Value> {
        match (entity, key) {
            (Entity::Attribute, "experiment_id") => Some(Value::Text(self.experiment_id.clone())),
            (Entity::Attribute, "name") => Some(Value::Text(self.name.clone())),
            (Entity::Attribute, "creation_time") => Some(number(self.creation_time)),
            (Entity::Attribute, "last_update_time") => Some(number(self.last_update_time)),
            (Entity::Tag, key) => text(&self.tags, key),
            _ => None,
        }
    }
}

impl Run {
    /// From a branch, without the values of its metrics.
    #[must_use]
    pub fn of(origin: &Origin, branch: &BranchView, span: Span) -> Self {
        let is_over = matches!(branch.state, BranchState::Completed | BranchState::Failed | BranchState::Cancelled);
        let info = RunInfo {
            run_id: branch.id.to_string(),
            run_uuid: branch.id.to_string(),
            run_name: branch.name.clone(),
            experiment_id: branch.experiment_id.to_string(),
            user_id: origin.summary.owner.clone(),
            status: match branch.state {
                BranchState::Waiting | BranchState::Queued | BranchState::Paused => "SCHEDULED",
                BranchState::Running => "RUNNING",
                BranchState::Completed => "FINISHED",
                BranchState::Failed => "FAILED",
                BranchState::Cancelled => "KILLED",
            },
            start_time: span.started_at.unwrap_or(origin.summary.created_at).timestamp_millis(),
            end_time: span.finished_at.filter(|_| is_over).map(|at| at.timestamp_millis()),
            artifact_uri: String::new(),
            lifecycle_stage: stage(origin.is_archived),
        };
        let mut params = pairs([
            ("role", Some(word(&branch.role))),
            ("domain", branch.domain.map(|domain| domain.to_string())),
            ("repeat", Some(branch.repeat.to_string())),
            ("steps", Some(branch.steps.to_string())),
            ("tokens", Some(branch.tokens_total.to_string())),
            ("corpus", Some(origin.spec.corpus.clone())),
        ]);
        flatten("training", &json(&branch.training), &mut params);
        flatten("model", &json(&origin.spec.model), &mut params);
        flatten("data", &json(&origin.spec.data), &mut params);
        let tags = pairs([
            ("mlflow.runName", Some(branch.name.clone())),
            ("mlflow.user", Some(origin.summary.owner.clone())),
            ("mlflow.parentRunId", branch.parent_id.map(|id| id.to_string())),
            ("senmon.experiment", Some(origin.summary.name.clone())),
            ("senmon.experiment_id", Some(branch.experiment_id.to_string())),
            ("senmon.branch_id", Some(branch.id.to_string())),
            ("senmon.state", Some(word(&branch.state))),
            ("senmon.why", branch.why.clone()),
            ("senmon.checkpoint_id", branch.checkpoint_id.map(|id| id.to_string())),
            ("senmon.headline", origin.headline.map(str::to_owned)),
        ]);
        Self { info, data: RunData { metrics: Vec::new(), params, tags } }
    }

    /// What a search looks at.
    #[must_use]
    pub fn look(&self, entity: Entity, key: &str) -> Option<Value> {
        let words = |word: &str| Some(Value::Text(word.to_owned()));
        match (entity, key) {
            (Entity::Attribute, "run_id") => words(&self.info.run_id),
            (Entity::Attribute, "run_name" | "Run name") => words(&self.info.run_name),
            (Entity::Attribute, "status") => words(self.info.status),
            (Entity::Attribute, "user_id") => words(&self.info.user_id),
            (Entity::Attribute, "start_time" | "Created") => Some(number(self.info.start_time)),
            (Entity::Attribute, "end_time") => self.info.end_time.map(number),
            (Entity::Attribute, _) => None,
            (Entity::Tag, key) => text(&self.data.tags, key),
            (Entity::Param, key) => text(&self.data.params, key),
            (Entity::Metric, key) => {
                self.data.metrics.iter().find(|metric| metric.key == key).map(|metric| Value::Number(metric.value))
            }
        }
    }
}

/// How two runs follow each other: as asked, then the latest first, as MLflow has it.
#[must_use]
pub fn compare_runs(orders: &[Order], one: &Run, other: &Run) -> Ordering {
    let asked = orders.iter().map(|order| order.compare(&|e, k| one.look(e, k), &|e, k| other.look(e, k)));
    let latest = other.info.start_time.cmp(&one.info.start_time).then_with(|| one.info.run_id.cmp(&other.info.run_id));
    asked.fold(Ordering::Equal, Ordering::then).then(latest)
}

/// The same of experiments.
#[must_use]
pub fn compare_experiments(orders: &[Order], one: &Experiment, other: &Experiment) -> Ordering {
    let asked = orders.iter().map(|order| order.compare(&|e, k| one.look(e, k), &|e, k| other.look(e, k)));
    let latest = other.creation_time.cmp(&one.creation_time).then_with(|| other.experiment_id.cmp(&one.experiment_id));
    asked.fold(Ordering::Equal, Ordering::then).then(latest)
}

/// The values of a metric in buckets of one point each.
#[must_use]
pub fn history(buckets: &Buckets, key: &str) -> Vec<Metric> {
    (0..buckets.len()).filter_map(|i| value(buckets, key, i)).collect()
}

/// Last value of a metric, or the steps among which it is: a bucket of several points does not say which is the last.
#[derive(Debug, Clone, PartialEq)]
pub enum Last {
    /// It.
    Value(Metric),
    /// First and last step of the bucket.
    Within(i64, i64),
}

/// The last value of each metric, or of some of them.
#[must_use]
pub fn last_values(buckets: &Buckets, keys: Option<&[String]>) -> Vec<(String, Last)> {
    let wanted = buckets.series.keys().filter(|key| keys.is_none_or(|keys| keys.contains(key)));
    let last = |key: &String| {
        let (i, metric) = (0..buckets.len()).rev().find_map(|i| Some((i, value(buckets, key, i)?)))?;
        let is_one = buckets.points[i] == 1;
        let place =
            if is_one { Last::Value(metric) } else { Last::Within(buckets.step_first[i], buckets.step_last[i]) };
        Some((key.clone(), place))
    };
    wanted.filter_map(last).collect()
}

fn value(buckets: &Buckets, key: &str, i: usize) -> Option<Metric> {
    let value = buckets.series.get(key)?.mean(i)?;
    Some(Metric { key: key.to_owned(), value, timestamp: buckets.at_ms[i], step: buckets.step_last[i] })
}

/// A page of at most `most` of the items from the place that a token names; and the token of the next page.
///
/// # Errors
/// When the token is none.
pub fn page<T>(items: Vec<T>, token: &str, most: usize) -> Result<(Vec<T>, Option<String>), String> {
    let from: usize = if token.is_empty() {
        0
    } else {
        token.parse().map_err(|_| format!("page_token: found {token:?}, expected one that an answer gave"))?
    };
    let next = from.saturating_add(most);
    let more = (items.len() > next).then(|| next.to_string());
    Ok((items.into_iter().skip(from).take(most).collect(), more))
}

fn stage(is_archived: bool) -> &'static str {
    if is_archived { "deleted" } else { "active" }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of this millennium fit")]
fn number(value: i64) -> Value {
    Value::Number(value as f64)
}

fn text(pairs: &[Pair], key: &str) -> Option<Value> {
    pairs.iter().find(|pair| pair.key == key).map(|pair| Value::Text(pair.value.clone()))
}

fn pairs<const N: usize>(given: [(&str, Option<String>); N]) -> Vec<Pair> {
    given.into_iter().filter_map(|(key, value)| Some(Pair { key: key.into(), value: value? })).collect()
}

fn json<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// The word of a unit enum.
fn word<T: Serialize>(value: &T) -> String {
    json(value).as_str().unwrap_or_default().to_owned()
}

/// `training.learning_rate`: the leaves of settings. Lists are JSON; what is absent has no entry.
fn flatten(path: &str, value: &serde_json::Value, into: &mut Vec<Pair>) {
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, into));
        }
        serde_json::Value::String(text) => into.push(Pair { key: path.into(), value: text.clone() }),
        other => into.push(Pair { key: path.into(), value: other.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::metrics::Points;
    use std::collections::BTreeMap;

    fn points(steps: &[i64], rare: &[Option<f64>]) -> Points {
        Points {
            steps: steps.to_vec(),
            tokens: vec![0; steps.len()],
            at_ms: steps.iter().map(|step| step * 1000).collect(),
            #[expect(clippy::cast_precision_loss, reason = "a test")]
            series: BTreeMap::from([
                ("rare".to_owned(), rare.to_vec()),
                ("train/loss".to_owned(), steps.iter().map(|step| Some(*step as f64)).collect()),
            ]),
        }
    }

    #[test]
    fn the_last_value_is_looked_for_until_it_is_one() {
        let buckets = Buckets::of(points(&[1, 2, 3, 4], &[None, Some(9.0), None, None]));
        let metric =
            |key: &str, value, step| Last::Value(Metric { key: key.into(), value, timestamp: step * 1000, step });
        let found = last_values(&buckets, None);
        let expect = [("rare", metric("rare", 9.0, 2)), ("train/loss", metric("train/loss", 4.0, 4))];
        assert_eq!(found, expect.map(|(key, last)| (key.to_owned(), last)));
        let folded = buckets.fold_to(2);
        let found = last_values(&folded, Some(&["rare".to_owned()]));
        assert_eq!(found, [("rare".to_owned(), Last::Within(1, 2))]);
        assert_eq!(history(&buckets, "rare").len(), 1);
    }

    #[test]
    fn pages_hold_every_item_once() {
        let (first, token) = page(vec![1, 2, 3], "", 2).unwrap();
        assert_eq!((first, token.as_deref()), (vec![1, 2], Some("2")));
        assert_eq!(page(vec![1, 2, 3], "2", 2).unwrap(), (vec![3], None));
        assert!(page(vec![1], "x", 2).unwrap_err().contains("page_token: found \"x\""));
    }

    #[test]
    fn settings_become_parameters_by_their_path() {
        let mut found = Vec::new();
        flatten("model", &serde_json::json!({ "a": { "b": 0.001 }, "c": null, "d": "x", "e": [1] }), &mut found);
        let found: Vec<(&str, &str)> = found.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect();
        assert_eq!(found, [("model.a.b", "0.001"), ("model.d", "x"), ("model.e", "[1]")]);
    }
}
