//! What an experiment waits for, in a sentence: what is under way and not over.

use super::advance::experiment::{Evaluated, Facts, Fit};
use senmon_protocol::view::BranchState;

/// Names in a list; more are counted.
const NAMES_MAX: usize = 3;

/// What an experiment waits for; None where the server itself is next.
#[must_use]
pub fn waits_for(facts: &Facts) -> Option<String> {
    for (fit, what) in
        [(&facts.clustering, "the fit of its clustering"), (&facts.tokenizer, "the training of its tokenizer")]
    {
        match fit {
            Fit::Fitting => return Some(sentence(&[what.to_owned()])),
            Fit::Ready => {}
            Fit::Absent | Fit::Failed(_) => return None,
        }
    }
    if facts.shards_done < facts.files {
        let what = format!("the sharding of its files ({} of {} are done)", facts.shards_done, facts.files);
        return Some(sentence(&[what]));
    }
    let mut parts = branches(facts);
    let comparison = facts.comparison;
    if comparison.wanted && !comparison.listed && comparison.asked > 0 {
        let (over, asked) = (comparison.over, comparison.asked);
        parts.push(format!("the comparison of its held-out documents with its files ({over} of {asked} are done)"));
    }
    let open = facts.evaluations.iter().filter(|evaluation| !evaluation.done && !evaluation.failed);
    let evaluated: Vec<String> = open
        .map(|evaluation| match &evaluation.of {
            Evaluated::Branch(name) => name.clone(),
            Evaluated::Repeat(0) => "all models together".to_owned(),
            Evaluated::Repeat(repeat) => format!("all models of repeat {} together", repeat + 1),
        })
        .collect();
    if !evaluated.is_empty() {
        parts.push(format!("the evaluation of {}", list(&evaluated)));
    }
    (!parts.is_empty()).then(|| sentence(&parts))
}

fn branches(facts: &Facts) -> Vec<String> {
    let states = [
        (BranchState::Running, "which train"),
        (BranchState::Queued, "which wait for slots"),
        (BranchState::Paused, "which somebody paused"),
    ];
    let groups = states.into_iter().filter_map(|(state, how)| {
        let names: Vec<String> =
            facts.branches.iter().filter(|branch| branch.state == state).map(|branch| branch.name.clone()).collect();
        (!names.is_empty()).then(|| format!("{} ({how})", list(&names)))
    });
    groups.collect()
}

fn list(names: &[String]) -> String {
    match names.len().checked_sub(NAMES_MAX) {
        Some(more @ 1..) => format!("{} and {more} more", names[..NAMES_MAX].join(", ")),
        _ => names.join(", "),
    }
}

fn sentence(parts: &[String]) -> String {
    format!("It waits for {}.", parts.join(", and for "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::advance::experiment::{BranchFacts, ComparisonFacts, EvaluationFacts};
    use senmon_protocol::view::BranchRole;

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
        assert_eq!(waits_for(facts).as_deref(), expect);
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
        let many = ["a", "b", "c", "d", "e"].map(|name| (name, Running));
        check(&trained(&many), Some("It waits for a, b, c and 2 more (which train)."));
    }
}
