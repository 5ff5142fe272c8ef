//! What is said of things that have a kind: stages, jobs, reasons.

use super::{Said, SaidValue};
pub use crate::{
    goodput::{cause, time},
    outcome::advice,
};
use crate::{
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

/// A kind of thing that there is by an id or a name.
#[must_use]
pub fn noun(noun: &str) -> SaidValue {
    SaidValue::Said(match noun {
        "experiment" => said!("noun_experiment"),
        "corpus" => said!("noun_corpus"),
        "branch" => said!("noun_branch"),
        "checkpoint" => said!("noun_checkpoint"),
        "clustering" => said!("noun_clustering"),
        "tokenizer" => said!("noun_tokenizer"),
        "worker" => said!("noun_worker"),
        "job" => said!("noun_job"),
        "alert" => said!("noun_alert"),
        "token" => said!("noun_token"),
        _ => return noun.into(),
    })
}

/// The state of an experiment or a branch, by its word.
#[must_use]
pub fn state(word: &str) -> SaidValue {
    SaidValue::Said(match word {
        "waiting" => said!("state_waiting"),
        "queued" => said!("state_queued"),
        "running" => said!("state_running"),
        "paused" => said!("state_paused"),
        "completed" => said!("state_completed"),
        "failed" => said!("state_failed"),
        "cancelled" => said!("state_cancelled"),
        _ => return word.into(),
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
        TerminationReason::DeviceFault => said!("end_device_fault", detail = detail),
        TerminationReason::StorageFailure => said!("end_storage_failure", detail = detail),
        TerminationReason::NonFiniteLoss => said!("end_non_finite_loss", detail = detail),
        TerminationReason::LossSpike => said!("end_loss_spike", detail = detail),
        TerminationReason::RolledBack => said!("end_rolled_back", detail = detail),
        TerminationReason::Stalled => said!("end_stalled", detail = detail),
        TerminationReason::InternalError => said!("end_internal_error", detail = detail),
    }
}
