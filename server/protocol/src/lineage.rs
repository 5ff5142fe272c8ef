//! What a lineage has read: the windows that a checkpoint and its ancestors drew, so that a branch goes on where its
//! parent stood instead of reading the same text again.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Where a lineage stands in the order of each domain's windows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// Windows drawn, in the order of the domains. What was skipped or left to the other parts of a random split counts as drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drawn: Vec<DomainDraws>,
    /// Where the order of what was left was shuffled anew, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reshuffles: Vec<Reshuffle>,
}

/// Draws of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainDraws {
    /// Domain number.
    pub domain: u32,
    /// Windows drawn; beyond the domain's windows, each epoch counts anew.
    pub windows: u64,
}

/// A new order of the windows not yet drawn, for a repeat of a training with another seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reshuffle {
    /// Key of the order.
    pub key: u64,
    /// What was drawn before it, and keeps its place.
    pub drawn: Vec<DomainDraws>,
}

impl Lineage {
    /// Windows drawn of a domain.
    #[must_use]
    pub fn drawn_of(&self, domain: u32) -> u64 {
        drawn_of(&self.drawn, domain)
    }

    /// What the lineages of several members have read together: of each domain, what the furthest drew. Exact where
    /// they share one order, as experts of one seed do.
    #[must_use]
    pub fn joined<'a>(members: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut drawn, mut reshuffles) = (BTreeMap::new(), Vec::new());
        for member in members {
            for draws in &member.drawn {
                let furthest = drawn.entry(draws.domain).or_insert(0);
                *furthest = draws.windows.max(*furthest);
            }
            if member.reshuffles.len() > reshuffles.len() {
                reshuffles.clone_from(&member.reshuffles);
            }
        }
        Self { drawn: draws(drawn), reshuffles }
    }
}

/// Counts by domain, in their order.
#[must_use]
pub fn draws(counts: BTreeMap<u32, u64>) -> Vec<DomainDraws> {
    counts.into_iter().map(|(domain, windows)| DomainDraws { domain, windows }).collect()
}

/// Windows drawn of a domain, in a list by domain.
#[must_use]
pub fn drawn_of(drawn: &[DomainDraws], domain: u32) -> u64 {
    drawn.binary_search_by_key(&domain, |draws| draws.domain).map_or(0, |at| drawn[at].windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_join_at_the_furthest() {
        let lineage =
            |drawn: &[(u32, u64)]| Lineage { drawn: draws(drawn.iter().copied().collect()), reshuffles: Vec::new() };
        let joined = Lineage::joined([&lineage(&[(0, 9), (2, 3)]), &lineage(&[(1, 4), (2, 8)])]);
        assert_eq!(joined, lineage(&[(0, 9), (1, 4), (2, 8)]));
        assert_eq!((joined.drawn_of(2), joined.drawn_of(7)), (8, 0));
    }
}
