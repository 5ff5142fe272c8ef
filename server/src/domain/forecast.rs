//! When an experiment ends: what is left of it as tasks for the timetable, and the end of each stage.

use crate::domain::{
    advance::experiment::is_compared,
    expand::PlannedBranch,
    rates::Speeds,
    timetable::{Slots, Task, ends},
};
use senmon_protocol::{
    resources::DeviceKind,
    spec::{EvaluationSpec, ExperimentSpec, SeedSpec},
    view::{BranchRole, Stage},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// What is left of one branch, and of its evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchLeft {
    /// What it is for.
    pub role: BranchRole,
    /// Which training with another seed, from 0.
    pub repeat: u32,
    /// Its parent's place in the list, where it waits for that.
    pub parent: Option<usize>,
    /// Tokens that it has yet to train.
    pub tokens: u64,
    /// Slots of its training.
    pub slots: u16,
    /// Whether it trains now, and how fast: tokens a second of all its slots.
    pub rate: Option<f64>,
    /// Whether it is trained or given up.
    pub is_over: bool,
    /// Whether an evaluation of it is still to come.
    pub is_scored_later: bool,
}

/// What is left of an experiment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Left {
    /// Higher goes first.
    pub priority: u8,
    /// Device that training and evaluation need.
    pub device: Option<DeviceKind>,
    /// Whether clustering and tokenizer are still to come.
    pub discovers: bool,
    /// Bytes of text of each file that is not tokenised yet.
    pub shard: Vec<u64>,
    /// The same of each that is not compared with the held-out documents yet.
    pub compare: Vec<u64>,
    /// The branches, parents before children.
    pub branches: Vec<BranchLeft>,
    /// Tokens that an evaluation scores.
    pub held_out_tokens: u64,
    /// Comparisons that are still to come, one a repeat: the models of each.
    pub comparisons: Vec<u32>,
}

impl Left {
    /// The same with all budgets of training multiplied.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    pub fn times(&self, times: f64) -> Self {
        let mut left = self.clone();
        left.branches.iter_mut().for_each(|branch| branch.tokens = (branch.tokens as f64 * times) as u64);
        left
    }
}

/// Tokens that an evaluation scores, of held-out documents and their tokens by domain: the documents that the file asks
/// for, each of the mean length, cut where the file cuts.
#[must_use]
pub fn held_out_tokens(spec: &EvaluationSpec, domains: impl Iterator<Item = (u64, u64)>) -> u64 {
    let scored = |(documents, tokens): (u64, u64)| {
        let each = (tokens / documents.max(1)).min(u64::from(spec.tokens_per_document_max));
        // Where nothing is known of the text: documents as long as that.
        documents.min(u64::from(spec.documents_per_domain)).saturating_mul(each.max(1))
    };
    domains.map(scored).fold(0, u64::saturating_add)
}

/// What is left of an experiment that has not begun; `files` are the bytes of text of each.
#[must_use]
pub fn of_plan(spec: &ExperimentSpec, branches: &[PlannedBranch], files: &[u64], held_out_tokens: u64) -> Left {
    let places: BTreeMap<&str, usize> = branches.iter().map(|branch| branch.name.as_str()).zip(0..).collect();
    let of_branch = |branch: &PlannedBranch| {
        let is_there = branch.role == BranchRole::Seed && matches!(spec.seed, SeedSpec::Checkpoint(_));
        BranchLeft {
            role: branch.role,
            repeat: branch.repeat,
            parent: branch.parent.as_deref().and_then(|name| places.get(name).copied()),
            tokens: branch.tokens(),
            slots: branch.training.as_ref().map_or(1, |training| training.slots),
            rate: None,
            is_over: is_there || branch.left_out.is_some(),
            is_scored_later: branch.left_out.is_none(),
        }
    };
    let left: Vec<BranchLeft> = branches.iter().map(of_branch).collect();
    Left {
        priority: spec.priority,
        device: spec.resources.device,
        discovers: true,
        compare: if spec.data.decontaminate { files.to_vec() } else { Vec::new() },
        shard: files.to_vec(),
        held_out_tokens,
        comparisons: comparisons(&left),
        branches: left,
    }
}

