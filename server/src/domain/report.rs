//! The report out of rows: who won, by how much and how surely, at what cost, where the chains forgot.
//!
//! Never runs a model, never chooses on the reported half: what was chosen came with the rows.

mod chains;
mod contestants;
mod input;
mod sentences;

pub use chains::forgotten;
pub use input::{Input, Mixed, Scored};

use input::Weights;
use senmon_corpus::compare::{alike, held_out_shares, train_shares};
use senmon_protocol::{
    clustering::DomainView,
    job::{DomainLoss, EnsembleResult, ShardIndex, Split},
    report::{Basis, Report, ReportDomain, SurfaceRow},
    said::Said,
};

/// Assembles the report.
#[must_use]
pub fn assemble(input: Input) -> Report {
    let weights = Weights { by_share: held_out_shares(input.index), alike: alike(input.index.domains as usize) };
    let contestants = contestants::contestants(&input, &weights);
    let basis = basis(&input);
    let headline = sentences::headline(&contestants, &input.missing);
    let method = sentences::method(&input, &basis, &weights.by_share);
    Report {
        experiment_id: input.experiment_id,
        name: input.spec.name.clone(),
        created_at: input.now,
        headline: headline.text(),
        headline_said: Some(headline),
        domains: domains(input.domains, input.index),
        clustering: input.quality.clone(),
        surface: input.ensembles.iter().find(|mixed| mixed.repeat == 0).map_or_else(Vec::new, surface),
        chains: chains::chains(input.spec, &input.matrix, input.domains, &weights.by_share),
        method: method.iter().map(Said::text).collect(),
        method_said: method,
        basis,
        held_out: Some(input.held_out),
        contestants,
        matrix: input.matrix.into_iter().map(|scored| scored.row).collect(),
        costs: input.costs,
    }
}

/// The routed ensemble, as it was chosen, against dense, in percent of perplexity. Negative is better.
#[must_use]
pub fn ensemble_vs_dense_percent(report: &Report) -> Option<f64> {
    report.contestants.iter().find(|contestant| contestant.key == "ensemble")?.vs_dense_percent
}

fn basis(input: &Input) -> Basis {
    let sums = |losses: &[DomainLoss]| {
        (losses.iter().map(|loss| loss.documents).sum(), losses.iter().map(|loss| loss.tokens).sum())
    };
    // Every branch was scored on the same documents.
    let first = input.matrix.first();
    let (documents_reported, tokens_reported) = first.map_or((0, 0), |scored| sums(&scored.row.domains));
    let (documents_calibration, tokens_calibration) = first.map_or((0, 0), |scored| sums(&scored.calibration));
    Basis {
        documents_reported,
        tokens_reported,
        documents_calibration,
        tokens_calibration,
        repeats: input.matrix.iter().map(|scored| scored.row.repeat + 1).max().unwrap_or(0),
        resamples: input.ensembles.iter().map(|mixed| mixed.result.resamples).max().unwrap_or(0),
    }
}

#[expect(clippy::float_cmp, reason = "the same temperature, as it was given")]
fn surface(mixed: &Mixed) -> Vec<SurfaceRow> {
    let EnsembleResult { surface, lines, chosen, .. } = &mixed.result;
    let row = |point: &senmon_protocol::job::SurfacePoint| SurfaceRow {
        point: *point,
        best_of_top_k: lines.iter().any(|l| l.top_k == point.top_k && l.temperature == Some(point.temperature)),
        chosen: chosen.is_some_and(|c| c.top_k == point.top_k && c.temperature == point.temperature),
    };
    surface.iter().map(row).collect()
}

fn domains(views: &[DomainView], index: &ShardIndex) -> Vec<ReportDomain> {
    let sums = domain_sums(index).into_iter().zip(train_shares(index)).zip(held_out_shares(index));
    views
        .iter()
        .zip(sums)
        .map(|(view, ((sum, share), weight))| ReportDomain {
            index: view.index,
            label: view.label.clone(),
            top_terms: view.top_terms.clone(),
            documents: sum.documents,
            tokens: sum.tokens,
            documents_held_out: sum.held_out,
            tokens_held_out: sum.tokens_held_out,
            weight,
            share,
        })
        .collect()
}

/// Sums of one domain over all shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DomainSum {
    /// Training tokens.
    pub tokens: u64,
    /// Documents, both splits.
    pub documents: u64,
    /// Held-out documents.
    pub held_out: u64,
    /// Their tokens.
    pub tokens_held_out: u64,
}

/// Sums by domain.
#[must_use]
pub fn domain_sums(index: &ShardIndex) -> Vec<DomainSum> {
    let mut sums = vec![DomainSum::default(); index.domains as usize];
    for range in index.shards.iter().flat_map(|shard| &shard.ranges) {
        let sum = &mut sums[range.domain as usize];
        sum.documents += range.documents;
        match range.split {
            Split::Train => sum.tokens += range.tokens,
            Split::HeldOut => {
                sum.held_out += range.documents;
                sum.tokens_held_out += range.tokens;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests;
