//! What people want to know of each domain: terms, languages, sources, examples.

use crate::{
    read::Document,
    start::costs,
    terms::{for_each_readable, for_each_term, language_of},
};
use ndarray::Array2;
use rayon::prelude::*;
use senmon_protocol::{
    clustering::{DomainView, LanguageShare, SampleDocument, SourceShare},
    storable,
};
use std::collections::{BTreeMap, HashMap, HashSet};

const TERMS_SHOWN: usize = 12;
const LABEL_TERMS: usize = 3;
const SAMPLES_SHOWN: usize = 3;
const TEXT_SHOWN_CHARS: usize = 4_000;

/// Describes the domains of `centres`, [k, d], by the documents of the sample: their domains and, where a document has
/// a known term, their Euclidean distances from the centres, `[n]` each.
#[must_use]
pub fn describe(
    sample: &[&Document],
    labels: &[u32],
    distances: &[Option<f32>],
    centres: &Array2<f32>,
) -> Vec<DomainView> {
    let k = centres.nrows();
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); k];
    labels.iter().enumerate().for_each(|(i, &d)| members[d as usize].push(i));
    let terms = top_terms(sample, &members);
    let between = costs(centres.view(), centres);
    (0..k)
        .zip(0_u32..)
        .map(|(d, index)| {
            let all = &members[d];
            // By distance. What has none, because nothing of it is known, is no example of anything.
            let mut rows: Vec<(f32, usize)> = all.iter().filter_map(|&i| Some((distances[i]?, i))).collect();
            rows.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let shown = |rows: &[(f32, usize)]| {
                rows.iter().map(|&(distance, i)| shown_document(sample[i], distance)).collect::<Vec<_>>()
            };
            let middle = (rows.len() / 2).min(rows.len().saturating_sub(SAMPLES_SHOWN));
            let others = (0..k).zip(0_u32..).filter(|(other, _)| *other != d);
            let mut nearest: Vec<(f32, u32)> = others.map(|(other, number)| (between[[d, other]], number)).collect();
            nearest.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            DomainView {
                index,
                label: label(index, &terms[d]),
                top_terms: terms[d].clone(),
                sample_documents: all.len() as u64,
                languages: shares(all.iter().map(|&i| language_of(&sample[i].text)), 3)
                    .into_iter()
                    .map(|(language, share)| LanguageShare { language: language.to_owned(), share })
                    .collect(),
                sources: shares(all.iter().filter_map(|&i| sample[i].source.as_deref()), 5)
                    .into_iter()
                    .map(|(source, share)| SourceShare { source: storable(source), share })
                    .collect(),
                nearest_domains: nearest.into_iter().take(3).map(|(_, number)| number).collect(),
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

fn label(index: u32, terms: &[String]) -> String {
    let label = terms.iter().take(LABEL_TERMS).cloned().collect::<Vec<_>>().join(", ");
    if label.is_empty() { format!("domain {index}") } else { label }
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
/// once a document. A text without readable ones (Thai, hiragana alone) is counted by those that it is vectorised by.
fn top_terms(sample: &[&Document], members: &[Vec<usize>]) -> Vec<Vec<String>> {
    let count = |rows: &Vec<usize>| {
        let mut counts: HashMap<String, u32> = HashMap::new();
        for &i in rows {
            let mut seen = HashSet::new();
            for_each_readable(&sample[i].text, |term| {
                seen.insert(term.to_owned());
            });
            if seen.is_empty() {
                for_each_term(&sample[i].text, |term| {
                    seen.insert(term.to_owned());
                });
            }
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
