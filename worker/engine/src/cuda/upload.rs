//! Tokens of a batch on their way to the machine: one copy a batch, from memory that is kept.

use super::{
    attention::Documents,
    machine::{Machine, Staging},
    ops::Sorted,
};
use crate::shape::Shape;
use tch::{Kind, Tensor};

/// Room for the batches of one shape.
pub struct Upload {
    staging: Staging,
    /// Inputs, targets, and where attention keeps inside documents: first tokens, and first rows of all documents.
    on_device: Tensor,
    shape: Shape,
    /// Documents of each pass: their number, and the tokens of the longest; empty where attention crosses them.
    documents: Vec<(i64, i64)>,
}

/// Tokens of one pass.
pub struct Tokens {
    /// What the model reads, `[R]`.
    pub inputs: Tensor,
    /// The same, sorted.
    pub sorted: Sorted,
    /// What it should predict, `[R]`.
    pub targets: Tensor,
    /// Documents, where attention must not cross them.
    pub documents: Option<Documents>,
}

impl Upload {
    /// Room for batches of `shape`.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(machine: &Machine, shape: Shape) -> Result<Self, String> {
        let all = shape.windows * shape.length;
        let numbers = 4 * all + shape.windows / shape.micro;
        Ok(Self {
            staging: machine.staging(usize::try_from(numbers).unwrap_or(0) * 4)?,
            on_device: Tensor::empty([numbers], (Kind::Int, machine.device)),
            shape,
            documents: Vec::new(),
        })
    }

    /// Sends windows of `length + 1` tokens below `vocab`.
    ///
    /// # Panics
    /// When a token lies beyond the vocabulary, or a document begins after its token.
    pub fn send(&mut self, machine: &Machine, tokens: &[i64], document_first: Option<&[i32]>, vocab: i64) {
        let Shape { windows, micro, length } = self.shape;
        let [windows, rows, length] = [windows, micro * length, length].map(|n| usize::try_from(n).unwrap_or(0));
        let all = windows * length;
        assert!(tokens.len() == windows * (length + 1), "{} tokens are no {windows} windows", tokens.len());
        assert!(tokens.iter().all(|token| (0..vocab).contains(token)), "a token lies beyond the vocabulary of {vocab}");
        let numbers: &mut [i32] = bytemuck::cast_slice_mut(self.staging.bytes_mut());
        let (inputs, rest) = numbers.split_at_mut(all);
        let (targets, rest) = rest.split_at_mut(all);
        let (firsts, starts) = rest.split_at_mut(all);
        let places = inputs.chunks_mut(length).zip(targets.chunks_mut(length));
        for ((inputs, targets), window) in places.zip(tokens.chunks(length + 1)) {
            for (place, (input, target)) in window.windows(2).map(|pair| (pair[0], pair[1])).enumerate() {
                inputs[place] = i32::try_from(input).unwrap_or(0);
                targets[place] = i32::try_from(target).unwrap_or(0);
            }
        }
        self.documents.clear();
        let mut used = 2 * all;
        if let Some(found) = document_first {
            firsts.copy_from_slice(found);
            used = 3 * all;
            for (pass, first) in found.chunks(rows).enumerate() {
                let starts = &mut starts[pass * (rows + 1)..][..=rows];
                let (count, longest) = boundaries(first, length, starts);
                self.documents.push((count, longest));
            }
            used += windows * length / rows * (rows + 1);
        }
        machine.upload(&self.staging, used * 4, &self.on_device);
    }

    /// The tokens of pass `number` of the batch that was sent.
    #[must_use]
    pub fn pass(&self, number: i64) -> Tokens {
        let Shape { windows, micro, length } = self.shape;
        let (all, rows) = (windows * length, micro * length);
        let part = |region: i64| self.on_device.narrow(0, region * all + number * rows, rows);
        let inputs = part(0);
        let (tokens, order) = inputs.sort_stable(true, 0, false);
        let of_pass = usize::try_from(number).ok().and_then(|number| self.documents.get(number));
        let documents = of_pass.map(|&(count, longest)| Documents {
            cumulative: self.on_device.narrow(0, 3 * all + number * (rows + 1), count + 1),
            longest,
            first: part(2).view([micro, length]),
        });
        Tokens { inputs, sorted: Sorted { tokens, order }, targets: part(1), documents }
    }
}

/// Where documents begin, and the end: `first` holds each token's document's first token in its window. Returns their
/// number and the tokens of the longest.
fn boundaries(first: &[i32], length: usize, starts: &mut [i32]) -> (i64, i64) {
    let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let (mut count, mut longest) = (0, 0);
    for (row, &first) in first.iter().enumerate() {
        let token = int(row % length);
        assert!((0..=token).contains(&first), "a document begins after its token");
        if first == token {
            starts[count] = int(row);
            count += 1;
        }
    }
    starts[count] = int(first.len());
    for pair in starts[..=count].windows(2) {
        longest = longest.max(i64::from(pair[1] - pair[0]));
    }
    (i64::try_from(count).unwrap_or(0), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_by_their_first_tokens() {
        let mut starts = [0; 9];
        let found = boundaries(&[0, 0, 0, 3, 0, 1, 1, 1], 4, &mut starts);
        assert_eq!((found, &starts[..5]), ((4, 3), &[0, 3, 4, 5, 8][..]));
    }
}