/// Models of each repeat that has some to compare.
#[must_use]
pub fn comparisons(branches: &[BranchLeft]) -> Vec<u32> {
    let compared = || branches.iter().filter(|branch| is_compared(branch.role));
    let repeats: BTreeSet<u32> = compared().map(|branch| branch.repeat).collect();
    let models = |repeat: u32| compared().filter(|branch| branch.repeat == repeat).count();
    repeats.into_iter().map(|repeat| u32::try_from(models(repeat)).unwrap_or(u32::MAX)).collect()
}

/// A task and the stage that it belongs to.
pub type Staged = (Stage, Task);

/// The end of each stage, seconds from now; None where nothing says how long it takes.
pub type StageEnds = BTreeMap<Stage, Option<f64>>;

/// Adds the tasks of one experiment to those of the others. Work that was never measured is left out, and its stage
/// noted in what is given back; None where nothing says how fast training is, so that there is no end to tell.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub fn lay_out(left: &Left, speeds: &Speeds, tasks: &mut Vec<Staged>) -> Option<Vec<Stage>> {
    let mut unmeasured = Vec::new();
    let mut add = |stage: Stage, seconds: f64, slots: u16, is_running: bool, device, after: Vec<usize>| {
        let task = Task { seconds, slots: slots.into(), device, priority: left.priority, is_running, after };
        tasks.push((stage, task));
        tasks.len() - 1
    };
    if left.discovers {
        unmeasured.push(Stage::Discover);
    }
    let mut files = |stage, bytes: &[u64], speed: Option<f64>, after: &[usize], add: &mut dyn FnMut(f64) -> usize| {
        let Some(speed) = speed.filter(|_| !bytes.is_empty()) else {
            unmeasured.extend((!bytes.is_empty()).then_some(stage));
            return after.to_vec();
        };
        bytes.iter().map(|bytes| add(*bytes as f64 / speed)).collect()
    };
    let sharded =
        files(Stage::Shard, &left.shard, speeds.shard, &[], &mut |s| add(Stage::Shard, s, 1, false, None, Vec::new()));
    let compared = files(Stage::Evaluate, &left.compare, speeds.decontaminate, &sharded, &mut |s| {
        add(Stage::Evaluate, s, 1, false, None, sharded.clone())
    });
    let mut places: Vec<Option<usize>> = Vec::with_capacity(left.branches.len());
    let mut scored = Vec::new();
    for (i, branch) in left.branches.iter().enumerate() {
        let stage = match branch.role {
            BranchRole::Seed => Stage::Seed,
            BranchRole::Average => Stage::Merge,
            _ => Stage::Branches,
        };
        let place = if branch.is_over {
            None
        } else {
            let after = match branch.role {
                BranchRole::Average => (0..i)
                    .filter(|&j| {
                        left.branches[j].role == BranchRole::Expert && left.branches[j].repeat == branch.repeat
                    })
                    .filter_map(|j| places[j])
                    .collect(),
                _ => match branch.parent {
                    Some(parent) => places.get(parent).copied().flatten().into_iter().collect(),
                    None => sharded.clone(),
                },
            };
            let seconds = match (branch.tokens, branch.rate) {
                (0, _) => 0.0,
                (tokens, Some(rate)) => tokens as f64 / rate,
                (tokens, None) => {
                    tokens as f64 / (speeds.train? * f64::from(branch.slots.max(1))) + speeds.train_overhead
                }
            };
            Some(add(stage, seconds, branch.slots.max(1), branch.rate.is_some(), left.device, after))
        };
        places.push(place);
        if branch.is_scored_later {
            let seconds = left.held_out_tokens as f64 / speeds.scoring()?;
            let after = place.into_iter().chain(compared.iter().copied()).collect();
            scored.push(add(Stage::Evaluate, seconds, 1, false, left.device, after));
        }
    }
    for models in &left.comparisons {
        let tokens = left.held_out_tokens.saturating_mul(u64::from(*models)) as f64;
        // Where it was never measured: as long as one evaluation.
        let seconds = match speeds.ensemble {
            Some(speed) => tokens / speed,
            None => left.held_out_tokens as f64 / speeds.scoring()?,
        };
        add(Stage::Evaluate, seconds, 1, false, None, scored.clone());
    }
    unmeasured.dedup();
    Some(unmeasured)
}

