//! Experiment file to branches: mixtures, budgets, steps, parents. Never knows where they run.

use senmon_corpus::windows::{BadMixture, WindowOrder, blocks_of_part, fresh_share};
use senmon_protocol::{
    job::{DomainWeight, Mixture, MixturePart},
    lineage::Lineage,
    problem::Fault,
    said,
    said::Said,
    spec::{BranchGroup, BudgetShare, Chain, ChainOrder, ExperimentSpec, FanOut, SeedSpec, TrainingSpec, Tree},
    tokens::Tokens,
    view::BranchRole,
};
use std::collections::HashMap;

/// Domains at most.
pub const DOMAINS_MAX: u32 = 4096;
/// Trainings of each branch with other seeds at most.
pub const REPEATS_MAX: u32 = 16;

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
    /// Which training with another seed, from 0.
    pub repeat: u32,
    /// What it draws from; None for a seed that exists and for the average.
    pub mixture: Option<Mixture>,
    /// Its settings, likewise.
    pub training: Option<TrainingSpec>,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens of one step.
    pub batch_tokens: u64,
    /// Share of its windows that its lineage reads for the first time; None where it draws nothing.
    pub fresh_share: Option<f64>,
    /// Why it is not trained at all, where its domains hold nothing.
    pub left_out: Option<Said>,
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

/// A plan laid out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expansion {
    /// The branches; parents stand before children.
    pub branches: Vec<PlannedBranch>,
    /// Every budget that a domain cannot fill within `data.epochs_max` along its lineage.
    pub faults: Vec<Fault>,
    /// What is left out because a domain holds nothing.
    pub notes: Vec<Fault>,
}

impl Expansion {
    /// The branches, where nothing is at fault.
    ///
    /// # Errors
    /// The faults.
    pub fn sound(self) -> Result<Vec<PlannedBranch>, Vec<Fault>> {
        if self.faults.is_empty() { Ok(self.branches) } else { Err(self.faults) }
    }
}

struct Expander<'a> {
    spec: &'a ExperimentSpec,
    domains: Domains<'a>,
    /// What the lineage of each possible parent has drawn at its end.
    lineages: HashMap<String, Lineage>,
    out: Expansion,
}

/// Lays the plan out as branches. A domain that holds no whole window is left out and noted, not a fault of the rest.
#[must_use]
pub fn expand(spec: &ExperimentSpec, domains: &Domains) -> Expansion {
    let mut expander = Expander { spec, domains: domains.clone(), lineages: HashMap::new(), out: Expansion::default() };
    expander.seed();
    for (i, group) in spec.plan.iter().enumerate() {
        let path = format!("plan[{i}]");
        match group {
            BranchGroup::FanOut(fan_out) => expander.fan_out(fan_out, &path),
            BranchGroup::Chain(chain) => expander.chain(chain, &path),
            BranchGroup::Tree(tree) => expander.tree(tree, &path),
        }
    }
    expander.out
}

