//! Checkpoint folders: a Hugging Face model, the trainer's state beside it, and `manifest.json` last.
//!
//! Order of a save: files written, synced and read back, the folder synced, the manifest written and synced, the
//! folder synced again. A folder without a manifest is no checkpoint; a folder whose files differ from it is refused
//! by name. The manifest lists what this save wrote, never what happens to lie in the folder.

use super::{
    export::Export,
    hub::{HostTensor, HostTensors, MODEL_FILE, bytes_of, config_json, read_tensors, write_tensors},
    parameters::{Arenas, Layout},
};
use anyhow::{Context, Result, ensure};
use senmon_corpus::{hex, sha256_file};
use senmon_protocol::{
    checkpoint::{CheckpointMeta, FileEntry, MANIFEST_FILE, Manifest},
    ids::CheckpointId,
    model::ModelSpec,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
    sync::Arc,
};
use tch::{Device, Tensor};

const TRAINER_FILE: &str = "trainer.safetensors";
const TRAINER_STATE_FILE: &str = "trainer.json";

/// State of training beside weights and moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Optimiser steps of the branch.
    pub step: u64,
    /// Tokens of the branch.
    pub tokens: u64,
    /// Steps that the moments have seen.
    pub optimizer_steps: u64,
    /// Hash of the next batch; None after the last step.
    pub next_batch_hash: Option<u64>,
    /// Digest of weights, moments and step.
    pub state_sha256: String,
    /// Where the data order stands beyond the step, and what else changes the steps to come.
    #[serde(default)]
    pub health: super::health::HealthState,
}

/// Everything of a moment of training, copied to the host.
#[derive(Debug)]
pub struct Snapshot {
    /// Shape of the model.
    pub spec: ModelSpec,
    /// Weights.
    pub weights: Arenas,
    /// First and second moments; None for weights alone.
    pub moments: Option<(Arenas, Arenas)>,
    /// The rest; the digest is filled in by [`save`].
    pub state: TrainerState,
    /// What stands beside the weights.
    pub export: Arc<Export>,
}

/// Puts host tensors into tensors.
#[must_use]
pub fn from_host(tensors: &HostTensors) -> BTreeMap<String, Tensor> {
    let make = |(name, (shape, values)): (&String, &HostTensor)| {
        let shape: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).unwrap_or(0)).collect();
        (name.clone(), Tensor::from_slice(values).view(shape.as_slice()))
    };
    tensors.iter().map(make).collect()
}

/// Digest of a state on the host: weights, first and second moments by name, then the step.
#[must_use]
pub fn digest(layout: &Layout, weights: &Arenas, moments: Option<(&Arenas, &Arenas)>, step: u64) -> String {
    let mut hash = Sha256::new();
    for set in std::iter::once(weights).chain(moments.into_iter().flat_map(|(first, second)| [first, second])) {
        for (name, tensor) in layout.views(set) {
            hash.update(name.as_bytes());
            hash.update(bytes_of(&tensor.to_device(Device::Cpu)));
        }
    }
    hash.update(step.to_le_bytes());
    hex(&hash.finalize())
}

/// A checkpoint folder that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// SHA-256 of its manifest.
    pub manifest_sha256: String,
    /// Names of its files, the manifest last.
    pub files: Vec<String>,
}

/// A folder that is being written: what was written to it, in order.
struct Folder<'a> {
    path: &'a Path,
    names: Vec<String>,
}

impl Folder<'_> {
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = File::create(self.path.join(name)).with_context(|| format!("create {name}"))?;
        file.write_all(bytes).with_context(|| format!("write {name}"))?;
        file.sync_all().with_context(|| format!("sync {name}"))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    fn tensors(&mut self, name: &str, layout: &Layout, sets: &[(&str, &Arenas)]) -> Result<()> {
        write_tensors(self.path, name, layout, sets)?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Size and hash of each file, read back.
    fn entries(&self) -> Result<BTreeMap<String, FileEntry>> {
        let entry = |name: &String| -> Result<_> {
            let path = self.path.join(name);
            let bytes = fs::metadata(&path).with_context(|| format!("read {name} back"))?.len();
            Ok((name.clone(), FileEntry { bytes, sha256: sha256_file(&path)? }))
        };
        self.names.iter().map(entry).collect()
    }

    fn sync(&self) -> Result<()> {
        File::open(self.path)?.sync_all().with_context(|| format!("sync {}", self.path.display()))
    }
}

