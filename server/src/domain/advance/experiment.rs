//! What an experiment needs next: facts in, commands out. Asking twice, with the commands carried out in between,
//! changes nothing.

use senmon_protocol::{
    said,
    said::{Said, SaidValue},
    view::{BranchRole, BranchState, Stage, StageState},
};
use std::collections::BTreeSet;

/// Where a fitted artefact stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// Not asked for.
    Absent,
    /// Being fitted.
    Fitting,
    /// There.
    Ready,
    /// Failed, with the reason.
    Failed(String),
}

/// A branch as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchFacts {
    /// Name.
    pub name: String,
    /// Role.
    pub role: BranchRole,
    /// Which training with another seed, from 0.
    pub repeat: u32,
    /// Name of the parent that it waits for; a fork waits for none.
    pub parent: Option<String>,
    /// State.
    pub state: BranchState,
    /// Why it failed.
    pub problem: Option<SaidValue>,
    /// Steps done and in all, in tokens.
    pub tokens: (u64, u64),
}

impl BranchFacts {
    pub(in crate::domain) fn is_over(&self) -> bool {
        matches!(self.state, BranchState::Completed | BranchState::Failed | BranchState::Cancelled)
    }
}

/// What an evaluation is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evaluated {
    /// The last checkpoint of a branch, by the branch's name.
    Branch(String),
    /// The models of a repeat, used together.
    Repeat(u32),
}

/// An evaluation as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationFacts {
    /// What it is of.
    pub of: Evaluated,
    /// Whether it has a result.
    pub done: bool,
    /// Whether its job was given up.
    pub failed: bool,
}

/// Title of the evaluation that mixes and compares the models of one repeat, for people.
#[must_use]
pub fn ensemble_title(repeat: u32) -> String {
    if repeat == 0 { "ensemble".to_owned() } else { format!("ensemble~{}", repeat + 1) }
}

/// Whether a branch is a contestant of its repeat's comparison by its own training; the seed belongs to every repeat.
#[must_use]
pub fn is_compared(role: BranchRole) -> bool {
    matches!(role, BranchRole::Expert | BranchRole::Dense | BranchRole::Random | BranchRole::Average)
}

/// The repeats that have something to compare, ascending.
fn repeats(branches: &[BranchFacts]) -> BTreeSet<u32> {
    branches.iter().filter(|branch| is_compared(branch.role)).map(|branch| branch.repeat).collect()
}

/// Where the comparison of the held-out documents with the training text stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComparisonFacts {
    /// Whether the experiment asks for one.
    pub wanted: bool,
    /// Jobs asked for, one a file.
    pub asked: usize,
    /// Jobs that are over, given up or not.
    pub over: usize,
    /// Whether the list of what is scored is written.
    pub listed: bool,
}

/// Everything known of an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The clustering.
    pub clustering: Fit,
    /// The tokenizer.
    pub tokenizer: Fit,
    /// Input files.
    pub files: usize,
    /// Shard jobs asked for.
    pub shards_asked: usize,
    /// Shard jobs completed.
    pub shards_done: usize,
    /// Why a shard job was given up.
    pub shard_problem: Option<Said>,
    /// Whether the index is written.
    pub indexed: bool,
    /// The comparison of the held-out documents; it goes on beside the training.
    pub comparison: ComparisonFacts,
    /// The branches, parents before children.
    pub branches: Vec<BranchFacts>,
    /// The evaluations.
    pub evaluations: Vec<EvaluationFacts>,
}