/// When each stage of the tasks from `first` on ends.
#[must_use]
pub fn stage_ends(tasks: &[Staged], slots: Slots, of: &[Range<usize>]) -> Vec<StageEnds> {
    let plain: Vec<Task> = tasks.iter().map(|(_, task)| task.clone()).collect();
    let ends = ends(&plain, slots);
    let stages = |range: &Range<usize>| {
        let mut found = StageEnds::new();
        for i in range.clone() {
            let last = found.entry(tasks[i].0).or_insert(Some(0.0));
            *last = last.zip(ends[i]).map(|(last, end)| last.max(end));
        }
        found
    };
    of.iter().map(stages).collect()
}

/// The end of the last stage; None where one has none.
#[must_use]
pub fn end(stages: &StageEnds) -> Option<f64> {
    stages.values().try_fold(0.0, |last: f64, end| Some(last.max((*end)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expand::{Domains, expand, tests::spec};

    const SPEEDS: Speeds = Speeds {
        train: Some(64.0),
        train_overhead: 0.0,
        evaluate: Some(10.0),
        shard: Some(100.0),
        decontaminate: Some(50.0),
        ensemble: None,
    };

    fn ends_of(tasks: &[Staged]) -> StageEnds {
        let whole = 0..tasks.len();
        stage_ends(tasks, Slots { cpu: 100, cuda: 0 }, std::slice::from_ref(&whole)).pop().unwrap()
    }

    fn planned(spec: &ExperimentSpec) -> Left {
        let found = expand(spec, &Domains { windows: &[1 << 30, 1 << 30], order: &[0, 1] });
        of_plan(spec, &found.branches, &[1000, 1000], 100)
    }

    #[test]
    fn stages_follow_each_other_and_evaluations_go_on_beside_training() {
        let mut spec = spec();
        spec.data.decontaminate = true;
        let left = planned(&spec);
        let mut tasks = Vec::new();
        assert_eq!(lay_out(&left, &SPEEDS, &mut tasks), Some(vec![Stage::Discover]));
        let ends = ends_of(&tasks);
        let at = |stage| ends[&stage].unwrap();
        // Two files of 1,000 bytes; a seed of 100 s; branches of 30 s; ten seconds an evaluation, ten to compare all.
        assert_eq!([Stage::Shard, Stage::Seed, Stage::Branches].map(at), [10.0, 110.0, 140.0]);
        assert_eq!(at(Stage::Evaluate), 160.0);
        assert_eq!(end(&ends), Some(160.0));
    }

    #[test]
    fn what_was_never_measured_is_named_and_training_is_needed() {
        let left = planned(&spec());
        let slow = Speeds { shard: None, evaluate: None, ..SPEEDS };
        assert_eq!(lay_out(&left, &slow, &mut Vec::new()), Some(vec![Stage::Discover, Stage::Shard]));
        assert_eq!(lay_out(&left, &Speeds { train: None, ..SPEEDS }, &mut Vec::new()), None);
    }

    #[test]
    fn a_branch_that_runs_goes_on_at_its_own_rate() {
        let mut left = planned(&spec());
        for branch in &mut left.branches {
            (branch.is_over, branch.is_scored_later) = (branch.role == BranchRole::Seed, false);
        }
        (left.shard, left.comparisons) = (Vec::new(), Vec::new());
        let running = left.branches.iter_mut().find(|branch| branch.role == BranchRole::Dense).unwrap();
        running.rate = Some(6.4);
        let mut tasks = Vec::new();
        lay_out(&left, &SPEEDS, &mut tasks).unwrap();
        let ends = ends_of(&tasks);
        assert_eq!(end(&ends), Some(300.0));
    }

    #[test]
    fn scored_tokens_are_those_that_the_file_asks_for() {
        let spec =
            EvaluationSpec { documents_per_domain: 10, tokens_per_document_max: 50, ..EvaluationSpec::default() };
        assert_eq!(held_out_tokens(&spec, [(4, 80), (100, 100_000), (0, 0)].into_iter()), 80 + 500);
    }
}
