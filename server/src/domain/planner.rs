//! `senmon plan`: tokens, time and storage of an experiment before anything runs.

mod fit;

use crate::domain::{
    expand::{Domains, PlannedBranch, expand},
    forecast::{held_out_tokens, of_plan},
    rates::{Rate, Shape, Speeds},
    retention::kept_at_most,
    timetable::Slots,
    validate::{Known, not_now, unused_slots, validate},
};
use fit::{fit, stages};
use senmon_protocol::{
    model::ModelSpec,
    plan::{PlanRequest, PlanView, PlannedBranch as PlanLine},
    problem::Fault,
    resources::DeviceKind,
    spec::{BudgetShare, ExperimentSpec, SeedSpec, TokenizerSpec},
    storage::Bytes,
    view::BranchRole,
};

/// Bytes of text that make a token, where nothing was counted yet: between English (3.5 to 4) and Japanese (about 2).
const BYTES_PER_TOKEN: f64 = 3.0;
/// fp32 weights, and two fp32 moments for a resumable checkpoint.
const WEIGHT_BYTES: u64 = 4;
const MOMENT_BYTES: u64 = 8;
/// Windows of a domain that no budget exhausts.
const PLENTY: u64 = u64::MAX >> 24;

/// A registered corpus.
#[derive(Debug, Clone, Copy)]
pub struct KnownCorpus {
    /// Whether its snapshot is taken.
    pub ready: bool,
    /// Documents.
    pub documents: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Files that hold it.
    pub files: u32,
}

impl KnownCorpus {
    /// Bytes of text of each file, as if they were equal.
    fn text_of_files(self) -> Vec<u64> {
        vec![self.text_bytes / u64::from(self.files.max(1)); self.files as usize]
    }
}

/// A store with a budget.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes that it may hold.
    pub budget: Bytes,
    /// Bytes that it holds.
    pub used: Bytes,
    /// Bytes that the experiments under way may still add.
    pub growth: Bytes,
}

/// The fleet, and what was ever measured.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Slots of workers that are alive.
    pub slots: Slots,
    /// Their devices, by name.
    pub devices: Vec<(String, u32)>,
    /// What attempts measured.
    pub rates: Vec<Rate>,
}

