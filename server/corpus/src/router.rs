//! The router: text to distances from the domain centres, and the artefact that carries it.
//!
//! `router.safetensors` holds idf, components and centres; `router.json` the vocabulary and the configuration. The
//! server, the workers and inference load the same bits and sum in the same order. Never pickle.

use crate::{features::TfidfSvd, hex, kmeans::nearest, kmeans::squared_distance};
use anyhow::{Context, Result, ensure};
use ndarray::{Array1, Array2, ArrayView1, Axis};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use senmon_protocol::clustering::ClusteringSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};
use xxhash_rust::xxh3::xxh3_64;

/// Names of the artefact's files.
pub const TENSORS_FILE: &str = "router.safetensors";
/// See [`TENSORS_FILE`].
pub const CONFIG_FILE: &str = "router.json";

/// A fitted router.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    features: TfidfSvd,
    /// [k, d].
    centres: Array2<f32>,
    spec: ClusteringSpec,
    /// Domain of texts without a known term: the largest one of the sample.
    fallback: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    format: u32,
    clustering: ClusteringSpec,
    normalisation: String,
    fallback_domain: u32,
    tensors_sha256: String,
    vocabulary: Vec<String>,
}

const NORMALISATION: &str = "nfkc, lower case; raw term frequency x smooth idf, L2; SVD; L2";

impl Router {
    /// Puts a router together.
    #[must_use]
    pub fn new(features: TfidfSvd, centres: Array2<f32>, spec: ClusteringSpec, fallback: u32) -> Self {
        Self { features, centres, spec, fallback }
    }

    /// Number of domains.
    #[must_use]
    pub fn domains(&self) -> usize {
        self.centres.nrows()
    }

    /// The centres, [k, d].
    #[must_use]
    pub fn centres(&self) -> &Array2<f32> {
        &self.centres
    }

    /// The settings it was fitted with.
    #[must_use]
    pub fn spec(&self) -> &ClusteringSpec {
        &self.spec
    }

    /// Domain of a text: the nearest centre; the largest domain for a text without a known term. Domains of one point
    /// share its texts by their hashes.
    #[must_use]
    pub fn assign(&self, text: &str) -> u32 {
        self.assign_vector(self.features.vectorise(text).view(), text)
    }

    /// See [`Router::assign`]; of the text's unit vector, `[d]`.
    #[must_use]
    pub fn assign_vector(&self, vector: ArrayView1<f32>, text: &str) -> u32 {
        if vector.iter().all(|x| *x == 0.0) {
            return self.fallback;
        }
        nearest(vector, &self.centres, xxh3_64(text.as_bytes()))
    }

    /// Euclidean distances from all centres, `[k]`. None for a text without a known term: nothing is known of it.
    #[must_use]
    pub fn distances(&self, text: &str) -> Option<Vec<f32>> {
        let vector = self.features.vectorise(text);
        if vector.iter().all(|x| *x == 0.0) {
            return None;
        }
        Some(self.centres.axis_iter(Axis(0)).map(|centre| squared_distance(vector.view(), centre).sqrt()).collect())
    }

    /// Writes the artefact into `folder`; returns its hash (over both files).
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<String> {
        fs::create_dir_all(folder)?;
        let bytes = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let idf = bytes(&mut self.features.idf.iter().copied());
        let components = bytes(&mut self.features.components.iter().copied());
        let centres = bytes(&mut self.centres.iter().copied());
        let (v, d, k) = (self.features.idf.len(), self.features.dimensions(), self.domains());
        let tensors = [
            ("centres", TensorView::new(Dtype::F32, vec![k, d], &centres)?),
            ("components", TensorView::new(Dtype::F32, vec![v, d], &components)?),
            ("idf", TensorView::new(Dtype::F32, vec![v], &idf)?),
        ];
        let tensors = safetensors::serialize(tensors, None)?;
        let config = Config {
            format: 1,
            clustering: self.spec.clone(),
            normalisation: NORMALISATION.into(),
            fallback_domain: self.fallback,
            tensors_sha256: hex(&Sha256::digest(&tensors)),
            vocabulary: self.features.vocabulary.clone(),
        };
        let config = serde_json::to_vec_pretty(&config)?;
        fs::write(folder.join(TENSORS_FILE), &tensors)?;
        fs::write(folder.join(CONFIG_FILE), &config)?;
        Ok(artefact_hash(&tensors, &config))
    }

    /// Reads the artefact from `folder`; also its hash, as [`Router::save`] gave it.
    ///
    /// # Errors
    /// When a file is missing, altered, of another format, or its parts do not fit together; the message names it.
    pub fn load(folder: &Path) -> Result<(Self, String)> {
        let read =
            |name: &str| fs::read(folder.join(name)).with_context(|| format!("read {}", folder.join(name).display()));
        let (tensors, config_bytes) = (read(TENSORS_FILE)?, read(CONFIG_FILE)?);
        let config: Config = serde_json::from_slice(&config_bytes).context("router.json")?;
        ensure!(config.format == 1, "router.json: found format {}, expected 1", config.format);
        let found = hex(&Sha256::digest(&tensors));
        ensure!(
            found == config.tensors_sha256,
            "{TENSORS_FILE}: SHA-256 is {found}, router.json says {}",
            config.tensors_sha256
        );
        let parts = SafeTensors::deserialize(&tensors).with_context(|| TENSORS_FILE.to_owned())?;
        let components = matrix(&parts, "components")?;
        let centres = matrix(&parts, "centres")?;
        ensure!(centres.ncols() == components.ncols(), "{TENSORS_FILE}: centres and components differ in dimensions");
        ensure!((config.fallback_domain as usize) < centres.nrows(), "router.json: fallback_domain is no domain");
        let idf = Array1::from_vec(floats(&parts, "idf")?.1);
        let features =
            TfidfSvd::new(config.vocabulary, idf, components).map_err(anyhow::Error::msg).context(TENSORS_FILE)?;
        let router = Self { features, centres, spec: config.clustering, fallback: config.fallback_domain };
        Ok((router, artefact_hash(&tensors, &config_bytes)))
    }
}

