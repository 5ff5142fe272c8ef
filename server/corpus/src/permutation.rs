//! Permutations without tables: a place goes to a place by a key alone.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Hash of words.
pub(crate) fn hash(words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    xxh3_64(&bytes)
}

/// A permutation of 0..n: four Feistel rounds on the next even number of bits, walked until inside (Black & Rogaway
/// 2002, cycle walking).
pub(crate) fn permute(index: u64, n: u64, key: u64) -> u64 {
    let bits = (64 - n.saturating_sub(1).leading_zeros()).max(2).next_multiple_of(2);
    let half = bits / 2;
    let mask = (1_u64 << half) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4_u64 {
            let mixed = xxh3_64_with_seed(&right.to_le_bytes(), key.wrapping_add(round)) & mask;
            (left, right) = (right, left ^ mixed);
        }
        value = left << half | right;
        if value < n {
            return value;
        }
    }
}

/// A permutation of all places that leaves those before `from` where they are, and every other one within its epoch of
/// `n` places.
pub(crate) fn reshuffled(place: u64, n: u64, from: u64, key: u64) -> u64 {
    let epoch = place / n;
    let first = if from / n == epoch { from % n } else { 0 };
    if place < from {
        return place;
    }
    epoch * n + first + permute(place % n - first, n - first, hash(&[key, epoch]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_place_comes_once(n in 1_u64..600, key: u64) {
            let places: BTreeSet<_> = (0..n).map(|index| permute(index, n, key)).collect();
            prop_assert_eq!(places, (0..n).collect());
        }

        #[test]
        fn what_was_drawn_keeps_its_place_and_epochs_stay_whole(n in 1_u64..90, from in 0_u64..200, key: u64) {
            for epoch in 0..4 {
                let places: BTreeSet<_> = (epoch * n..(epoch + 1) * n).map(|place| reshuffled(place, n, from, key)).collect();
                prop_assert_eq!(places, (epoch * n..(epoch + 1) * n).collect());
            }
            prop_assert!((0..from).all(|place| reshuffled(place, n, from, key) == place));
        }
    }
}
