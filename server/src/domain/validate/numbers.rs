//! Ranges of the file's large numbers: within them nothing downstream wraps, and every figure is exact in JSON.

use super::faults::Faults;
use senmon_protocol::{
    said::expected::at_most,
    spec::{BranchGroup, ExperimentSpec, SeedSpec},
    tokens::Tokens,
};

/// Largest number of tokens: beyond 2^53 a number is not exact in JSON or as a float.
const TOKENS_MAX: u64 = 1 << 53;
/// Held-out documents of one domain: a sketch of each (2 KiB) is held in memory for all domains at once.
const DOCUMENTS_PER_DOMAIN_MAX: u32 = 100_000;
/// Restarts: more than anybody waits for.
const RESTARTS_MAX: u32 = 10_000;
/// Repetitions of a domain: more than any use of it.
const EPOCHS_MAX: f64 = 1e6;

pub(super) fn numbers(spec: &ExperimentSpec, faults: &mut Faults) {
    for (path, tokens) in token_counts(spec) {
        faults.check(tokens.0 <= TOKENS_MAX, &path, tokens.0, at_most(format!("{TOKENS_MAX} (2^53)")));
    }
    let documents = spec.evaluation.documents_per_domain;
    let most = at_most(DOCUMENTS_PER_DOMAIN_MAX);
    faults.check(documents <= DOCUMENTS_PER_DOMAIN_MAX, "evaluation.documents_per_domain", documents, most);
    faults.check(spec.max_restarts <= RESTARTS_MAX, "max_restarts", spec.max_restarts, at_most(RESTARTS_MAX));
    faults.check(spec.data.epochs_max <= EPOCHS_MAX, "data.epochs_max", spec.data.epochs_max, at_most(EPOCHS_MAX));
}

/// Every count of tokens in the file, by its path.
fn token_counts(spec: &ExperimentSpec) -> Vec<(String, Tokens)> {
    let mut found = Vec::new();
    if let SeedSpec::Train(seed) = &spec.seed {
        found.push(("seed.tokens".to_owned(), seed.tokens));
    }
    for (i, group) in spec.plan.iter().enumerate() {
        match group {
            BranchGroup::FanOut(fan_out) => found.push((format!("plan[{i}].tokens"), fan_out.tokens)),
            BranchGroup::Chain(chain) => found.push((format!("plan[{i}].tokens_per_domain"), chain.tokens_per_domain)),
            BranchGroup::Tree(tree) => {
                let branches = tree.branches.iter().enumerate();
                found.extend(branches.map(|(j, branch)| (format!("plan[{i}].branches[{j}].tokens"), branch.tokens)));
            }
        }
    }
    let every = [
        ("training.checkpoint_every_tokens", spec.training.checkpoint_every_tokens),
        ("retention.keep_every_tokens", spec.retention.keep_every_tokens),
    ];
    found.extend(every.into_iter().filter_map(|(path, tokens)| Some((path.to_owned(), tokens?))));
    found
}