impl Expander<'_> {
    fn whole_mixture(&self) -> Mixture {
        let held = self.domains.windows.iter().zip(0..).filter(|(windows, _)| **windows > 0);
        #[expect(clippy::cast_precision_loss, reason = "windows below 2^53")]
        let weights = held.map(|(&windows, domain)| DomainWeight { domain, weight: windows as f64 }).collect();
        Mixture { version: 1, weights, part: None, reshuffle: None }
    }

    fn batch_tokens(&self, training: &TrainingSpec) -> u64 {
        u64::from(training.batch_windows) * u64::from(self.spec.data.sequence_length)
    }

    fn steps(&self, training: &TrainingSpec, tokens: Tokens) -> u64 {
        let batch = self.batch_tokens(training).max(1);
        (tokens.0.saturating_add(batch / 2) / batch).max(1)
    }

    /// Adds a branch for a budget, behind its parent's lineage.
    fn push(&mut self, mut draft: Draft, tokens: Tokens, path: String) {
        let held = |entry: &DomainWeight| self.domains.windows.get(entry.domain as usize).is_some_and(|held| *held > 0);
        let (kept, empty): (Vec<DomainWeight>, Vec<_>) = draft.mixture.weights.iter().partition(|entry| held(entry));
        let named: Vec<String> = empty.iter().map(|entry| entry.domain.to_string()).collect();
        let steps = self.steps(&draft.training, tokens);
        // A link of a chain is its own domain's, whatever it replays besides.
        let is_left_out = kept.is_empty() || empty.iter().any(|entry| Some(entry.domain) == draft.domain);
        if !named.is_empty() {
            let (branch, why) = (draft.name.as_str(), nothing_in(&named));
            let note = match is_left_out {
                true => said!("branch_left_out", branch = branch, why = why),
                false => said!("branch_goes_without", branch = branch, why = why),
            };
            self.out.notes.push(Fault::said(path.clone(), note));
        }
        if is_left_out {
            return self.add(draft, steps, None, path, Some(nothing_in(&named)));
        }
        draft.mixture.weights = kept;
        let lineage = draft.parent.as_ref().and_then(|parent| self.lineages.get(parent)).cloned().unwrap_or_default();
        let (after, fresh) = self.draw(&draft, &lineage, steps, &path);
        self.lineages.insert(draft.name.clone(), after);
        self.add(draft, steps, fresh, path, None);
    }

    /// Where a lineage stands after a branch, and the share of what the branch draws that is new to it. A budget beyond
    /// the epochs is noted as a fault.
    fn draw(&mut self, draft: &Draft, lineage: &Lineage, steps: u64, path: &str) -> (Lineage, Option<f64>) {
        let seed = self.spec.training.random_seed;
        let order = WindowOrder::new(self.domains.windows, &draft.mixture, lineage, seed);
        let draws = steps.saturating_mul(draft.training.batch_windows.into());
        let checked = order.and_then(|order| {
            order.ensure_budget(draws, self.spec.data.epochs_max)?;
            Ok(order.after(draws))
        });
        match checked {
            Ok(after) => {
                let fresh = fresh_share(self.domains.windows, lineage, &after);
                (after, fresh)
            }
            Err(error) => {
                let said = beyond(&error, self.spec.data.sequence_length);
                self.out.faults.push(Fault::said(path, said));
                (lineage.clone(), None)
            }
        }
    }

    fn add(&mut self, draft: Draft, steps: u64, fresh_share: Option<f64>, path: String, left_out: Option<Said>) {
        self.out.branches.push(PlannedBranch {
            batch_tokens: self.batch_tokens(&draft.training),
            name: draft.name,
            role: draft.role,
            parent: draft.parent,
            domain: draft.domain,
            repeat: draft.repeat,
            mixture: Some(draft.mixture),
            training: Some(draft.training),
            steps,
            fresh_share,
            left_out,
            path,
        });
    }

    /// Adds a branch that draws nothing.
    fn add_still(&mut self, name: String, role: BranchRole, repeat: u32, training: Option<TrainingSpec>, path: &str) {
        self.out.branches.push(PlannedBranch {
            name,
            role,
            parent: None,
            domain: None,
            repeat,
            mixture: None,
            training,
            steps: 0,
            batch_tokens: 0,
            fresh_share: None,
            left_out: None,
            path: path.to_owned(),
        });
    }

    fn seed(&mut self) {
        match &self.spec.seed {
            SeedSpec::Train(seed) => {
                let draft = Draft {
                    name: "seed".into(),
                    role: BranchRole::Seed,
                    parent: None,
                    domain: None,
                    repeat: 0,
                    mixture: self.whole_mixture(),
                    training: self.spec.training.with(&seed.training),
                };
                self.push(draft, seed.tokens, "seed.tokens".into());
            }
            SeedSpec::Checkpoint(_) => {
                self.add_still("seed".into(), BranchRole::Seed, 0, Some(self.spec.training.clone()), "seed");
            }
        }
    }

    fn fan_out(&mut self, fan_out: &FanOut, path: &str) {
        let training = self.spec.training.with(&fan_out.training);
        let path = format!("{path}.tokens");
        let faults = self.out.faults.len();
        for repeat in 0..self.spec.evaluation.repeats.clamp(1, REPEATS_MAX) {
            self.experts(fan_out, &training, repeat, &path);
            self.controls(&training, repeat, &path);
            if self.spec.weight_average {
                self.add_still(of_repeat("average", repeat), BranchRole::Average, repeat, None, &path);
            }
        }
        // A repeat has the budgets of the first.
        let known = self.out.faults.split_off(faults);
        for fault in known {
            if self.out.faults[faults..].iter().all(|other| *other != fault) {
                self.out.faults.push(fault);
            }
        }
    }

    fn experts(&mut self, fan_out: &FanOut, training: &TrainingSpec, repeat: u32, path: &str) {
        let held = self.domains.windows;
        let total: u64 = held.iter().sum();
        let filled = held.iter().filter(|windows| **windows > 0).count() as u64;
        for (&windows, domain) in held.iter().zip(0_u32..) {
            let share = match fan_out.share {
                BudgetShare::Equal => fan_out.tokens.0 / filled.max(1),
                BudgetShare::Proportional => {
                    u64::try_from(u128::from(fan_out.tokens.0) * u128::from(windows) / u128::from(total.max(1)))
                        .unwrap_or(u64::MAX)
                }
            };
            let draft = Draft {
                name: of_repeat(&format!("expert-{domain}"), repeat),
                role: BranchRole::Expert,
                parent: Some("seed".into()),
                domain: Some(domain),
                repeat,
                mixture: Mixture { reshuffle: self.reshuffle(repeat), ..only(domain) },
                training: training.clone(),
            };
            self.push(draft, Tokens(share), path.to_owned());
        }
    }

    /// Key of a repeat's own order; the first goes on in its lineage's.
    fn reshuffle(&self, repeat: u32) -> Option<u64> {
        (repeat > 0).then(|| self.spec.training.random_seed.wrapping_add(repeat.into()))
    }

    /// The controls get what the experts got, to the step. The parts of the random split share out what dense draws.
    fn controls(&mut self, training: &TrainingSpec, repeat: u32, path: &str) {
        let trained = |b: &&PlannedBranch| b.role == BranchRole::Expert && b.repeat == repeat && b.left_out.is_none();
        let experts: Vec<u64> = self.out.branches.iter().filter(trained).map(|b| b.steps).collect();
        let steps = experts.iter().fold(0_u64, |sum, steps| sum.saturating_add(*steps));
        if steps == 0 || !(self.spec.controls.dense || self.spec.controls.random_split) {
            return;
        }
        let dense = Draft {
            name: of_repeat("dense", repeat),
            role: BranchRole::Dense,
            parent: Some("seed".into()),
            domain: None,
            repeat,
            mixture: Mixture { reshuffle: self.reshuffle(repeat), ..self.whole_mixture() },
            training: training.clone(),
        };
        let lineage = self.lineages.get("seed").cloned().unwrap_or_default();
        let (_, fresh) = self.draw(&dense, &lineage, steps, path);
        let of = u32::try_from(experts.len()).unwrap_or(u32::MAX);
        let part =
            |index| MixturePart { index, of, block: training.batch_windows, seed: self.spec.training.random_seed };
        let parts = (0..of).filter(|_| self.spec.controls.random_split).map(part);
        let parts = parts.map(|part| {
            let mixture = Mixture { part: Some(part), ..dense.mixture.clone() };
            let name = of_repeat(&format!("random-{}", part.index), repeat);
            (Draft { name, role: BranchRole::Random, mixture, ..dense.clone() }, blocks_of_part(part, steps))
        });
        let parts: Vec<_> = parts.collect();
        if self.spec.controls.dense {
            self.add(dense, steps, fresh, path.to_owned(), None);
        }
        for (draft, steps) in parts {
            self.add(draft, steps, fresh, path.to_owned(), None);
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
                parent: Some(parent.clone()),
                domain: Some(domain),
                repeat: 0,
                mixture: with_replay(domain, &order[..link], chain.replay),
                training: training.clone(),
            };
            self.push(draft, chain.tokens_per_domain, format!("{path}.tokens_per_domain"));
            // The chain goes on past a link that is left out.
            if self.lineages.contains_key(&name) {
                parent = name;
            }
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
                repeat: 0,
                mixture: Mixture { version: 1, weights, part: None, reshuffle: None },
                training: self.spec.training.with(&branch.training),
            };
            self.push(draft, branch.tokens, format!("{path}.branches[{i}].tokens"));
        }
    }
}

