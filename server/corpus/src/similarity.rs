//! The computed order of a chain: from the largest domain, always on to the nearest one not yet visited.

use crate::kmeans::squared_distance;
use ndarray::Array2;

/// Domain numbers in order, at most `length` of them; domains of size 0 are left out. Ties go to the lower number.
#[must_use]
pub fn similarity_order(centres: &Array2<f32>, sizes: &[u64], length: usize) -> Vec<u32> {
    let mut open: Vec<usize> = (0..centres.nrows()).filter(|&d| sizes.get(d).is_some_and(|size| *size > 0)).collect();
    let mut order = Vec::new();
    let mut here = open.iter().copied().rev().max_by_key(|&d| sizes[d]);
    while let Some(domain) = here.filter(|_| order.len() < length) {
        open.retain(|&d| d != domain);
        order.push(u32::try_from(domain).unwrap_or(u32::MAX));
        let distance = |d: &usize| squared_distance(centres.row(domain), centres.row(*d));
        here = open.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_walks_from_neighbour_to_neighbour() {
        let centres = ndarray::arr2(&[[0.0], [3.0], [1.0], [9.0]]);
        assert_eq!(similarity_order(&centres, &[5, 9, 9, 1], 10), [1, 2, 0, 3]);
        assert_eq!(similarity_order(&centres, &[5, 9, 0, 1], 2), [1, 0]);
        assert_eq!(similarity_order(&centres, &[0, 0, 0, 0], 2), [0; 0]);
    }
}