/// Writes a checkpoint folder. Sizes and digest of `meta` are filled in. What an earlier try left in the folder is
/// written over; its manifest goes first, because half a checkpoint is none.
///
/// # Errors
/// When the disk refuses, or gives back something else than was written.
pub fn save(
    folder: &Path,
    snapshot: &Snapshot,
    tokenizer: &Path,
    id: CheckpointId,
    meta: &mut CheckpointMeta,
) -> Result<Saved> {
    let layout = Layout::new(&snapshot.spec);
    let moments = snapshot.moments.as_ref().map(|(first, second)| (first, second));
    meta.state_sha256 = digest(&layout, &snapshot.weights, moments, snapshot.state.step);
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    match fs::remove_file(folder.join(MANIFEST_FILE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove an earlier {MANIFEST_FILE}"));
        }
        _ => {}
    }
    let mut out = Folder { path: folder, names: Vec::new() };
    let tokenizer = fs::read(tokenizer).with_context(|| format!("read {}", tokenizer.display()))?;
    let mut config = config_json(&snapshot.spec);
    snapshot.export.complete(&mut config);
    out.write("config.json", &serde_json::to_vec_pretty(&config)?)?;
    out.write("tokenizer.json", &tokenizer)?;
    for (name, bytes) in snapshot.export.files() {
        out.write(name, bytes)?;
    }
    out.tensors(MODEL_FILE, &layout, &[("", &snapshot.weights)])?;
    if let Some((first, second)) = &snapshot.moments {
        out.tensors(TRAINER_FILE, &layout, &[("first.", first), ("second.", second)])?;
        let state = TrainerState { state_sha256: meta.state_sha256.clone(), ..snapshot.state.clone() };
        out.write(TRAINER_STATE_FILE, &serde_json::to_vec_pretty(&state)?)?;
    }
    out.sync()?;
    let files = out.entries()?;
    meta.bytes = files.values().map(|file| file.bytes).sum();
    let manifest = Manifest {
        format: 1,
        id,
        files,
        meta: meta.clone(),
        created_at: chrono::Utc::now(),
        writer: concat!("senmon-worker ", env!("CARGO_PKG_VERSION")).into(),
    };
    let bytes = serde_json::to_vec_pretty(&manifest)?;
    out.write(MANIFEST_FILE, &bytes)?;
    out.sync()?;
    Ok(Saved { manifest_sha256: hex(&Sha256::digest(&bytes)), files: out.names })
}

/// Reads the trainer's part of a resumable checkpoint: first and second moments, and the state.
///
/// # Errors
/// When a moment is missing or does not fit its weight, by name.
pub fn load_trainer(folder: &Path, layout: &Layout) -> Result<((HostTensors, HostTensors), TrainerState)> {
    let state = fs::read(folder.join(TRAINER_STATE_FILE)).with_context(|| TRAINER_STATE_FILE.to_owned())?;
    let state = serde_json::from_slice(&state).context(TRAINER_STATE_FILE)?;
    let mut all = read_tensors(folder, TRAINER_FILE)?;
    let mut take = |prefix: &str| -> Result<HostTensors> {
        layout
            .shapes()
            .map(|(name, shape)| {
                let tensor = all
                    .remove(&format!("{prefix}.{name}"))
                    .with_context(|| format!("{TRAINER_FILE}: tensor {prefix}.{name} is missing"))?;
                ensure!(
                    tensor.0.iter().map(|&n| i64::try_from(n)).eq(shape.iter().map(|&n| Ok(n))),
                    "{TRAINER_FILE}: tensor {prefix}.{name} has shape {:?}, its weight {shape:?}",
                    tensor.0
                );
                Ok((name.to_owned(), tensor))
            })
            .collect()
    };
    Ok(((take("first")?, take("second")?), state))
}