/// Plans a request. Domains are taken as equal parts of the corpus: they are not known before the clustering.
#[must_use]
pub fn plan(request: &PlanRequest, known: &Known, fleet: &Fleet) -> PlanView {
    let spec = &request.experiment;
    // Slots that are given are a fleet that is not there yet: the one that is says nothing of it.
    let imagined = Known { fleet: Vec::new(), ..known.clone() };
    let known = if request.slots.is_some() { &imagined } else { known };
    let mut refused = validate(spec, known);
    let mut warnings = Vec::new();
    if known.corpus.is_none() {
        // Nothing of a plan needs the text: what it would cost is asked before it is there.
        let (corpus, rest): (Vec<Fault>, Vec<Fault>) = refused.into_iter().partition(|fault| fault.path == "corpus");
        (refused, warnings) = (rest, corpus);
    }
    let length = u64::from(spec.data.sequence_length.max(1));
    let corpus_tokens = known.corpus.map(|corpus| share_of(corpus.text_bytes, 1.0 / BYTES_PER_TOKEN));
    let k = spec.clustering.domains.clamp(1, crate::domain::validate::DOMAINS_MAX);
    let order: Vec<u32> = (0..k).collect();
    // Where the corpus is not known, budgets are measured against one that is never short.
    let held = corpus_tokens.map_or(PLENTY, |tokens| {
        share_of(tokens, 1.0 - spec.data.held_out_fraction.clamp(0.0, 0.5)) / u64::from(k) / length
    });
    let mut branches = Vec::new();
    // What is refused for its size is not laid out first.
    if spec.training.batch_windows > 0 && k == spec.clustering.domains {
        let found = expand(spec, &Domains { windows: &vec![held.max(1); k as usize], order: &order });
        branches = found.branches;
        let first =
            |fault: &Fault| format!("if the domains were equal and a token {BYTES_PER_TOKEN} bytes: {}", fault.message);
        let mut short: Vec<Fault> =
            found.faults.iter().map(|fault| Fault { path: fault.path.clone(), message: first(fault) }).collect();
        short.dedup_by(|a, b| a.path == b.path);
        warnings.extend(short);
        warnings.extend(proportional(spec));
    }
    if request.slots.is_some() {
        // Nor does today's engine.
        let unused = unused_slots(spec, &known.fleet);
        refused.retain(|fault| !unused.contains(fault));
        warnings.extend(unused);
    } else {
        warnings.extend(not_now(spec, &known.fleet));
    }
    let shape = shape(spec, known);
    let (parameters, flops_per_token) = shape.as_ref().map_or((0, 0.0), |shape| (shape.parameters(), shape.flops()));
    let slots = slots(request, fleet);
    let (speeds, throughput_source) = throughput(request, fleet, shape.as_ref());
    let tokens_per_second = speeds.train;
    let slots_asked = slots.cpu.saturating_add(slots.cuda);
    let resumable = parameters.saturating_mul(WEIGHT_BYTES + MOMENT_BYTES);
    let lines: Vec<PlanLine> = branches
        .iter()
        .map(|branch| line(branch, tokens_per_second, bytes_kept(branch, spec, parameters, resumable)))
        .collect();
    let bytes = lines.iter().map(|line| line.checkpoint_bytes).fold(0, u64::saturating_add);
    if let Some(room) = known.room {
        let after = room.used.0.saturating_add(room.growth.0).saturating_add(bytes);
        if after > room.budget.0 / 10 * 9 && after <= room.budget.0 {
            let message = format!("with it the store holds {} of its budget of {}", Bytes(after), room.budget);
            warnings.push(Fault { path: "retention".into(), message });
        }
    }
    let files = known.corpus.map_or_else(Vec::new, KnownCorpus::text_of_files);
    let left = of_plan(spec, &branches, &files, held_out_tokens_planned(spec, known));
    let timed = stages(&left, &speeds, slots);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
    let tokens_in_days = request
        .days
        .zip(tokens_per_second)
        .map(|(days, rate)| (days * 86_400.0 * rate * f64::from(slots_asked)) as u64);
    let tokens = lines.iter().map(|line| line.tokens).fold(0, u64::saturating_add);
    let fit =
        request.days.zip(timed.as_ref()).map(|(days, (seconds, _))| fit(days, *seconds, &lines, &left, &speeds, slots));
    let (seconds, stages) = timed.map_or((None, Vec::new()), |(seconds, stages)| (Some(seconds), stages));
    PlanView {
        tokens,
        parameters,
        flops_per_token,
        tokens_per_second,
        throughput_source,
        slots: slots_asked,
        seconds,
        stages,
        fit,
        checkpoint_bytes: bytes,
        checkpoint_bytes_each: resumable,
        tokens_in_days,
        corpus_tokens,
        branches: lines,
        refused,
        warnings,
    }
}

/// The slots of a plan: those of the fleet, or those that were given, of the kind that the file asks for.
fn slots(request: &PlanRequest, fleet: &Fleet) -> Slots {
    let Some(given) = request.slots else {
        let none = fleet.slots == Slots::default();
        return if none { Slots { cpu: 1, cuda: 0 } } else { fleet.slots };
    };
    match request.experiment.resources.device {
        Some(DeviceKind::Cpu) => Slots { cpu: given.max(1), cuda: 0 },
        _ => Slots { cpu: 0, cuda: given.max(1) },
    }
}

/// A word on budgets by size, before sizes are known.
fn proportional(spec: &ExperimentSpec) -> Option<Fault> {
    let is_so = |group: &senmon_protocol::spec::BranchGroup| matches!(group, senmon_protocol::spec::BranchGroup::FanOut(group) if group.share == BudgetShare::Proportional);
    spec.plan.iter().position(is_so).map(|i| Fault {
        path: format!("plan[{i}].share"),
        message: "proportional: shown as equal, because the sizes of the domains are known only when they are found"
            .into(),
    })
}

/// Tokens that an evaluation of a planned experiment scores.
fn held_out_tokens_planned(spec: &ExperimentSpec, known: &Known) -> u64 {
    let k = u64::from(spec.clustering.domains.clamp(1, crate::domain::validate::DOMAINS_MAX));
    let corpus = known.corpus.filter(|corpus| corpus.documents > 0);
    let share = spec.data.held_out_fraction.clamp(0.0, 0.5) / f64::from(u32::try_from(k).unwrap_or(1));
    let (documents, tokens) = corpus.map_or((u64::MAX, u64::MAX), |corpus| {
        let tokens = share_of(corpus.text_bytes, 1.0 / BYTES_PER_TOKEN);
        (share_of(corpus.documents, share), share_of(tokens, share))
    });
    held_out_tokens(&spec.evaluation, (0..k).map(|_| (documents, tokens)))
}

