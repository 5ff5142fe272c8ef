//! `senmon plan`: tokens, time and storage of an experiment before anything runs.

use crate::domain::{
    expand::{Domains, PlannedBranch, expand},
    retention::kept_at_most,
    validate::{Known, not_now, unused_slots, validate},
};
use senmon_protocol::{
    model::ModelSpec,
    plan::{PlanRequest, PlanView, PlannedBranch as PlanLine},
    problem::Fault,
    spec::{ExperimentSpec, SeedSpec, TokenizerSpec},
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

/// Throughput that the fleet showed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fleet {
    /// Slots of workers that are alive.
    pub slots: u32,
    /// Tokens per second of one slot, measured on a model of this size. None when nothing ran yet.
    pub tokens_per_second: Option<f64>,
}

/// Plans a request. Domains are taken as equal parts of the corpus: they are not known before the clustering.
#[must_use]
pub fn plan(request: &PlanRequest, known: &Known, fleet: Fleet) -> PlanView {
    let spec = &request.experiment;
    // Slots that are given are a fleet that is not there yet: the one that is says nothing of it.
    let imagined = Known { fleet: Vec::new(), ..known.clone() };
    let known = if request.slots.is_some() { &imagined } else { known };
    let mut refused = validate(spec, known);
    let length = u64::from(spec.data.sequence_length.max(1));
    let corpus_tokens = known.corpus.map(|corpus| share_of(corpus.text_bytes, 1.0 / BYTES_PER_TOKEN));
    let k = spec.clustering.domains.clamp(1, crate::domain::validate::DOMAINS_MAX);
    let order: Vec<u32> = (0..k).collect();
    // Where the corpus is not known, budgets are measured against one that is never short.
    let held = corpus_tokens.map_or(PLENTY, |tokens| {
        share_of(tokens, 1.0 - spec.data.held_out_fraction.clamp(0.0, 0.5)) / u64::from(k) / length
    });
    let (mut branches, mut warnings) = (Vec::new(), Vec::new());
    // What is refused for its size is not laid out first.
    if spec.training.batch_windows > 0 && k == spec.clustering.domains {
        let found = expand(spec, &Domains { windows: &vec![held.max(1); k as usize], order: &order });
        branches = found.branches;
        let first =
            |fault: &Fault| format!("if the domains were equal and a token {BYTES_PER_TOKEN} bytes: {}", fault.message);
        warnings = found.faults.iter().map(|fault| Fault::new(fault.path.clone(), first(fault))).collect();
        warnings.dedup_by(|a, b| a.path == b.path);
    }
    if request.slots.is_some() {
        // Nor does today's engine.
        let unused = unused_slots(spec, &known.fleet);
        refused.retain(|fault| !unused.contains(fault));
        warnings.extend(unused);
    } else {
        warnings.extend(not_now(spec, &known.fleet));
    }
    let shape = model(spec, known);
    let (parameters, flops) =
        shape.map_or((0, 0), |(model, vocab)| (model.parameters(vocab), model.train_flops_per_token(vocab, length)));
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let flops_per_token = flops as f64;
    let (tokens_per_second, throughput_source) = throughput(request, fleet, flops_per_token);
    let slots = request.slots.unwrap_or(fleet.slots).max(1);
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
            warnings.push(Fault::new("retention", message));
        }
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
    let tokens_in_days =
        request.days.zip(tokens_per_second).map(|(days, rate)| (days * 86_400.0 * rate * f64::from(slots)) as u64);
    PlanView {
        tokens: lines.iter().map(|line| line.tokens).fold(0, u64::saturating_add),
        parameters,
        flops_per_token,
        tokens_per_second,
        throughput_source,
        slots,
        seconds: tokens_per_second.map(|rate| makespan(&branches, rate, slots)),
        checkpoint_bytes: bytes,
        checkpoint_bytes_each: resumable,
        tokens_in_days,
        corpus_tokens,
        branches: lines,
        refused,
        warnings,
    }
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
    (needs > left).then(|| Fault::new("retention", message))
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

