//! Experiment file to branches: mixtures, budgets, steps, parents. Never knows where they run.

use senmon_protocol::{
    job::{DomainWeight, Mixture, MixturePart},
    problem::Fault,
    spec::{BranchGroup, BudgetShare, Chain, ChainOrder, ExperimentSpec, FanOut, SeedSpec, TrainingSpec, Tree},
    tokens::Tokens,
    view::BranchRole,
};

/// One branch of the plan; parents stand before children.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedBranch {
    /// Name, unique in the experiment.
    pub name: String,
    /// What it is for.
    pub role: BranchRole,
    /// Name of the parent; None for the seed, and for the average, which has many.
    pub parent: Option<String>,
    /// Its domain.
    pub domain: Option<u32>,
    /// What it draws from; None for a seed that exists and for the average.
    pub mixture: Option<Mixture>,
    /// Its settings, likewise.
    pub training: Option<TrainingSpec>,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens of one step.
    pub batch_tokens: u64,
    /// Where its budget stands in the file.
    pub path: String,
}

impl PlannedBranch {
    /// Tokens in all.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.steps.saturating_mul(self.batch_tokens)
    }
}

/// What is known of the domains.
#[derive(Debug, Clone)]
pub struct Domains<'a> {
    /// Training windows by domain.
    pub windows: &'a [u64],
    /// Domains from neighbour to neighbour, for chains of computed order.
    pub order: &'a [u32],
}

struct Expander<'a> {
    spec: &'a ExperimentSpec,
    domains: Domains<'a>,
    branches: Vec<PlannedBranch>,
    faults: Vec<Fault>,
}

/// Lays the plan out as branches.
///
/// # Errors
/// Every budget that a domain cannot fill within `data.epochs_max`, and every domain that holds nothing.
pub fn expand(spec: &ExperimentSpec, domains: &Domains) -> Result<Vec<PlannedBranch>, Vec<Fault>> {
    let mut expander = Expander { spec, domains: domains.clone(), branches: Vec::new(), faults: Vec::new() };
    expander.seed();
    for (i, group) in spec.plan.iter().enumerate() {
        let path = format!("plan[{i}]");
        match group {
            BranchGroup::FanOut(fan_out) => expander.fan_out(fan_out, &path),
            BranchGroup::Chain(chain) => expander.chain(chain, &path),
            BranchGroup::Tree(tree) => expander.tree(tree, &path),
        }
    }
    if expander.faults.is_empty() { Ok(expander.branches) } else { Err(expander.faults) }
}

