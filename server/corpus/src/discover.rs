//! Discovery: a sample of the corpus to domains, a router, and what people want to know of both.

use crate::{
    features::TfidfSvd,
    kmeans::{self, squared_distance},
    quality::{nmi, silhouette},
    read::Document,
    router::Router,
    terms::{for_each_readable, language_of},
};
use ndarray::{Array2, Axis};
use rayon::prelude::*;
use senmon_protocol::{
    clustering::{
        ClusteringQuality, ClusteringSpec, DomainView, FeatureSpec, LanguageShare, SampleDocument, SourceShare,
    },
    storable,
};
use std::collections::{BTreeMap, HashMap, HashSet};

const TERMS_SHOWN: usize = 12;
const LABEL_TERMS: usize = 3;
const SAMPLES_SHOWN: usize = 3;
const TEXT_SHOWN_CHARS: usize = 4_000;
const SILHOUETTE_ROWS: usize = 2_000;

/// What discovery found.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The router.
    pub router: Router,
    /// Quality figures.
    pub quality: ClusteringQuality,
    /// The domains.
    pub domains: Vec<DomainView>,
}

/// Fits domains to a sample.
///
/// # Errors
/// When the sample has fewer documents than domains, or no usable term; the sentence names the setting.
pub fn discover(sample: &[Document], spec: &ClusteringSpec) -> Result<Discovery, String> {
    let texts: Vec<&str> = sample.iter().map(|document| document.text.as_str()).collect();
    let k = spec.domains as usize;
    if texts.len() < k {
        return Err(format!("clustering.domains: found {k}, but the corpus has {} documents", texts.len()));
    }
    let FeatureSpec::TfidfSvd(features) = &spec.features;
    let (features, rows) = TfidfSvd::fit(&texts, features, spec.seed)?;
    let fitted = kmeans::fit(&rows, k, spec.iterations_max, spec.seed)?;
    let again = kmeans::fit(&rows, k, spec.iterations_max, spec.seed.wrapping_add(1))?;
    let sizes = |labels: &[u32]| {
        labels.iter().fold(vec![0_u64; k], |mut sizes, &d| {
            sizes[d as usize] += 1;
            sizes
        })
    };
    let mut largest = (0..k).collect::<Vec<_>>();
    let balanced = sizes(&fitted.balanced);
    largest.sort_by_key(|&d| std::cmp::Reverse(balanced[d]));
    let (vocabulary, dimensions) = (features.vocabulary.len(), features.dimensions());
    let fallback = u32::try_from(largest[0]).unwrap_or(0);
    let router = Router::new(features, fitted.centres, spec.clone(), fallback);
    let labels: Vec<u32> =
        (0..rows.nrows()).into_par_iter().map(|i| router.assign_vector(&rows.row(i).to_owned())).collect();
    let distances: Vec<f32> = rows
        .axis_iter(Axis(0))
        .zip(&labels)
        .map(|(row, &d)| squared_distance(row, router.centres().row(d as usize)).sqrt())
        .collect();
    let counts = sizes(&labels);
    #[expect(clippy::cast_precision_loss, reason = "documents of a sample")]
    let quality = ClusteringQuality {
        sample_documents: texts.len() as u64,
        vocabulary: vocabulary as u64,
        dimensions: u32::try_from(dimensions).unwrap_or(u32::MAX),
        iterations: fitted.iterations,
        inertia_mean: distances.iter().map(|d| f64::from(d * d)).sum::<f64>() / texts.len() as f64,
        balance_max_over_mean: counts.iter().max().map_or(0.0, |max| *max as f64 * k as f64 / texts.len() as f64),
        silhouette: silhouette(&rows, &labels, SILHOUETTE_ROWS),
        stability_nmi: Some(nmi(&fitted.balanced, &again.balanced)),
        source_nmi: source_nmi(sample, &labels),
    };
    let domains = describe(sample, &labels, &distances, router.centres());
    Ok(Discovery { router, quality, domains })
}

