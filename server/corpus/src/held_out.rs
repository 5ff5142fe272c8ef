//! Held-out documents: the split, which of them an evaluation scores, and its two halves.
//!
//! Everything goes by hashes of ids and groups, so the order of documents and files never matters. Memory is what the
//! evaluation asks for, whatever the corpus.

use crate::{grams::sketch, read::Document};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Name of the candidates' file in a shard's folder.
pub const HELD_OUT_FILE: &str = "held_out.json";
/// Seed of the hash that divides groups into halves: another one than the split's.
const HALVES_SEED: u64 = 1;

/// Whether a group is held out: a hash of its name alone, so the same document is on the same side in every experiment
/// with the same fraction, and stays held out when the fraction grows.
#[must_use]
pub fn is_held_out(group: &str, fraction: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "the hash is read as a fraction of 2^64")]
    let place = xxh3_64(group.as_bytes()) as f64 / u64::MAX as f64;
    place < fraction
}

/// A held-out document that an evaluation may score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Hash of the id, and of the text: documents of equal ids have an order too.
    pub key: (u64, u64),
    /// Hash of its group.
    pub group: u64,
    /// Its domain.
    pub domain: u32,
    /// Number of its shard.
    #[serde(default)]
    pub shard: u32,
    /// Its place in the shard.
    pub document: u64,
    /// Sketch of its 13-grams.
    pub grams: Vec<u64>,
}

/// The documents of smallest key of each domain, at most `limit` of each.
#[derive(Debug)]
pub struct Smallest {
    limit: usize,
    domains: BTreeMap<u32, BTreeMap<(u64, u64), Candidate>>,
}

impl Smallest {
    /// Keeps `limit` documents of each domain.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit: limit as usize, domains: BTreeMap::new() }
    }

    /// Looks at a document; `place` is its number in its shard.
    pub fn see(&mut self, document: &Document, domain: u32, place: u64) {
        let key = (xxh3_64(document.id.as_bytes()), xxh3_64(document.text.as_bytes()));
        if self.wants(domain, key) {
            self.add(Candidate {
                id: document.id.clone(),
                key,
                group: xxh3_64(document.split_key().as_bytes()),
                domain,
                shard: 0,
                document: place,
                grams: sketch(&document.text),
            });
        }
    }

    fn wants(&self, domain: u32, key: (u64, u64)) -> bool {
        let kept = self.domains.get(&domain);
        kept.is_none_or(|kept| kept.len() < self.limit || kept.last_key_value().is_some_and(|(last, _)| key < *last))
            && self.limit > 0
    }

    /// Takes a candidate where it belongs to the smallest.
    pub fn add(&mut self, candidate: Candidate) {
        if !self.wants(candidate.domain, candidate.key) {
            return;
        }
        let kept = self.domains.entry(candidate.domain).or_default();
        kept.insert(candidate.key, candidate);
        if kept.len() > self.limit {
            kept.pop_last();
        }
    }

    /// What was kept, by domain and key.
    #[must_use]
    pub fn into_candidates(self) -> Vec<Candidate> {
        self.domains.into_values().flat_map(BTreeMap::into_values).collect()
    }
}

/// `held_out.json` of an experiment: what every evaluation scores, by domain and hash of the id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOutList {
    /// The documents.
    pub documents: Vec<Listed>,
}

/// One document to score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its domain.
    pub domain: u32,
    /// Number of its shard.
    pub shard: u32,
    /// Its place in the shard.
    pub document: u64,
    /// Hash of its group: pieces of one page come and go together.
    pub group: u64,
    /// Reported, or used to calibrate.
    pub reported: bool,
}

impl HeldOutList {
    /// The list of what is left of the candidates.
    #[must_use]
    pub fn new<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Self {
        let kept: Vec<&Candidate> = candidates.collect();
        let halves = halves(&kept);
        let listed = |(candidate, reported): (&&Candidate, bool)| Listed {
            id: candidate.id.clone(),
            domain: candidate.domain,
            shard: candidate.shard,
            document: candidate.document,
            group: candidate.group,
            reported,
        };
        Self { documents: kept.iter().zip(halves).map(listed).collect() }
    }
}

