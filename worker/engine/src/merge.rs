//! The average of several checkpoints' weights, written as a checkpoint of weights alone.

use super::{
    checkpoint::{Snapshot, TrainerState, from_host},
    commit::{Draft, commit},
    context::{JobContext, asked_to_end, ended},
    export::Export,
    hub::{self, HostTensors},
    model::place_weights,
    parameters::Layout,
    place::Place,
};
use senmon_corpus::{manifest::verify, roots::Folder};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta},
    job::{EndedOutcome, MergeJob, MergeResult, TerminationReason},
    lineage::Lineage,
};

/// Runs a merge.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &MergeJob, place: &Place, context: &dyn JobContext) -> Result<MergeResult, EndedOutcome> {
    let corrupt = |error: anyhow::Error| ended(TerminationReason::CorruptData, format!("{error:#}"));
    let total: f64 = job.members.iter().map(|member| member.weight).sum();
    if job.members.is_empty() || !(total.is_finite() && total > 0.0) {
        return Err(ended(TerminationReason::InvalidInput, "a weight average needs members with weights above 0."));
    }
    context.started(0, None);
    let mut sum: Option<(senmon_protocol::model::ModelSpec, HostTensors)> = None;
    let mut lineages = Vec::new();
    let mut export = Export::default();
    for (member, done) in job.members.iter().zip(0_u64..) {
        if let Some(end) = asked_to_end(context.command()) {
            return Err(end);
        }
        let folder = place.path(&member.checkpoint.folder);
        lineages.push(verify(&folder, &member.checkpoint.manifest_sha256).map_err(corrupt)?.meta.lineage);
        let (spec, weights) = hub::load_model(&folder).map_err(corrupt)?;
        if done == 0 {
            export = Export::load(&Folder::own(&folder)).map_err(corrupt)?;
        }
        let (first, sums) = sum.get_or_insert_with(|| (spec.clone(), zeros(&weights)));
        if *first != spec {
            return Err(ended(
                TerminationReason::InvalidInput,
                format!("{}: its shape differs from the first member's", member.checkpoint.folder),
            ));
        }
        #[expect(clippy::cast_possible_truncation, reason = "weights are kept as f32")]
        add(sums, &weights, (member.weight / total) as f32);
        context.progress(done + 1, job.members.len() as u64, 0.0);
    }
    let Some((spec, weights)) = sum else { return Err(ended(TerminationReason::InvalidInput, "no members.")) };
    let weights = place_weights(&Layout::new(&spec), &from_host(&weights), tch::Device::Cpu);
    let meta = CheckpointMeta {
        kind: CheckpointKind::Weights,
        experiment_id: job.experiment_id,
        branch_id: job.branch_id,
        fence: place.fence,
        step: 0,
        tokens: 0,
        lineage: Lineage::joined(&lineages),
        parent_id: None,
        bytes: 0,
        loss: None,
        config_sha256: String::new(),
        state_sha256: String::new(),
    };
    let state = TrainerState {
        step: 0,
        tokens: 0,
        optimizer_steps: 0,
        next_batch_hash: None,
        state_sha256: String::new(),
        health: super::health::HealthState::default(),
    };
    let snapshot = Snapshot { spec, weights, moments: None, state, export: export.into() };
    let name = format!("{:08}-f{}", 0, place.fence);
    let draft = Draft { snapshot: &snapshot, meta, tokenizer: &job.tokenizer, output: &job.output, name };
    commit(draft, place, context, place.depot.patience())?;
    Ok(MergeResult { members: job.members.len() as u64 })
}

fn zeros(like: &HostTensors) -> HostTensors {
    like.iter().map(|(name, (shape, values))| (name.clone(), (shape.clone(), vec![0.0; values.len()]))).collect()
}

fn add(sums: &mut HostTensors, weights: &HostTensors, share: f32) {
    for (name, (_, values)) in weights {
        if let Some((_, sums)) = sums.get_mut(name) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * value);
        }
    }
}
