//! Batches: windows in their fixed order, read ahead on a thread of their own.

use super::context::ended;
use senmon_corpus::{shard_set::ShardSet, windows::WindowOrder};
use senmon_protocol::job::{EndedOutcome, TerminationReason, TrainJob};
use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread::{Scope, ScopedJoinHandle},
};
use xxhash_rust::xxh3::xxh3_64;

/// Batches read ahead.
const AHEAD: usize = 4;

/// One optimiser step's windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number in the data order, from 0.
    pub number: u64,
    /// Tokens, `[windows × (sequence length + 1)]`.
    pub tokens: Vec<i64>,
    /// First token of each input's document, `[windows × sequence length]`; None where attention crosses documents.
    pub document_first: Option<Vec<i32>>,
    /// Hash of the tokens.
    pub hash: u64,
}

/// Where batches come from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The shards.
    pub shards: &'a ShardSet,
    /// The order of their windows.
    pub order: &'a WindowOrder,
    /// Sizes of a batch.
    pub job: &'a TrainJob,
}

impl Source<'_> {
    /// Reads a batch by its number in the data order.
    ///
    /// # Errors
    /// [`TerminationReason::CorruptData`] with the shard's name.
    pub fn batch(&self, number: u64) -> Result<Batch, EndedOutcome> {
        let (windows, row) = (self.job.training.batch_windows, self.job.sequence_length as usize + 1);
        let mut raw = vec![0_u32; row * windows as usize];
        let draws = self.order.from(number * u64::from(windows));
        for (out, draw) in raw.chunks_mut(row).zip(draws) {
            let read = self.shards.window(draw.domain, draw.window, out);
            read.map_err(|error| ended(TerminationReason::CorruptData, error))?;
        }
        let bytes: Vec<u8> = raw.iter().flat_map(|token| token.to_le_bytes()).collect();
        let index = self.shards.index();
        let document_first = (!self.job.attend_across_documents).then(|| {
            raw.chunks(row).flat_map(|row| first_of_documents(&row[..row.len() - 1], index.opener_id())).collect()
        });
        Ok(Batch { number, tokens: raw.into_iter().map(i64::from).collect(), document_first, hash: xxh3_64(&bytes) })
    }
}

/// First token of each token's document. The opener (a document's own first token, or the separator before it) begins
/// it: the first word is predicted from the opener alone, as in an evaluation.
fn first_of_documents(tokens: &[u32], opener: u32) -> impl Iterator<Item = i32> {
    let mut first = 0;
    tokens.iter().zip(0..).map(move |(token, place)| {
        if *token == opener {
            first = place;
        }
        first
    })
}

/// Batches by their numbers, read ahead until the receiver is dropped.
pub fn batches<'s>(
    scope: &'s Scope<'s, '_>,
    source: Source<'s>,
    numbers: impl Iterator<Item = u64> + Send + 's,
) -> (Receiver<Result<Batch, EndedOutcome>>, ScopedJoinHandle<'s, ()>) {
    let (sender, receiver) = sync_channel(AHEAD);
    let handle = scope.spawn(move || {
        for number in numbers {
            let batch = source.batch(number);
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    });
    (receiver, handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::windows,
        model::{Model, initial_weights},
        trainer::{Shape, Trainer},
    };
    use tch::{Device, Kind, Tensor, no_grad};

    /// Documents kept apart: the loss of a training window is the sum of what an evaluation finds for each of them.
    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a few tokens")]
    fn a_document_is_trained_on_from_the_context_it_is_evaluated_in() {
        let spec: senmon_protocol::model::ModelSpec = serde_json::from_value(serde_json::json!({
            "vocab_size": 16, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 32
        }))
        .unwrap();
        let documents: [&[u32]; 3] = [&[5, 6, 7, 0], &[9, 0], &[4, 8, 4, 8, 3, 0]];
        let opener = 0;
        let row: Vec<u32> = std::iter::once(opener).chain(documents.concat()).collect();
        let length = row.len() - 1;
        let weights = initial_weights(&spec, 3);
        let model = Model::new(spec.clone(), &weights, Device::Cpu, Kind::Float, 32, false);
        let row_of = |values: &[i64]| Tensor::from_slice(values).view([1, -1]);
        let score = |window: &crate::evaluate::Window| {
            let found = no_grad(|| model.log_probabilities(&row_of(&window.inputs), &row_of(&window.targets)));
            found.sum(Kind::Double).double_value(&[])
        };
        let evaluated = -windows(&documents, opener, 32).iter().map(score).sum::<f64>() / length as f64;
        let shape = Shape { windows: 1, micro: 1, length: i64::try_from(length).unwrap() };
        let tokens: Vec<i64> = row.iter().copied().map(i64::from).collect();
        let first: Vec<i32> = first_of_documents(&row[..length], opener).collect();
        for fused in [true, false] {
            let mut trainer = Trainer::with_pass(spec.clone(), &weights, Device::Cpu, Kind::Float, shape, fused);
            let (apart, _) = trainer.forward_backward(&tokens, Some(&first));
            assert!((apart / evaluated - 1.0).abs() < 1e-5, "fused {fused}: {apart}, evaluated {evaluated}");
            let (together, _) = trainer.forward_backward(&tokens, None);
            assert!((together / evaluated - 1.0).abs() > 1e-5, "the test would not see a wrong context");
        }
    }

    #[test]
    fn a_document_begins_with_what_opens_it() {
        let check = |opener: u32, expect: [i32; 7]| {
            assert_eq!(first_of_documents(&[5, 6, 0, 1, 7, 0, 1], opener).collect::<Vec<_>>(), expect);
        };
        check(0, [0, 0, 2, 2, 2, 5, 5]);
        check(1, [0, 0, 0, 3, 3, 3, 6]);
    }
}