impl Expander<'_> {
    fn whole_mixture(&self, part: Option<MixturePart>) -> Mixture {
        let held = self.domains.windows.iter().zip(0..).filter(|(windows, _)| **windows > 0);
        #[expect(clippy::cast_precision_loss, reason = "windows below 2^53")]
        let weights = held.map(|(&windows, domain)| DomainWeight { domain, weight: windows as f64 }).collect();
        Mixture { version: 1, weights, part }
    }

    fn push(&mut self, branch: Draft, tokens: Tokens, path: String) {
        let training = branch.training;
        let batch_tokens = u64::from(training.batch_windows) * u64::from(self.spec.data.sequence_length);
        let steps = (tokens.0.saturating_add(batch_tokens / 2) / batch_tokens.max(1)).max(1);
        self.check_budget(&branch.mixture, steps.saturating_mul(training.batch_windows.into()), &path);
        self.branches.push(PlannedBranch {
            name: branch.name,
            role: branch.role,
            parent: branch.parent,
            domain: branch.domain,
            mixture: Some(branch.mixture),
            training: Some(training),
            steps,
            batch_tokens,
            path,
        });
    }

    #[expect(clippy::cast_precision_loss, reason = "windows below 2^53")]
    fn check_budget(&mut self, mixture: &Mixture, draws: u64, path: &str) {
        let total: f64 = mixture.weights.iter().map(|entry| entry.weight).sum();
        for entry in &mixture.weights {
            let held = self.domains.windows.get(entry.domain as usize).copied().unwrap_or(0) as f64;
            let held = held / mixture.part.map_or(1.0, |part| f64::from(part.of));
            let drawn = (draws as f64 * entry.weight / total).floor();
            if held < 1.0 {
                let message = format!("domain {} holds no whole window of training text", entry.domain);
                self.faults.push(Fault { path: path.to_owned(), message });
            } else if drawn > held * self.spec.data.epochs_max {
                let length = f64::from(self.spec.data.sequence_length);
                let message = format!(
                    "domain {} would give {} tokens; it holds {}, and data.epochs_max = {} allows {}",
                    entry.domain,
                    shown(drawn * length),
                    shown(held * length),
                    self.spec.data.epochs_max,
                    shown(held * length * self.spec.data.epochs_max),
                );
                self.faults.push(Fault { path: path.to_owned(), message });
            }
        }
    }

    fn seed(&mut self) {
        match &self.spec.seed {
            SeedSpec::Train(seed) => {
                let draft = Draft {
                    name: "seed".into(),
                    role: BranchRole::Seed,
                    parent: None,
                    domain: None,
                    mixture: self.whole_mixture(None),
                    training: self.spec.training.with(&seed.training),
                };
                self.push(draft, seed.tokens, "seed.tokens".into());
            }
            SeedSpec::Checkpoint(_) => self.branches.push(PlannedBranch {
                name: "seed".into(),
                role: BranchRole::Seed,
                parent: None,
                domain: None,
                mixture: None,
                training: Some(self.spec.training.clone()),
                steps: 0,
                batch_tokens: 0,
                path: "seed".into(),
            }),
        }
    }

    fn fan_out(&mut self, fan_out: &FanOut, path: &str) {
        let training = self.spec.training.with(&fan_out.training);
        let path = format!("{path}.tokens");
        let total: u64 = self.domains.windows.iter().sum();
        let domains = self.domains.windows.len() as u64;
        let held = self.domains.windows;
        for (&windows, domain) in held.iter().zip(0_u32..) {
            let share = match fan_out.share {
                BudgetShare::Equal => fan_out.tokens.0 / domains.max(1),
                BudgetShare::Proportional => {
                    u64::try_from(u128::from(fan_out.tokens.0) * u128::from(windows) / u128::from(total.max(1)))
                        .unwrap_or(u64::MAX)
                }
            };
            let draft = Draft {
                name: format!("expert-{domain}"),
                role: BranchRole::Expert,
                parent: Some("seed".into()),
                domain: Some(domain),
                mixture: only(domain),
                training: training.clone(),
            };
            self.push(draft, Tokens(share), path.clone());
        }
        // The controls get what the experts got, to the token.
        let experts = self.branches.iter().filter(|b| b.role == BranchRole::Expert);
        let spent = experts.map(PlannedBranch::tokens).fold(0, u64::saturating_add);
        let control = |name: String, role, mixture| Draft {
            name,
            role,
            parent: Some("seed".into()),
            domain: None,
            mixture,
            training: training.clone(),
        };
        if self.spec.controls.dense {
            let draft = control("dense".into(), BranchRole::Dense, self.whole_mixture(None));
            self.push(draft, Tokens(spent), path.clone());
        }
        if self.spec.controls.random_split {
            let of = u32::try_from(domains).unwrap_or(u32::MAX);
            for index in 0..of {
                let part = MixturePart { index, of, seed: self.spec.training.random_seed };
                let draft = control(format!("random-{index}"), BranchRole::Random, self.whole_mixture(Some(part)));
                self.push(draft, Tokens(spent / domains.max(1)), path.clone());
            }
        }
        if self.spec.weight_average {
            self.branches.push(PlannedBranch {
                name: "average".into(),
                role: BranchRole::Average,
                parent: None,
                domain: None,
                mixture: None,
                training: None,
                steps: 0,
                batch_tokens: 0,
                path,
            });
        }
    }

    fn chain(&mut self, chain: &Chain, path: &str) {
        let training = self.spec.training.with(&chain.training);
        let order: Vec<u32> = match &chain.order {
            ChainOrder::Given(given) => given.domains.clone(),
            ChainOrder::Similarity(computed) => {
                let length = computed.length.map_or(usize::MAX, |length| length as usize);
                self.domains.order.iter().copied().take(length).collect()
            }
        };
        let mut parent = "seed".to_owned();
        for (link, &domain) in order.iter().enumerate() {
            let name = format!("{}-{link}", chain.name);
            let draft = Draft {
                name: name.clone(),
                role: BranchRole::Chain,
                parent: Some(std::mem::replace(&mut parent, name)),
                domain: Some(domain),
                mixture: with_replay(domain, &order[..link], chain.replay),
                training: training.clone(),
            };
            self.push(draft, chain.tokens_per_domain, format!("{path}.tokens_per_domain"));
        }
    }

    fn tree(&mut self, tree: &Tree, path: &str) {
        for (i, branch) in tree.branches.iter().enumerate() {
            let weights = branch.mixture.iter().map(|(&domain, &weight)| DomainWeight { domain, weight }).collect();
            let draft = Draft {
                name: branch.name.clone(),
                role: BranchRole::Tree,
                parent: Some(branch.parent.clone()),
                domain: None,
                mixture: Mixture { version: 1, weights, part: None },
                training: self.spec.training.with(&branch.training),
            };
            self.push(draft, branch.tokens, format!("{path}.branches[{i}].tokens"));
        }
    }
}