fn throughput(request: &PlanRequest, fleet: Fleet, flops_per_token: f64) -> (Option<f64>, String) {
    if let Some(rate) = request.tokens_per_second {
        return (Some(rate), "as given".into());
    }
    if let Some(peak) = request.peak_flops.filter(|_| flops_per_token > 0.0) {
        let utilisation = request.utilisation.unwrap_or(0.4);
        let rate = peak * utilisation / flops_per_token;
        return (Some(rate), format!("{:.0} TFLOP/s at {:.0} % utilisation", peak / 1e12, utilisation * 100.0));
    }
    match fleet.tokens_per_second {
        Some(rate) => (Some(rate), "measured by the workers on a model of this shape".into()),
        None => (None, "unknown: give --tokens-per-second, or --peak-flops and --utilisation".into()),
    }
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

/// Wall time on `slots` slots: parents before children, the longest ready branch first (list scheduling).
fn makespan(branches: &[PlannedBranch], rate: f64, slots: u32) -> f64 {
    let mut free = vec![0.0_f64; slots.min(4096) as usize];
    let mut ends: Vec<Option<f64>> = vec![None; branches.len()];
    let parent =
        |branch: &PlannedBranch| branch.parent.as_ref().and_then(|name| branches.iter().position(|b| b.name == *name));
    let parents: Vec<Option<usize>> = branches.iter().map(parent).collect();
    for _ in 0..branches.len() {
        let ready = |i: &usize| ends[*i].is_none() && parents[*i].is_none_or(|p| ends[p].is_some());
        let start = |i: &usize| parents[*i].and_then(|p| ends[p]).unwrap_or(0.0);
        let next = (0..branches.len()).filter(ready).min_by(|a, b| {
            start(a).total_cmp(&start(b)).then(seconds(&branches[*b], rate).total_cmp(&seconds(&branches[*a], rate)))
        });
        let Some(next) = next else { break };
        let wanted =
            branches[next].training.as_ref().map_or(1, |training| usize::from(training.slots)).clamp(1, free.len());
        free.sort_by(f64::total_cmp);
        let begin = free[wanted - 1].max(start(&next));
        let end = begin + seconds(&branches[next], rate);
        free[..wanted].fill(end);
        ends[next] = Some(end);
    }
    ends.into_iter().flatten().fold(0.0, f64::max)
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
fn share_of(count: u64, share: f64) -> u64 {
    (count as f64 * share) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{expand::tests::spec, validate::KnownCorpus};
    use senmon_protocol::resources::DeviceKind;

    #[test]
    fn twenty_h100s_in_a_month_give_a_10b_model_about_340_billion_tokens() {
        let mut experiment = spec();
        experiment.model = serde_json::from_value(serde_json::json!({
            "vocab_size": 100_000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 42,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096
        }))
        .unwrap();
        experiment.data.sequence_length = 4096;
        let request = PlanRequest {
            experiment,
            slots: Some(20),
            peak_flops: Some(989e12),
            utilisation: Some(0.4),
            tokens_per_second: None,
            days: Some(30.0),
        };
        let plan = plan(&request, &Known::default(), Fleet::default());
        assert!((9.5e9..10.5e9).contains(&(plan.parameters as f64)), "{}", plan.parameters);
        // 6N alone would give 342 billion; attention at 4,096 tokens takes its share.
        let tokens = plan.tokens_in_days.unwrap() as f64;
        assert!((290e9..345e9).contains(&tokens), "{tokens:e}");
    }

    #[test]
    fn wall_time_follows_slots_and_parents() {
        let check = |slots, expect: f64| {
            let request = PlanRequest {
                experiment: spec(),
                slots: Some(slots),
                peak_flops: None,
                utilisation: None,
                tokens_per_second: Some(64.0),
                days: None,
            };
            let found = plan(&request, &Known::default(), Fleet::default()).seconds.unwrap();
            assert!((found - expect).abs() < 1.0, "{slots} slots: {found}, expected {expect}");
        };
        // Seed 100 s, then experts, dense and random parts of 30 s each set, a chain of 2 x 10 s.
        check(1, 100.0 + 30.0 * 3.0 + 20.0);
        check(100, 100.0 + 30.0);
    }

    #[test]
    fn a_plan_for_accelerators_to_come_warns_of_what_a_submission_refuses() {
        let mut experiment = spec();
        experiment.training.slots = 4;
        experiment.resources.device = Some(DeviceKind::Cuda);
        let plan = |slots| {
            let request = PlanRequest {
                experiment: experiment.clone(),
                slots,
                peak_flops: None,
                utilisation: None,
                tokens_per_second: None,
                days: None,
            };
            plan(&request, &Known::default(), Fleet::default())
        };
        let says = |faults: &[Fault]| faults.iter().any(|fault| fault.message.contains("no engine here trains"));
        let (asked, imagined) = (plan(None), plan(Some(20)));
        assert!(says(&asked.refused) && !says(&asked.warnings), "{asked:?}");
        assert!(says(&imagined.warnings) && !says(&imagined.refused), "{imagined:?}");
    }

    #[test]
    fn a_plan_counts_what_stays_and_stops_at_the_budget() {
        let mut experiment = spec();
        experiment.training.checkpoint_every_steps = Some(1);
        let request = |keep_latest| {
            let mut experiment = experiment.clone();
            experiment.retention.keep_latest = keep_latest;
            PlanRequest {
                experiment,
                slots: None,
                peak_flops: None,
                utilisation: None,
                tokens_per_second: None,
                days: None,
            }
        };
        let bytes = |keep_latest| plan(&request(keep_latest), &Known::default(), Fleet::default()).checkpoint_bytes;
        assert!(bytes(2) < bytes(3) && bytes(3) < bytes(5), "{} {} {}", bytes(2), bytes(3), bytes(5));
        let corpus = KnownCorpus { ready: true, documents: 1000, text_bytes: 1 << 30 };
        let budget = |budget: u64| {
            let room = Room { budget: Bytes(budget), used: Bytes(1000), growth: Bytes(500) };
            plan(&request(2), &Known { corpus: Some(corpus), room: Some(room), ..Known::default() }, Fleet::default())
        };
        let tight = budget(bytes(2) + 1499);
        assert!(
            tight.refused.iter().any(|f| f.path == "retention" && f.message.contains("leaves")),
            "{:?}",
            tight.refused
        );
        let nearly = budget(bytes(2) + 1500);
        assert!(
            nearly.refused.is_empty() && nearly.warnings.iter().any(|f| f.path == "retention"),
            "{:?}",
            nearly.refused
        );
    }
}
