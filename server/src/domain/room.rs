//! How much room an experiment's checkpoints take, and whether the store has it.

use crate::domain::{
    expand::{DOMAINS_MAX, Domains, PlannedBranch, expand},
    known::Known,
    retention::kept_at_most,
};
use senmon_protocol::{
    model::ModelSpec,
    problem::Fault,
    said,
    spec::{ExperimentSpec, SeedSpec, TokenizerSpec},
    storage::Bytes,
    view::BranchRole,
};

/// fp32 weights, and two fp32 moments for a resumable checkpoint.
const WEIGHT_BYTES: u64 = 4;
const MOMENT_BYTES: u64 = 8;
/// Windows of a domain that no budget exhausts.
pub(super) const PLENTY: u64 = u64::MAX >> 24;

/// Bytes of a checkpoint to resume from, of so many parameters.
pub(super) fn resumable_bytes(parameters: u64) -> u64 {
    parameters.saturating_mul(WEIGHT_BYTES + MOMENT_BYTES)
}

/// Bytes of the checkpoints that stay of an experiment, at most, under its retention. `each` is the size of a resumable
/// one, where it is known. None where nothing is known of the model.
#[must_use]
pub fn checkpoint_bytes(spec: &ExperimentSpec, known: &Known, each: Option<u64>) -> Option<u64> {
    let parameters = match each {
        Some(each) => each / (WEIGHT_BYTES + MOMENT_BYTES),
        None => model(spec, known).map(|(model, vocab)| model.parameters(vocab))?,
    };
    let resumable = each.unwrap_or_else(|| resumable_bytes(parameters));
    let k = spec.clustering.domains.clamp(1, DOMAINS_MAX);
    let (plenty, order) = (vec![PLENTY; k as usize], (0..k).collect::<Vec<_>>());
    let branches = expand(spec, &Domains { windows: &plenty, order: &order }).sound().ok()?;
    let kept = branches.iter().map(|branch| bytes_kept(branch, spec, parameters, resumable));
    Some(kept.fold(0, u64::saturating_add))
}

/// The fault of an experiment whose checkpoints do not fit into what the storage budget leaves.
#[must_use]
pub fn beyond_budget(spec: &ExperimentSpec, known: &Known) -> Option<Fault> {
    let (room, needs) = (known.room?, checkpoint_bytes(spec, known, None)?);
    let left = room.budget.0.saturating_sub(room.used.0).saturating_sub(room.growth.0);
    let said = || {
        said!(
            "checkpoints_beyond_budget",
            needs = Bytes(needs),
            budget = room.budget,
            left = Bytes(left),
            used = room.used,
            growth = room.growth
        )
    };
    (needs > left).then(|| Fault::said("retention", said()))
}

/// The model of an experiment and the entries of its tokenizer, where both are known.
pub(super) fn model<'a>(spec: &'a ExperimentSpec, known: &'a Known) -> Option<(&'a ModelSpec, u64)> {
    let model = match (&spec.seed, &spec.model, &known.seed) {
        (SeedSpec::Train(_), Some(model), _) | (SeedSpec::Checkpoint(_), _, Some(Ok(model))) => model,
        _ => return None,
    };
    let entries = match (&spec.tokenizer, &known.tokenizer) {
        (TokenizerSpec::Train(train), _) => train.vocab_size,
        (TokenizerSpec::File(_), Some(Ok(entries))) => *entries,
        _ => 0,
    };
    model.problems().is_empty().then(|| (model, u64::from(model.vocab_size.unwrap_or(entries))))
}

/// Bytes of a branch's checkpoints that stay, at most.
pub(super) fn bytes_kept(branch: &PlannedBranch, spec: &ExperimentSpec, parameters: u64, resumable: u64) -> u64 {
    if branch.role == BranchRole::Average {
        return parameters.saturating_mul(WEIGHT_BYTES);
    }
    let by_steps = branch.training.as_ref().and_then(|training| training.checkpoint_every_steps);
    let by_tokens = branch.training.as_ref().and_then(|training| training.checkpoint_every_tokens);
    let saves = by_steps
        .map_or(0, |every| branch.steps.div_ceil(every.max(1)))
        .saturating_add(by_tokens.map_or(0, |every| branch.tokens().div_ceil(every.0.max(1))));
    // Saves by the clock have no number before the run: as many as may stay.
    let by_clock = branch.training.as_ref().is_some_and(|training| training.minutes_between_checkpoints().is_some());
    let saves = if by_clock { u64::MAX } else { saves.max(1) };
    kept_at_most(&spec.retention, saves, branch.tokens()).saturating_mul(resumable)
}
