//! `senmon plan`: tokens, time and storage of an experiment before anything runs.

use crate::domain::{
    expand::{DOMAINS_MAX, Domains, PlannedBranch, expand},
    known::Known,
    room::{PLENTY, bytes_kept, model, resumable_bytes},
    validate::{not_now, unused_slots, validate},
};
use senmon_protocol::{
    plan::{PlanRequest, PlanView, PlannedBranch as PlanLine},
    problem::Fault,
    storage::Bytes,
};

/// Bytes of text that make a token, where nothing was counted yet: between English (3.5 to 4) and Japanese (about 2).
const BYTES_PER_TOKEN: f64 = 3.0;
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
    let k = spec.clustering.domains.clamp(1, DOMAINS_MAX);
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
        warnings = found.faults.iter().map(|fault| Fault { path: fault.path.clone(), message: first(fault) }).collect();
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
    let resumable = resumable_bytes(parameters);
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
    use crate::domain::{
        expand::tests::spec,
        known::{KnownCorpus, Room},
    };
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
