//! Terms to vectors: tf-idf, randomised truncated SVD, unit norm.
//!
//! Smooth idf `ln((1+n)/(1+df)) + 1` (scikit-learn's convention); the SVD is Halko, Martinsson & Tropp 2011,
//! algorithms 4.4 and 5.1, with two power iterations. Every sum has a fixed order, so the result does not depend on
//! the number of threads.

use crate::terms::for_each_term;
use ndarray::{Array1, Array2, Axis, s};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use rayon::prelude::*;
use senmon_protocol::clustering::TfidfSvdSpec;
use std::collections::HashMap;

/// Terms counted at once before the rarest are forgotten: bounds the memory of the vocabulary pass.
const CANDIDATES_MAX: usize = 4_000_000;
/// Extra dimensions of the random projection (Halko et al., section 4.2).
const OVERSAMPLING: usize = 10;
const POWER_ITERATIONS: usize = 2;

/// A fitted map from text to unit vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct TfidfSvd {
    /// Terms by number.
    pub vocabulary: Vec<String>,
    /// Inverse document frequency, `[v]`.
    pub idf: Array1<f32>,
    /// Right singular vectors, [v, d].
    pub components: Array2<f32>,
    numbers: HashMap<String, u32>,
}

/// Rows of term numbers and tf-idf weights (L2 norm 1), ascending by number.
type SparseRows = Vec<Vec<(u32, f32)>>;

impl TfidfSvd {
    /// Puts the parts together; the shapes must agree.
    ///
    /// # Errors
    /// A sentence that names the part with another number of rows than the vocabulary.
    pub fn new(vocabulary: Vec<String>, idf: Array1<f32>, components: Array2<f32>) -> Result<Self, String> {
        let v = vocabulary.len();
        if idf.len() != v || components.nrows() != v {
            return Err(format!(
                "vocabulary has {v} terms, idf {} and components {} rows",
                idf.len(),
                components.nrows()
            ));
        }
        let numbers = vocabulary.iter().cloned().zip(0..).collect();
        Ok(Self { vocabulary, idf, components, numbers })
    }

    /// Fits vocabulary, idf and components on a sample; also returns the sample's unit vectors, [n, d].
    ///
    /// # Errors
    /// When no term occurs in `min_documents` documents.
    pub fn fit(texts: &[&str], spec: &TfidfSvdSpec, seed: u64) -> Result<(Self, Array2<f32>), String> {
        let (vocabulary, idf) = vocabulary(texts, spec)?;
        let without_components = Array2::zeros((vocabulary.len(), 0));
        let mut model = Self::new(vocabulary, idf, without_components)?;
        let rows: SparseRows = texts.par_iter().map(|text| model.sparse(text)).collect();
        model.components = components(&rows, model.vocabulary.len(), spec.dimensions as usize, seed);
        let mut vectors = Array2::zeros((rows.len(), model.dimensions()));
        vectors.axis_iter_mut(Axis(0)).into_par_iter().zip(&rows).for_each(|(mut out, row)| {
            out.assign(&model.project(row));
        });
        Ok((model, vectors))
    }

    /// d.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.components.ncols()
    }

    /// The unit vector of a text, `[d]`; all zeros when it has no known term.
    #[must_use]
    pub fn vectorise(&self, text: &str) -> Array1<f32> {
        self.project(&self.sparse(text))
    }

    fn sparse(&self, text: &str) -> Vec<(u32, f32)> {
        let mut counts: HashMap<u32, f32> = HashMap::new();
        for_each_term(text, |term| {
            if let Some(&number) = self.numbers.get(term) {
                *counts.entry(number).or_default() += 1.0;
            }
        });
        let mut row: Vec<_> = counts.into_iter().map(|(number, tf)| (number, tf * self.idf[number as usize])).collect();
        row.sort_unstable_by_key(|(number, _)| *number);
        let norm = row.iter().map(|(_, weight)| weight * weight).sum::<f32>().sqrt();
        row.iter_mut().for_each(|(_, weight)| *weight /= norm);
        row
    }

    fn project(&self, row: &[(u32, f32)]) -> Array1<f32> {
        let mut vector = Array1::zeros(self.dimensions());
        for &(number, weight) in row {
            vector.scaled_add(weight, &self.components.row(number as usize));
        }
        let norm = vector.dot(&vector).sqrt();
        if norm > 1e-12 { vector / norm } else { Array1::zeros(self.dimensions()) }
    }
}

