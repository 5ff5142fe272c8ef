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
        let separator = self.shards.index().separator_id;
        let document_first = (!self.job.attend_across_documents)
            .then(|| raw.chunks(row).flat_map(|row| first_of_documents(&row[..row.len() - 1], separator)).collect());
        Ok(Batch { number, tokens: raw.into_iter().map(i64::from).collect(), document_first, hash: xxh3_64(&bytes) })
    }
}

/// First token of each token's document: a separator is the last token of its own.
fn first_of_documents(tokens: &[u32], separator: u32) -> impl Iterator<Item = i32> {
    let mut first = 0;
    tokens.iter().zip(1..).map(move |(token, next)| {
        let own = first;
        if *token == separator {
            first = next;
        }
        own
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

    #[test]
    fn a_document_begins_behind_a_separator() {
        let first: Vec<i32> = first_of_documents(&[5, 6, 0, 7, 0, 0, 8], 0).collect();
        assert_eq!(first, [0, 0, 0, 3, 3, 5, 6]);
    }
}
