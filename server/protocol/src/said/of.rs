//! What is said of things that have a kind: stages, jobs, reasons.

use super::{Said, SaidValue};
use crate::{
    goodput::TimeCause,
    job::{EndedOutcome, JobKind, TerminationReason},
    said,
    view::{Stage, TroubleKind},
};

/// The title of a job, such as `train expert-3`.
#[must_use]
pub fn title(title: &str) -> SaidValue {
    let Some((word, name)) = title.split_once(' ') else { return title.into() };
    SaidValue::Said(match word {
        "scan" => said!("title_scan", name = name),
        "deduplicate" => said!("title_deduplicate", name = name),
        "shard" => said!("title_shard", name = name),
        "train" => said!("title_train", name = name),
        "merge" => said!("title_merge", name = name),
        "evaluate" => said!("title_evaluate", name = name),
        "compare" => said!("title_compare", name = name),
        _ => return title.into(),
    })
}

/// A kind of job, as what a worker can do.
#[must_use]
pub fn kind(kind: JobKind) -> Said {
    match kind {
        JobKind::Scan => said!("kind_scan"),
        JobKind::Deduplicate => said!("kind_deduplicate"),
        JobKind::Shard => said!("kind_shard"),
        JobKind::Train => said!("kind_train"),
        JobKind::Evaluate => said!("kind_evaluate"),
        JobKind::Merge => said!("kind_merge"),
        JobKind::Ensemble => said!("kind_ensemble"),
        JobKind::Decontaminate => said!("kind_decontaminate"),
    }
}

/// A stage.
#[must_use]
pub fn stage(stage: Stage) -> Said {
    match stage {
        Stage::Discover => said!("stage_discover"),
        Stage::Shard => said!("stage_shard"),
        Stage::Seed => said!("stage_seed"),
        Stage::Branches => said!("stage_branches"),
        Stage::Merge => said!("stage_merge"),
        Stage::Evaluate => said!("stage_evaluate"),
        Stage::Report => said!("stage_report"),
    }
}

/// A kind of thing that is set aside.
#[must_use]
pub fn trouble(kind: TroubleKind) -> Said {
    match kind {
        TroubleKind::Experiment => said!("trouble_experiment"),
        TroubleKind::Corpus => said!("trouble_corpus"),
        TroubleKind::Clustering => said!("trouble_clustering"),
        TroubleKind::Tokenizer => said!("trouble_tokenizer"),
        TroubleKind::Branch => said!("trouble_branch"),
        TroubleKind::Checkpoint => said!("trouble_checkpoint"),
    }
}

/// What to do about an attempt that ended so.
#[must_use]
pub fn advice(reason: TerminationReason) -> Said {
    match reason {
        TerminationReason::WorkerLost => said!("advice_worker_lost"),
        TerminationReason::Released => said!("advice_released"),
        TerminationReason::Preempted => said!("advice_preempted"),
        TerminationReason::Cancelled => said!("advice_cancelled"),
        TerminationReason::InvalidInput => said!("advice_invalid_input"),
        TerminationReason::CorruptData => said!("advice_corrupt_data"),
        TerminationReason::OutOfMemory => said!("advice_out_of_memory"),
        TerminationReason::StorageFailure => said!("advice_storage_failure"),
        TerminationReason::NonFiniteLoss => said!("advice_non_finite_loss"),
        TerminationReason::LossSpike => said!("advice_loss_spike"),
        TerminationReason::RolledBack => said!("advice_rolled_back"),
        TerminationReason::Stalled => said!("advice_stalled"),
        TerminationReason::InternalError => said!("advice_internal_error"),
    }
}

/// What takes time.
#[must_use]
pub fn time(cause: TimeCause) -> Said {
    match cause {
        TimeCause::Productive => said!("time_is_productive"),
        TimeCause::Scanning => said!("time_is_scanning"),
        TimeCause::Sharding => said!("time_is_sharding"),
        TimeCause::Evaluation => said!("time_is_evaluation"),
        TimeCause::Merging => said!("time_is_merging"),
        TimeCause::Wasted => said!("time_is_wasted"),
        TimeCause::Starting => said!("time_is_starting"),
        TimeCause::CheckpointStall => said!("time_is_checkpoint_stall"),
        TimeCause::DataWait => said!("time_is_data_wait"),
        TimeCause::Detection => said!("time_is_detection"),
        TimeCause::Finishing => said!("time_is_finishing"),
        TimeCause::Recovering => said!("time_is_recovering"),
        TimeCause::Queued => said!("time_is_queued"),
        TimeCause::Preempted => said!("time_is_preempted"),
        TimeCause::Paused => said!("time_is_paused"),
        TimeCause::Idle => said!("time_is_idle"),
    }
}

/// A cause of time that is no goodput, in a word or two.
#[must_use]
pub fn cause(cause: TimeCause) -> Option<Said> {
    Some(match cause {
        TimeCause::Wasted => said!("cause_wasted"),
        TimeCause::Starting => said!("cause_starting"),
        TimeCause::CheckpointStall => said!("cause_checkpoint_stall"),
        TimeCause::DataWait => said!("cause_data_wait"),
        TimeCause::Detection => said!("cause_detection"),
        TimeCause::Finishing => said!("cause_finishing"),
        TimeCause::Recovering => said!("cause_recovering"),
        TimeCause::Queued => said!("cause_queued"),
        TimeCause::Preempted => said!("cause_preempted"),
        TimeCause::Paused => said!("cause_paused"),
        TimeCause::Idle => said!("cause_idle"),
        TimeCause::Productive
        | TimeCause::Scanning
        | TimeCause::Sharding
        | TimeCause::Evaluation
        | TimeCause::Merging => return None,
    })
}

/// How an attempt ended: as its worker says it; where that is another program's words alone, behind the reason.
#[must_use]
pub fn end(ended: &EndedOutcome) -> Said {
    let detail = ended.message.as_str();
    if let Some(said) = ended.said.clone().and_then(|said| said.that_says(detail)) {
        return said;
    }
    match ended.reason {
        TerminationReason::WorkerLost => said!("end_worker_lost", detail = detail),
        TerminationReason::Released => said!("end_released", detail = detail),
        TerminationReason::Preempted => said!("end_preempted", detail = detail),
        TerminationReason::Cancelled => said!("end_cancelled", detail = detail),
        TerminationReason::InvalidInput => said!("end_invalid_input", detail = detail),
        TerminationReason::CorruptData => said!("end_corrupt_data", detail = detail),
        TerminationReason::OutOfMemory => said!("end_out_of_memory", detail = detail),
        TerminationReason::StorageFailure => said!("end_storage_failure", detail = detail),
        TerminationReason::NonFiniteLoss => said!("end_non_finite_loss", detail = detail),
        TerminationReason::LossSpike => said!("end_loss_spike", detail = detail),
        TerminationReason::RolledBack => said!("end_rolled_back", detail = detail),
        TerminationReason::Stalled => said!("end_stalled", detail = detail),
        TerminationReason::InternalError => said!("end_internal_error", detail = detail),
    }
}
