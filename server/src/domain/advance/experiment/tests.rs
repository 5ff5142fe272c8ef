//! An experiment from its submission to its report, and what stops it.

use super::*;

fn branch(name: &str, role: BranchRole, parent: Option<&str>) -> BranchFacts {
    BranchFacts {
        name: name.into(),
        role,
        repeat: 0,
        parent: parent.map(Into::into),
        state: BranchState::Waiting,
        problem: None,
        tokens: (0, 10),
    }
}

fn fresh() -> Facts {
    Facts {
        clustering: Fit::Absent,
        tokenizer: Fit::Absent,
        files: 2,
        shards_asked: 0,
        shards_done: 0,
        shard_problem: None,
        indexed: false,
        comparison: ComparisonFacts { wanted: true, ..ComparisonFacts::default() },
        branches: Vec::new(),
        evaluations: Vec::new(),
    }
}

fn done(of: Evaluated) -> EvaluationFacts {
    EvaluationFacts { of, done: true, failed: false }
}

/// Carries a command out as the server would, with every job succeeding.
fn carry_out(facts: &mut Facts, command: Command) {
    let complete = |facts: &mut Facts, name: &str| {
        let branch = facts.branches.iter_mut().find(|b| b.name == name).unwrap();
        assert_eq!(branch.state, BranchState::Waiting, "{name} was started twice");
        branch.state = BranchState::Completed;
    };
    match command {
        Command::Discover => (facts.clustering, facts.tokenizer) = (Fit::Ready, Fit::Ready),
        Command::CreateShardJobs => (facts.shards_asked, facts.shards_done) = (2, 2),
        Command::WriteShardIndex => facts.indexed = true,
        Command::CreateBranches => {
            facts.branches = vec![
                branch("seed", BranchRole::Seed, None),
                branch("expert-0", BranchRole::Expert, Some("seed")),
                branch("dense", BranchRole::Dense, Some("seed")),
                branch("average", BranchRole::Average, None),
                branch("chain-0", BranchRole::Chain, Some("seed")),
                branch("chain-1", BranchRole::Chain, Some("chain-0")),
            ]
        }
        Command::CompareHeldOut => (facts.comparison.asked, facts.comparison.over) = (2, 2),
        Command::ListHeldOut => {
            assert!(!facts.comparison.listed, "listed twice");
            facts.comparison.listed = true;
        }
        Command::Train(name) | Command::Merge(name) => complete(facts, &name),
        Command::GiveUp(name, why) => {
            let branch = facts.branches.iter_mut().find(|b| b.name == name).unwrap();
            (branch.state, branch.problem) = (BranchState::Cancelled, Some(why.into()));
        }
        Command::Evaluate(name) => facts.evaluations.push(done(Evaluated::Branch(name))),
        Command::Ensemble(repeat) => facts.evaluations.push(done(Evaluated::Repeat(repeat))),
        Command::Report | Command::Fail(_) => {}
    }
}

fn run(mut facts: Facts) -> (Facts, Vec<Command>) {
    for _ in 0..50 {
        let commands = advance(&facts);
        if commands.is_empty() || matches!(commands[0], Command::Report | Command::Fail(_)) {
            return (facts, commands);
        }
        commands.into_iter().for_each(|command| carry_out(&mut facts, command));
    }
    panic!("no end: {facts:?}");
}

#[test]
fn an_experiment_runs_to_its_report() {
    let (facts, last) = run(fresh());
    assert_eq!(last, [Command::Report]);
    assert_eq!(facts.evaluations.len(), 7);
    let stages = stages(&facts, true, false);
    assert!(stages.iter().all(|stage| stage.state == StageState::Done), "{stages:?}");
}

#[test]
fn nothing_is_scored_before_the_held_out_documents_are_listed_and_training_does_not_wait() {
    let (mut facts, _) = run(fresh());
    facts.evaluations.clear();
    let evaluates = |facts: &Facts| advance(facts).iter().any(|command| matches!(command, Command::Evaluate(_)));
    assert!(evaluates(&facts));
    facts.comparison = ComparisonFacts { wanted: true, asked: 2, over: 1, listed: false };
    assert_eq!(advance(&facts), []);
    facts.branches[4].state = BranchState::Waiting;
    assert_eq!(advance(&facts), [Command::Train("chain-0".into())]);
    facts.comparison.over = 2;
    assert!(advance(&facts).contains(&Command::ListHeldOut));
    facts.comparison = ComparisonFacts::default();
    assert!(advance(&facts).contains(&Command::ListHeldOut) && !evaluates(&facts));
}

#[test]
fn a_seed_that_did_not_finish_is_the_stage_that_failed() {
    let (mut facts, _) = run(fresh());
    facts.branches.iter_mut().for_each(|b| b.state = BranchState::Waiting);
    (facts.branches[0].state, facts.evaluations) = (BranchState::Failed, Vec::new());
    assert!(matches!(&advance(&facts)[..], [Command::Fail(why)] if why.text().contains("seed")));
    let states: Vec<_> = stages(&facts, false, true).into_iter().map(|stage| stage.state).collect();
    assert_eq!(states[2..4], [StageState::Failed, StageState::Waiting]);
}

#[test]
fn a_failed_branch_takes_only_its_children_along() {
    let mut facts = fresh();
    for _ in 0..4 {
        advance(&facts).into_iter().for_each(|command| carry_out(&mut facts, command));
    }
    let state = |facts: &mut Facts, name: &str, state| {
        facts.branches.iter_mut().find(|b| b.name == name).unwrap().state = state
    };
    state(&mut facts, "seed", BranchState::Completed);
    state(&mut facts, "chain-0", BranchState::Failed);
    let (facts, last) = run(facts);
    assert_eq!(last, [Command::Report]);
    assert_eq!(facts.branches.last().unwrap().state, BranchState::Cancelled);
    assert!(facts.evaluations.iter().all(|e| !matches!(&e.of, Evaluated::Branch(name) if name.starts_with("chain"))));
}

#[test]
fn failures_that_stop_everything_say_why() {
    let check = |facts: Facts, expect: &str| match advance(&facts).as_slice() {
        [Command::Fail(why)] => assert!(why.text().contains(expect), "{why:?}"),
        other => panic!("{other:?}"),
    };
    check(Facts { clustering: Fit::Failed("too few documents".into()), ..fresh() }, "too few documents");
    check(
        Facts { clustering: Fit::Ready, tokenizer: Fit::Ready, shard_problem: Some(Said::verbatim("disk")), ..fresh() },
        "disk",
    );
    let mut seed = branch("seed", BranchRole::Seed, None);
    (seed.state, seed.problem) = (BranchState::Failed, Some("NaN".into()));
    let ready = Facts {
        clustering: Fit::Ready,
        tokenizer: Fit::Ready,
        shards_asked: 2,
        shards_done: 2,
        indexed: true,
        branches: vec![seed],
        ..fresh()
    };
    check(ready, "NaN");
}
