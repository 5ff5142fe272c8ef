//! Batches: windows in their fixed order, read ahead on a thread of their own.

use super::context::ended;
use senmon_corpus::{shard_set::ShardSet, windows::WindowOrder};
use senmon_protocol::job::{EndedOutcome, TerminationReason};
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
    /// Step, from 0.
    pub step: u64,
    /// Tokens, [windows × (sequence length + 1)].
    pub tokens: Vec<i64>,
    /// Hash of the tokens.
    pub hash: u64,
}

/// Reads the batch of a step.
///
/// # Errors
/// [`TerminationReason::CorruptData`] with the shard's name.
pub fn batch(
    shards: &ShardSet,
    order: &WindowOrder,
    step: u64,
    windows: u32,
    length: u32,
) -> Result<Batch, EndedOutcome> {
    let row = length as usize + 1;
    let mut raw = vec![0_u32; row * windows as usize];
    let draws = order.from(step * u64::from(windows));
    for (out, draw) in raw.chunks_mut(row).zip(draws) {
        shards.window(draw.domain, draw.window, out).map_err(|error| ended(TerminationReason::CorruptData, error))?;
    }
    let bytes: Vec<u8> = raw.iter().flat_map(|token| token.to_le_bytes()).collect();
    Ok(Batch { step, tokens: raw.into_iter().map(i64::from).collect(), hash: xxh3_64(&bytes) })
}

/// Batches from a step on, read ahead until the receiver is dropped.
pub fn batches<'s>(
    scope: &'s Scope<'s, '_>,
    shards: &'s ShardSet,
    order: &'s WindowOrder,
    steps: std::ops::RangeInclusive<u64>,
    windows: u32,
    length: u32,
) -> (Receiver<Result<Batch, EndedOutcome>>, ScopedJoinHandle<'s, ()>) {
    let (sender, receiver) = sync_channel(AHEAD);
    let handle = scope.spawn(move || {
        for step in steps {
            let batch = batch(shards, order, step, windows, length);
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    });
    (receiver, handle)
}
