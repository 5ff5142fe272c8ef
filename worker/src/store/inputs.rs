//! What a job reads of the store. Never fetches anything.

use senmon_corpus::wanted::Wanted;
use senmon_protocol::{
    ids::StorageKey,
    job::{CheckpointRef, JobSpec, TrainStart},
};

/// Name of the cached scores inside an evaluation's folder.
pub(super) const SCORES_FILE: &str = "logprobs.safetensors";

/// Something that a job reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Input {
    File(StorageKey),
    Folder(StorageKey),
    Checkpoint(CheckpointRef),
    /// The index of the shards, and what is wanted of them.
    Shards(StorageKey, Wanted),
    /// A folder with one file of a known hash.
    Scores(StorageKey, String),
}

pub(super) fn inputs(job: &JobSpec) -> Vec<Input> {
    match job {
        // What it reads lies below the roots, not in the store.
        JobSpec::Scan(_) => Vec::new(),
        JobSpec::Deduplicate(job) => job.files.iter().map(|file| Input::Folder(file.folder.clone())).collect(),
        JobSpec::Shard(job) => {
            let dropped = job.file.dropped.clone().map(Input::File);
            [Input::Folder(job.router.clone()), Input::File(job.tokenizer.clone())].into_iter().chain(dropped).collect()
        }
        JobSpec::Train(job) => {
            let from = match (&job.resume, &job.start) {
                (Some(from), _) | (None, TrainStart::Checkpoint(from)) => Some(Input::Checkpoint(from.clone())),
                (None, TrainStart::Init(_) | TrainStart::Folder(_)) => None,
            };
            let shards = |wanted| Input::Shards(job.shards.clone(), wanted);
            let held_out =
                job.held_out.iter().flat_map(|curve| [Input::File(curve.list.clone()), shards(Wanted::HeldOut)]);
            let needed = [Input::File(job.tokenizer.clone()), shards(Wanted::of(&job.mixture))];
            needed.into_iter().chain(from).chain(held_out).collect()
        }
        JobSpec::Evaluate(job) => {
            let shards = Input::Shards(job.shards.clone(), Wanted::HeldOut);
            vec![Input::Checkpoint(job.checkpoint.clone()), shards, Input::File(job.held_out.clone())]
        }
        JobSpec::Merge(job) => {
            let members = job.members.iter().map(|member| Input::Checkpoint(member.checkpoint.clone()));
            members.chain([Input::File(job.tokenizer.clone())]).collect()
        }
        JobSpec::Ensemble(job) => {
            let scores = job.members.iter().map(|member| Input::Scores(member.scores.clone(), member.sha256.clone()));
            let rest = [
                Input::Shards(job.shards.clone(), Wanted::HeldOut),
                Input::File(job.held_out.clone()),
                Input::File(job.tokenizer.clone()),
                Input::Folder(job.router.clone()),
            ];
            scores.chain(rest).collect()
        }
        JobSpec::Decontaminate(job) => {
            job.file.dropped.iter().chain([&job.candidates]).cloned().map(Input::File).collect()
        }
    }
}