/// Bytes of the checkpoints that stay of an experiment, at most, under its retention. `each` is the size of a resumable
/// one, where it is known. None where nothing is known of the model.
#[must_use]
pub fn checkpoint_bytes(spec: &ExperimentSpec, known: &Known, each: Option<u64>) -> Option<u64> {
    let parameters = match each {
        Some(each) => each / (WEIGHT_BYTES + MOMENT_BYTES),
        None => model(spec, known).map(|(model, vocab)| model.parameters(vocab))?,
    };
    let resumable = each.unwrap_or(parameters.saturating_mul(WEIGHT_BYTES + MOMENT_BYTES));
    let k = spec.clustering.domains.clamp(1, crate::domain::validate::DOMAINS_MAX);
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
    let message = format!(
        "the checkpoints that stay take {}; the storage budget of {} leaves {} ({} used, {} still to come from experiments under way)",
        Bytes(needs),
        room.budget,
        Bytes(left),
        room.used,
        room.growth
    );
    (needs > left).then(|| Fault { path: "retention".into(), message })
}

/// The model that an experiment trains, where file and disk say enough of it.
#[must_use]
pub fn shape(spec: &ExperimentSpec, known: &Known) -> Option<Shape> {
    let (model, vocab) = model(spec, known)?;
    let model = ModelSpec { vocab_size: u32::try_from(vocab).ok(), ..model.clone() };
    Some(Shape { model, sequence_length: spec.data.sequence_length, precision: spec.training.precision })
}

fn model<'a>(spec: &'a ExperimentSpec, known: &'a Known) -> Option<(&'a ModelSpec, u64)> {
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

/// How fast the plan's work goes on one slot, and what the rate of training stands on.
fn throughput(request: &PlanRequest, fleet: &Fleet, shape: Option<&Shape>) -> (Speeds, String) {
    // Slots that are given are a fleet that is not there yet.
    let devices: &[(String, u32)] = if request.slots.is_some() { &[] } else { &fleet.devices };
    let (measured, basis) = Speeds::of(&fleet.rates, shape, devices);
    let assumed = |train: f64| Speeds { train: Some(train), evaluate: None, ..measured.clone() };
    if let Some(rate) = request.tokens_per_second {
        return (assumed(rate), "as given".into());
    }
    let flops_per_token = shape.map_or(0.0, Shape::flops);
    if let Some(peak) = request.peak_flops.filter(|_| flops_per_token > 0.0) {
        let utilisation = request.utilisation.unwrap_or(0.4);
        let says = format!("{:.0} TFLOP/s at {:.0} % utilisation", peak / 1e12, utilisation * 100.0);
        return (assumed(peak * utilisation / flops_per_token), says);
    }
    let says = match basis {
        Some(basis) => basis.to_string(),
        None => "unknown: give --tokens-per-second, or --peak-flops and --utilisation".into(),
    };
    (measured, says)
}

/// Bytes of a branch's checkpoints that stay, at most.
fn bytes_kept(branch: &PlannedBranch, spec: &ExperimentSpec, parameters: u64, resumable: u64) -> u64 {
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

fn line(branch: &PlannedBranch, rate: Option<f64>, checkpoint_bytes: u64) -> PlanLine {
    PlanLine {
        name: branch.name.clone(),
        role: branch.role,
        parent: branch.parent.clone(),
        domain: branch.domain,
        repeat: branch.repeat,
        tokens: branch.tokens(),
        steps: branch.steps,
        fresh_share: branch.fresh_share,
        seconds: rate.map(|rate| seconds(branch, rate)),
        checkpoint_bytes,
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn seconds(branch: &PlannedBranch, rate: f64) -> f64 {
    let slots = branch.training.as_ref().map_or(1, |training| training.slots.max(1));
    branch.tokens() as f64 / (rate * f64::from(slots))
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
fn share_of(count: u64, share: f64) -> u64 {
    (count as f64 * share) as u64
}

#[cfg(test)]
mod tests;
