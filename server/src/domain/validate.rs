//! The whole experiment file checked at once: every fault with its path, what was found, what is accepted.

mod faults;
mod fleet;
mod numbers;
mod training;

pub use fleet::{budget, not_now, unused_slots};

use crate::domain::{
    expand::{DOMAINS_MAX, Domains, REPEATS_MAX, expand},
    known::Known,
    marks, retention, room,
};
use faults::Faults;
use senmon_protocol::{
    problem::Fault,
    said,
    said::{
        SaidValue,
        expected::{above, above_at_most, at_least, found, quoted, range},
    },
    spec::{BranchGroup, Chain, ChainOrder, ExperimentSpec, SeedSpec, TokenizerSpec, Tree},
};
use std::collections::HashSet;

/// Branches of one experiment at most.
const BRANCHES_MAX: usize = 20_000;

/// Finds every fault of a file.
#[must_use]
pub fn validate(spec: &ExperimentSpec, known: &Known) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    faults.check(
        !spec.name.trim().is_empty() && spec.name.chars().count() <= 200,
        "name",
        quoted(&spec.name),
        said!("expected_characters", most = 200),
    );
    marks::labels(&spec.labels, &mut faults.0);
    let expected = said!("expected_priority", low = 0, high = 100);
    faults.check(spec.priority <= 100, "priority", spec.priority, expected);
    corpus_and_clustering(spec, known, &mut faults);
    model_and_tokenizer(spec, known, &mut faults);
    let data = &spec.data;
    faults.check(
        (0.0..=0.5).contains(&data.held_out_fraction) && data.held_out_fraction > 0.0,
        "data.held_out_fraction",
        data.held_out_fraction,
        above_at_most(0, 0.5),
    );
    faults.check(data.epochs_max.is_finite() && data.epochs_max > 0.0, "data.epochs_max", data.epochs_max, above(0));
    faults.check(data.sequence_length >= 2, "data.sequence_length", data.sequence_length, at_least(2));
    training::training(&spec.training, "training", &mut faults);
    if let SeedSpec::Train(seed) = &spec.seed {
        faults.check(seed.tokens.0 > 0, "seed.tokens", seed.tokens.0, at_least(1));
        training::over(&seed.training, "seed.training", &mut faults);
    }
    plan(spec, &mut faults);
    evaluation(spec, &mut faults);
    faults.0.extend(retention::faults(&spec.retention));
    fleet::fleet(spec, known, &mut faults);
    numbers::numbers(spec, &mut faults);
    if faults.0.is_empty() {
        budgets(spec, known, &mut faults);
        faults.0.extend(room::beyond_budget(spec, known));
    }
    faults.0
}

fn corpus_and_clustering(spec: &ExperimentSpec, known: &Known, faults: &mut Faults) {
    match known.corpus {
        None => {
            let names = match known.corpora.as_slice() {
                [] => said!("no_corpus_registered").into(),
                names => SaidValue::from(names.to_vec()),
            };
            faults.add("corpus", found(quoted(&spec.corpus), said!("expected_corpus", names = names)));
        }
        Some(corpus) if !corpus.ready => {
            faults.add("corpus", said!("corpus_not_ready", name = quoted(&spec.corpus)));
        }
        Some(corpus) => {
            let k = u64::from(spec.clustering.domains);
            faults.check(
                k <= corpus.documents,
                "clustering.domains",
                k,
                said!("expected_documents_at_most", documents = corpus.documents),
            );
        }
    }
    let clustering = &spec.clustering;
    faults.check(
        (1..=DOMAINS_MAX).contains(&clustering.domains),
        "clustering.domains",
        clustering.domains,
        range(1, DOMAINS_MAX),
    );
    faults.check(
        clustering.sample_documents >= clustering.domains,
        "clustering.sample_documents",
        clustering.sample_documents,
        at_least("clustering.domains"),
    );
    faults.check(clustering.iterations_max > 0, "clustering.iterations_max", 0, at_least(1));
    let senmon_protocol::clustering::FeatureSpec::TfidfSvd(features) = &clustering.features;
    faults.check(
        (1..=1000).contains(&features.dimensions),
        "clustering.features.dimensions",
        features.dimensions,
        range(1, 1000),
    );
    faults.check(features.vocabulary_max > 0, "clustering.features.vocabulary_max", 0, at_least(1));
}