fn artefact_hash(tensors: &[u8], config: &[u8]) -> String {
    hex(&Sha256::new().chain_update(Sha256::digest(tensors)).chain_update(Sha256::digest(config)).finalize())
}

fn floats(parts: &SafeTensors, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let view = parts.tensor(name).with_context(|| format!("{TENSORS_FILE}: tensor {name}"))?;
    ensure!(view.dtype() == Dtype::F32, "{TENSORS_FILE}: tensor {name} is {:?}, expected F32", view.dtype());
    let (words, _) = view.data().as_chunks::<4>();
    Ok((view.shape().to_vec(), words.iter().map(|word| f32::from_le_bytes(*word)).collect()))
}

fn matrix(parts: &SafeTensors, name: &str) -> Result<Array2<f32>> {
    let (shape, values) = floats(parts, name)?;
    ensure!(shape.len() == 2, "{TENSORS_FILE}: tensor {name} has shape {shape:?}, expected two dimensions");
    Ok(Array2::from_shape_vec((shape[0], shape[1]), values)?)
}

/// Weights of the experts for one context: `exp(−d²/T)` over the `top_k` nearest centres, normalised; 0 for the others
/// (c-BTM, equation 3; the distance is squared once). Where nothing is known of the text, `prior` (one entry an expert:
/// its domain's share of the training tokens) within its own `top_k` largest; so never more than `top_k` have a weight.
#[must_use]
pub fn weights(distances: Option<&[f32]>, prior: &[f64], top_k: usize, temperature: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..prior.len()).collect();
    match distances {
        Some(distances) => order.sort_by(|&a, &b| distances[a].total_cmp(&distances[b]).then(a.cmp(&b))),
        None => order.sort_by(|&a, &b| prior[b].total_cmp(&prior[a]).then(a.cmp(&b))),
    }
    order.truncate(top_k.max(1));
    let squared = |j: usize| distances.map_or(0.0, |distances| f64::from(distances[j]).powi(2));
    let nearest = order.first().map_or(0.0, |&j| squared(j));
    let mut weights = vec![0.0; prior.len()];
    for &j in &order {
        weights[j] = if distances.is_some() { ((nearest - squared(j)) / temperature).exp() } else { prior[j] };
    }
    let sum: f64 = weights.iter().sum();
    if sum > 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    } else {
        // Experts of domains without a training token: none is better than another.
        #[expect(clippy::cast_precision_loss, reason = "a number of experts")]
        order.iter().for_each(|&j| weights[j] = 1.0 / order.len() as f64);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn weights_are_a_distribution_over_the_nearest(
            distances in prop::collection::vec(0.0..2.0_f32, 1..20), top_k in 1_usize..25, temperature in 0.001..5.0_f64,
        ) {
            let prior = vec![1.0; distances.len()];
            let found = weights(Some(&distances), &prior, top_k, temperature);
            prop_assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(found.iter().filter(|w| **w > 0.0).count() <= top_k);
            let nearest = distances.iter().copied().fold(f32::MAX, f32::min);
            let best = found.iter().copied().fold(0.0, f64::max);
            prop_assert!(distances.iter().zip(&found).any(|(d, w)| *d == nearest && *w == best));
        }

        /// With text or without, whatever the prior: never more than `top_k` experts run, and they share one whole.
        #[test]
        fn top_1_runs_one_expert_always(
            prior in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1.0_f64], 1..20), top_k in 1_usize..25,
        ) {
            let found = weights(None, &prior, top_k, 0.1);
            prop_assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let run = found.iter().filter(|w| **w > 0.0).count();
            prop_assert!((1..=top_k).contains(&run));
            // Who runs has at least the prior of who does not, and in proportion to it.
            for (a, weight_a) in prior.iter().zip(&found) {
                for (b, weight_b) in prior.iter().zip(&found).filter(|_| *weight_a > 0.0) {
                    prop_assert!(a >= b || *weight_b > 0.0);
                    prop_assert!(*weight_b <= 0.0 || (weight_a * b - weight_b * a).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn the_distance_is_squared_once() {
        let found = weights(Some(&[0.5, 1.0]), &[0.9, 0.1], 2, 0.5);
        assert!((found[0] / found[1] - ((1.0_f64 - 0.25) / 0.5).exp()).abs() < 1e-6);
    }

    #[test]
    fn before_there_is_text_the_prior_speaks_within_the_same_top_k() {
        assert_eq!(weights(None, &[0.1, 0.6, 0.3], 1, 0.1), [0.0, 1.0, 0.0]);
        let found = weights(None, &[0.1, 0.6, 0.2], 2, 0.1);
        assert!(found[0] == 0.0 && (found[1] - 0.75).abs() < 1e-12 && (found[2] - 0.25).abs() < 1e-12, "{found:?}");
        assert_eq!(weights(None, &[0.0, 0.0], 2, 0.1), [0.5, 0.5]);
    }
}