/// The most frequent terms (by documents, then by spelling) and their idf.
fn vocabulary(texts: &[&str], spec: &TfidfSvdSpec) -> Result<(Vec<String>, Array1<f32>), String> {
    let mut frequencies: HashMap<String, u32> = HashMap::new();
    let mut forgotten_below = 1;
    for text in texts {
        let mut seen: Vec<String> = Vec::new();
        for_each_term(text, |term| seen.push(term.to_owned()));
        seen.sort_unstable();
        seen.dedup();
        for term in seen {
            *frequencies.entry(term).or_default() += 1;
        }
        if frequencies.len() > CANDIDATES_MAX {
            forgotten_below += 1;
            frequencies.retain(|_, documents| *documents >= forgotten_below);
        }
    }
    let least = spec.min_documents.max(1).min(u32::try_from(texts.len()).unwrap_or(u32::MAX));
    let mut terms: Vec<_> = frequencies.into_iter().filter(|(_, documents)| *documents >= least).collect();
    terms.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    terms.truncate(spec.vocabulary_max as usize);
    if terms.is_empty() {
        return Err(format!(
            "clustering.features: no term occurs in {least} of the sample's {} documents (min_documents); a term has a \
             letter, so numbers, symbols and emoji alone are none",
            texts.len()
        ));
    }
    #[expect(clippy::cast_precision_loss, reason = "documents of a sample")]
    let n = texts.len() as f32;
    #[expect(clippy::cast_precision_loss, reason = "documents of a sample")]
    let idf = terms.iter().map(|(_, documents)| ((1.0 + n) / (1.0 + *documents as f32)).ln() + 1.0).collect();
    Ok((terms.into_iter().map(|(term, _)| term).collect(), idf))
}

/// The first `dimensions` right singular vectors of the sparse matrix [n, v], as [v, d]; d is smaller when the
/// matrix has lower rank.
fn components(rows: &SparseRows, v: usize, dimensions: usize, seed: u64) -> Array2<f32> {
    let columns = transpose(rows, v);
    let width = (dimensions + OVERSAMPLING).min(rows.len()).min(v);
    let mut basis = gaussian(v, width, seed);
    for _ in 0..=POWER_ITERATIONS {
        let range = orthonormal(&multiply(rows, &basis));
        basis = multiply(&columns, &range); // [v, l] = Aᵀ Q
        if basis.ncols() == 0 {
            return Array2::zeros((v, 0));
        }
        // Orthonormalised between iterations, so that small singular values are not lost to rounding.
        basis = orthonormal(&basis);
    }
    let projected = multiply(rows, &basis); // A V', [n, l]
    let (values, vectors) = eigen(&projected.t().dot(&projected));
    let kept = values.iter().take(dimensions).filter(|value| **value > 1e-9 * values[0].max(1e-30)).count().max(1);
    let mut result = basis.dot(&vectors.slice(s![.., ..kept]));
    // The sign of a singular vector is free: make its largest entry positive, so that equal fits look equal.
    for mut column in result.axis_iter_mut(Axis(1)) {
        let largest = column.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
        if largest < 0.0 {
            column.mapv_inplace(|x| -x);
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "kept as f32 by the format")]
    result.mapv(|x| x as f32)
}

fn transpose(rows: &SparseRows, v: usize) -> SparseRows {
    let mut columns = vec![Vec::new(); v];
    for (row, i) in rows.iter().zip(0_u32..) {
        for &(number, weight) in row {
            columns[number as usize].push((i, weight));
        }
    }
    columns
}

/// Sparse [n, m] times dense [m, l].
fn multiply(rows: &SparseRows, dense: &Array2<f64>) -> Array2<f64> {
    let mut out = Array2::zeros((rows.len(), dense.ncols()));
    out.axis_iter_mut(Axis(0)).into_par_iter().zip(rows).for_each(|(mut out, row)| {
        for &(number, weight) in row {
            out.scaled_add(f64::from(weight), &dense.row(number as usize));
        }
    });
    out
}