fn model_and_tokenizer(spec: &ExperimentSpec, known: &Known, faults: &mut Faults) {
    let entries = match &spec.tokenizer {
        TokenizerSpec::Train(train) => {
            faults.check(
                (257..=1_000_000).contains(&train.vocab_size),
                "tokenizer.vocab_size",
                train.vocab_size,
                range(257, 1000000),
            );
            faults.check(train.sample_documents > 0, "tokenizer.sample_documents", 0, at_least(1));
            Some(train.vocab_size)
        }
        TokenizerSpec::File(_) => match &known.tokenizer {
            Some(Ok(entries)) => Some(*entries),
            Some(Err(fault)) => {
                faults.0.push(fault.clone());
                None
            }
            None => None,
        },
    };
    match (&spec.seed, &spec.tokenizer, &known.mismatch) {
        (SeedSpec::Checkpoint(seed), TokenizerSpec::Train(_), _) => {
            faults.add("tokenizer.kind", said!("tokenizer_of_checkpoint", path = &seed.path))
        }
        (SeedSpec::Checkpoint(_), TokenizerSpec::File(_), Some(why)) => faults.add("tokenizer.path", why.clone()),
        _ => {}
    }
    let model = match (&spec.seed, &spec.model) {
        (SeedSpec::Train(_), None) => {
            faults.add("model", said!("model_missing"));
            None
        }
        (SeedSpec::Train(_), Some(model)) => Some((model, "model")),
        (SeedSpec::Checkpoint(_), Some(_)) => {
            faults.add("model", said!("model_beside_checkpoint"));
            None
        }
        (SeedSpec::Checkpoint(_), None) => match &known.seed {
            Some(Ok(model)) => Some((model, "seed.path")),
            Some(Err(why)) => {
                faults.add("seed.path", why.clone());
                None
            }
            None => None,
        },
    };
    let Some((model, path)) = model else { return };
    for (key, message) in model.problems() {
        faults.add(&format!("{path}.{key}"), said!("model_unfit", why = message));
    }
    if let (Some(vocab), Some(entries)) = (model.vocab_size, entries) {
        faults.check(
            vocab >= entries,
            &format!("{path}.vocab_size"),
            vocab,
            said!("expected_entries_at_least", entries = entries),
        );
    }
    let (length, most) = (spec.data.sequence_length, model.max_position_embeddings);
    let expected = said!("expected_positions_at_most", most = most);
    faults.check(length <= most, "data.sequence_length", length, expected);
}

fn plan(spec: &ExperimentSpec, faults: &mut Faults) {
    let mut names: HashSet<String> = ["seed", "dense", "average", "ensemble"].map(String::from).into();
    for domain in 0..spec.clustering.domains.min(DOMAINS_MAX) {
        names.extend([format!("expert-{domain}"), format!("random-{domain}")]);
    }
    let fan_outs = spec.plan.iter().filter(|group| matches!(group, BranchGroup::FanOut(_))).count();
    if fan_outs > 1 {
        faults.add("plan", said!("too_many_fan_outs", count = fan_outs));
    }
    for (i, group) in spec.plan.iter().enumerate() {
        let path = format!("plan[{i}]");
        match group {
            BranchGroup::FanOut(fan_out) => {
                let k = u64::from(spec.clustering.domains);
                faults.check(
                    fan_out.tokens.0 >= k,
                    &format!("{path}.tokens"),
                    fan_out.tokens.0,
                    said!("expected_token_per_domain"),
                );
                training::over(&fan_out.training, &format!("{path}.training"), faults);
            }
            BranchGroup::Chain(chain) => {
                let links = match &chain.order {
                    ChainOrder::Given(given) => given.domains.len(),
                    ChainOrder::Similarity(order) => order.length.unwrap_or(spec.clustering.domains) as usize,
                };
                let links = (0..links.min(DOMAINS_MAX as usize)).map(|link| format!("{}-{link}", chain.name));
                if let Some(taken) = links.filter(|link| !names.insert(link.clone())).min() {
                    let said = said!("chain_name_taken", name = quoted(&chain.name), branch = taken);
                    faults.add(&format!("{path}.name"), said);
                }
                self::chain(chain, &path, spec.clustering.domains, faults);
            }
            BranchGroup::Tree(tree) => self::tree(tree, &path, spec.clustering.domains, &mut names, faults),
        }
    }
}

fn chain(chain: &Chain, path: &str, domains: u32, faults: &mut Faults) {
    faults.check((0.0..=0.9).contains(&chain.replay), &format!("{path}.replay"), chain.replay, range(0, 0.9));
    faults.check(chain.tokens_per_domain.0 > 0, &format!("{path}.tokens_per_domain"), 0, at_least(1));
    training::over(&chain.training, &format!("{path}.training"), faults);
    match &chain.order {
        ChainOrder::Given(given) => {
            let place = format!("{path}.order.domains");
            faults.check(!given.domains.is_empty(), &place, said!("found_empty_list"), said!("expected_a_domain"));
            for &domain in &given.domains {
                faults.check(
                    domain < domains,
                    &place,
                    said!("found_domain", domain = domain),
                    range(0, domains.saturating_sub(1)),
                );
            }
            let distinct: HashSet<_> = given.domains.iter().collect();
            if distinct.len() < given.domains.len() {
                faults.add(&place, said!("domain_twice"));
            }
        }
        ChainOrder::Similarity(computed) => {
            if let Some(length) = computed.length {
                faults.check(
                    (1..=domains).contains(&length),
                    &format!("{path}.order.length"),
                    length,
                    range(1, domains),
                );
            }
        }
    }
}

