//! One way of computing gradients: forward and backward over a batch into arenas. The trainer has one and does not know
//! which: `cpu`, `cuda` or `autograd`.

use crate::{
    clock::Clock,
    parameters::Arenas,
    shape::{Note, Shape},
};
use senmon_kernels::AdamW as Settings;

/// The windows of one optimiser step.
#[derive(Debug, Clone, Copy)]
pub struct Windows<'a> {
    /// Tokens, `[windows · (length + 1)]`.
    pub tokens: &'a [i64],
    /// First token of each input's document, `[windows · length]`, where attention must not cross documents.
    pub document_first: Option<&'a [i32]>,
}

/// Tokens of a pass over b sequences of t tokens, `[b·t]` each.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// What the model reads.
    pub inputs: &'a [i64],
    /// What it should predict; negative ones do not count.
    pub targets: &'a [i64],
    /// First token of each token's document, where attention must not cross documents.
    pub document_first: Option<&'a [i32]>,
}

/// What a pass found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Sum of the losses over the batch's tokens, nats.
    pub loss: f64,
    /// L2 norm of all gradients.
    pub norm: f64,
}

/// Memory and kernels for batches of one shape.
pub trait Pass {
    /// Forward and backward: `grads` receives the gradient of the batch's mean loss.
    ///
    /// # Panics
    /// When memory runs out.
    fn batch(&mut self, weights: &Arenas, grads: &mut Arenas, windows: Windows, clock: &mut Clock) -> Found;

    /// Moves weights and moments by `AdamW`, matrices and vectors each with settings of their own.
    fn adamw(&mut self, weights: &mut Arenas, grads: &Arenas, moments: (&mut Arenas, &mut Arenas), of: [Settings; 2]);

    /// Takes over weights that somebody else wrote.
    fn refresh(&mut self, _weights: &Arenas) {}

    /// What was found out since the last call.
    fn take_notes(&mut self) -> Vec<Note> {
        Vec::new()
    }
}

/// Calls `pass` with the number and the tokens of each pass over a batch; the sum of what it says.
pub fn in_passes(shape: Shape, windows: Windows, mut pass: impl FnMut(usize, Tokens) -> f64) -> f64 {
    let [micro, length, row] =
        [shape.micro, shape.length, shape.length + 1].map(|count| usize::try_from(count).unwrap_or(0));
    let mut sum = 0.0;
    for (number, tokens) in windows.tokens.chunks(micro * row).enumerate() {
        let inputs: Vec<i64> = tokens.chunks(row).flat_map(|row| &row[..length]).copied().collect();
        let targets: Vec<i64> = tokens.chunks(row).flat_map(|row| &row[1..]).copied().collect();
        let document_first = windows.document_first.map(|first| &first[number * micro * length..][..micro * length]);
        sum += pass(number, Tokens { inputs: &inputs, targets: &targets, document_first });
    }
    sum
}

/// Tokens that a batch predicts.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "tokens of a batch")]
pub fn count(shape: Shape) -> f64 {
    (shape.windows * shape.length) as f64
}