impl Facts {
    fn evaluation(&self, of: &Evaluated) -> Option<&EvaluationFacts> {
        self.evaluations.iter().find(|evaluation| evaluation.of == *of)
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask for the clustering and the tokenizer.
    Discover,
    /// Create one job per input file.
    CreateShardJobs,
    /// Write the shard index.
    WriteShardIndex,
    /// Lay the plan out as branches.
    CreateBranches,
    /// Create the jobs that compare held-out documents with training text.
    CompareHeldOut,
    /// Write the list of the held-out documents to score.
    ListHeldOut,
    /// Create the training job of a branch.
    Train(String),
    /// Create the merge job of a branch.
    Merge(String),
    /// Give a branch up because of another one.
    GiveUp(String, Said),
    /// Create the evaluation of a branch.
    Evaluate(String),
    /// Create the evaluation that mixes and compares the models of a repeat.
    Ensemble(u32),
    /// Write the report and complete the experiment.
    Report,
    /// End the experiment.
    Fail(Said),
}

impl Command {
    /// What it does, after "it could not".
    #[must_use]
    pub fn said(&self) -> Said {
        match self {
            Self::Discover => said!("do_discover"),
            Self::CreateShardJobs => said!("do_shard"),
            Self::WriteShardIndex => said!("do_index"),
            Self::CreateBranches => said!("do_lay_out"),
            Self::CompareHeldOut => said!("do_compare_held_out"),
            Self::ListHeldOut => said!("do_list_held_out"),
            Self::Train(name) => said!("do_train", name = name),
            Self::Merge(name) => said!("do_merge", name = name),
            Self::GiveUp(name, _) => said!("do_give_up", name = name),
            Self::Evaluate(name) => said!("do_evaluate", name = name),
            Self::Ensemble(_) => said!("do_compare"),
            Self::Report => said!("do_report"),
            Self::Fail(_) => said!("do_fail"),
        }
    }
}

/// Decides what to do next.
#[must_use]
pub fn advance(facts: &Facts) -> Vec<Command> {
    for (is_clustering, fit) in [(true, &facts.clustering), (false, &facts.tokenizer)] {
        match fit {
            Fit::Failed(why) if is_clustering => return vec![Command::Fail(said!("clustering_failed", why = why))],
            Fit::Failed(why) => return vec![Command::Fail(said!("tokenizer_failed", why = why))],
            Fit::Absent => return vec![Command::Discover],
            Fit::Fitting => return Vec::new(),
            Fit::Ready => {}
        }
    }
    if let Some(why) = &facts.shard_problem {
        return vec![Command::Fail(said!("file_not_sharded", why = why.clone()))];
    }
    if facts.shards_asked < facts.files {
        return vec![Command::CreateShardJobs];
    }
    if facts.shards_done < facts.files {
        return Vec::new();
    }
    if !facts.indexed {
        return vec![Command::WriteShardIndex];
    }
    if facts.branches.is_empty() {
        return vec![Command::CreateBranches];
    }
    branches(facts)
}

fn branches(facts: &Facts) -> Vec<Command> {
    if let Some(seed) =
        facts.branches.iter().find(|b| b.role == BranchRole::Seed && b.is_over() && b.state != BranchState::Completed)
    {
        let why = seed.problem.clone().unwrap_or_else(|| said!("it_was_cancelled").into());
        return vec![Command::Fail(said!("seed_did_not_finish", why = why))];
    }
    let mut commands: Vec<Command> =
        facts.branches.iter().filter(|b| b.state == BranchState::Waiting).filter_map(|b| start(b, facts)).collect();
    commands.extend(held_out(facts));
    let evaluation = |name: &str| facts.evaluation(&Evaluated::Branch(name.to_owned()));
    let completed = || facts.branches.iter().filter(|b| b.state == BranchState::Completed);
    if facts.comparison.listed {
        let missing = completed().filter(|b| evaluation(&b.name).is_none());
        commands.extend(missing.map(|b| Command::Evaluate(b.name.clone())));
    }
    let scored = completed().all(|b| evaluation(&b.name).is_some_and(|e| e.done || e.failed));
    if !facts.branches.iter().all(BranchFacts::is_over) || !scored {
        return commands;
    }
    for repeat in repeats(&facts.branches) {
        let mut own = completed().filter(|b| is_compared(b.role) && b.repeat == repeat);
        let has_members = own.any(|b| evaluation(&b.name).is_some_and(|e| e.done));
        if has_members && facts.evaluation(&Evaluated::Repeat(repeat)).is_none() {
            commands.push(Command::Ensemble(repeat));
        }
    }
    if commands.is_empty() && facts.evaluations.iter().all(|e| e.done || e.failed) {
        commands.push(Command::Report);
    }
    commands
}

/// What the list of held-out documents needs. A comparison that was given up does not hold the rest up: the report says
/// so.
fn held_out(facts: &Facts) -> Option<Command> {
    let ComparisonFacts { wanted, asked, over, listed } = facts.comparison;
    match (listed, wanted) {
        (true, _) => None,
        (false, true) if asked < facts.files => Some(Command::CompareHeldOut),
        (false, true) if over < asked => None,
        (false, _) => Some(Command::ListHeldOut),
    }
}

fn start(branch: &BranchFacts, facts: &Facts) -> Option<Command> {
    if branch.role == BranchRole::Average {
        let is_member = |b: &&BranchFacts| b.role == BranchRole::Expert && b.repeat == branch.repeat;
        let experts: Vec<_> = facts.branches.iter().filter(is_member).collect();
        return match (experts.iter().all(|b| b.is_over()), experts.iter().any(|b| b.state == BranchState::Completed)) {
            (true, true) => Some(Command::Merge(branch.name.clone())),
            (true, false) => Some(Command::GiveUp(branch.name.clone(), said!("no_expert_finished"))),
            (false, _) => None,
        };
    }
    let Some(parent) = &branch.parent else { return Some(Command::Train(branch.name.clone())) };
    let parent = facts.branches.iter().find(|b| b.name == *parent)?;
    match parent.state {
        BranchState::Completed => Some(Command::Train(branch.name.clone())),
        BranchState::Failed | BranchState::Cancelled => {
            Some(Command::GiveUp(branch.name.clone(), said!("parent_did_not_finish", parent = &parent.name)))
        }
        _ => None,
    }
}

/// Progress of one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageFacts {
    /// The stage.
    pub stage: Stage,
    /// Where it stands.
    pub state: StageState,
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// The unit.
    pub unit: &'static str,
}