fn tree(tree: &Tree, path: &str, domains: u32, names: &mut HashSet<String>, faults: &mut Faults) {
    let mut parents: HashSet<&str> = HashSet::from(["seed"]);
    for (i, branch) in tree.branches.iter().enumerate() {
        let at = |key: &str| format!("{path}.branches[{i}].{key}");
        let expected = said!("expected_branch_name");
        faults.check(is_branch_name(&branch.name), &at("name"), quoted(&branch.name), expected);
        faults.check(names.insert(branch.name.clone()), &at("name"), quoted(&branch.name), said!("expected_free_name"));
        faults.check(
            parents.contains(branch.parent.as_str()),
            &at("parent"),
            quoted(&branch.parent),
            said!("expected_parent"),
        );
        parents.insert(&branch.name);
        if branch.mixture.is_empty() {
            faults.add(&at("mixture"), said!("mixture_empty"));
        }
        for (domain, weight) in &branch.mixture {
            faults.check(
                *domain < domains,
                &at("mixture"),
                said!("found_domain", domain = *domain),
                range(0, domains.saturating_sub(1)),
            );
            faults.check(
                weight.is_finite() && *weight > 0.0,
                &at("mixture"),
                said!("found_weight", weight = *weight, domain = *domain),
                above(0),
            );
        }
        faults.check(branch.tokens.0 > 0, &at("tokens"), 0, at_least(1));
        training::over(&branch.training, &at("training"), faults);
    }
}

/// Whether a person may name a branch so: no mark of a repeat (`~`) in it.
#[must_use]
pub fn is_branch_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

fn evaluation(spec: &ExperimentSpec, faults: &mut Faults) {
    let evaluation = &spec.evaluation;
    faults.check(
        evaluation.documents_per_domain >= 2,
        "evaluation.documents_per_domain",
        evaluation.documents_per_domain,
        said!("expected_documents_to_report"),
    );
    faults.check(
        (1..=1 << 20).contains(&evaluation.tokens_per_document_max),
        "evaluation.tokens_per_document_max",
        evaluation.tokens_per_document_max,
        range(1, 1048576),
    );
    let repeats = 1..=REPEATS_MAX;
    faults.check(
        repeats.contains(&evaluation.repeats),
        "evaluation.repeats",
        evaluation.repeats,
        range(1, REPEATS_MAX),
    );
    faults.check(evaluation.route_every_tokens > 0, "evaluation.route_every_tokens", 0, at_least(1));
    faults.check(
        !evaluation.top_k.is_empty() && !evaluation.top_k.contains(&0),
        "evaluation.top_k",
        format!("{:?}", evaluation.top_k),
        said!("expected_top_k"),
    );
    let good = !evaluation.temperatures.is_empty() && evaluation.temperatures.iter().all(|t| t.is_finite() && *t > 0.0);
    faults.check(
        good,
        "evaluation.temperatures",
        format!("{:?}", evaluation.temperatures),
        said!("expected_temperatures"),
    );
    faults.check(
        (1..=1 << 20).contains(&evaluation.during_training.tokens_per_domain),
        "evaluation.during_training.tokens_per_domain",
        evaluation.during_training.tokens_per_domain,
        range(1, 1048576),
    );
}

/// Refuses what cannot fit whatever the clustering: a token is at least one byte of text.
fn budgets(spec: &ExperimentSpec, known: &Known, faults: &mut Faults) {
    let Some(corpus) = known.corpus else { return };
    let most = (corpus.text_bytes / u64::from(spec.data.sequence_length)).max(1);
    let windows = vec![most; spec.clustering.domains as usize];
    let order: Vec<u32> = (0..spec.clustering.domains).collect();
    let expanded = expand(spec, &Domains { windows: &windows, order: &order });
    let count = expanded.branches.len();
    if count > BRANCHES_MAX {
        faults.add("plan", said!("too_many_branches", count = count, most = BRANCHES_MAX));
    }
    for fault in expanded.faults {
        if faults.0.iter().all(|other| other.path != fault.path) {
            let megabytes = corpus.text_bytes / 1_000_000;
            faults.add(&fault.path, said!("whole_corpus_is", megabytes = megabytes, why = fault.why()));
        }
    }
}

#[cfg(test)]
mod tests;
