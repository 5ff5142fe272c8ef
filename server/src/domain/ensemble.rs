//! The experts of a finished experiment, put together for use.

use senmon_protocol::{
    ensemble::{CalibratedTemperature, Ensemble, Expert},
    ids::StorageKey,
    job::CheckpointRef,
    report::Report,
    spec::ExperimentSpec,
    view::{BranchRole, CheckpointView},
};

/// Where things are.
#[derive(Debug)]
pub struct Places {
    /// The object store, as workers are told of it.
    pub storage_url: String,
    /// Folder of the router artefact.
    pub router: StorageKey,
    /// Token between documents.
    pub separator: String,
}

/// The experts that the report scored, with the checkpoints it scored.
#[must_use]
pub fn assemble(places: Places, spec: &ExperimentSpec, report: &Report, checkpoints: &[CheckpointView]) -> Ensemble {
    let experts = report.matrix.iter().filter(|row| row.role == BranchRole::Expert).filter_map(|row| {
        let scored = checkpoints.iter().find(|checkpoint| checkpoint.id == row.checkpoint_id)?;
        let checkpoint = CheckpointRef {
            id: scored.id,
            folder: scored.folder.clone(),
            manifest_sha256: scored.manifest_sha256.clone(),
            step: scored.meta.step,
        };
        Some(Expert { branch: row.branch.clone(), domain: row.domain?, checkpoint })
    });
    let calibrated =
        report.routing.iter().map(|line| CalibratedTemperature { top_k: line.top_k, temperature: line.temperature });
    Ensemble {
        experiment_id: report.experiment_id,
        name: report.name.clone(),
        storage_url: places.storage_url,
        router: places.router,
        separator: places.separator,
        bos: spec.tokenizer.bos().map(str::to_owned),
        sequence_length: spec.data.sequence_length,
        route_every_tokens: spec.evaluation.route_every_tokens,
        temperatures: calibrated.collect(),
        experts: experts.collect(),
    }
}