fn source_nmi(sample: &[Document], labels: &[u32]) -> Option<f64> {
    let sources: Vec<&str> = sample.iter().filter_map(|document| document.source.as_deref()).collect();
    (sources.len() == sample.len()).then(|| nmi(&sources, labels))
}

fn describe(sample: &[Document], labels: &[u32], distances: &[f32], centres: &Array2<f32>) -> Vec<DomainView> {
    let k = centres.nrows();
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); k];
    labels.iter().enumerate().for_each(|(i, &d)| members[d as usize].push(i));
    members.iter_mut().for_each(|rows| rows.sort_by(|&a, &b| distances[a].total_cmp(&distances[b]).then(a.cmp(&b))));
    let terms = top_terms(sample, &members);
    (0..k)
        .zip(0_u32..)
        .map(|(d, index)| {
            let rows = &members[d];
            let shown =
                |rows: &[usize]| rows.iter().map(|&i| shown_document(&sample[i], distances[i])).collect::<Vec<_>>();
            let middle = (rows.len() / 2).min(rows.len().saturating_sub(SAMPLES_SHOWN));
            let mut nearest: Vec<u32> = (0..k).zip(0_u32..).filter(|(other, _)| *other != d).map(|(_, n)| n).collect();
            nearest.sort_by(|&a, &b| {
                let distance = |o: u32| squared_distance(centres.row(d), centres.row(o as usize));
                distance(a).total_cmp(&distance(b))
            });
            nearest.truncate(3);
            DomainView {
                index,
                label: terms[d].iter().take(LABEL_TERMS).cloned().collect::<Vec<_>>().join(", "),
                top_terms: terms[d].clone(),
                sample_documents: rows.len() as u64,
                languages: shares(rows.iter().map(|&i| language_of(&sample[i].text)), 3)
                    .into_iter()
                    .map(|(language, share)| LanguageShare { language: language.to_owned(), share })
                    .collect(),
                sources: shares(rows.iter().filter_map(|&i| sample[i].source.as_deref()), 5)
                    .into_iter()
                    .map(|(source, share)| SourceShare { source: storable(source), share })
                    .collect(),
                nearest_domains: nearest,
                nearest: shown(&rows[..rows.len().min(SAMPLES_SHOWN)]),
                typical: shown(&rows[middle..(middle + SAMPLES_SHOWN).min(rows.len())]),
                farthest: shown(&rows[rows.len().saturating_sub(SAMPLES_SHOWN)..]),
                tokens: None,
                documents: None,
                documents_held_out: None,
            }
        })
        .collect()
}

fn shown_document(document: &Document, distance: f32) -> SampleDocument {
    SampleDocument {
        id: storable(&document.id),
        source: document.source.as_deref().map(storable),
        distance: f64::from(distance),
        text: storable(&document.text.chars().take(TEXT_SHOWN_CHARS).collect::<String>()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "documents of a sample")]
fn shares<'a>(values: impl Iterator<Item = &'a str>, most: usize) -> Vec<(&'a str, f64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    let total = counts.values().sum::<u64>().max(1) as f64;
    let mut shares: Vec<_> = counts.into_iter().map(|(value, count)| (value, count as f64 / total)).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    shares.truncate(most);
    shares
}

