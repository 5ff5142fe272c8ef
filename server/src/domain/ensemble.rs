//! The experts of a finished experiment, put together for use.

use senmon_protocol::{
    ensemble::{CalibratedTemperature, Ensemble, Expert},
    ids::StorageKey,
    job::CheckpointRef,
    report::{Report, SurfaceRow},
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

/// The experts that the report scored, with the checkpoints it scored; of the first repeat, where there are several.
#[must_use]
pub fn assemble(places: Places, spec: &ExperimentSpec, report: &Report, checkpoints: &[CheckpointView]) -> Ensemble {
    let first = report.matrix.iter().filter(|row| row.role == BranchRole::Expert && row.repeat == 0);
    let experts = first.filter_map(|row| {
        let scored = checkpoints.iter().find(|checkpoint| checkpoint.id == row.checkpoint_id)?;
        let checkpoint = CheckpointRef {
            id: scored.id,
            folder: scored.folder.clone(),
            manifest_sha256: scored.manifest_sha256.clone(),
            step: scored.meta.step,
        };
        let domain = row.domain?;
        let prior = report.domains.iter().find(|found| found.index == domain).map_or(0.0, |found| found.share);
        Some(Expert { branch: row.branch.clone(), domain, prior, checkpoint })
    });
    let calibrated =
        |row: &SurfaceRow| CalibratedTemperature { top_k: row.point.top_k, temperature: row.point.temperature };
    Ensemble {
        experiment_id: report.experiment_id,
        name: report.name.clone(),
        storage_url: places.storage_url,
        router: places.router,
        separator: places.separator,
        bos: spec.tokenizer.bos().map(str::to_owned),
        sequence_length: spec.data.sequence_length,
        route_every_tokens: spec.evaluation.route_every_tokens,
        temperatures: report.surface.iter().filter(|row| row.best_of_top_k).map(calibrated).collect(),
        chosen: report.surface.iter().find(|row| row.chosen).map(calibrated),
        experts: experts.collect(),
    }
}
