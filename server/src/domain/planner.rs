//! `senmon plan`: tokens, time and storage of an experiment before anything runs.

mod fit;

use crate::domain::{
    expand::{DOMAINS_MAX, Domains, PlannedBranch, expand},
    forecast::{held_out_tokens, of_plan},
    known::{Known, KnownCorpus},
    rates::{Rate, Shape, Speeds},
    room::{PLENTY, bytes_kept, model, resumable_bytes},
    timetable::Slots,
    validate::{not_now, unused_slots, validate},
};
use fit::{fit, stages};
use senmon_protocol::{
    model::ModelSpec,
    plan::{PlanRequest, PlanView, PlannedBranch as PlanLine},
    problem::Fault,
    resources::DeviceKind,
    said,
    said::{Said, decimal},
    spec::{BranchGroup, BudgetShare, ExperimentSpec},
    storage::Bytes,
};

/// Bytes of text that make a token, where nothing was counted yet: between English (3.5 to 4) and Japanese (about 2).
const BYTES_PER_TOKEN: f64 = 3.0;

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
    let k = spec.clustering.domains.clamp(1, DOMAINS_MAX);
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
        let first = |fault: &Fault| said!("if_domains_were_equal", bytes = BYTES_PER_TOKEN, why = fault.why());
        let mut short: Vec<Fault> =
            found.faults.iter().map(|fault| Fault::said(fault.path.clone(), first(fault))).collect();
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
    let (speeds, source) = throughput(request, fleet, shape.as_ref());
    let tokens_per_second = speeds.train;
    let slots_asked = slots.cpu.saturating_add(slots.cuda);
    let resumable = resumable_bytes(parameters);
    let lines: Vec<PlanLine> = branches
        .iter()
        .map(|branch| line(branch, tokens_per_second, bytes_kept(branch, spec, parameters, resumable)))
        .collect();
    let bytes = lines.iter().map(|line| line.checkpoint_bytes).fold(0, u64::saturating_add);
    if let Some(room) = known.room {
        let after = room.used.0.saturating_add(room.growth.0).saturating_add(bytes);
        if after > room.budget.0 / 10 * 9 && after <= room.budget.0 {
            let said = said!("store_nearly_at_budget", after = Bytes(after), budget = room.budget);
            warnings.push(Fault::said("retention", said));
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
        throughput_source: source.text(),
        throughput_source_said: Some(source),
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
    let is_so =
        |group: &BranchGroup| matches!(group, BranchGroup::FanOut(group) if group.share == BudgetShare::Proportional);
    spec.plan.iter().position(is_so).map(|i| Fault::said(format!("plan[{i}].share"), said!("proportional_shown_equal")))
}

/// Tokens that an evaluation of a planned experiment scores.
fn held_out_tokens_planned(spec: &ExperimentSpec, known: &Known) -> u64 {
    let k = u64::from(spec.clustering.domains.clamp(1, DOMAINS_MAX));
    let corpus = known.corpus.filter(|corpus| corpus.documents > 0);
    let share = spec.data.held_out_fraction.clamp(0.0, 0.5) / f64::from(u32::try_from(k).unwrap_or(1));
    let (documents, tokens) = corpus.map_or((u64::MAX, u64::MAX), |corpus| {
        let tokens = share_of(corpus.text_bytes, 1.0 / BYTES_PER_TOKEN);
        (share_of(corpus.documents, share), share_of(tokens, share))
    });
    held_out_tokens(&spec.evaluation, (0..k).map(|_| (documents, tokens)))
}

/// The model that an experiment trains, where file and disk say enough of it.
#[must_use]
pub fn shape(spec: &ExperimentSpec, known: &Known) -> Option<Shape> {
    let (model, vocab) = model(spec, known)?;
    let model = ModelSpec { vocab_size: u32::try_from(vocab).ok(), ..model.clone() };
    Some(Shape { model, sequence_length: spec.data.sequence_length, precision: spec.training.precision })
}

/// How fast the plan's work goes on one slot, and what the rate of training stands on.
fn throughput(request: &PlanRequest, fleet: &Fleet, shape: Option<&Shape>) -> (Speeds, Said) {
    // Slots that are given are a fleet that is not there yet.
    let devices: &[(String, u32)] = if request.slots.is_some() { &[] } else { &fleet.devices };
    let (measured, basis) = Speeds::of(&fleet.rates, shape, devices);
    let assumed = |train: f64| Speeds { train: Some(train), evaluate: None, ..measured.clone() };
    if let Some(rate) = request.tokens_per_second {
        return (assumed(rate), said!("plan_rate_given"));
    }
    let flops_per_token = shape.map_or(0.0, Shape::flops);
    if let Some(peak) = request.peak_flops.filter(|_| flops_per_token > 0.0) {
        let utilisation = request.utilisation.unwrap_or(0.4);
        let (tflops, percent) = (decimal(peak / 1e12, 0), decimal(utilisation * 100.0, 0));
        let says = said!("plan_rate_peak", tflops = tflops, percent = percent);
        return (assumed(peak * utilisation / flops_per_token), says);
    }
    let says = basis.map_or_else(|| said!("plan_rate_unknown"), |basis| basis.said());
    (measured, says)
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
