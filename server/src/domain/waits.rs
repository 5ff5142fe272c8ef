//! What an experiment waits for: what is under way and not over.

use super::advance::experiment::{Evaluated, Facts, Fit};
use senmon_protocol::{
    said,
    said::{Said, SaidValue},
    view::BranchState,
};

/// Names in a list; more are counted.
const NAMES_MAX: usize = 3;

/// What an experiment waits for, in a sentence; None where the server itself is next.
#[must_use]
pub fn waits_for(facts: &Facts) -> Option<Said> {
    for (fit, what) in [(&facts.clustering, said!("wait_clustering")), (&facts.tokenizer, said!("wait_tokenizer"))] {
        match fit {
            Fit::Fitting => return Some(said!("waits_for", what = what)),
            Fit::Ready => {}
            Fit::Absent | Fit::Failed(_) => return None,
        }
    }
    if facts.shards_done < facts.files {
        let what = said!("wait_sharding", done = facts.shards_done, all = facts.files);
        return Some(said!("waits_for", what = what));
    }
    let mut parts = branches(facts);
    let comparison = facts.comparison;
    if comparison.wanted && !comparison.listed && comparison.asked > 0 {
        parts.push(said!("wait_held_out", done = comparison.over, all = comparison.asked));
    }
    let open = facts.evaluations.iter().filter(|evaluation| !evaluation.done && !evaluation.failed);
    let evaluated: Vec<SaidValue> = open
        .map(|evaluation| match &evaluation.of {
            Evaluated::Branch(name) => name.into(),
            Evaluated::Repeat(0) => said!("wait_all_models").into(),
            Evaluated::Repeat(repeat) => said!("wait_all_models_of_repeat", repeat = repeat + 1).into(),
        })
        .collect();
    if !evaluated.is_empty() {
        parts.push(said!("wait_evaluation", names = list(evaluated)));
    }
    let all = parts.into_iter().reduce(|first, then| said!("waits_and", first = first, then = then));
    all.map(|what| said!("waits_for", what = what))
}

fn branches(facts: &Facts) -> Vec<Said> {
    let names = |state: BranchState| {
        let of_state = facts.branches.iter().filter(|branch| branch.state == state);
        let names: Vec<SaidValue> = of_state.map(|branch| (&branch.name).into()).collect();
        (!names.is_empty()).then(|| list(names))
    };
    let train = names(BranchState::Running).map(|names| said!("wait_training", names = names));
    let queued = names(BranchState::Queued).map(|names| said!("wait_slots", names = names));
    let paused = names(BranchState::Paused).map(|names| said!("wait_paused", names = names));
    [train, queued, paused].into_iter().flatten().collect()
}

fn list(mut names: Vec<SaidValue>) -> SaidValue {
    let more = names.len().saturating_sub(NAMES_MAX);
    if more == 0 {
        return names.into();
    }
    names.truncate(NAMES_MAX);
    said!("names_and_more", names = names, more = more).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::advance::experiment::{BranchFacts, ComparisonFacts, EvaluationFacts};
    use senmon_protocol::{said::Lang, view::BranchRole};

    fn trained(states: &[(&str, BranchState)]) -> Facts {
        let branch = |(name, state): &(&str, BranchState)| BranchFacts {
            name: (*name).to_owned(),
            role: BranchRole::Expert,
            repeat: 0,
            parent: None,
            state: *state,
            problem: None,
            tokens: (0, 1),
        };
        Facts {
            clustering: Fit::Ready,
            tokenizer: Fit::Ready,
            files: 2,
            shards_asked: 2,
            shards_done: 2,
            shard_problem: None,
            indexed: true,
            comparison: ComparisonFacts { wanted: true, asked: 2, over: 2, listed: true },
            branches: states.iter().map(branch).collect(),
            evaluations: Vec::new(),
        }
    }

    fn check(facts: &Facts, expect: Option<&str>) {
        assert_eq!(waits_for(facts).map(|said| said.text()).as_deref(), expect);
    }

    #[test]
    fn what_is_under_way_is_named() {
        use BranchState::{Completed, Paused, Queued, Running};
        let mut facts = trained(&[("seed", Completed), ("a", Running), ("b", Queued), ("c", Paused)]);
        check(
            &facts,
            Some("It waits for a (which train), and for b (which wait for slots), and for c (which somebody paused)."),
        );
        facts.comparison = ComparisonFacts { over: 1, listed: false, ..facts.comparison };
        facts.branches.truncate(1);
        let of = Evaluated::Branch("seed".into());
        facts.evaluations = vec![EvaluationFacts { of, done: false, failed: false }];
        check(
            &facts,
            Some(
                "It waits for the comparison of its held-out documents with its files (1 of 2 are done), and for the evaluation of seed.",
            ),
        );
        facts.shards_done = 1;
        check(&facts, Some("It waits for the sharding of its files (1 of 2 are done)."));
        facts.tokenizer = Fit::Fitting;
        check(&facts, Some("It waits for the training of its tokenizer."));
        check(&trained(&[("seed", Completed)]), None);
        let japanese = waits_for(&trained(&[("a", Running), ("b", Queued)])).unwrap().in_words(Lang::Japanese);
        assert_eq!(japanese.as_deref(), Some("a（学習中）、b（スロット待ち）を待っています。"));
        let many = ["a", "b", "c", "d", "e"].map(|name| (name, Running));
        check(&trained(&many), Some("It waits for a, b, c and 2 more (which train)."));
    }
}