/// An orthonormal basis of the columns' span, by the eigenvectors of the Gram matrix.
fn orthonormal(columns: &Array2<f64>) -> Array2<f64> {
    let (values, mut vectors) = eigen(&columns.t().dot(columns));
    let kept =
        values.iter().filter(|value| **value > 1e-12 * values.first().copied().unwrap_or(0.0).max(1e-300)).count();
    vectors = vectors.slice(s![.., ..kept]).to_owned();
    for (mut column, value) in vectors.axis_iter_mut(Axis(1)).zip(&values) {
        column.mapv_inplace(|x| x / value.sqrt());
    }
    columns.dot(&vectors)
}

/// Eigenvalues (descending) and eigenvectors (columns) of a symmetric matrix, by cyclic Jacobi rotations
/// (Golub & Van Loan, section 8.5).
fn eigen(matrix: &Array2<f64>) -> (Vec<f64>, Array2<f64>) {
    let n = matrix.nrows();
    let mut a = matrix.clone();
    let mut vectors = Array2::eye(n);
    let scale = a.iter().map(|x| x * x).sum::<f64>();
    for _sweep in 0..30 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|place| a[place] * a[place]).sum();
        if off <= 1e-24 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, p, q);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[[j, j]].total_cmp(&a[[i, i]]));
    (order.iter().map(|&i| a[[i, i]]).collect(), vectors.select(Axis(1), &order))
}

fn rotate(a: &mut Array2<f64>, vectors: &mut Array2<f64>, p: usize, q: usize) {
    let off = a[[p, q]];
    if off == 0.0 {
        return;
    }
    let theta = (a[[q, q]] - a[[p, p]]) / (2.0 * off);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cos = 1.0 / t.hypot(1.0);
    let sin = t * cos;
    for k in 0..a.nrows() {
        let (kp, kq) = (a[[k, p]], a[[k, q]]);
        a[[k, p]] = cos * kp - sin * kq;
        a[[k, q]] = sin * kp + cos * kq;
    }
    for k in 0..a.nrows() {
        let (pk, qk) = (a[[p, k]], a[[q, k]]);
        a[[p, k]] = cos * pk - sin * qk;
        a[[q, k]] = sin * pk + cos * qk;
        let (kp, kq) = (vectors[[k, p]], vectors[[k, q]]);
        vectors[[k, p]] = cos * kp - sin * kq;
        vectors[[k, q]] = sin * kp + cos * kq;
    }
}

/// Standard normal numbers by Box and Muller, from a seeded stream.
fn gaussian(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    #[expect(clippy::cast_precision_loss, reason = "53 random bits")]
    let mut unit = move || ((rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    Array2::from_shape_simple_fn((rows, columns), || {
        (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_svd_finds_the_singular_vectors() {
        // A matrix with known singular vectors: two orthogonal rank-1 parts.
        let rows: SparseRows =
            (0..40).map(|i| if i % 4 == 0 { vec![(0, 3.0), (1, 3.0)] } else { vec![(2, 1.0)] }).collect();
        let found = components(&rows, 3, 2, 1);
        let expect = [[0.5_f32.sqrt(), 0.0], [0.5_f32.sqrt(), 0.0], [0.0, 1.0]];
        for (found, expect) in found.iter().zip(expect.as_flattened()) {
            assert!((found - expect).abs() < 1e-5, "{found} and {expect}");
        }
    }

    #[test]
    fn vectors_have_unit_norm_and_do_not_depend_on_threads() {
        let texts =
            ["kernel page table memory", "kernel memory driver", "料理の設定を読む", "設定の料理", "日本語の設定"];
        let spec = TfidfSvdSpec { dimensions: 3, ..TfidfSvdSpec::default() };
        let (model, vectors) = TfidfSvd::fit(&texts, &spec, 3).unwrap();
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(alone.install(|| TfidfSvd::fit(&texts, &spec, 3).unwrap()), (model.clone(), vectors.clone()));
        for (row, text) in vectors.axis_iter(Axis(0)).zip(texts) {
            assert!((row.dot(&row) - 1.0).abs() < 1e-5);
            assert_eq!(row, model.vectorise(text));
        }
        assert!(vectors.row(0).dot(&vectors.row(1)) > 0.9);
        assert!(vectors.row(0).dot(&vectors.row(2)).abs() < 0.1);
        assert!(model.vectorise("???").iter().all(|x| *x == 0.0));
        assert!(TfidfSvd::fit(&["12 34"], &spec, 3).unwrap_err().contains("no term"));
    }
}