/// Where each stage stands.
#[must_use]
pub fn stages(facts: &Facts, reported: bool, failed: bool) -> Vec<StageFacts> {
    let ready = |fit: &Fit| u64::from(*fit == Fit::Ready);
    let discovered = ready(&facts.clustering) + ready(&facts.tokenizer);
    let of = |role: &dyn Fn(BranchRole) -> bool| facts.branches.iter().filter(|b| role(b.role)).collect::<Vec<_>>();
    let seed = of(&|role| role == BranchRole::Seed);
    let merged = of(&|role| role == BranchRole::Average);
    let trained = of(&|role| !matches!(role, BranchRole::Seed | BranchRole::Average));
    let tokens = |branches: &[&BranchFacts]| {
        (branches.iter().map(|b| b.tokens.0).sum(), branches.iter().map(|b| b.tokens.1).sum())
    };
    let over = |branches: &[&BranchFacts]| !facts.branches.is_empty() && branches.iter().all(|b| b.is_over());
    let seeded = over(&seed) && seed.iter().all(|b| b.state == BranchState::Completed);
    let scored = facts.evaluations.iter().filter(|e| e.done || e.failed).count() as u64;
    let evaluations = (facts.branches.len() + repeats(&facts.branches).len()) as u64;
    let (seed_tokens, trained_tokens) = (tokens(&seed), tokens(&trained));
    let merges = merged.iter().filter(|b| b.is_over()).count() as u64;
    let evaluated = !facts.branches.is_empty()
        && over(&facts.branches.iter().collect::<Vec<_>>())
        && facts.evaluations.iter().all(|e| e.done || e.failed)
        && (reported || advance(facts) == [Command::Report]);
    let rows = [
        (Stage::Discover, discovered, 2, "artefacts", discovered == 2, true),
        (Stage::Shard, facts.shards_done as u64, facts.files as u64, "files", facts.indexed, discovered == 2),
        (Stage::Seed, seed_tokens.0, seed_tokens.1, "tokens", seeded, facts.indexed),
        (Stage::Branches, trained_tokens.0, trained_tokens.1, "tokens", seeded && over(&trained), seeded),
        (Stage::Merge, merges, merged.len() as u64, "merges", over(&merged), merges > 0),
        (Stage::Evaluate, scored, evaluations, "evaluations", evaluated, !facts.evaluations.is_empty()),
        (Stage::Report, u64::from(reported), 1, "reports", reported, evaluated),
    ];
    rows.into_iter()
        .map(|(stage, done, total, unit, is_done, is_begun)| {
            let state = match (is_done, is_begun) {
                (true, _) if stage == Stage::Merge && merged.is_empty() => StageState::Skipped,
                (true, _) => StageState::Done,
                (false, true) if failed => StageState::Failed,
                (false, true) => StageState::Running,
                (false, false) => StageState::Waiting,
            };
            StageFacts { stage, state, done, total, unit }
        })
        .collect()
}

#[cfg(test)]
mod tests;