#[derive(Clone)]
struct Draft {
    name: String,
    role: BranchRole,
    parent: Option<String>,
    domain: Option<u32>,
    repeat: u32,
    mixture: Mixture,
    training: TrainingSpec,
}

/// Name of a branch in a repeat: the first has the plain one.
fn of_repeat(name: &str, repeat: u32) -> String {
    if repeat == 0 { name.to_owned() } else { format!("{name}~{}", repeat + 1) }
}

fn only(domain: u32) -> Mixture {
    Mixture { version: 1, weights: vec![DomainWeight { domain, weight: 1.0 }], part: None, reshuffle: None }
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

fn nothing_in(domains: &[String]) -> Said {
    said!("domains_without_windows", domains = domains.to_vec())
}

/// A budget that cannot be, in tokens of windows of `length`.
#[must_use]
pub fn beyond(error: &BadMixture, length: u32) -> Said {
    let tokens = |windows: u64| windows.saturating_mul(length.into());
    match *error {
        BadMixture::Empty => said!("mixture_no_domains"),
        BadMixture::Weight { domain, weight } => said!("mixture_weight", domain = domain, weight = weight),
        BadMixture::NoWindow { domain } => said!("mixture_no_window", domain = domain),
        BadMixture::TooManyEpochs { domain, drawn, draws, windows, epochs_max, .. } => {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count for people"
            )]
            let allowed = tokens((windows as f64 * epochs_max) as u64);
            let (draws, held) = (tokens(draws), tokens(windows));
            if drawn == 0 {
                return said!(
                    "beyond_epochs",
                    domain = domain,
                    draws = draws,
                    held = held,
                    epochs_max = epochs_max,
                    allowed = allowed
                );
            }
            said!(
                "beyond_epochs_after",
                domain = domain,
                draws = draws,
                before = tokens(drawn),
                held = held,
                epochs_max = epochs_max,
                allowed = allowed
            )
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