struct Draft {
    name: String,
    role: BranchRole,
    parent: Option<String>,
    domain: Option<u32>,
    mixture: Mixture,
    training: TrainingSpec,
}

fn only(domain: u32) -> Mixture {
    Mixture { version: 1, weights: vec![DomainWeight { domain, weight: 1.0 }], part: None }
}

/// The link's own domain, and `replay` of the draws shared out over the domains before it.
fn with_replay(domain: u32, before: &[u32], replay: f64) -> Mixture {
    let mut mixture = only(domain);
    if replay > 0.0 && !before.is_empty() {
        mixture.weights[0].weight = 1.0 - replay;
        #[expect(clippy::cast_precision_loss, reason = "links of a chain")]
        let weight = replay / before.len() as f64;
        mixture.weights.extend(before.iter().map(|&domain| DomainWeight { domain, weight }));
        mixture.weights.sort_by_key(|entry| entry.domain);
    }
    mixture
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count for people")]
fn shown(tokens: f64) -> Tokens {
    Tokens(tokens as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    pub(crate) fn spec() -> ExperimentSpec {
        serde_json::from_value(serde_json::json!({
            "name": "t", "corpus": "c", "clustering": { "domains": 3 },
            "tokenizer": { "kind": "train", "vocab_size": 300 },
            "model": { "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "max_position_embeddings": 16 },
            "data": { "sequence_length": 16 },
            "training": { "batch_windows": 4, "learning_rate": 0.01 },
            "seed": { "kind": "train", "tokens": 6400 },
            "plan": [
                { "kind": "fan_out", "tokens": 1920 },
                { "kind": "chain", "order": { "kind": "given", "domains": [2, 0] }, "tokens_per_domain": 640, "replay": 0.25 }
            ]
        })).unwrap()
    }

    fn names(branches: &[PlannedBranch]) -> Vec<&str> {
        branches.iter().map(|branch| branch.name.as_str()).collect()
    }

    #[test]
    fn a_fan_out_brings_its_controls_at_the_same_cost() {
        let domains = Domains { windows: &[500, 400, 300], order: &[0, 1, 2] };
        let branches = expand(&spec(), &domains).unwrap();
        let expect = [
            "seed", "expert-0", "expert-1", "expert-2", "dense", "random-0", "random-1", "random-2", "average",
            "chain-0", "chain-1",
        ];
        assert_eq!(names(&branches), expect);
        let tokens = |role| branches.iter().filter(|b| b.role == role).map(PlannedBranch::tokens).sum::<u64>();
        assert_eq!(tokens(BranchRole::Expert), 1920);
        assert_eq!(tokens(BranchRole::Dense), 1920);
        assert_eq!(tokens(BranchRole::Random), 1920);
        let last = branches.last().unwrap();
        assert_eq!(last.parent.as_deref(), Some("chain-0"));
        let weights: Vec<_> = last.mixture.as_ref().unwrap().weights.iter().map(|w| (w.domain, w.weight)).collect();
        assert_eq!(weights, [(0, 0.75), (2, 0.25)]);
    }

    #[test]
    fn a_budget_beyond_the_epochs_is_refused_by_name() {
        let faults = expand(&spec(), &Domains { windows: &[500, 2, 300], order: &[0, 1, 2] }).unwrap_err();
        assert!(
            faults.iter().all(|fault| fault.path == "plan[0].tokens" && fault.message.contains("domain 1")),
            "{faults:?}"
        );
        let faults = expand(&spec(), &Domains { windows: &[500, 0, 300], order: &[0, 2] }).unwrap_err();
        assert!(faults[0].message.contains("holds no whole window"), "{faults:?}");
    }

    proptest! {
        #[test]
        fn parents_stand_before_children(windows in prop::collection::vec(2000_u64..9000, 3), length in 1_u32..4) {
            let mut spec = spec();
            spec.plan.push(serde_json::from_value(serde_json::json!({
                "kind": "chain", "name": "walk", "order": { "kind": "similarity", "length": length }, "tokens_per_domain": 64
            })).unwrap());
            let branches = expand(&spec, &Domains { windows: &windows, order: &[1, 0, 2] }).unwrap();
            let mut seen = HashSet::new();
            let mut count = HashMap::new();
            for branch in &branches {
                prop_assert!(branch.parent.as_ref().is_none_or(|parent| seen.contains(parent)));
                prop_assert!(seen.insert(branch.name.clone()), "{} twice", branch.name);
                *count.entry(branch.role).or_insert(0) += 1;
                prop_assert!(branch.role == BranchRole::Average || branch.steps > 0);
            }
            prop_assert_eq!(count[&BranchRole::Chain], 2 + length as usize);
        }
    }
}