/// Whether each document is reported (else it calibrates). Groups are taken in the order of a hash of their own; each
/// goes as a whole to the half that has fewer of its domains' documents, the reported one where they are even.
fn halves(candidates: &[&Candidate]) -> Vec<bool> {
    let mut groups: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for (i, candidate) in candidates.iter().enumerate() {
        let order = xxh3_64_with_seed(&candidate.group.to_le_bytes(), HALVES_SEED);
        groups.entry((order, candidate.group)).or_default().push(i);
    }
    let mut lean: HashMap<u32, i64> = HashMap::new();
    let mut reported = vec![false; candidates.len()];
    for members in groups.values() {
        let balance: i64 = members.iter().map(|&i| lean.get(&candidates[i].domain).copied().unwrap_or(0)).sum();
        for &i in members {
            reported[i] = balance <= 0;
            *lean.entry(candidates[i].domain).or_default() += if reported[i] { 1 } else { -1 };
        }
    }
    reported
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(id: u32, group: Option<u32>) -> Document {
        Document {
            record: id.into(),
            id: format!("d{id}"),
            group: group.map(|group| format!("g{group}")),
            source: None,
            text: format!("text of {id}"),
        }
    }

    #[test]
    fn the_share_held_out_is_the_one_asked_for_and_grows_by_adding() {
        let held = |fraction: f64| (0..20_000).filter(|i| is_held_out(&format!("d{i}"), fraction)).collect::<Vec<_>>();
        let (few, more) = (held(0.05), held(0.2));
        assert!((900..1100).contains(&few.len()) && (3800..4200).contains(&more.len()));
        assert!(few.iter().all(|i| more.contains(i)));
    }

    proptest! {
        #[test]
        fn what_is_scored_does_not_depend_on_the_order_of_documents_and_files(
            groups in prop::collection::vec((0_u32..12, 0_u32..3), 1..60), limit in 1_u32..15, files in 1_usize..5, seed: u64,
        ) {
            let documents: Vec<(Document, u32)> =
                groups.iter().zip(0..).map(|((group, domain), i)| (document(i, Some(*group)), *domain)).collect();
            let mut shuffled = documents.clone();
            shuffled.sort_by_key(|(document, _)| xxh3_64_with_seed(document.id.as_bytes(), seed));
            let list = |documents: &[(Document, u32)], files: usize| {
                let mut all = Smallest::new(limit);
                for part in documents.chunks(documents.len().div_ceil(files)) {
                    let mut file = Smallest::new(limit);
                    part.iter().for_each(|(document, domain)| file.see(document, *domain, document.record));
                    file.into_candidates().into_iter().for_each(|candidate| all.add(candidate));
                }
                HeldOutList::new(all.into_candidates().iter())
            };
            let found = list(&documents, files);
            prop_assert_eq!(&found, &list(&shuffled, 1));
            let side: HashMap<u32, bool> =
                found.documents.iter().map(|d| (groups[usize::try_from(d.document).unwrap()].0, d.reported)).collect();
            for listed in &found.documents {
                prop_assert_eq!(side[&groups[usize::try_from(listed.document).unwrap()].0], listed.reported);
            }
            for domain in 0..3 {
                let all = groups.iter().filter(|(_, d)| *d == domain).count();
                prop_assert_eq!(found.documents.iter().filter(|d| d.domain == domain).count(), all.min(limit as usize));
            }
        }

        #[test]
        fn the_halves_of_ungrouped_documents_are_even(domains in prop::collection::vec(0_u32..4, 1..80)) {
            let mut all = Smallest::new(100);
            domains.iter().zip(0_u32..).for_each(|(domain, i)| all.see(&document(i, None), *domain, i.into()));
            let found = HeldOutList::new(all.into_candidates().iter());
            for domain in 0..4 {
                let lean: i32 =
                    found.documents.iter().filter(|d| d.domain == domain).map(|d| if d.reported { 1 } else { -1 }).sum();
                prop_assert!((0..=1).contains(&lean), "{lean}");
            }
        }
    }
}