/// Terms that set each domain apart: class-based tf-idf (Grootendorst 2022, section 3.3) over readable terms, counted
/// once a document.
fn top_terms(sample: &[Document], members: &[Vec<usize>]) -> Vec<Vec<String>> {
    let count = |rows: &Vec<usize>| {
        let mut counts: HashMap<String, u32> = HashMap::new();
        for &i in rows {
            let mut seen = HashSet::new();
            for_each_readable(&sample[i].text, |term| {
                seen.insert(term.to_owned());
            });
            seen.into_iter().for_each(|term| *counts.entry(term).or_default() += 1);
        }
        counts
    };
    let classes: Vec<HashMap<String, u32>> = members.par_iter().map(count).collect();
    let mut totals: HashMap<&str, u32> = HashMap::new();
    classes.iter().flatten().for_each(|(term, count)| *totals.entry(term).or_default() += count);
    #[expect(clippy::cast_precision_loss, reason = "documents of a sample")]
    let documents = sample.len() as f64;
    classes
        .iter()
        .zip(members)
        .map(|(counts, rows)| {
            #[expect(clippy::cast_precision_loss, reason = "documents of a sample")]
            let size = rows.len().max(1) as f64;
            let score = |(term, count): (&String, &u32)| {
                let expected = f64::from(totals[term.as_str()]) / documents;
                (f64::from(*count) / size * (1.0 + (f64::from(*count) / size / expected).ln().max(0.0)), term.clone())
            };
            let mut scored: Vec<_> =
                counts.iter().filter(|(_, count)| **count > 1 || rows.len() < 4).map(score).collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            scored.into_iter().take(TERMS_SHOWN).map(|(_, term)| term).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(domains: u32) -> ClusteringSpec {
        serde_json::from_value(
            serde_json::json!({ "domains": domains, "features": { "kind": "tfidf_svd", "dimensions": 8 } }),
        )
        .unwrap()
    }

    fn documents() -> Vec<Document> {
        let kernel = [
            "the kernel maps a page into memory",
            "memory pages and kernel drivers",
            "a driver asks the kernel for memory",
        ];
        let cooking = ["鍋に醤油と砂糖を入れて煮る", "醤油と出汁で野菜を煮る料理", "砂糖と醤油の料理を鍋で作る"];
        let texts = kernel.iter().chain(&cooking).cycle().take(60);
        let source = |i: usize| Some(if i % 6 < 3 { "kernel" } else { "cooking" }.to_owned());
        texts
            .zip(0..)
            .map(|(text, i)| Document {
                record: i,
                id: i.to_string(),
                group: None,
                source: source(i as usize),
                text: format!("{text} {i}"),
            })
            .collect()
    }

    #[test]
    fn two_languages_become_two_domains_with_readable_labels() {
        let found = discover(&documents(), &spec(2)).unwrap();
        assert!(found.quality.source_nmi.unwrap() > 0.99, "{:?}", found.quality);
        let labels: Vec<_> = found.domains.iter().map(|domain| domain.label.clone()).collect();
        assert!(
            labels.iter().any(|label| label.contains("kernel")) && labels.iter().any(|label| label.contains("醤油")),
            "{labels:?}"
        );
        assert_ne!(found.router.assign("kernel memory"), found.router.assign("鍋と料理"));
        assert!(discover(&documents()[..3], &spec(4)).unwrap_err().contains("clustering.domains"));
    }

    #[test]
    fn what_is_shown_of_a_text_with_nul_characters_can_be_stored() {
        let mut documents = documents();
        for document in &mut documents {
            document.text = format!("\0{} \0 {}\0\0", document.text, document.text);
            document.source = document.source.as_ref().map(|source| format!("{source}\0"));
        }
        let found = discover(&documents, &spec(2)).unwrap();
        let stored = serde_json::to_string(&found.domains).unwrap();
        assert!(stored.contains('\u{fffd}') && !stored.contains("\\u0000"), "{stored}");
    }

    #[test]
    fn the_artefact_carries_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let found = discover(&documents(), &spec(3)).unwrap();
        let hash = found.router.save(folder.path()).unwrap();
        let (loaded, loaded_hash) = Router::load(folder.path()).unwrap();
        assert_eq!((&loaded, loaded_hash), (&found.router, hash));
        assert_eq!(loaded.distances("kernel driver"), found.router.distances("kernel driver"));
        let path = folder.path().join(crate::router::TENSORS_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Router::load(folder.path()).unwrap_err().to_string().contains("SHA-256"));
    }
}
